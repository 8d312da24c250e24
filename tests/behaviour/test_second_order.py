"""Seven coefficients: `neural_posterior` nulls coma and three-fold astigmatism while it estimates them."""

from collections.abc import Callable

import numpy as np

from scenarios.calibration.results import Result


def test_second_order_falls_below_a_third_of_its_start_within_twelve_frames(calibrated: Callable[..., Result]) -> None:
    """The state at the last frame, and what is still unknown of it, component by component."""
    last = calibrated("day_a_second_order", "neural_posterior", 12, 0).steps[-1]
    second = slice(3, None)
    start = np.abs(last.truth_nm[second])
    assert start.min() > 75.0
    state = np.abs(np.add(last.truth_nm, last.cumulative_nm)[second])
    np.testing.assert_array_less(state, start / 3)
    np.testing.assert_array_less(np.abs(last.error_component_nm[second]), start / 3)
