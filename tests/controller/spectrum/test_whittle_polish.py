"""Polishing by the Whittle likelihood: nearer to the truth from nearby, hands off from afar."""

import numpy as np
import pytest

from controller.base import Controller, Estimate, load
from controller.spectrum.whittle_polish import WhittlePolished
from twin.day import Day
from twin.optics import Optics
from twin.simulated import SimulatedMicroscope
from twin.state import FIRST_ORDER, SECOND_ORDER, StateSpace
from twin.types import Frame

OPTICS = Optics()
INPUTS = np.array([[0.0, 0.0, 0.0], [18.0, 6.0, 0.0], [-8.0, -10.0, 12.0]])


class Stubborn:
    """Believes the same whatever it sees."""

    def __init__(self, mean: np.ndarray, sign: float = 1.0) -> None:
        self.belief = Estimate(mean, np.eye(len(mean)) * 4.0, sign)

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None: ...

    def propose(self) -> np.ndarray:
        return FIRST_ORDER.zero

    def update(self, delta_nm: np.ndarray, frame: Frame) -> None: ...

    def estimate(self) -> Estimate:
        return self.belief

    @property
    def done(self) -> bool:
        return True


@pytest.fixture(scope="module")
def session() -> tuple[np.ndarray, list[Frame]]:
    microscope = SimulatedMicroscope(OPTICS, FIRST_ORDER, Day(), "fast")
    microscope.reset(np.random.default_rng(3))
    truth, frames, before = microscope.truth().initial_nm, [], FIRST_ORDER.zero
    for at in INPUTS - np.clip(truth, -45, 45):
        microscope.apply(np.clip(at, -FIRST_ORDER.input, FIRST_ORDER.input) - before)
        before = np.clip(at, -FIRST_ORDER.input, FIRST_ORDER.input)
        frames.append(microscope.acquire())
    return truth, frames


def polished(session: tuple[np.ndarray, list[Frame]], offset: np.ndarray, sign: float = 1.0) -> WhittlePolished:
    truth, frames = session
    controller = WhittlePolished(OPTICS, FIRST_ORDER, Stubborn(truth + offset, sign), 0.95)
    controller.reset(FIRST_ORDER, np.random.default_rng(0))
    before = FIRST_ORDER.zero
    for at, frame in zip(INPUTS - np.clip(truth, -45, 45), frames, strict=True):
        at = np.clip(at, -FIRST_ORDER.input, FIRST_ORDER.input)
        controller.update(at - before, frame)
        before = at
    return controller


def test_it_climbs_to_the_truth(session: tuple[np.ndarray, list[Frame]]):
    offset = np.array([3.0, -2.5, 2.0])
    controller = polished(session, offset)
    found = controller.estimate()
    assert np.linalg.norm(found.mean_nm - session[0]) < 0.5 * np.linalg.norm(offset)
    assert found.covers(session[0], 0.99)
    assert np.all(found.std_nm < 2.0)


def test_it_leaves_alone_what_is_elsewhere_or_undecided(session: tuple[np.ndarray, list[Frame]]):
    far = polished(session, np.array([-60.0, 25.0, 40.0]))
    assert far.estimate() is far.inner.estimate()
    undecided = polished(session, np.zeros(3), sign=0.6)
    assert undecided.estimate() is undecided.inner.estimate()


def test_the_second_order_stays_the_inner_controller_s(session: tuple[np.ndarray, list[Frame]]):
    truth = np.concatenate([session[0], [10.0, -20.0, 30.0, 5.0]])
    controller = WhittlePolished(OPTICS, SECOND_ORDER, Stubborn(truth), 0.95)
    before = SECOND_ORDER.zero
    for at, frame in zip(INPUTS - np.clip(session[0], -45, 45), session[1], strict=True):
        total = np.concatenate([np.clip(at, -FIRST_ORDER.input, FIRST_ORDER.input), np.zeros(4)])
        controller.update(total - before, frame)
        before = total
    found = controller.estimate()
    np.testing.assert_array_equal(found.mean_nm[3:], truth[3:])
    np.testing.assert_array_equal(found.cov_nm2[3:, 3:], np.eye(4) * 4.0)
    assert controller.mode is not None
    assert np.linalg.eigvalsh(found.cov_nm2).min() > 0


@pytest.mark.parametrize("polish", ["none", "whittle", "same_region"])
def test_the_amortised_posterior_takes_every_polish(session: tuple[np.ndarray, list[Frame]], polish: str):
    controller = load("neural_posterior", OPTICS, FIRST_ORDER, {"polish": polish})
    assert isinstance(controller, Controller)
    controller.reset(FIRST_ORDER, np.random.default_rng(0))
    microscope = SimulatedMicroscope(OPTICS, FIRST_ORDER, Day(same_region=True), "fast")
    microscope.reset(np.random.default_rng(3))
    for _ in range(5):
        delta = controller.propose()
        microscope.apply(delta)
        controller.update(delta, microscope.acquire())
    # 5 nm is four of the plain posterior's deviations after five frames of the nominal day.
    assert np.linalg.norm(controller.estimate().mean_nm - session[0]) < 5.0
