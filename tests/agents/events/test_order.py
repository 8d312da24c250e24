"""Events to positions: against the plain definition of the scan's clock, and what broken streams do to it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.events.order import EventOrder
from twin.formats.dataset import FormatError
from twin.formats.event_clock import AFTER, BEFORE, BETWEEN, PER_TICK, REFUSED, EventClock, clock_of, event_time
from twin.formats.t3p import RECORD
from twin.scan.plan import ScanPlan, path

PIXELS = 64


def made(toa: np.ndarray, pixel: np.ndarray | int = 0, ftoa: np.ndarray | int = 0) -> np.ndarray:
    events = np.zeros(len(toa), RECORD)
    events["toa"], events["pixel"], events["ftoa"] = toa, pixel, ftoa
    events["tot"] = np.arange(len(toa)) % 65536  # a name for each event
    return events


def run(order: EventOrder, events: np.ndarray, step: int, until: int = 0) -> dict[int, list[tuple[int, ...]]]:
    """Events of each position, in the order given; checks that positions come once and in order."""
    found: dict[int, list[tuple[int, ...]]] = {}
    runs = [r for i in range(0, len(events), step) for r in order.push(events[i : i + step])] + list(order.flush(until))
    for first, indptr, ordered in runs:
        assert first == len(found)
        assert len(ordered) == indptr[-1]
        for k in range(len(indptr) - 1):
            found[first + k] = ordered[indptr[k] : indptr[k + 1]].tolist()
    assert order.counts.total == len(events)
    assert order.counts.accepted == sum(map(len, found.values()))
    return found


def expected(events: np.ndarray, clock: EventClock, fine: bool = False) -> dict[int, list[tuple[int, ...]]]:
    """The definition: every event into the position of its time, in order of arrival."""
    position = clock.position(event_time(events, fine))
    last = int(position.max(initial=-1))
    return {k: events[position == k].tolist() for k in range(last + 1)}


clocks = st.builds(
    EventClock,
    dwell_s=st.integers(25_000, 3_000_000).map(lambda ps: ps * 1e-12),
    count=st.integers(1, 60),
    columns=st.integers(1, 12),
    settle_s=st.sampled_from([0.0, 3.1e-7]),
    flyback_s=st.sampled_from([0.0, 1.23e-6]),
    start_s=st.sampled_from([0.0, 1e-6]),
)


@settings(max_examples=60, deadline=None)
@given(clocks, st.sampled_from([None, 0.3, 1.0]), st.integers(0, 2**32 - 1), st.integers(1, 200), st.booleans())
def test_events_fall_where_their_time_says_however_they_come(
    clock: EventClock, share: float | None, seed: int, step: int, fine: bool
) -> None:
    rng = np.random.default_rng(seed)
    if share is not None:
        clock = replace(clock, acceptance_s=clock.dwell_s * share)
    last = int(clock.ticks.end // PER_TICK)
    window = int(rng.integers(0, 50))
    toa = np.sort(rng.integers(0, last + 20, 200))
    events = made(toa, rng.integers(0, PIXELS, 200), rng.integers(0, 16, 200))
    events = events[np.argsort(toa + rng.integers(0, window + 1, 200), kind="stable")]
    order = EventOrder(clock, PIXELS, window_s=(window + 1) * 25e-9, fine=fine, most_positions=int(rng.integers(1, 30)))
    found, wanted = run(order, events, step), expected(events, clock, fine)
    # An event between the lines may tell that more positions are over, though they are empty.
    assert {k: found[k] for k in wanted} == wanted
    assert not any(found[k] for k in found if k not in wanted)
    position = clock.position(event_time(events, fine))
    counts = order.counts
    assert (counts.before, counts.after) == ((position == BEFORE).sum(), (position == AFTER).sum())
    assert (counts.between_lines, counts.beyond_acceptance) == (
        (position == BETWEEN).sum(),
        (position == REFUSED).sum(),
    )
    assert (counts.late, counts.early) == (0, 0)


def test_acceptance_ends_before_its_last_tick() -> None:
    for columns in (1, 10):
        clock = EventClock(1e-6, 10, columns, acceptance_s=5e-7, flyback_s=1e-6)
        order = EventOrder(clock, PIXELS)
        found = run(order, made(np.array([0, 19, 20, 39])), 4)
        assert [event[1] for event in found[0]] == [0, 19]
        assert order.counts.beyond_acceptance == 2


@pytest.mark.parametrize("pattern", ["raster", "serpentine", "list"])
def test_the_clock_is_that_of_the_scan_plan(pattern: str) -> None:
    times = {"dwell_s": 1.3e-6, "settle_s": 2.1e-6, "flyback_s": 3.7e-6}
    positions = tuple((float(i), 0.0) for i in range(12)) if pattern == "list" else ()
    plan = ScanPlan(pattern=pattern, rows=3, columns=4, positions_nm=positions, **times)  # type: ignore[arg-type]
    clock, whole = clock_of(plan), path(plan, 0, 12)
    for edge_s, inwards in ((whole.start_s, 1), (whole.end_s, -1)):
        edge = np.round(edge_s * 1e12).astype(np.int64) * 4
        assert clock.position(edge + (inwards - 1) // 2).tolist() == list(range(12))
        assert not np.array_equal(clock.position(edge + (inwards - 1) // 2 - inwards), np.arange(12))


def probe_number(events: np.ndarray, dwell_s: float) -> np.ndarray:
    """floor(arrival / dwell), exact for dwells of whole picoseconds."""
    return events["toa"].astype(np.int64) * 25_000 // round(dwell_s * 1e12)


def test_without_pauses_it_is_the_probe_number_of_the_format() -> None:
    rng = np.random.default_rng(3)
    events = made(np.sort(rng.integers(0, 10**12, 2000)))
    for dwell_s in (1e-7, 1.234567e-6):
        clock = EventClock(dwell_s, 2**31)
        inside = clock.position(event_time(events, False))
        there = inside >= 0
        assert there.any()
        assert np.array_equal(inside[there], probe_number(events, dwell_s)[there])


def test_a_position_is_given_when_the_window_has_passed_and_not_before() -> None:
    order = EventOrder(EventClock(1e-6, 10), PIXELS, window_s=5e-7)
    given = [len(list(order.push(made(np.full(15, toa))))) and order.done for toa in (39, 41, 59, 60, 100)]
    assert given == [0, 0, 0, 1, 2]


def test_late_events_are_counted_and_left_out() -> None:
    events = made(np.r_[np.repeat(np.arange(0, 400, 2), 2), 5, np.arange(400, 440)])
    order = EventOrder(EventClock(1e-6, 11), PIXELS)
    found = run(order, events, 50)
    assert order.counts.late == 1
    assert [len(found[k]) for k in range(11)] == [40] * 10 + [40]


def test_one_broken_time_does_not_close_the_scan() -> None:
    # A flipped bit puts one event far ahead, within the scan: those after it must not be taken for late ones.
    toa = np.repeat(np.arange(4000), 3)
    for where in (0, 5, 510, 6000, len(toa) - 1):
        events = made(toa)
        events["toa"][where] ^= 2**20
        order = EventOrder(EventClock(1e-6, 2**20), PIXELS, window_s=1e-6)
        found = run(order, events, 512)
        lost = order.counts.early
        assert order.counts.late == 0
        assert lost <= 1
        whole = sum(len(found[k]) for k in range(100))
        assert whole == len(toa) - 1


def test_garbage_is_counted_by_its_kind() -> None:
    events = made(np.arange(0, 400))
    events["pixel"][[3, 300]] = PIXELS, 2**32 - 1
    events["toa"][[7, 200, 390]] = 2**64 - 1, 2**63, 2**50
    order = EventOrder(EventClock(1e-6, 10), PIXELS)
    run(order, events, 64)
    counts = order.counts
    assert (counts.outside_camera, counts.absurd_time, counts.accepted) == (2, 3, 395)


def all_of(order: EventOrder, events: np.ndarray, step: int) -> np.ndarray:
    """Times of the events that were given, sorted."""
    runs = [r for i in range(0, len(events), step) for r in order.push(events[i : i + step])] + list(order.flush())
    return np.sort(np.concatenate([r.events["toa"] for r in runs]))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(50, 3000), st.sampled_from([12, 20, 34]))
def test_a_counter_that_rolls_over_is_counted_on(seed: int, step: int, bits: int) -> None:
    rng = np.random.default_rng(seed)
    gaps = rng.integers(0, 2**bits // 200, 3000)
    gaps[100::500] = 2**bits * 45 // 100  # a long silence now and then
    true = int(rng.integers(0, 2**bits * 8 // 10)) + np.cumsum(gaps)
    arrived = made(true)[np.argsort(true + rng.integers(0, 40, 3000), kind="stable")]
    arrived["toa"] %= 2**bits
    order = EventOrder(EventClock(1e-2, int(true[-1] // 400_000) + 1), PIXELS, window_s=1e-6, counter_bits=bits)
    assert np.array_equal(all_of(order, arrived, step), true)


def test_a_few_broken_times_do_not_carry_the_counter_into_another_round() -> None:
    bits, rng = 16, np.random.default_rng(0)
    true = np.sort(rng.integers(0, 10 * 2**bits, 5000))
    raw = made(true % 2**bits)
    broken = rng.choice(np.arange(20, 5000), 40, replace=False)
    broken = np.concatenate([broken, broken + 1, broken + 2])
    broken = broken[broken < 5000]
    raw["toa"][broken] = rng.integers(0, 2**bits, len(broken))
    clock = EventClock(1e-6, int(true[-1]) // 40 + 1)
    order = EventOrder(clock, PIXELS, window_s=1e-6, counter_bits=bits)
    got = all_of(order, raw, 5000)
    assert np.isin(np.delete(true, broken), got).mean() > 0.99


def test_times_beyond_the_counter_are_no_times() -> None:
    order = EventOrder(EventClock(1e-6, 10), PIXELS, counter_bits=16)
    assert len(all_of(order, made(np.r_[np.arange(20), np.full(5, 2**16)]), 7)) == 20
    assert order.counts.absurd_time == 5


def test_memory_is_bounded_when_time_stands_still() -> None:
    order = EventOrder(EventClock(1e-6, 10), PIXELS, most_pending=1000)
    for _ in range(50):
        list(order.push(made(np.zeros(300, np.int64))))
        assert len(order._pending) <= 1000
    list(order.flush())
    counts = order.counts
    assert counts.total == 15000
    assert (counts.accepted, counts.late) == (1200, 13800)


def test_long_silence_comes_as_empty_positions_in_bounded_runs() -> None:
    events = made(np.r_[np.zeros(20, np.int64), np.full(20, 4 * 10**6)])
    order = EventOrder(EventClock(1e-7, 10**6 + 1), PIXELS, most_positions=2**14)
    sizes = [len(r.indptr) - 1 for r in [*order.push(events), *order.flush()]]
    assert sum(sizes) == 10**6 + 1
    assert max(sizes) == 2**14


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dwell_s": 2e-8}, "shorter than a tick"),
        ({"dwell_s": float("nan")}, "shorter than a tick"),
        ({"count": 0}, "at least one position"),
        ({"settle_s": -1.0}, "settle_s must not be negative"),
        ({"acceptance_s": 2e-6}, "acceptance_s lies within the dwell"),
        ({"dwell_s": 1e6, "count": 10}, "longer than 13 days"),
    ],
)
def test_clocks_that_cannot_be_are_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(FormatError, match=words):
        EventClock(**{"dwell_s": 1e-6, "count": 10, **options})  # type: ignore[arg-type]


def test_settings_that_cannot_be_are_refused() -> None:
    clock = EventClock(1e-6, 10)
    for options, words in (
        ({"window_s": -1.0}, "window_s"),
        ({"counter_bits": 60}, "counter_bits is 8 to 46"),
        ({"most_pending": 0}, "most_pending"),
    ):
        with pytest.raises(ValueError, match=words):
            EventOrder(clock, PIXELS, **options)
    plan = ScanPlan(pattern="subsampled", fraction=0.5, settle_s=1e-6, dwell_s=1e-6)
    with pytest.raises(FormatError, match="lines of different length"):
        clock_of(plan)
