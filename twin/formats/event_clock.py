"""Scan position of an event from its time alone; exact in integers.

Events are already on the clock of the scan. Lines are as in `twin.scan.plan`: each begins with settling, dwells on its
positions without a gap, and flies back.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twin.formats.dataset import FormatError, Layout, Metadata
from twin.options import checked_options
from twin.scan.plan import ScanPlan

PER_PS = 4
"""Times are in quarters of a picosecond: the centres of the fine steps of 1562.5 ps are whole quarters."""
PER_TICK = 25_000 * PER_PS
PER_FINE = PER_TICK // 16
LAST_TICK = 2**63 // PER_TICK
"""26 days; later times are invalid."""

BEFORE, AFTER, BETWEEN, REFUSED = -1, -2, -3, -4
"""Instead of a position: before the scan, after it, between two lines, later in the dwell than accepted."""


class Ticks(NamedTuple):
    """An `EventClock` in quarters of a picosecond, for compiled code; `end` is that of the last dwell."""

    start: int
    dwell: int
    columns: int
    line: int
    settle: int
    accept: int
    end: int
    positions: int


@dataclass(frozen=True)
class EventClock:
    """Time at which each position of a scan is exposed. Times are rounded to picoseconds.

    Attributes:
        dwell_s: time per position.
        count: positions of the scan.
        columns: positions per line; irrelevant without settling and flyback.
        settle_s: wait at the start of every line.
        flyback_s: from the end of a line to the start of the next.
        start_s: start of the scan.
        acceptance_s: accept only the events of the first part of each dwell, so that one scan also gives lower doses
            (Friedrich, thesis, 2023, 3.4.2); None: the complete dwell.

    Raises:
        FormatError: a dwell below a tick of 25 ns, negative times, an acceptance outside the dwell, or a scan of more
            than 13 days.
    """

    dwell_s: float
    count: int
    columns: int = 1
    settle_s: float = 0.0
    flyback_s: float = 0.0
    start_s: float = 0.0
    acceptance_s: float | None = None

    def __post_init__(self) -> None:
        if not self.dwell_s * 1e12 > 24_999.5:
            raise FormatError(f"a dwell of {self.dwell_s} s is shorter than a tick of 2.5e-08 s")
        if self.count < 1 or self.columns < 1:
            raise FormatError(f"a scan has at least one position and column; got {self.count} and {self.columns}")
        for name in ("settle_s", "flyback_s", "start_s"):
            if not getattr(self, name) >= 0.0:
                raise FormatError(f"{name} must not be negative; got {getattr(self, name)}")
        if self.acceptance_s is not None and not 0.0 < self.acceptance_s <= self.dwell_s:
            raise FormatError(f"acceptance_s lies within the dwell, 0 to {self.dwell_s} s; got {self.acceptance_s}")
        lines = -(-self.count // self.columns)
        seconds = self.start_s + self.count * self.dwell_s + lines * (self.settle_s + self.flyback_s)
        if not seconds * 1e12 * PER_PS < LAST_TICK * PER_TICK / 2:
            raise FormatError(f"a scan of {seconds:g} s is longer than 13 days")

    @property
    def ticks(self) -> Ticks:
        """The clock in quarters of a picosecond."""
        dwell, settle, flyback, start = map(_quarters, (self.dwell_s, self.settle_s, self.flyback_s, self.start_s))
        accept = dwell if self.acceptance_s is None else min(max(_quarters(self.acceptance_s), 1), dwell)
        # One long line if there is no time between lines: every time within the scan has a position.
        columns = self.columns if settle or flyback else self.count
        line = columns * dwell + settle + flyback
        last_line, last_column = divmod(self.count - 1, columns)
        end = start + last_line * line + settle + (last_column + 1) * dwell
        return Ticks(start, dwell, columns, line, settle, accept, end, self.count)

    def begins(self, position: int, end: bool = False) -> int:
        """Return the begin or the end of a position's dwell, quarters of a picosecond."""
        clock = self.ticks
        line, column = divmod(position, clock.columns)
        return clock.start + line * clock.line + clock.settle + (column + end) * clock.dwell

    def position(self, time: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the position of each event, (n,), or one of BEFORE, AFTER, BETWEEN, REFUSED.

        Args:
            time: `event_time` of each event.
        """
        clock = self.ticks
        line, within = np.divmod(time - clock.start, clock.line)
        column, since = np.divmod(within - clock.settle, clock.dwell)
        position = line * clock.columns + column
        outside = (column < 0) | (column >= clock.columns)
        position = np.where(since < clock.accept, position, REFUSED)
        position = np.where(outside, BETWEEN, position)
        return np.where(time < clock.start, BEFORE, np.where(time >= clock.end, AFTER, position))


def event_time(events: NDArray[np.void], fine: bool) -> NDArray[np.int64]:
    """Return the arrival of each event, quarters of a picosecond, (n,).

    Args:
        events: of `t3p.RECORD`, none later than `LAST_TICK`.
        fine: the centre of the fine step of 1.5625 ns; otherwise the tick, as in other readers.
    """
    time = events["toa"].astype(np.int64) * PER_TICK
    return time - (events["ftoa"].astype(np.int64) * PER_FINE + PER_FINE // 2) if fine else time


def _quarters(seconds: float) -> int:
    return round(seconds * 1e12) * PER_PS


SCAN_PLAN, FINE_TIME = "scan_plan", "fine_time"
"""Keys of a file's provenance: the scan plan of the events, plain; whether positions use the fine time."""


def plan_of(layout: Layout, metadata: Metadata) -> ScanPlan:
    """Return the scan plan of events: that in the provenance of their file, or a raster without pauses.

    Raises:
        FormatError: no dwell, or an invalid plan or one with another number of positions.
    """
    if metadata.dwell_s is None:
        raise FormatError("events belong to scan positions by their time: metadata needs dwell_s")
    plain = metadata.provenance.get(SCAN_PLAN)
    if plain is None:
        rows, columns = layout.scan if len(layout.scan) == 2 else (1, layout.count)
        if max(rows, columns) > 2**20:
            raise FormatError(f"a scan has at most {2**20} positions along a side; got {layout.scan}")
        return ScanPlan(rows=rows, columns=columns, dwell_s=metadata.dwell_s)
    try:
        plan = checked_options(ScanPlan, dict(plain))
    except (TypeError, ValueError) as error:
        raise FormatError(f"provenance.{SCAN_PLAN} is not a scan plan: {error}") from None
    whole = plan.pattern not in ("raster", "serpentine") or plan.count == layout.count
    if plan.count > layout.count or not whole or plan.dwell_s != metadata.dwell_s:
        raise FormatError(
            f"provenance.{SCAN_PLAN} has {plan.count} positions of {plan.dwell_s} s; the file has {layout.count} of"
            f" {metadata.dwell_s} s"
        )
    return plan


def clock_of(plan: ScanPlan, start_s: float = 0.0, acceptance_s: float | None = None) -> EventClock:
    """Return the clock of a plan whose first line begins at `start_s`.

    Raises:
        FormatError: lines of different length with pauses between them, whose times do not give the position.
    """
    flyback_s = plan.flyback_s if plan.pattern in ("raster", "subsampled") else 0.0
    if plan.pattern == "subsampled" and plan.subsample == "pixels" and (plan.settle_s or flyback_s):
        raise FormatError(
            "a scan sub-sampled by pixels has lines of different length: events need settle_s and flyback_s of 0,"
            " or subsample: lines"
        )
    columns = 1 if plan.pattern == "list" else plan.columns
    return EventClock(plan.dwell_s, plan.count, columns, plan.settle_s, flyback_s, start_s, acceptance_s)
