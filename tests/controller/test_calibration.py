"""The design effect: what it does to the likelihood, and that it is what the distances ask for."""

import numpy as np
import pytest
from scipy.stats import chi2

from controller import calibration
from controller.dataset import DayRanges
from controller.strategies.random import Random
from controller.vae_em import latent_gp
from controller.vae_em.latent_gp import Factors, Kernel, Residuals
from twin.optics import Optics
from twin.state import FIRST_ORDER

SMALL = Optics(grid=512, sampling_nm=0.025, camera_pixels=64, binning=3)


def log_likelihood(correlation: float, count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    inputs, states = rng.normal(size=(count, 3)), rng.normal(size=(4, 3))
    evidence = Residuals(rng.normal(size=(2, count, 4)), np.ones((2, count, 4)), np.zeros((2, 0, count, 4)))
    kernel = Kernel(0, np.ones(3), np.ones(2), np.ones(2), np.inf, correlation)
    factors = latent_gp.absorb(Factors.empty(2, 0, 4), kernel, states, inputs, evidence)
    return latent_gp.log_likelihood(factors, kernel)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_correlated_observations_count_less_by_the_design_effect(count: int) -> None:
    assert log_likelihood(0.25, count) == pytest.approx(log_likelihood(0.0, count) / (1 + 0.25 * (count - 1)))


def runs(last: list[float]) -> np.ndarray:
    """Distances (R, T) that end like this."""
    return np.tile(np.array(last)[:, None], (1, calibration.OBSERVATIONS))


@pytest.mark.parametrize(("mean", "expected"), [(3.0, 0.0), (2.0, 0.0), (6.0, 1 / 19), (9.0, 2 / 19)])
def test_the_correlation_makes_the_distances_what_they_should_be(mean: float, expected: float) -> None:
    assert calibration.intra_class_correlation(runs([mean] * 12), 3) == pytest.approx(expected)


def test_one_wild_run_in_ten_does_not_set_the_correlation() -> None:
    assert calibration.intra_class_correlation(runs([3.0] * 19 + [1000.0]), 3) < 1e-6


@pytest.mark.parametrize("correlation", [0.0, 0.02, 0.1])
def test_regions_hold_as_often_as_they_say_with_the_correlation_found(correlation: float) -> None:
    """4000 runs of chi-square distances too large by the design effect: the share held is known to 0.5 %."""
    frames = np.arange(1, calibration.OBSERVATIONS + 1)
    effect = 1 + (frames - 1) * correlation
    distances = np.random.default_rng(1).chisquare(3, (4000, len(frames))) * effect
    found = calibration.holding_correlation(distances, 3)
    assert found == pytest.approx(correlation, abs=0.004)
    honest = 1 + (frames - 1) * found
    held = (distances / honest <= chi2.ppf(0.9, 3))[:, np.array(calibration.HELD_AT) - 1]
    assert held.mean() == pytest.approx(0.9, abs=0.015)


def test_every_frame_of_every_run_is_measured_and_watched() -> None:
    controller, seen = Random(FIRST_ORDER), []
    distances = calibration.closed_loop(
        controller, SMALL, FIRST_ORDER, DayRanges(), 2, 0, None, lambda: seen.append(controller.estimate())
    )
    assert distances.shape == (2, calibration.OBSERVATIONS)
    assert len(seen) == distances.size
    # It learns nothing: the same distance throughout, of a uniform start from its own moments.
    np.testing.assert_allclose(distances, distances[:, :1] * np.ones(calibration.OBSERVATIONS))
    assert np.all((distances > 0) & (distances <= 9))
