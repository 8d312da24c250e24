"""The Bayesian-optimisation strategies: a known figure of merit is found, and each acquisition does what it is for."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.utils.cpp_extension
from fakes.sessions import observe

from controller import base
from controller.merit import surrogate
from controller.merit.bayesian_optimisation import BayesianOptimiser, History, LoopOptions
from controller.strategies import bo_contrast, bo_multi, bo_scalar, bo_turbo
from twin.day import Day
from twin.optics import Optics
from twin.options import OptionError
from twin.simulated import SimulatedMicroscope
from twin.state import FIRST_ORDER, SECOND_ORDER, StateSpace
from twin.types import Frame

torch.set_num_threads(1)

OPTICS = Optics()
START_NM = np.array([25.0, -12.0, 8.0])
ACQUISITIONS: dict[str, Callable[[History], torch.Tensor]] = {
    "scalar": bo_scalar.expected_improvement,
    "contrast": lambda history: bo_contrast.upper_confidence_bound(history, 2.0),
    "turbo": lambda history: bo_turbo.thompson(history, 6, bo_turbo.Options()),
    "multi": bo_multi.hypervolume_improvement,
}


def frame_at(state_nm: np.ndarray) -> Frame:
    """A frame that carries its state in its settings, for figures of merit made up here."""
    settings = {str(i): float(v) for i, v in enumerate(state_nm)}
    return Frame(np.zeros((4, 4), np.uint16), 1e6, 0.5, 0.0, settings)


def figure(frame: Frame) -> np.ndarray:
    """Minus the rounded size of the state, twice with different tips."""
    size = np.linalg.norm(list(frame.settings.values()))
    return -np.hypot(size, [10.0, 5.0])


def run(acquire: Callable[[History], torch.Tensor], observations: int, outputs: int = 1) -> BayesianOptimiser:
    """A closed loop on the noiseless figure, from `START_NM`."""
    chosen = BayesianOptimiser(FIRST_ORDER, lambda f: figure(f)[:outputs], acquire, LoopOptions())
    chosen.reset(FIRST_ORDER, np.random.default_rng(1))
    total = FIRST_ORDER.zero
    for _ in range(observations):
        delta = chosen.propose()
        total = FIRST_ORDER.check_input(delta, total)
        chosen.update(delta, frame_at(START_NM + total))
    return chosen


@pytest.mark.parametrize("name", ACQUISITIONS)
def test_a_noiseless_figure_of_merit_leads_to_the_start(name: str):
    estimate = run(ACQUISITIONS[name], 14, outputs=2 if name == "multi" else 1).estimate()
    error = np.linalg.norm(estimate.mean_nm - START_NM)
    assert error < 6.0  # the prior's is 37 nm
    assert np.sqrt(np.trace(estimate.cov_nm2)) < 25.0


def test_nothing_is_compiled_on_the_users_machine(monkeypatch: pytest.MonkeyPatch):
    """A run that is stopped while torch compiles an extension leaves a lock that hangs all later runs."""
    compiled = []
    monkeypatch.setattr(torch.utils.cpp_extension, "load", lambda **named: compiled.append(named["name"]))
    run(ACQUISITIONS["multi"], 8, outputs=2)
    assert not compiled


def test_first_frame_without_input_then_the_sobol_design():
    chosen = BayesianOptimiser(FIRST_ORDER, figure, ACQUISITIONS["multi"], LoopOptions(initial=4))
    assert not np.any(chosen.propose())
    assert chosen.design_nm.shape == (4, 3)
    assert np.all(np.abs(chosen.design_nm) <= FIRST_ORDER.input)
    visited, total = [], FIRST_ORDER.zero
    for _ in range(5):
        delta = chosen.propose()
        total = total + delta
        visited.append(total)
        chosen.update(delta, frame_at(START_NM + total))
    assert np.allclose(visited[1:], chosen.design_nm)


@pytest.mark.parametrize(("space", "points"), [(FIRST_ORDER, 5), (SECOND_ORDER, 16)])
def test_default_design_follows_the_dimension(space: StateSpace, points: int):
    assert LoopOptions().design_points(space.dimension) == points
    assert LoopOptions(initial=9).design_points(space.dimension) == 9


def test_trust_region_grows_with_successes_and_shrinks_with_failures():
    options = bo_turbo.Options()
    rising = np.arange(1.0, 5.0)  # three improvements on the first
    assert bo_turbo.side(rising, 3, options) == pytest.approx(2 * options.length)
    assert bo_turbo.side(-np.arange(1.0, 6.0), 3, options) == pytest.approx(options.length / 2)
    assert bo_turbo.side(-np.arange(1.0, 6.0), 7, options) == pytest.approx(options.length)  # seven are needed there
    assert bo_turbo.side(-np.arange(1.0, 200.0), 3, options) == options.shortest


def test_trust_region_lies_in_the_box_and_is_long_where_the_figure_is_smooth():
    box = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).double()
    region = bo_turbo.trust_region(torch.tensor([0.5, 0.9]).double(), torch.tensor([0.4, 0.1]).double(), 0.2, box)
    sides = region[1] - region[0]
    assert float(sides[0]) == pytest.approx(0.4)
    assert float(sides[1]) == pytest.approx(0.1)
    wide = bo_turbo.trust_region(torch.tensor([0.5, 0.9]).double(), torch.ones(2).double(), 0.8, box)
    assert float(wide[1, 1]) == 1.0


def test_confidence_bound_explores_more_with_a_larger_kappa():
    history = run(ACQUISITIONS["contrast"], 10).history
    assert history is not None
    spread = []
    for kappa in (0.0, 20.0):
        with surrogate.seeded(np.random.default_rng(1)):
            point = bo_contrast.upper_confidence_bound(history, kappa)
        with torch.no_grad():
            spread.append(float(history.model.posterior(point[None]).variance))
    assert spread[1] > 2 * spread[0]


def test_torch_global_generator_is_untouched_by_a_run():
    before = torch.random.get_rng_state()
    first, second = run(ACQUISITIONS["turbo"], 8), run(ACQUISITIONS["turbo"], 8)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.inputs_nm.tobytes() == second.inputs_nm.tobytes()


@pytest.mark.parametrize("name", ["bo_contrast", "bo_turbo", "bo_multi"])
def test_seven_dimensions(name: str):
    chosen = base.load(name, OPTICS, SECOND_ORDER, {"loop": {"initial": 2}})
    chosen.reset(SECOND_ORDER, np.random.default_rng(1))
    microscope = SimulatedMicroscope(OPTICS, SECOND_ORDER, Day(), "fast")
    microscope.reset(np.random.default_rng(2))
    observe(chosen, microscope, SECOND_ORDER, 5)
    estimate = chosen.estimate()
    assert np.all(np.abs(estimate.mean_nm) <= SECOND_ORDER.start)
    assert np.linalg.eigvalsh(estimate.cov_nm2).min() > 0


def test_scalar_calibrates_the_first_order_only():
    controller = base.load("bo_scalar", OPTICS, SECOND_ORDER)
    controller.reset(SECOND_ORDER, np.random.default_rng(0))
    np.testing.assert_allclose(controller.estimate().std_nm[3:], SECOND_ORDER.start[3:] / np.sqrt(3))


@pytest.mark.parametrize("option", [{"loop": {"draws": 3}}, {"loop": {"initail": 3}}, {"kappa": -1.0}])
def test_bad_options_are_refused(option: dict[str, object]):
    with pytest.raises(OptionError):
        base.load("bo_contrast", OPTICS, FIRST_ORDER, option)
