"""What every backend keeps, simulated or not: the `Microscope` contract.

Finds the classes in `twin` that satisfy the protocol. One that cannot be built from (optics, space, day) needs
a line in `instruments`; without it the suite fails rather than passing it by.
"""

import dataclasses
import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest

import twin
from twin.day import CameraProperties, Day, FilmProperties
from twin.optics import Optics
from twin.simulated import RENDERERS, SimulatedMicroscope
from twin.state import StateSpace
from twin.types import Frame, HasTruth, Microscope

# A small window: every test below takes a few frames of every backend.
OPTICS = Optics(grid=256, sampling_nm=0.025, camera_pixels=64, binning=3)
SPACE = StateSpace(start_nm=(20.0, 10.0, 10.0), input_nm=(20.0, 10.0, 10.0))
DAY = Day(
    film=FilmProperties(thickness_nm=2.0),
    residual_nm={"C30": 400.0, "C21a": 20.0},
    camera=CameraProperties(dark_level=20.0, mtf_nyquist=0.7, hot_fraction=0.001),
)


def backends() -> Iterator[type]:
    """Every class in `twin` with the methods of a Microscope."""
    for module in pkgutil.iter_modules(twin.__path__):
        loaded = importlib.import_module(f"twin.{module.name}")
        for _, kind in inspect.getmembers(loaded, inspect.isclass):
            own = kind.__module__ == loaded.__name__ and not getattr(kind, "_is_protocol", False)
            if own and all(hasattr(kind, name) for name in ("capabilities", "reset", "apply", "acquire")):
                yield kind


def instruments() -> dict[str, Callable[[], Microscope]]:
    """A builder for every backend found, by a label for the test report."""
    found: dict[str, Callable[[], Microscope]] = {}
    for kind in backends():
        if kind is SimulatedMicroscope:
            for name, (module, _) in RENDERERS.items():
                if importlib.util.find_spec(module):
                    found[f"{kind.__name__}-{name}"] = _simulated(name)
        else:
            found[kind.__name__] = _like_simulated(kind)
    return found


def _simulated(renderer: str) -> Callable[[], Microscope]:
    return lambda: SimulatedMicroscope(OPTICS, SPACE, DAY, renderer)


def _like_simulated(kind: type) -> Callable[[], Microscope]:
    return lambda: kind(OPTICS, SPACE, DAY)


INSTRUMENTS = instruments()


@pytest.fixture(params=sorted(INSTRUMENTS))
def build(request: pytest.FixtureRequest) -> Callable[[], Microscope]:
    return INSTRUMENTS[request.param]


@pytest.fixture
def microscope(build: Callable[[], Microscope]) -> Microscope:
    instrument = build()
    instrument.reset(np.random.default_rng(1))
    return instrument


def test_backends_are_found() -> None:
    assert "SimulatedMicroscope-fast" in INSTRUMENTS


def test_it_satisfies_the_protocol_and_knows_itself(microscope: Microscope) -> None:
    assert isinstance(microscope, Microscope)
    told = microscope.capabilities
    assert told.name
    assert told.optics == OPTICS
    assert told.space == SPACE
    assert told.camera_shape == (64, 64)
    microscope.apply(SPACE.input / 2)
    microscope.acquire()
    assert microscope.capabilities == told


def test_it_refuses_to_work_before_a_session(build: Callable[[], Microscope]) -> None:
    instrument = build()
    with pytest.raises(RuntimeError, match="reset"):
        instrument.acquire()
    with pytest.raises(RuntimeError, match="reset"):
        instrument.apply(SPACE.zero)


def test_frames_are_raw_counts_and_immutable(microscope: Microscope) -> None:
    frame = microscope.acquire()
    assert frame.counts.shape == microscope.capabilities.camera_shape
    assert frame.counts.dtype == np.uint16
    assert frame.counts.max() <= microscope.capabilities.max_count
    assert frame.counts.std() > 0
    assert frame.dose_e > 0
    assert frame.exposure_s > 0
    with pytest.raises(ValueError, match="read-only"):
        frame.counts[0, 0] = 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        frame.dose_e = 0.0  # type: ignore[misc]


def test_a_frame_holds_what_an_operator_knows_and_no_truth(microscope: Microscope) -> None:
    frame = microscope.acquire()
    assert [f.name for f in dataclasses.fields(frame)] == ["counts", "dose_e", "exposure_s", "clock_s", "settings"]
    told = [frame.dose_e, frame.exposure_s, frame.clock_s, *frame.settings.values()]
    assert all(isinstance(value, float) for value in told)
    if isinstance(microscope, HasTruth):
        assert not set(told) & set(microscope.truth().state_nm.tolist())


def test_the_clock_starts_at_zero_and_only_goes_forward(microscope: Microscope) -> None:
    frames = [microscope.acquire() for _ in range(3)]
    assert frames[0].clock_s >= frames[0].exposure_s
    for earlier, later in pairwise(frames):
        assert later.clock_s >= earlier.clock_s + later.exposure_s
    microscope.reset(np.random.default_rng(2))
    assert microscope.acquire().clock_s == frames[0].clock_s


def test_inputs_add_to_the_state_exactly(microscope: Microscope) -> None:
    if not isinstance(microscope, HasTruth):
        pytest.skip("only a simulator can show its state")
    state = microscope.truth().state_nm
    assert np.all(np.abs(state) <= SPACE.start)
    for delta in ([0.1, -1 / 3, 1e-3], [-7.7, 5.0, 0.0]):
        microscope.apply(np.array(delta))
        state = state + np.array(delta)
        assert microscope.truth().state_nm.tobytes() == state.tobytes()
    microscope.acquire()
    assert microscope.truth().state_nm.tobytes() == state.tobytes()


@pytest.mark.parametrize(
    ("delta", "message"),
    [
        ([0.0, 0.0], r"shape \(3,\)"),
        ([[0.0, 0.0, 0.0]], r"shape \(3,\)"),
        ([0.0, float("nan"), 0.0], "finite"),
        ([float("inf"), 0.0, 0.0], "finite"),
        ([0.0, 10.5, 0.0], r"C12a.*10"),
        ([-20.5, 0.0, 0.0], r"C10.*20"),
    ],
)
def test_a_refused_input_moves_nothing(microscope: Microscope, delta: list[float], message: str) -> None:
    before = microscope.truth() if isinstance(microscope, HasTruth) else None
    with pytest.raises(ValueError, match=message):
        microscope.apply(np.array(delta))
    if before is not None and isinstance(microscope, HasTruth):
        assert np.array_equal(microscope.truth().state_nm, before.state_nm)
    # The whole range is still there: a refused input spends none of it.
    microscope.apply(SPACE.input)
    microscope.apply(-2 * SPACE.input)
    with pytest.raises(ValueError, match="limit"):
        microscope.apply(np.array([-0.001, 0.0, 0.0]))


def test_reset_gives_the_input_range_back(microscope: Microscope) -> None:
    microscope.apply(SPACE.input)
    microscope.reset(np.random.default_rng(3))
    microscope.apply(SPACE.input)
    with pytest.raises(ValueError, match="limit"):
        microscope.apply(SPACE.input)


def test_equal_seeds_give_equal_frames_and_others_do_not(build: Callable[[], Microscope]) -> None:
    def session(seed: int) -> list[Frame]:
        instrument = build()
        instrument.reset(np.random.default_rng(seed))
        first = instrument.acquire()
        instrument.apply(np.array([5.0, -3.0, 2.0]))
        return [first, instrument.acquire()]

    one, again, other = session(4), session(4), session(5)
    assert one == again
    assert one[0] != other[0]
    assert one[0] != one[1]


def test_a_session_depends_on_its_generator_alone(microscope: Microscope, build: Callable[[], Microscope]) -> None:
    microscope.apply(np.array([5.0, -3.0, 2.0]))
    microscope.acquire()
    microscope.reset(np.random.default_rng(6))
    fresh = build()
    fresh.reset(np.random.default_rng(6))
    assert microscope.acquire() == fresh.acquire()
