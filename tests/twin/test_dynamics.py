"""The actuator against its closed form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from twin import dynamics
from twin.day import ActuatorProperties, Day
from twin.optics import Optics
from twin.simulated import SimulatedMicroscope
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


# --- memory --------------------------------------------------------------------------------------


def driven(inputs: list[list[float]], actuator: ActuatorProperties, space: StateSpace = FIRST_ORDER) -> np.ndarray:
    """Where the state stands after each input, (len(inputs), n), from zero."""
    state, made, track = dynamics.at_rest(space), space.zero, []
    for delta in inputs:
        moved, state = dynamics.follow(state, np.array(delta), space, actuator)
        made = made + moved
        track.append(made)
    return np.array(track)


def along(path: list[float], actuator: ActuatorProperties) -> list[float]:
    """C10 alone: where it stands when the input stands at each value of `path`."""
    steps = np.diff(path, prepend=0.0)
    return driven([[step, 0.0, 0.0] for step in steps], actuator)[:, 0].tolist()


def test_without_memory_nothing_is_kept_and_no_bit_changes() -> None:
    delta = np.array([0.1, -1 / 3, 1e-17])
    rest = dynamics.at_rest(FIRST_ORDER)
    moved, state = dynamics.follow(rest, delta, FIRST_ORDER, ActuatorProperties())
    assert state is rest
    assert moved.tobytes() == delta.tobytes()


def test_backlash_loses_its_dead_band_at_every_turn() -> None:
    actuator = ActuatorProperties(backlash_nm={"C10": 4.0})
    # From the middle of the play half of it is lost; a turn loses all of it, a smaller turn everything.
    assert along([10, 13, 10, 9, 0, 3, 5], actuator) == pytest.approx([8, 11, 11, 11, 2, 2, 3])


@given(st.floats(5.0, 60.0), st.floats(0.0, 100.0), st.floats(0.0, 8.0))
def test_a_turn_moves_the_state_by_what_is_left_of_the_input(out: float, back: float, dead_band: float) -> None:
    actuator = ActuatorProperties(backlash_nm={"C10": dead_band})
    there, then = along([out, out - back], actuator)
    assert there == pytest.approx(out - dead_band / 2)
    assert then - there == pytest.approx(-max(0.0, back - dead_band), abs=1e-9)


def maxwell_slip(path: list[float], width: float, share: float, elements: int, step: float = 0.01) -> float:
    """The same hysteresis told the other way round: springs in parallel, each with a slider that gives way.

    Stops instead of plays, driven in small steps: y = x - share mean(spring), |spring| <= its slider's hold.
    """
    holds = width / 2 * np.arange(1, elements + 1) / elements
    springs, x = np.zeros(elements), 0.0
    for target in path:
        count = max(1, round(abs(target - x) / step))
        for moved in np.full(count, (target - x) / count):
            springs = np.clip(springs + moved, -holds, holds)
        x = target
    return x - share * springs.mean()


@given(st.lists(st.floats(-30.0, 30.0), min_size=1, max_size=5), st.floats(1.0, 40.0), st.floats(0.05, 1.0))
def test_hysteresis_is_what_springs_with_sliders_do(path: list[float], width: float, share: float) -> None:
    actuator = ActuatorProperties(hysteresis_nm={"C10": width}, hysteresis_share=share)
    expected = maxwell_slip(path, width, share, dynamics.PLAYS)
    assert along(path, actuator)[-1] == pytest.approx(expected, abs=1e-6)


def test_branches_of_the_hysteresis_lie_apart_by_five_eighths_of_share_times_width() -> None:
    actuator = ActuatorProperties(hysteresis_nm={"C10": 20.0}, hysteresis_share=0.3)
    up, down = along([-50, 0], actuator)[1], along([50, 0], actuator)[1]
    assert down - up == pytest.approx(0.625 * 0.3 * 20.0)


@given(st.integers(0, 2**32 - 1))
def test_a_small_loop_closes_and_is_forgotten(seed: int) -> None:
    actuator = ActuatorProperties(hysteresis_nm={"C10": 20.0}, hysteresis_share=0.5, backlash_nm={"C10": 3.0})
    low, high = np.sort(np.random.default_rng(seed).uniform(-20, 30, 2)).tolist()
    track = along([-60, high, low, high, 40], actuator)
    assert track[3] == pytest.approx(track[1])
    assert track[4] == pytest.approx(along([-60, 40], actuator)[1])


@given(st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_only_turns_count_and_not_how_the_way_is_cut(seed: int, parts: int) -> None:
    actuator = ActuatorProperties(
        gain=0.9,
        rotation_deg=10.0,
        coupling={"C12a": {"C10": 0.1}},
        hysteresis_nm={"C10": 20.0, "C12b": 7.0},
        backlash_nm={"C12a": 5.0, "C30": 9.0},
    )
    inputs = np.random.default_rng(seed).uniform(-20, 20, (4, 3))
    whole = driven(inputs.tolist(), actuator)
    cut = driven(np.repeat(inputs / parts, parts, axis=0).tolist(), actuator)
    assert cut[parts - 1 :: parts] == pytest.approx(whole, abs=1e-9)


def test_rotation_and_coupling_act_on_what_got_through() -> None:
    actuator = ActuatorProperties(rotation_deg=90.0, coupling={"C10": {"C12a": 0.5}}, backlash_nm={"C12a": 4.0})
    # C12a asked for 10, 8 got through, turned into C12b; C12b has no play of its own.
    assert driven([[0.0, 10.0, 3.0]], actuator)[0] == pytest.approx([4.0, -3.0, 8.0])


@given(st.integers(0, 2**32 - 1))
def test_memory_never_leaves_the_reach(seed: int) -> None:
    rng = np.random.default_rng(seed)
    actuator = ActuatorProperties(
        gain=1.1,
        rotation_deg=20.0,
        coupling={"C12a": {"C10": -0.1}},
        hysteresis_nm={"C10": rng.uniform(0, 80), "C12a": 10.0},
        hysteresis_share=rng.uniform(0.01, 1.0),
        backlash_nm={"C10": rng.uniform(0, 20), "C12b": 5.0},
    )
    corners = rng.choice([-1.0, 1.0], (8, 3)) * FIRST_ORDER.input
    track = driven(np.diff(corners, axis=0, prepend=np.zeros((1, 3))).tolist(), actuator)
    assert np.all(np.abs(track) + FIRST_ORDER.start <= dynamics.reach_nm(FIRST_ORDER, actuator) + 1e-9)


def test_memory_is_named_and_bounded() -> None:
    with pytest.raises(ValidationError, match="did you mean C50"):
        ActuatorProperties(backlash_nm={"C01": 1.0})
    for wrong in ({"backlash_nm": {"C10": -1.0}}, {"hysteresis_share": 0.0}, {"hysteresis_share": 1.1}):
        with pytest.raises(ValidationError):
            ActuatorProperties(**wrong)


def test_the_microscope_keeps_the_memory_for_a_session() -> None:
    actuator = ActuatorProperties(backlash_nm={"C10": 4.0}, hysteresis_nm={"C12a": 10.0}, hysteresis_share=0.5)
    optics = Optics(grid=512, camera_pixels=64, binning=4)
    microscope = SimulatedMicroscope(optics, FIRST_ORDER, Day(actuator=actuator))
    inputs = [[10.0, 8.0, 5.0], [-3.0, -8.0, -5.0], [-3.0, 2.0, 0.0]]
    for seed in (0, 1):  # the second session begins with actuators at rest again
        microscope.reset(np.random.default_rng(seed))
        start = microscope.truth().state_nm
        for delta, expected in zip(inputs, driven(inputs, actuator), strict=True):
            microscope.apply(np.array(delta))
            assert microscope.truth().state_nm - start == pytest.approx(expected)
        with pytest.raises(ValueError, match="limit"):
            microscope.apply(np.array([1e3, 0.0, 0.0]))
        assert microscope.truth().state_nm - start == pytest.approx(expected)
