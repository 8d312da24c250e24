"""What every controller keeps: the ask-and-tell contract, on Ronchigrams of a fast simulated microscope.

Runs for whatever `controller.base.names()` finds.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import cache
from typing import Any, cast

import numpy as np
import pytest

from controller import strategies
from controller.base import Controller, Estimate, UnknownController, load, names
from learning.weights_file import WeightsError
from twin.day import Day
from twin.optics import Optics
from twin.options import OptionError
from twin.simulated import SimulatedMicroscope
from twin.state import FIRST_ORDER, SECOND_ORDER
from twin.types import Frame

OPTICS = Optics()
SPACE = FIRST_ORDER
OBSERVATIONS = 3
QUICK: dict[str, dict[str, Any]] = {
    "joint_fit": {"work": 40},
    "spectrum_ml": {"particles": 128, "modes": 3},
    "two_ronchigram": {"starts": 128},
}
"""Options of slow controllers that only decide how good their estimates are."""


@pytest.fixture(scope="module")
def microscope() -> SimulatedMicroscope:
    return SimulatedMicroscope(OPTICS, SPACE, Day(), "fast")


@pytest.fixture(params=[name for name in names() if name not in strategies.PRESETS])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def controller(name: str) -> Controller:
    chosen = quick(name)
    chosen.reset(SPACE, np.random.default_rng(1))
    return chosen


def quick(name: str) -> Controller:
    """A controller, in a configuration that takes little time."""
    return load(name, OPTICS, SPACE, QUICK.get(name))


def observe(
    controller: Controller, microscope: SimulatedMicroscope, seed: int, count: int = OBSERVATIONS
) -> Iterator[tuple[np.ndarray, Frame, Estimate]]:
    """Run the loop; yields what was asked, seen and believed."""
    microscope.reset(np.random.default_rng(seed))
    for _ in range(count):
        delta = controller.propose()
        microscope.apply(delta)
        frame = microscope.acquire()
        controller.update(delta, frame)
        yield delta, frame, controller.estimate()


def check(estimate: Estimate) -> None:
    """Finite moments, a covariance that is one, weights that are probabilities."""
    n = SPACE.dimension
    assert estimate.mean_nm.shape == (n,)
    assert estimate.cov_nm2.shape == (n, n)
    assert np.all(np.isfinite(estimate.mean_nm))
    assert np.all(np.isfinite(estimate.cov_nm2))
    assert np.all(np.abs(estimate.mean_nm) <= SPACE.start + 1e-6)
    scale = np.abs(estimate.cov_nm2).max()
    assert np.allclose(estimate.cov_nm2, estimate.cov_nm2.T, rtol=0, atol=1e-9 * scale)
    assert np.linalg.eigvalsh(estimate.cov_nm2).min() >= -1e-9 * scale
    assert np.all(estimate.std_nm > 0)
    assert 0.5 <= estimate.sign_probability <= 1.0
    if estimate.samples_nm is not None:
        assert estimate.samples_nm.ndim == 2
        assert estimate.samples_nm.shape[1] == n
        assert np.all(np.abs(estimate.samples_nm) <= SPACE.start + 1e-6)
    if estimate.weights is not None:
        assert estimate.samples_nm is not None
        assert estimate.weights.shape == (len(estimate.samples_nm),)
        assert estimate.weights.min() >= 0
        assert estimate.weights.sum() == pytest.approx(1.0)


def test_controllers_are_found() -> None:
    assert {"random", "vae_em"} <= set(names())


def test_it_satisfies_the_protocol(controller: Controller) -> None:
    assert isinstance(controller, Controller)
    assert isinstance(controller.done, bool)


def test_it_has_a_belief_before_the_first_frame(controller: Controller) -> None:
    belief = controller.estimate()
    check(belief)
    assert not controller.done
    # It covers the start box, roughly: a uniform box has a standard deviation of 0.58 start, half of it 0.29.
    assert np.all(belief.std_nm > 0.25 * SPACE.start)


def test_proposals_stay_within_limits_and_estimates_stay_sound(
    controller: Controller, microscope: SimulatedMicroscope
) -> None:
    cumulative = SPACE.zero
    for delta, _, estimate in observe(controller, microscope, seed=2, count=5):
        assert delta.shape == (SPACE.dimension,)
        cumulative = SPACE.check_input(delta, cumulative)
        check(estimate)
        assert isinstance(controller.done, bool)


def test_asking_is_not_moving(controller: Controller) -> None:
    # An estimate may be read at any moment, any number of times.
    first, second = controller.estimate(), controller.estimate()
    assert np.array_equal(first.mean_nm, second.mean_nm)
    assert np.array_equal(first.cov_nm2, second.cov_nm2)


def test_equal_seeds_give_equal_proposals_and_reset_forgets(name: str, microscope: SimulatedMicroscope) -> None:
    used = quick(name)
    used.reset(SPACE, np.random.default_rng(7))
    assert len(list(observe(used, microscope, seed=8, count=1))) == 1  # to be forgotten
    records = []
    for chosen in (used, quick(name)):
        chosen.reset(SPACE, np.random.default_rng(3))
        steps = list(observe(chosen, microscope, seed=4))
        records.append([(d.tobytes(), e.mean_nm.tobytes(), e.cov_nm2.tobytes()) for d, _, e in steps])
    assert records[0] == records[1]


def test_it_takes_another_input_than_its_own(controller: Controller, microscope: SimulatedMicroscope) -> None:
    microscope.reset(np.random.default_rng(5))
    controller.propose()
    forced = np.array([20.0, -10.0, 5.0])
    microscope.apply(forced)
    controller.update(forced, microscope.acquire())
    check(controller.estimate())
    SPACE.check_input(controller.propose(), forced)  # raises if it lost count


def test_it_changes_neither_the_frame_nor_the_input(controller: Controller, microscope: SimulatedMicroscope) -> None:
    microscope.reset(np.random.default_rng(6))
    frame = microscope.acquire()
    delta = SPACE.zero
    before = frame.counts.copy()
    controller.propose()
    controller.update(delta, frame)
    assert np.array_equal(frame.counts, before)
    assert not np.any(delta)


@pytest.mark.parametrize("shape", [(64, 64), (128, 96), (128,)])
def test_a_frame_of_another_shape_is_refused_by_whoever_reads_frames(
    name: str, controller: Controller, shape: tuple[int, ...]
) -> None:
    controller.propose()
    strange = Frame(np.full(shape, 80, np.uint16), 1e6, 0.5, 1.0, {"dark_level": 0.0})
    if not learns_from_frames(name):
        controller.update(SPACE.zero, strange)  # what is not read cannot be wrong
        return
    with pytest.raises(ValueError, match=rf"shape.*\({shape[0]},"):
        controller.update(SPACE.zero, strange)


OTHER_SHAPE = Frame(np.full((64, 64), 80, np.uint16), 1e6, 0.5, 1.0)
DARK = Frame(np.full((OPTICS.camera_pixels,) * 2, 3, np.uint16), 1e6, 0.5, 1.0, {"dark_level": 3.0})


def test_an_input_counts_though_its_frame_is_refused(name: str, microscope: SimulatedMicroscope) -> None:
    # The instrument has moved. With another frame in its place the run goes on as if there had been no other.
    if not learns_from_frames(name):
        return
    runs = []
    for refused in ([], [OTHER_SHAPE, DARK]):
        chosen = quick(name)
        chosen.reset(SPACE, np.random.default_rng(3))
        microscope.reset(np.random.default_rng(4))
        run = []
        for _ in range(2):
            delta = chosen.propose()
            microscope.apply(delta)
            run.append(delta.tobytes())
            before = belief(chosen)
            for frame in refused:
                with nullcontext() if frame is DARK else pytest.raises(ValueError, match="shape"):
                    chosen.update(delta, frame)
                assert belief(chosen) == before
                delta = SPACE.zero
            chosen.update(delta, microscope.acquire())
            run.append(belief(chosen))
        runs.append(run)
    assert runs[0] == runs[1]


def belief(controller: Controller) -> tuple[bytes, bytes, float]:
    """To the last bit."""
    estimate = controller.estimate()
    return estimate.mean_nm.tobytes(), estimate.cov_nm2.tobytes(), estimate.sign_probability


@cache
def learns_from_frames(name: str) -> bool:
    """Whether two different instruments lead to two different beliefs."""
    microscope = SimulatedMicroscope(OPTICS, SPACE, Day(), "fast")
    beliefs = []
    for seed in (7, 8):
        fresh = quick(name)
        fresh.reset(SPACE, np.random.default_rng(1))
        beliefs.append([estimate.mean_nm.tobytes() for *_, estimate in observe(fresh, microscope, seed)])
    return beliefs[0] != beliefs[1]


def test_an_unknown_option_is_refused_by_name(name: str) -> None:
    with pytest.raises(OptionError, match="no_such_option"):
        load(name, OPTICS, SPACE, {"no_such_option": 1})


def test_another_state_space_works_or_is_refused_at_once(name: str) -> None:
    try:
        chosen = load(name, OPTICS, SECOND_ORDER)
    except WeightsError as error:
        # Refused by what the weights were trained for, which the message names.
        assert any(coefficient in str(error) for coefficient in ("C21", "C23"))  # noqa: PT017
        return
    chosen.reset(SECOND_ORDER, np.random.default_rng(9))
    SECOND_ORDER.check_input(chosen.propose(), SECOND_ORDER.zero)
    assert chosen.estimate().mean_nm.shape == (7,)


def test_an_unknown_controller_suggests_the_nearest() -> None:
    with pytest.raises(UnknownController, match=r"did you mean vae_em\?"):
        load("vae_me", OPTICS, SPACE)


@pytest.mark.parametrize("preset", strategies.PRESETS)
def test_a_preset_is_its_controller_with_those_options(preset: str, microscope: SimulatedMicroscope) -> None:
    module, options = strategies.PRESETS[preset][:2]
    runs = []
    for chosen in (load(preset, OPTICS, SPACE), load(module, OPTICS, SPACE, options)):
        chosen.reset(SPACE, np.random.default_rng(1))
        runs.append(
            [(delta.tolist(), estimate.mean_nm.tolist()) for delta, _, estimate in observe(chosen, microscope, 2)]
        )
    assert runs[0] == runs[1]


@pytest.mark.parametrize("preset", strategies.PRESETS)
def test_options_given_to_a_preset_take_precedence_unless_they_define_it(preset: str) -> None:
    module, options, _, fixed = strategies.PRESETS[preset]
    usual = cast("Any", load(module, OPTICS, SPACE)).options
    given = {name: getattr(usual, name) for name in options}
    assert all(given[name] != value for name, value in options.items())
    if fixed:
        with pytest.raises(OptionError, match=f"choose {module}"):
            load(preset, OPTICS, SPACE, given)
    else:
        plain: Any = load(preset, OPTICS, SPACE, given)
        assert plain.options == usual
