"""Which position of a scan an event belongs to, by its time alone; exact in integers.

No camera and no file: the clock is the scan's, events are on it already. Lines are as in `twin.scan.plan`: each begins
by settling, dwells on its positions without a gap, and flies back.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twin.formats.dataset import FormatError, Layout, Metadata
from twin.scan.plan import ScanPlan

PER_PS = 4
"""Times are whole quarters of a picosecond: fine time counts steps of 1562.5 ps, whose middles are quarters."""
PER_TICK = 25_000 * PER_PS
PER_FINE = PER_TICK // 16
LAST_TICK = 2**63 // PER_TICK
"""26 days; what is beyond is no time."""

BEFORE, AFTER, BETWEEN, REFUSED = -1, -2, -3, -4
"""In place of a position: before the scan, after it, between two lines, later in the dwell than what is accepted."""


class Ticks(NamedTuple):
    """An `EventClock` in quarters of a picosecond, as compiled code takes it; `end` is that of the last dwell."""

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
    """When each position of a scan was exposed, on the clock of the events. Times count in whole picoseconds.

    Attributes:
        dwell_s: time per position.
        count: positions of the scan.
        columns: positions per line; without settling and flyback it makes no difference.
        settle_s: wait at the start of every line.
        flyback_s: from the end of a line to the start of the next.
        start_s: when the scan begins.
        acceptance_s: only events of the first part of each dwell count, so that one scan gives lower doses too (Yu,
            thesis 3.4.2); None is the whole dwell.

    Raises:
        FormatError: a dwell below a tick of 25 ns, times that are negative, an acceptance that is not within the dwell,
            or a scan that takes longer than 26 days.
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
        """In quarters of a picosecond."""
        dwell, settle, flyback, start = map(_quarters, (self.dwell_s, self.settle_s, self.flyback_s, self.start_s))
        accept = dwell if self.acceptance_s is None else min(max(_quarters(self.acceptance_s), 1), dwell)
        # One long line when there is nothing between the lines: every time within the scan has a position.
        columns = self.columns if settle or flyback else self.count
        line = columns * dwell + settle + flyback
        last_line, last_column = divmod(self.count - 1, columns)
        end = start + last_line * line + settle + (last_column + 1) * dwell
        return Ticks(start, dwell, columns, line, settle, accept, end, self.count)

    def begins(self, position: int, end: bool = False) -> int:
        """When a position's dwell begins, or ends, in quarters of a picosecond."""
        clock = self.ticks
        line, column = divmod(position, clock.columns)
        return clock.start + line * clock.line + clock.settle + (column + end) * clock.dwell

    def position(self, time: NDArray[np.int64]) -> NDArray[np.int64]:
        """Position during which each event came, (n,), or one of BEFORE, AFTER, BETWEEN, REFUSED.

        Args:
            time: `event_time` of each.
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
    """Arrival of each event in quarters of a picosecond, (n,).

    Args:
        events: of `t3p.RECORD`, none later than `LAST_TICK`.
        fine: the middle of the 1.5625 ns in which the pixel fired; otherwise the tick, as other readers take it.
    """
    time = events["toa"].astype(np.int64) * PER_TICK
    return time - (events["ftoa"].astype(np.int64) * PER_FINE + PER_FINE // 2) if fine else time


def _quarters(seconds: float) -> int:
    return round(seconds * 1e12) * PER_PS


SCAN_PLAN, FINE_TIME = "scan_plan", "fine_time"
"""Keys of a file's provenance: the plan of the scan that the events are of, as plain data; whether their positions go
by the fine time."""


def plan_of(layout: Layout, metadata: Metadata) -> ScanPlan:
    """The scan that events belong to: the plan in their file's provenance, or else a raster without pauses.

    Raises:
        FormatError: no dwell, or a plan that is none or has another number of positions.
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
        plan = ScanPlan(**plain)
    except (TypeError, ValueError) as error:
        raise FormatError(f"provenance.{SCAN_PLAN} is no scan plan: {error}") from None
    if plan.count > layout.count or plan.dwell_s != metadata.dwell_s:
        raise FormatError(
            f"provenance.{SCAN_PLAN} has {plan.count} positions of {plan.dwell_s} s; the file says {layout.count} of"
            f" {metadata.dwell_s} s"
        )
    return plan


def clock_of(plan: ScanPlan, start_s: float = 0.0, acceptance_s: float | None = None) -> EventClock:
    """The clock of a plan whose first line begins at `start_s`.

    Raises:
        FormatError: lines of different length with pauses between them, for which no rule gives the position.
    """
    flyback_s = plan.flyback_s if plan.pattern in ("raster", "subsampled") else 0.0
    if plan.pattern == "subsampled" and plan.subsample == "pixels" and (plan.settle_s or flyback_s):
        raise FormatError(
            "a scan sub-sampled by pixels has lines of different length: events need settle_s and flyback_s of 0,"
            " or subsample: lines"
        )
    columns = 1 if plan.pattern == "list" else plan.columns
    return EventClock(plan.dwell_s, plan.count, columns, plan.settle_s, flyback_s, start_s, acceptance_s)
