"""The interval where a corrector may stand holds it, whatever was carried out and whatever was not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin.instrument.guard.interval import Interval, read_only

NUMBER = st.floats(-100, 100)
VECTOR = st.tuples(NUMBER, NUMBER, NUMBER).map(np.array)


@given(VECTOR, st.lists(st.tuples(VECTOR, st.floats(0, 1)), max_size=6))
def test_it_holds_a_corrector_that_carried_out_any_share_of_every_command(
    start: np.ndarray, commands: list[tuple[np.ndarray, float]]
) -> None:
    interval, position = Interval.at(start), start
    for delta, share in commands:
        interval, position = interval.hull(interval.moved(delta)), position + share * delta
        assert interval.holds(position, 1e-9)
        np.testing.assert_allclose(interval.nearest(position), position, atol=1e-9)


@given(VECTOR, VECTOR, VECTOR)
def test_it_is_no_larger_than_it_has_to_be(start: np.ndarray, delta: np.ndarray, other: np.ndarray) -> None:
    interval = Interval.at(start).hull(Interval.at(start).moved(delta))
    np.testing.assert_allclose(interval.high_nm - interval.low_nm, np.abs(delta), atol=1e-9)
    inside = np.all((np.minimum(start, start + delta) <= other) & (other <= np.maximum(start, start + delta)))
    assert interval.holds(other, 0.0) == inside


def test_a_point_a_goal_and_words() -> None:
    here = Interval.at(np.array([1.0, -2.0]))
    assert here.is_point
    assert here.lies_at(np.array([1.4, -2.4]), 0.5)
    assert not here.lies_at(np.array([1.6, -2.0]), 0.5)
    wide = here.hull(here.moved(np.array([0.0, 7.0])))
    assert not wide.is_point
    assert not wide.lies_at(np.array([1.0, 5.0]), 0.5)
    assert wide.named(("C10", "C12a")) == "C10 +1 nm, C12a -2 to +5 nm"


def test_nobody_can_change_it_from_outside() -> None:
    mine = np.array([1.0, 2.0])
    interval = Interval(mine, mine)
    mine[0] = 1e6
    np.testing.assert_array_equal(interval.low_nm, [1.0, 2.0])
    with pytest.raises(ValueError, match="read-only"):
        interval.high_nm[0] = 1e6
    assert not read_only(mine).flags.writeable
