"""The actuator against its closed form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin import dynamics
from twin.day import ActuatorProperties
from twin.state import FIRST_ORDER, SECOND_ORDER, StateSpace

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


def test_coupling_moves_one_coefficient_by_a_share_of_the_input_to_another() -> None:
    actuator = ActuatorProperties(coupling={"C12a": {"C21a": 0.03}, "C23b": {"C10": -0.1, "C12b": 0.5}})
    asked = np.array([10.0, 20.0, 4.0, 100.0, 50.0, 60.0, 70.0])
    moved = dynamics.actual_input(asked, SECOND_ORDER, actuator)
    assert moved - asked == pytest.approx([0.0, 3.0, 0.0, 0.0, 0.0, 0.0, -1.0 + 2.0])


def test_coupling_adds_to_gain_and_rotation() -> None:
    plain = ActuatorProperties(gain=0.9, rotation_deg=20.0)
    leaky = ActuatorProperties(gain=0.9, rotation_deg=20.0, coupling={"C12b": {"C10": 0.25}})
    difference = dynamics.response(FIRST_ORDER, leaky) - dynamics.response(FIRST_ORDER, plain)
    expected = np.zeros((3, 3))
    expected[2, 0] = 0.25
    assert difference == pytest.approx(expected)


def test_coupling_follows_the_names_and_not_their_order() -> None:
    actuator = ActuatorProperties(coupling={"C12a": {"C10": 0.5}})
    moved = dynamics.actual_input(np.array([2.0, 8.0, 1.0]), SWAPPED, actuator)  # C12b, C10, C12a
    assert moved == pytest.approx([2.0, 8.0, 5.0])


def test_coupling_with_what_is_not_calibrated_changes_no_bit() -> None:
    actuator = ActuatorProperties(coupling={"C12a": {"C21a": 0.03}, "C30": {"C10": 0.9}})
    delta = np.array([0.1, -1 / 3, 1e-17])
    assert dynamics.actual_input(delta, FIRST_ORDER, actuator).tobytes() == delta.tobytes()


def test_coupling_widens_the_reach() -> None:
    actuator = ActuatorProperties(coupling={"C12a": {"C10": -0.1}})
    assert dynamics.reach_nm(FIRST_ORDER, actuator) - FIRST_ORDER.range_nm == pytest.approx([0.0, 6.0, 0.0])
