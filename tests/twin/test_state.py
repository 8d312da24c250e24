"""The calibrated state: validation, draws, inputs within their limits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.state import FIRST_ORDER, SECOND_ORDER, StateSpace

RANGES = {"start_nm": (60.0, 30.0), "input_nm": (60.0, 30.0), "tolerance_nm": (10.0, 10.0)}


def test_the_two_spaces():
    assert FIRST_ORDER.names == ("C10", "C12a", "C12b")
    assert SECOND_ORDER.dimension == 7
    np.testing.assert_array_equal(FIRST_ORDER.range_nm, [120.0, 60.0, 60.0])
    np.testing.assert_array_equal(FIRST_ORDER.zero, np.zeros(3))
    np.testing.assert_array_equal(FIRST_ORDER.tolerance, [10.0] * 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ("C10", "C1a")}, r"'C1a' is not an aberration coefficient \(did you mean"),
        ({"names": ("C10", "C10")}, "named twice"),
        ({"start_nm": (60.0,)}, "start_nm has 1 entries; expected one per name, 2"),
        ({"tolerance_nm": (10.0, 10.0, 10.0)}, "tolerance_nm has 3 entries"),
        ({"input_nm": (60.0, 0.0)}, "input_nm must be positive and finite"),
        ({"tolerance_nm": (10.0, float("nan"))}, "tolerance_nm must be positive and finite"),
        ({"start_nm": (60.0, float("inf"))}, "start_nm must be positive and finite"),
        ({"input_nm": (60.0, 29.0)}, "cannot undo every start"),
    ],
)
def test_a_bad_space_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        StateSpace(**{"names": ("C10", "C12a"), **RANGES, **changes})


def test_starts_are_uniform_in_the_box():
    """Kolmogorov-Smirnov bound for 4000 draws per coefficient: false alarms below 1e-6 in all."""
    draws = FIRST_ORDER.draw_start(np.random.default_rng(1), 4000)
    assert draws.shape == (4000, 3)
    for values, half_range in zip(draws.T, FIRST_ORDER.start, strict=True):
        assert np.abs(values).max() <= half_range
        expected = np.sort(values / half_range) / 2 + 0.5
        assert np.abs(expected - (np.arange(4000) + 0.5) / 4000).max() < np.sqrt(np.log(2 * 3 / 1e-6) / 2 / 4000)


def test_a_start_is_repeatable_and_has_the_shape_of_a_state():
    one, same = (FIRST_ORDER.draw_start(np.random.default_rng(5)) for _ in range(2))
    assert one.shape == (3,)
    np.testing.assert_array_equal(one, same)


@pytest.mark.parametrize(
    ("delta", "cumulative", "message"),
    [
        ([1.0, 2.0], [0.0] * 3, r"shape \(3,\) for C10, C12a, C12b; got \(2,\)"),
        ([[1.0, 2.0, 3.0]], [0.0] * 3, r"got \(1, 3\)"),
        ([1.0, float("nan"), 0.0], [0.0] * 3, "must be finite"),
        ([float("inf"), 0.0, 0.0], [0.0] * 3, "must be finite"),
        ([0.0, -20.0, 0.0], [0.0, -15.0, 0.0], r"C12a -20 nm .* to -35 nm; the limit is \+-30 nm"),
    ],
)
def test_a_bad_input_is_refused(delta, cumulative, message):
    with pytest.raises(ValueError, match=message):
        FIRST_ORDER.check_input(np.array(delta), np.array(cumulative))


@given(
    st.lists(st.floats(-60, 60), min_size=3, max_size=3),
    st.lists(st.floats(-1, 1), min_size=3, max_size=3),
)
def test_an_input_is_accepted_exactly_when_the_sum_is_inside(delta, share):
    cumulative = np.array(share) * FIRST_ORDER.input
    total = np.array(delta) + cumulative
    if np.all(np.abs(total) <= FIRST_ORDER.input):
        np.testing.assert_array_equal(FIRST_ORDER.check_input(np.array(delta), cumulative), total)
    elif np.any(np.abs(total) > FIRST_ORDER.input + 1e-8):
        with pytest.raises(ValueError, match="cumulative input"):
            FIRST_ORDER.check_input(np.array(delta), cumulative)


def test_an_input_checked_is_not_changed():
    delta = np.array([60.0 + 5e-10, 0.0, 0.0])
    total = FIRST_ORDER.check_input(delta, np.zeros(3))
    assert total[0] == 60.0
    assert delta[0] == 60.0 + 5e-10


def test_a_state_becomes_aberrations_by_name():
    aberrations = SECOND_ORDER.to_aberrations(np.arange(1.0, 8.0))
    assert aberrations.nonzero() == dict(zip(SECOND_ORDER.names, np.arange(1.0, 8.0), strict=True))
    with pytest.raises(ValueError):
        SECOND_ORDER.to_aberrations(np.zeros(3))


@pytest.mark.parametrize(("error", "inside"), [([9.9, -9.9, 0.0], True), ([10.0, 0, 0], False), ([0, 0, -11.0], False)])
def test_in_spec_means_every_component_below_its_tolerance(error, inside):
    assert FIRST_ORDER.in_spec(np.array(error)) is inside


def test_not_a_number_is_never_in_spec():
    assert not FIRST_ORDER.in_spec(np.array([0.0, np.nan, 0.0]))
