"""Actuator and drift against their closed forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from twin import drift, dynamics
from twin.day import ActuatorProperties, DriftProperties
from twin.state import FIRST_ORDER, SECOND_ORDER, StateSpace

FALSE_ALARM = 1e-4
SWAPPED = StateSpace(names=("C12b", "C10", "C12a"), start_nm=(30.0, 60.0, 30.0), input_nm=(30.0, 60.0, 30.0))


def test_a_perfect_actuator_changes_no_bit() -> None:
    delta = np.array([0.1, -1 / 3, 1e-17])
    assert dynamics.actual_input(delta, FIRST_ORDER, ActuatorProperties()).tobytes() == delta.tobytes()


@given(st.floats(0.5, 1.5), st.floats(-180.0, 180.0), st.integers(0, 2**32 - 1))
def test_gain_and_rotation_multiply_each_pair_as_a_complex_number(gain: float, degrees: float, seed: int) -> None:
    delta = np.random.default_rng(seed).uniform(-50, 50, 7)
    moved = dynamics.actual_input(delta, SECOND_ORDER, ActuatorProperties(gain=gain, rotation_deg=degrees))
    factor = gain * np.exp(1j * np.radians(degrees))
    assert moved[0] == pytest.approx(gain * delta[0])  # defocus has no direction
    for a, b in ((1, 2), (3, 4), (5, 6)):
        turned = factor * (delta[a] + 1j * delta[b])
        assert [moved[a], moved[b]] == pytest.approx([turned.real, turned.imag], abs=1e-9)


def test_the_order_of_the_names_does_not_matter() -> None:
    actuator = ActuatorProperties(rotation_deg=90.0)
    moved = dynamics.actual_input(np.array([2.0, 5.0, 1.0]), SWAPPED, actuator)  # C12 = 1 + 2i, C10 = 5
    assert moved == pytest.approx([1.0, 5.0, -2.0])  # i (1 + 2i) = -2 + i


def test_a_half_calibrated_pair_cannot_be_turned() -> None:
    half = StateSpace(names=("C10", "C12a"), start_nm=(60.0, 30.0), input_nm=(60.0, 30.0), tolerance_nm=(10.0, 10.0))
    assert dynamics.actual_input(np.array([1.0, 2.0]), half, ActuatorProperties(gain=2.0)) == pytest.approx([2.0, 4.0])
    with pytest.raises(ValueError, match="C12a is calibrated without C12b"):
        dynamics.actual_input(np.zeros(2), half, ActuatorProperties(rotation_deg=1.0))


def test_reach_bounds_every_start_and_input_and_is_attained() -> None:
    actuator = ActuatorProperties(gain=1.2, rotation_deg=30.0)
    reach = dynamics.reach_nm(FIRST_ORDER, actuator)
    corners = np.array(np.meshgrid(*[(-1, 1)] * 3)).reshape(3, -1).T
    states = np.array(
        [
            start * FIRST_ORDER.start + dynamics.actual_input(u * FIRST_ORDER.input, FIRST_ORDER, actuator)
            for start in corners
            for u in corners
        ]
    )
    assert np.abs(states).max(axis=0) == pytest.approx(reach)
    assert dynamics.reach_nm(FIRST_ORDER, ActuatorProperties()) == pytest.approx(FIRST_ORDER.range_nm)


def test_drift_is_off_unless_the_day_says_so() -> None:
    assert np.all(drift.increment_nm(1e6, SECOND_ORDER, DriftProperties(), np.random.default_rng(0)) == 0.0)


def test_drift_rates_go_by_radial_order() -> None:
    rates = drift.rates_nm_per_sqrt_s(SECOND_ORDER, DriftProperties(rate_nm_per_sqrt_s={"1": 0.3, "2": 0.6}))
    assert rates == pytest.approx([0.3, 0.3, 0.3, 0.6, 0.6, 0.6, 0.6])


@pytest.mark.parametrize(("steps", "seconds"), [(1, 1.0), (1, 16.0), (16, 1.0), (4, 4.0)])
def test_drift_variance_grows_linearly_in_time_however_it_is_cut(steps: int, seconds: float) -> None:
    day = DriftProperties(rate_nm_per_sqrt_s={"1": 0.5})
    rng = np.random.default_rng(12)
    runs = 3000
    walks = np.array(
        [sum(drift.increment_nm(seconds, FIRST_ORDER, day, rng) for _ in range(steps)) for _ in range(runs)]
    )
    expected = 0.5**2 * steps * seconds
    # 9000 independent normals of known mean: the sum of squares is chi-squared and resolves 6 %.
    low, high = chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], walks.size)
    assert low < np.sum(walks**2) / expected < high
    correlation = np.corrcoef(walks.T)[np.triu_indices(3, 1)]
    assert np.abs(correlation).max() < 4.2 / np.sqrt(runs)  # three coefficients: under 1e-4 in all
