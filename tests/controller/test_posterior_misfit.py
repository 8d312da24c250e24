"""The misfit test: the angle of the camera, and what training days' runs are like."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from controller import posterior_misfit
from controller.posterior_artefact import PosteriorArtefact
from controller.posterior_filter import FramePosteriors
from controller.posterior_misfit import GROWS, fit, student, usual
from controller.posterior_turn import local_reading, turned_rad
from twin.aberrations import Aberrations, rotated
from twin.state import FIRST_ORDER

STD_NM = 3.0


def turned_frames(
    trained: PosteriorArtefact, angle_rad: float, count: int, seed: int, wild: int = 0
) -> FramePosteriors:
    """Frames whose readings are of the turned state, give or take `STD_NM`; of either sign, as readings are.

    The last `wild` of them are of no state at all.
    """
    rng = np.random.default_rng(seed)
    inputs = rng.uniform(-60, 60, (count, 3))
    names, mixtures = FIRST_ORDER.names, []
    for k, input_nm in enumerate(inputs):
        seen = rotated(Aberrations.of(dict(zip(names, START_NM + input_nm, strict=True))), angle_rad)
        state = np.array([seen[name] for name in names]) + STD_NM * rng.standard_normal(3)
        if k >= count - wild:
            state = rng.uniform(-150, 150, 3)
        reading = rng.choice([-1, 1]) * state / FIRST_ORDER.range_nm
        whitening = np.diag(FIRST_ORDER.range_nm / STD_NM).ravel()
        far = np.concatenate([[-1.0], [3.0, 3.0, 3.0], whitening])
        mixtures.append([far, np.concatenate([[1.0], reading, whitening])])
    none = FramePosteriors.none(trained, FIRST_ORDER)
    return replace(none, mixtures=np.array(mixtures, np.float32), inputs_nm=inputs, features=torch.zeros(count, 1))


START_NM = np.array([20.0, -30.0, 40.0])


@pytest.mark.parametrize("degrees", [-6.0, 0.0, 8.0])
def test_the_camera_s_angle_shows_in_readings_against_inputs(posterior: PosteriorArtefact, degrees: float) -> None:
    angles, std = [], 0.0
    for seed in range(40):
        angle, std = turned_rad(turned_frames(posterior, np.deg2rad(degrees), 12, seed), START_NM + 2.0)
        angles.append(np.rad2deg(angle))
    # Four standard errors of the mean: wrong once in 16000 for each angle. Large angles shrink: the model is linear.
    assert np.mean(angles) == pytest.approx(degrees, abs=4 * np.rad2deg(std) / np.sqrt(40) + 0.05 * abs(degrees))
    assert 0.7 < np.std(angles) / np.rad2deg(std) < 1.5


USUAL = {"deviance": tuple((max(1.0, 3.0 * (k - 1)), 1.0) for k in range(1, 21))}
"""Of frames that are as telling as they say: chi-square with n degrees of freedom a frame, less the estimate's."""


@pytest.mark.parametrize("excess", [0.6, 1.0, 1.5, 3.0])
def test_the_scatter_of_a_run_becomes_its_dispersion(excess: float) -> None:
    """Deviances of 4000 runs whose variances are `excess` of what the frames tell; their mean is known to 1.5 %."""
    rng = np.random.default_rng(2)
    for frames in (5, 20):
        free = 3 * (frames - 1)
        deviances = excess * rng.chisquare(free, 4000)
        found = [posterior_misfit.dispersion(deviance, USUAL, frames, 3) for deviance in deviances]
        drawn = (posterior_misfit.BELIEVED + free * excess) / (posterior_misfit.BELIEVED + free)
        assert np.mean(found) / student(posterior_misfit.BELIEVED + free, 3) == pytest.approx(drawn, rel=0.03)


def test_a_run_longer_than_those_of_training_scatters_on_at_the_same_rate() -> None:
    known = student(posterior_misfit.BELIEVED + 3 * 59, 3)
    assert posterior_misfit.dispersion(2 * 57.0 * 3, USUAL, 60, 3) == pytest.approx(2.0 * known, rel=0.05)
    assert posterior_misfit.dispersion(57.0 * 3, USUAL, 60, 3) == pytest.approx(known)


def test_nothing_stands_out_as_long_as_nobody_knows_what_is_usual() -> None:
    assert fit({"deviance": 1e9, "turn": 1e9}, {}, 5) == 1.0


@pytest.mark.parametrize("free", [6, 12, 60])
def test_a_variance_estimated_from_few_numbers_makes_regions_as_wide_as_they_must_be(free: int) -> None:
    """90 % regions of 200,000 normal vectors whose common variance is itself estimated; 0.3 % is 4.5 sigma."""
    rng = np.random.default_rng(3)
    squared = rng.chisquare(3, 200_000) / (rng.chisquare(free, 200_000) / free)
    assert np.mean(squared / student(free, 3) < chi2.ppf(0.9, 3)) == pytest.approx(0.9, abs=3e-3)
    assert np.mean(squared < chi2.ppf(0.9, 3)) < 0.9 - 0.3 / free


def test_readings_gone_wild_hardly_count(posterior: PosteriorArtefact) -> None:
    sober = turned_rad(turned_frames(posterior, 0.1, 20, 3), START_NM)[0]
    with_wild = turned_rad(turned_frames(posterior, 0.1, 20, 3, wild=2), START_NM)[0]
    assert with_wild == pytest.approx(sober, abs=0.03)


def test_one_frame_tells_nothing_of_the_angle(posterior: PosteriorArtefact) -> None:
    angle, std = turned_rad(turned_frames(posterior, 0.1, 1, 0), START_NM)
    assert np.rad2deg(std) == pytest.approx(20.0, rel=0.01)
    assert abs(angle) < 0.01


def test_the_reading_is_that_of_the_component_and_sign_nearest_by() -> None:
    eye = np.eye(3).ravel()
    mixture = np.array([np.r_[0.0, [1.0, 1.0, 1.0], 2 * eye], np.r_[0.0, [-5.0, 0.0, 0.0], eye]])
    mean, whitening = local_reading(mixture, np.array([-1.2, -1.0, -0.9]))
    np.testing.assert_array_equal(mean, [-1.0, -1.0, -1.0])
    np.testing.assert_array_equal(whitening, 2 * np.eye(3))
    mean, whitening = local_reading(mixture, np.array([4.5, 0.0, 0.0]))
    np.testing.assert_array_equal(mean, [5.0, 0.0, 0.0])


def test_what_is_usual_leaves_out_the_worst_runs() -> None:
    rng = np.random.default_rng(1)
    runs = [[dict.fromkeys(GROWS, float(v)) for v in rng.chisquare(3, 5)] for _ in range(200)]
    clean = usual(runs)
    for name in GROWS:
        runs[7][2] = dict.fromkeys(GROWS, 1e6)
        mean, variance = np.array(usual(runs)[name]).T
        assert len(mean) == 5
        np.testing.assert_allclose(mean, np.array(clean[name])[:, 0], rtol=0.05)
        assert np.all((mean > 2.3) & (mean < 3.1) & (variance < 6))


def test_a_run_stands_out_by_its_most_unusual_measure() -> None:
    moments = dict.fromkeys(GROWS, ((3.0, 6.0),))
    typical = dict.fromkeys(GROWS, 3.0)
    assert fit(typical, moments, 1) == 1.0
    for name in GROWS:
        # The 0.5 % point of chi-square with three degrees.
        assert fit(typical | {name: 12.838}, moments, 1) == pytest.approx(len(GROWS) * 0.005, rel=0.01)


def test_every_measure_is_taken(posterior: PosteriorArtefact) -> None:
    assert posterior.usual.keys() == GROWS.keys() == posterior_misfit.GROWS.keys()
