"""Drift: `kalman` keeps its estimate within the tolerance, and knows how old the frames of its search are."""

from collections.abc import Callable

import numpy as np
import pytest

from scenarios.calibration.results import Result


def test_an_instrument_that_drifts_stays_in_spec_from_the_tenth_frame_on(calibrated: Callable[..., Result]) -> None:
    """Ten minutes at one frame per 10 s; the state itself, too, which inputs keep near the null."""
    result = calibrated("day_drift", "kalman", 60, 0)
    late = result.steps[9:]
    assert all(step.in_spec for step in late)
    state = np.array([np.add(step.truth_nm, step.cumulative_nm) for step in late])
    tolerance = result.scenario.space.tolerance
    assert np.mean(np.all(np.abs(state) < tolerance, axis=1)) > 0.95
    covered = np.mean([step.covers_90 for step in late])
    assert covered > 0.75  # correlated from frame to frame: fewer than 50 independent trials


@pytest.mark.parametrize("seed", [0, 1])
def test_the_search_counts_as_a_third_of_its_age(calibrated: Callable[..., Result], seed: int) -> None:
    """At the hand-over the particles average frames of equal weight over the search, of age T.

    That mean lags behind a random walk of rate r with variance r^2 T / 3 (the integral of r^2 (t / T)^2 dt). On an
    instrument that stands still, told that it drifts fast, `kalman` proceeds as `neural_posterior` does until the
    hand-over at the fourth frame, and from then on differs by that variance.
    """
    rate, interval_s, frames = 3.0, 10.0, 4
    day = ("day.exposure_s=0.5", "day.overhead_s=9.5", f"controllers.kalman.startup={frames}")
    rates = f"controllers.kalman.rate_nm_per_sqrt_s={{C10: {rate}, C12a: {rate}, C12b: {rate}}}"
    particles = calibrated("day_a", "neural_posterior", frames, seed, *day).steps
    handed_over = calibrated("day_a", "kalman", frames, seed, *day, rates).steps
    assert handed_over[-2].estimate_nm == particles[-2].estimate_nm
    assert particles[-1].done
    added = np.square(handed_over[-1].std_nm) - np.square(particles[-1].std_nm)
    np.testing.assert_allclose(added, rate**2 * (frames - 1) * interval_s / 3, rtol=0.1)
