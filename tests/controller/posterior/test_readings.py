"""What a run's frames read of the state: the camera's angle, and a corrector that does not do what it is told."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import binom

from controller.base import Estimate
from controller.posterior.artefact import PosteriorArtefact
from controller.posterior.camera_rotation import camera_rotation_rad
from controller.posterior.frames import FramePosteriors
from controller.posterior.inexact_inputs import with_inexact_inputs
from controller.posterior.readings import nearest_component
from controller.strategies.neural_posterior import NeuralPosterior, Options
from twin.aberrations import Aberrations, rotated
from twin.options import OptionError, checked_options
from twin.state import FIRST_ORDER, SECOND_ORDER
from twin.types import Frame

STD_NM = 3.0
START_NM = np.array([20.0, -30.0, 40.0])


def reading_frames(
    trained: PosteriorArtefact, states_nm: NDArray[np.floating], inputs_nm: NDArray[np.floating],
    rng: np.random.Generator,
) -> FramePosteriors:  # fmt: skip
    """Frames that read these states (T, n), give or take `STD_NM`, under either sign; told to be at these inputs."""
    mixtures = []
    for state in states_nm + STD_NM * rng.standard_normal(states_nm.shape):
        reading = rng.choice([-1, 1]) * state / FIRST_ORDER.range_nm
        whitening = np.diag(FIRST_ORDER.range_nm / STD_NM).ravel()
        far = np.concatenate([[-1.0], [3.0, 3.0, 3.0], whitening])
        mixtures.append([far, np.concatenate([[1.0], reading, whitening])])
    none, count = FramePosteriors.none(trained, FIRST_ORDER), len(inputs_nm)
    return replace(
        none,
        mixtures=np.array(mixtures, np.float32),
        inputs_nm=inputs_nm,
        features=torch.zeros(count, 1),
        weights=np.ones(count),
    )


def test_the_reading_is_that_of_the_component_and_sign_nearest_by() -> None:
    eye = np.eye(3).ravel()
    mixture = np.array([np.r_[0.0, [1.0, 1.0, 1.0], 2 * eye], np.r_[0.0, [-5.0, 0.0, 0.0], eye]])
    mean, whitening = nearest_component(mixture, np.array([-1.2, -1.0, -0.9]))
    np.testing.assert_array_equal(mean, [-1.0, -1.0, -1.0])
    np.testing.assert_array_equal(whitening, 2 * np.eye(3))
    mean, whitening = nearest_component(mixture, np.array([4.5, 0.0, 0.0]))
    np.testing.assert_array_equal(mean, [5.0, 0.0, 0.0])


# --- the camera's angle --------------------------------------------------------------------------


def turned_frames(
    trained: PosteriorArtefact, angle_rad: float, count: int, seed: int, wild: int = 0
) -> FramePosteriors:
    """Frames of the turned state; the last `wild` of them are of no state at all."""
    rng = np.random.default_rng(seed)
    inputs, states, names = rng.uniform(-60, 60, (count, 3)), [], FIRST_ORDER.names
    for k, input_nm in enumerate(inputs):
        seen = rotated(Aberrations.of(dict(zip(names, START_NM + input_nm, strict=True))), angle_rad)
        lost = k >= count - wild
        states.append(rng.uniform(-150, 150, 3) if lost else np.array([seen[name] for name in names]))
    return reading_frames(trained, np.array(states), inputs, rng)


@pytest.mark.parametrize("degrees", [-6.0, 0.0, 8.0])
def test_the_camera_s_angle_shows_in_readings_against_inputs(posterior: PosteriorArtefact, degrees: float) -> None:
    angles, std = [], 0.0
    for seed in range(40):
        angle, std = camera_rotation_rad(turned_frames(posterior, np.deg2rad(degrees), 12, seed), START_NM + 2.0)
        angles.append(np.rad2deg(angle))
    # Four standard errors of the mean: wrong once in 16000 for each angle. Large angles shrink: the model is linear.
    assert np.mean(angles) == pytest.approx(degrees, abs=4 * np.rad2deg(std) / np.sqrt(40) + 0.05 * abs(degrees))
    assert 0.7 < np.std(angles) / np.rad2deg(std) < 1.5


def test_readings_gone_wild_hardly_count(posterior: PosteriorArtefact) -> None:
    sober = camera_rotation_rad(turned_frames(posterior, 0.1, 20, 3), START_NM)[0]
    with_wild = camera_rotation_rad(turned_frames(posterior, 0.1, 20, 3, wild=2), START_NM)[0]
    assert with_wild == pytest.approx(sober, abs=0.03)


def test_one_frame_tells_nothing_of_the_angle(posterior: PosteriorArtefact) -> None:
    angle, std = camera_rotation_rad(turned_frames(posterior, 0.1, 1, 0), START_NM)
    assert np.rad2deg(std) == pytest.approx(20.0, rel=0.01)
    assert abs(angle) < 0.01


# --- inexact inputs ------------------------------------------------------------------------------


def exact_estimate(frames: FramePosteriors, readings_nm: NDArray[np.floating]) -> Estimate:
    """For inputs taken as exact: the mean of all readings less inputs."""
    return Estimate(
        (readings_nm - frames.inputs_nm).mean(0), np.eye(3) * STD_NM**2 / len(frames) * frames.variance_inflation, 1.0
    )


def off_runs(
    trained: PosteriorArtefact, share: float, runs: int
) -> list[tuple[Estimate, Estimate, NDArray[np.floating]]]:
    """Of correctors off by `share`: the estimate for exact inputs, the one that allows for it, and the truth now."""
    alone, found = replace(trained, correlation=0.0), []
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        inputs = rng.uniform(-60, 60, (8, 3))
        states = START_NM + inputs @ (np.eye(3) + share * rng.standard_normal((3, 3))).T
        frames = reading_frames(alone, states, inputs, rng)
        signed = [m[1, 1:4] * FIRST_ORDER.range_nm for m in frames.mixtures]
        readings = np.array([r if r @ s > 0 else -r for r, s in zip(signed, states, strict=True)])
        exact = exact_estimate(frames, readings)
        found.append((exact, with_inexact_inputs(exact, frames, share), states[-1] - inputs[-1]))
    return found


def test_regions_hold_a_state_that_inexact_inputs_brought_about(posterior: PosteriorArtefact) -> None:
    runs = off_runs(posterior, 0.06, 200)
    low, high = binom.ppf([0.0005, 0.9995], len(runs), 0.9)  # false alarm 0.1 %
    assert low <= sum(allowed.covers(truth, 0.9) for _, allowed, truth in runs) <= high
    assert sum(exact.covers(truth, 0.9) for exact, _, truth in runs) < 0.7 * len(runs)
    errors = np.array([[np.linalg.norm(e.mean_nm - truth) for e in (exact, allowed)] for exact, allowed, truth in runs])
    assert np.median(errors[:, 1]) < 0.9 * np.median(errors[:, 0])


def test_allowing_for_next_to_nothing_changes_nothing(posterior: PosteriorArtefact) -> None:
    rng = np.random.default_rng(5)
    inputs = rng.uniform(-60, 60, (6, 3))
    frames = reading_frames(posterior, START_NM + inputs, inputs, rng)
    before = Estimate(START_NM + 1.0, np.eye(3), 0.99)
    after = with_inexact_inputs(before, frames, 1e-7)
    np.testing.assert_allclose(after.mean_nm, before.mean_nm, atol=1e-6)
    np.testing.assert_allclose(after.cov_nm2, before.cov_nm2, atol=1e-6)
    assert after.sign_probability == before.sign_probability


def test_frames_at_one_input_say_nothing_of_inputs(posterior: PosteriorArtefact) -> None:
    rng = np.random.default_rng(6)
    inputs = np.tile([30.0, -10.0, 5.0], (4, 1))
    before = Estimate(START_NM, np.eye(3), 1.0)
    after = with_inexact_inputs(before, reading_frames(posterior, START_NM + inputs, inputs, rng), 0.2)
    np.testing.assert_allclose(after.mean_nm, before.mean_nm, atol=1e-9)
    np.testing.assert_allclose(after.cov_nm2, before.cov_nm2, atol=1e-9)


def test_a_forgotten_frame_says_nothing_of_inputs_either(posterior: PosteriorArtefact) -> None:
    rng = np.random.default_rng(7)
    inputs = rng.uniform(-60, 60, (6, 3))
    alone = replace(posterior, correlation=0.0)
    frames = reading_frames(alone, START_NM + 1.1 * inputs, inputs, rng)
    forgotten = replace(frames, weights=np.array([1e-12, 1e-12, 1.0, 1.0, 1.0, 1.0]))
    last = replace(
        frames, mixtures=frames.mixtures[2:], inputs_nm=inputs[2:], features=frames.features[2:], weights=np.ones(4)
    )
    before = Estimate(START_NM, np.eye(3), 1.0)
    found, expected = (with_inexact_inputs(before, each, 0.1) for each in (forgotten, last))
    np.testing.assert_allclose(found.mean_nm, expected.mean_nm, atol=1e-6)
    np.testing.assert_allclose(found.cov_nm2, expected.cov_nm2, atol=1e-6)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.9])
def test_the_covariance_can_but_grow_and_other_orders_stay(posterior: PosteriorArtefact, share: float) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        inputs = rng.uniform(-60, 60, (rng.integers(2, 9), 3))
        frames = reading_frames(posterior, START_NM + inputs * 1.1, inputs, rng)
        root = rng.standard_normal((7, 7))
        before = Estimate(np.r_[START_NM, rng.standard_normal(4)], root @ root.T, 1.0)
        after = with_inexact_inputs(before, frames, share)
        assert np.linalg.eigvalsh(after.cov_nm2 - before.cov_nm2).min() > -1e-9
        np.testing.assert_array_equal(after.mean_nm[3:], before.mean_nm[3:])


def test_the_controller_allows_for_it_when_told(posterior: PosteriorArtefact) -> None:
    estimates = []
    for changes in ({}, {"input_error": 0.1}):
        options = checked_options(Options, {"candidates": 64, "second_order": "network", **changes})
        controller = NeuralPosterior(SECOND_ORDER, posterior, options)
        controller.reset(SECOND_ORDER, np.random.default_rng(1))
        assert controller.estimate().mean_nm == pytest.approx(np.zeros(7), abs=1e-3)  # before the first frame
        for k in range(4):
            counts = np.random.default_rng(k).poisson(90, (64, 64)).astype(np.uint16)
            controller.update(
                np.random.default_rng(k).uniform(-9, 9, 7), Frame(counts, 1e6, 0.5, float(k), {"dark_level": 0.0})
            )
        estimates.append(controller.estimate())
    assert np.all(estimates[1].std_nm[:3] > estimates[0].std_nm[:3])
    with pytest.raises(OptionError, match="input_error"):
        checked_options(Options, {"input_error": 0.1, "polish": "whittle"})
