"""Controllers from the spectrum model, on fast simulated microscopes."""

import numpy as np
import pytest

from controller.base import Controller, load
from controller.spectrum.fit import Mode, mirrored, starting_theta
from controller.strategies.two_ronchigram import combine
from twin.day import Day
from twin.optics import Optics
from twin.simulated import SimulatedMicroscope
from twin.state import FIRST_ORDER, StateSpace


def final_error(name: str, seed: int, frames: int) -> tuple[float, Controller]:
    microscope = SimulatedMicroscope(Optics(), FIRST_ORDER, Day(), "fast")
    microscope.reset(np.random.default_rng(seed))
    controller = load(name, Optics(), FIRST_ORDER)
    controller.reset(FIRST_ORDER, np.random.default_rng(seed))
    for k in range(frames):
        delta = controller.propose() if k else FIRST_ORDER.zero
        microscope.apply(delta)
        controller.update(delta, microscope.acquire())
    return float(np.linalg.norm(microscope.truth().initial_nm - controller.estimate().mean_nm)), controller


def test_spectrum_ml_is_in_spec_after_four_frames() -> None:
    errors = [final_error("spectrum_ml", seed, 4)[0] for seed in (1, 2)]
    assert max(errors) < 8.0, errors


def mode(state: list[float]) -> Mode:
    theta = starting_theta(np.array(state))
    return Mode(theta, np.eye(len(theta)) * 0.5, 0.0, 1.0)


def test_the_known_step_tells_the_sign() -> None:
    truth, step = np.array([-20.0, 8.0, 3.0]), np.array([30.0, 0.0, 0.0])
    # Each frame alone was fitted with the wrong sign first.
    frames = [[mode([*-state]), mirrored(mode([*-state]))] for state in (truth, truth + step)]
    mean, covariance, probability = combine(frames, np.array([[0.0, 0, 0], step]), 0.5)
    assert np.allclose(mean, truth, atol=1e-6)
    assert probability > 0.99
    assert np.all(np.linalg.eigvalsh(covariance) > 0.2)


def test_one_frame_leaves_the_sign_open() -> None:
    one = [mode([20.0, 8.0, 3.0])]
    *_, probability = combine([[*one, mirrored(one[0])]], np.zeros((1, 3)), 0.5)
    assert probability == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["spectrum_ml", "two_ronchigram"])
def test_a_space_without_astigmatism_is_refused(name: str) -> None:
    space = StateSpace(("C10",), (60.0,), (60.0,), (10.0,))
    with pytest.raises(ValueError, match="C12a, C12b not in"):
        load(name, Optics(), space)
