"""Events in the order in which a camera sends them, grouped by scan position.

A camera sends events nearly in order of time: by `window_s` at most an event comes after later ones. Its clock may roll
over, some events are garbage, and nothing marks where a line begins: positions follow from the time alone
(`twin.formats.event_clock`). Memory is bounded by the events within the window, and by `most_pending` whatever comes.
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
"""The stream's time is the median of so many latest events: a few with a broken time do not carry it away."""

FAULTS = {
    "outside_camera": "outside the camera",
    "absurd_time": "with a time that is none",
    "late": "out of order by more than the window, of positions that were done",
    "early": "out of order by more than the window, ahead of all others",
}
"""Counts of `EventCounts` that a healthy stream does not have, in words."""


@dataclass
class EventCounts:
    """Where the events went.

    Attributes:
        accepted: into a position.
        before, after: the scan.
        between_lines: during settling and flyback.
        beyond_acceptance: later in the dwell than is accepted.
        outside_camera: pixels that the camera does not have.
        absurd_time: a time beyond 26 days, or beyond the counter.
        late: of a position that had been handed on: delayed by more than the window.
        early: ahead of the stream by more than the window.
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

    @property
    def total(self) -> int:
        """All events."""
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


class Run(NamedTuple):
    """Consecutive positions with their events.

    Attributes:
        first: the first of them.
        indptr: (N + 1,), into `events`.
        events: of `t3p.RECORD`, position by position; within one in order of arrival.
    """

    first: int
    indptr: Indptr
    events: Events


class EventOrder:
    """Takes events as they come and gives positions that are complete, each once and in order, empty ones included.

    A position is complete when the stream's time has passed its end by `window_s`. An event that comes later still is
    left out and counted; so is one that stays ahead of the stream by more than the window.

    Args:
        clock: of the scan.
        pixels: of the camera.
        window_s: how far out of order events may be.
        fine: positions by the fine time.
        counter_bits: of a tick counter that rolls over; None for one that does not.
        most_pending: events kept waiting. When more do, positions are given that may not be complete.
        most_positions: in one run.

    Attributes:
        counts: of all events so far.
        done: positions given.
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

    def push(self, events: Events) -> Iterator[Run]:
        """The next events, (n,), in order of arrival; runs of the positions that are complete with them.

        To be iterated to its end before the next push.
        """
        fresh, known = _words(events), len(self._pending)
        if self._bits and len(fresh):
            fresh = fresh.copy()
            self._count_on(fresh)
        if not self._follow(fresh):
            known = 0  # too few have come since to say that one is ahead of them all
        self._pending = np.concatenate([self._pending, fresh]) if len(self._pending) else fresh
        yield from self._give(max(self.done, ended(self._now - self._window, self._clock)), known)
        while len(self._pending) > self._most_pending:
            position = self._positions()
            yield from self._give(int(np.sort(position)[len(position) // 2]) + 1, 0)

    def flush(self, until: int = 0) -> Iterator[Run]:
        """Everything that is still waiting, once nothing more comes.

        Args:
            until: positions known to be complete, with events or without.
        """
        last = int(self._positions().max(initial=-1)) + 1
        yield from self._give(max(self.done, last, min(until, self._clock.positions)), 0)

    def _count_on(self, words: Words) -> None:
        """Rollovers of the counter, in place; the first time is taken to be in the counter's first round."""
        if self._reference < 0:
            ticks = words[:RECENT, 1].astype(np.int64) | words[:RECENT, 2].astype(np.int64) << 32
            self._reference = int(np.sort(ticks % 2**self._bits)[(len(ticks) - 1) // 2])
        self._reference = unwrap(words, self._bits, self._reference)

    def _follow(self, fresh: Words) -> bool:
        """Move the stream's time on to the median of its latest events; whether it is that of these alone."""
        found = latest(fresh, self._pixels, self._fine, RECENT)
        self._recent = np.concatenate([self._recent, found])[-RECENT:]
        if len(self._recent):
            self._now = max(self._now, int(np.sort(self._recent)[(len(self._recent) - 1) // 2]))
        return len(found) == RECENT

    def _give(self, stop: int, known: int) -> Iterator[Run]:
        """Positions up to `stop`, in runs; the events of later ones stay.

        Args:
            stop: positions before it are complete.
            known: how many of the waiting events, from the first, have been waiting before.
        """
        while True:
            count = min(stop - self.done, self._most_positions)
            indptr = np.zeros(count + 1, np.int64)
            given = split_ordered(self._pending, self._pixels, self._fine, self._clock, self.done, indptr)
            if given < 0:
                given = split_sorted(self._pending, self._pixels, self._fine, self._clock, self.done, indptr)
            if given >= 0:
                # A copy of the rest: a view of it would keep everything in memory.
                words, self._pending = self._pending[:given], self._pending[given:].copy()
            else:
                words = self._sort(indptr, known)
            self.counts.accepted += len(words)
            run, self.done, known = Run(self.done, indptr, words.view(RECORD)[:, 0]), self.done + count, 0
            if count:
                yield run
            if self.done >= stop:
                return

    def _sort(self, indptr: Indptr, known: int) -> Words:
        """Events grouped by position, whatever their order; leaves out those that belong nowhere."""
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
        """Of the waiting events."""
        position = np.empty(len(self._pending), np.int64)
        classify(self._pending, self._pixels, self._fine, self._clock, position)
        return position


def _words(events: Events) -> Words:
    """Records as four 32-bit words each, (n, 4): numpy copies these at once, and records field by field."""
    return np.ascontiguousarray(events).view(np.uint32).reshape(-1, 4)
