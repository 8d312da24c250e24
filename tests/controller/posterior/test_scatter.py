"""A run's scatter widens or narrows its regions, and few frames make them Student's."""

import numpy as np
import pytest
from scipy.stats import chi2

from controller.posterior.scatter import dispersion, student_factor

PRIOR_DEGREES = 3.0
"""The scatter of one frame counts as much as the prior belief that a run scatters like those of training."""

USUAL = {"deviance": tuple((max(1.0, 3.0 * (k - 1)), 1.0) for k in range(1, 21))}
"""Of frames that are as telling as they say: chi-square with n degrees of freedom a frame, less the estimate's."""


@pytest.mark.parametrize("excess", [0.6, 1.0, 1.5, 3.0])
def test_the_scatter_of_a_run_becomes_its_dispersion(excess: float) -> None:
    """Deviances of 4000 runs whose variances are `excess` of what the frames tell; their mean is known to 1.5 %."""
    rng = np.random.default_rng(2)
    for frames in (5, 20):
        free = 3 * (frames - 1)
        deviances = excess * rng.chisquare(free, 4000)
        found = [dispersion(deviance, USUAL, frames, 3) for deviance in deviances]
        drawn = (PRIOR_DEGREES + free * excess) / (PRIOR_DEGREES + free)
        assert np.mean(found) / student_factor(PRIOR_DEGREES + free, 3) == pytest.approx(drawn, rel=0.03)


def test_a_run_longer_than_those_of_training_scatters_on_at_the_same_rate() -> None:
    known = student_factor(PRIOR_DEGREES + 3 * 59, 3)
    assert dispersion(2 * 57.0 * 3, USUAL, 60, 3) == pytest.approx(2.0 * known, rel=0.05)
    assert dispersion(57.0 * 3, USUAL, 60, 3) == pytest.approx(known)


@pytest.mark.parametrize("free", [6, 12, 60])
def test_a_variance_estimated_from_few_numbers_makes_regions_as_wide_as_they_must_be(free: int) -> None:
    """90 % regions of 200,000 normal vectors whose common variance is itself estimated; 0.3 % is 4.5 sigma."""
    rng = np.random.default_rng(3)
    squared = rng.chisquare(3, 200_000) / (rng.chisquare(free, 200_000) / free)
    assert np.mean(squared / student_factor(free, 3) < chi2.ppf(0.9, 3)) == pytest.approx(0.9, abs=3e-3)
    assert np.mean(squared < chi2.ppf(0.9, 3)) < 0.9 - 0.3 / free
