"""Grouping of a camera's events by scan position.

A camera sends events nearly in order of time: an event is delayed by at most `window_s`. Its clock may roll over, some
events are invalid, and nothing marks the beginning of a line: positions follow from the time alone
(`twin.formats.event_clock`). Memory is bounded by the events within the window, and by `most_pending` in any case.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.events.loops import (
    ABSURD,
    EARLY,
    LATE,
    OUTSIDE,
    classify,
    ended,
    group,
    latest,
    refuse,
    split_ordered,
    split_sorted,
    tally,
    unwrap,
)
from twin.formats.event_clock import AFTER, BEFORE, BETWEEN, PER_FINE, PER_TICK, REFUSED, EventClock
from twin.formats.t3p import RECORD, TICK_S

Events = NDArray[np.void]
Words = NDArray[np.uint32]
Indptr = NDArray[np.int64]

RECENT = 15
"""Number of latest events whose median is the time of the stream: a few invalid times do not affect it."""

FAULTS = {
    "outside_camera": "outside the camera",
    "absurd_time": "with an invalid time",
    "late": "out of order by more than the window, of positions that were complete",
    "early": "out of order by more than the window, ahead of all others",
}
"""Descriptions of the counts of `EventCounts` that are faults."""


@dataclass
class EventCounts:
    """Numbers of events by their use.

    Attributes:
        accepted: assigned to a position.
        before, after: before and after the scan.
        between_lines: during settling and flyback.
        beyond_acceptance: in the part of the dwell time that is not accepted.
        outside_camera: of pixels that the camera does not have.
        absurd_time: with a time beyond 26 days, or beyond the counter.
        late: delayed by more than the window: the position had been passed on.
        early: ahead of the stream by more than the window.
        no_hits: records that tell of something else than a hit.
    """

    accepted: int = 0
    before: int = 0
    after: int = 0
    between_lines: int = 0
    beyond_acceptance: int = 0
    outside_camera: int = 0
    absurd_time: int = 0
    late: int = 0
    early: int = 0
    no_hits: int = 0

    @property
    def total(self) -> int:
        """Number of all events."""
        return sum(getattr(self, field.name) for field in fields(self))


_COUNTS = {
    BEFORE: "before",
    AFTER: "after",
    BETWEEN: "between_lines",
    REFUSED: "beyond_acceptance",
    OUTSIDE: "outside_camera",
    ABSURD: "absurd_time",
    LATE: "late",
    EARLY: "early",
}


class EventRun(NamedTuple):
    """Consecutive positions with their events.

    Attributes:
        first: first position.
        indptr: events of each position are `indptr[k]` to `indptr[k + 1]`, (N + 1,).
        events: records of `t3p.RECORD`, position by position, within a position in order of arrival.
    """

    first: int
    indptr: Indptr
    events: Events


class EventOrder:
    """Takes events as they arrive and yields complete positions, each once and in order, empty ones included.

    A position is complete when the time of the stream has passed its end by `window_s`. Later events of it are dropped
    and counted, as are events that remain ahead of the stream by more than the window.

    Args:
        clock: clock of the scan.
        pixels: number of camera pixels.
        window_s: largest delay of an event.
        fine: use the fine time.
        counter_bits: bits of a tick counter that rolls over; None for one that does not.
        most_pending: largest number of waiting events; beyond it, positions are passed on that may be incomplete.
        most_positions: largest number of positions in a run.

    Attributes:
        counts: numbers of events so far.
        done: number of positions passed on.
    """

    def __init__(
        self,
        clock: EventClock,
        pixels: int,
        *,
        window_s: float = 0.0,
        fine: bool = False,
        counter_bits: int | None = None,
        most_pending: int = 2**22,
        most_positions: int = 2**16,
    ) -> None:
        if not (math.isfinite(window_s) and window_s >= 0.0):
            raise ValueError(f"window_s must not be negative; got {window_s}")
        if counter_bits is not None and not 8 <= counter_bits <= 46:
            raise ValueError(f"counter_bits is 8 to 46; got {counter_bits}")
        if most_pending < 1 or most_positions < 1:
            raise ValueError(f"most_pending and most_positions are at least 1; got {most_pending}, {most_positions}")
        self._clock, self._pixels, self._fine = clock.ticks, pixels, PER_FINE if fine else 0
        self._window = math.ceil(window_s / TICK_S) * PER_TICK
        self._bits, self._reference = counter_bits or 0, -1
        self._most_pending, self._most_positions = most_pending, most_positions
        self._pending = np.empty((0, 4), np.uint32)
        self._recent = np.empty(0, np.int64)
        self._now = -(2**62)
        self.counts, self.done = EventCounts(), 0

    @property
    def tick(self) -> int:
        """Time of the stream in ticks, on the counter's clock after its roll-overs; 0 before the first event."""
        return max(self._reference, 0)

    def push(self, events: Events) -> Iterator[EventRun]:
        """Take the next events, (n,), in order of arrival; yield runs of the positions that are now complete.

        Iterate to the end before the next push.
        """
        fresh, known = _words(events), len(self._pending)
        if self._bits and len(fresh):
            fresh = fresh.copy()
            self._count_on(fresh)
        if not self._follow(fresh):
            known = 0  # too few events since to decide that one is ahead of all others
        self._pending = np.concatenate([self._pending, fresh]) if len(self._pending) else fresh
        yield from self._give(max(self.done, ended(self._now - self._window, self._clock)), known)
        while len(self._pending) > self._most_pending:
            position = self._positions()
            yield from self._give(int(np.sort(position)[len(position) // 2]) + 1, 0)

    def flush(self, until: int = 0) -> Iterator[EventRun]:
        """Yield the remaining positions at the end of the stream.

        Args:
            until: number of positions known to be complete, with or without events.
        """
        last = int(self._positions().max(initial=-1)) + 1
        yield from self._give(max(self.done, last, min(until, self._clock.positions)), 0)

    def _count_on(self, words: Words) -> None:
        """Unwrap the counter in place; the first time is assumed to be in its first round."""
        if self._reference < 0:
            ticks = words[:RECENT, 1].astype(np.int64) | words[:RECENT, 2].astype(np.int64) << 32
            self._reference = int(np.sort(ticks % 2**self._bits)[(len(ticks) - 1) // 2])
        self._reference = unwrap(words, self._bits, self._reference)

    def _follow(self, fresh: Words) -> bool:
        """Advance the time of the stream to the median of its latest events; return whether all of them are fresh."""
        times = latest(fresh, self._pixels, self._fine, RECENT)
        self._recent = np.concatenate([self._recent, times])[-RECENT:]
        if len(self._recent):
            self._now = max(self._now, int(np.sort(self._recent)[(len(self._recent) - 1) // 2]))
        return len(times) == RECENT

    def _give(self, stop: int, known: int) -> Iterator[EventRun]:
        """Yield positions up to `stop` in runs; keep the events of later ones.

        Args:
            stop: positions before it are complete.
            known: number of waiting events that have been waiting since an earlier push.
        """
        while True:
            count = min(stop - self.done, self._most_positions)
            indptr = np.zeros(count + 1, np.int64)
            given = split_ordered(self._pending, self._pixels, self._fine, self._clock, self.done, indptr)
            if given < 0:
                given = split_sorted(self._pending, self._pixels, self._fine, self._clock, self.done, indptr)
            if given >= 0:
                # Copy the rest: a view would keep everything in memory.
                words, self._pending = self._pending[:given], self._pending[given:].copy()
            else:
                words = self._sort(indptr, known)
            self.counts.accepted += len(words)
            run, self.done, known = EventRun(self.done, indptr, words.view(RECORD)[:, 0]), self.done + count, 0
            if count:
                yield run
            if self.done >= stop:
                return

    def _sort(self, indptr: Indptr, known: int) -> Words:
        """Group events in any order by position; drop those without a position."""
        words, position = self._pending, self._positions()
        refuse(words, self._fine, self.done, known, self._now + self._window, position)
        dropped = np.zeros(len(_COUNTS) + 1, np.int64)
        waiting = np.empty((tally(position, self.done, indptr, dropped), 4), np.uint32)
        ordered = np.empty((indptr[-1], 4), np.uint32)
        group(words, position, self.done, indptr, ordered, waiting)
        for code, name in _COUNTS.items():
            setattr(self.counts, name, getattr(self.counts, name) + int(dropped[-code]))
        self._pending = waiting
        return ordered

    def _positions(self) -> NDArray[np.int64]:
        """Positions of the waiting events."""
        position = np.empty(len(self._pending), np.int64)
        classify(self._pending, self._pixels, self._fine, self._clock, position)
        return position


def _words(events: Events) -> Words:
    """View records as four 32-bit words each, (n, 4), which numpy copies faster than records."""
    return np.ascontiguousarray(events).view(np.uint32).reshape(-1, 4)
