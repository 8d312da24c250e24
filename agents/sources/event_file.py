"""What sources of event files have in common: events in the order of a file become blocks of whole positions.

Memory is that of a block, not of the file.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray
from pydantic import field_validator

from agents.base import StreamMeta
from agents.events.block import EventBlock
from agents.events.loops import begins, ended
from agents.events.order import FAULTS, EventCounts, EventOrder
from agents.events.scan import EventScan
from agents.source import Health, Source, SourceError
from agents.sources import Camera, Shape
from twin.formats.chips import SIDE
from twin.formats.dataset import FormatError, Layout, Metadata
from twin.formats.event_clock import FINE_TIME, LAST_TICK, PER_TICK, EventClock, Ticks, clock_of, event_time, plan_of
from twin.formats.file_checks import check_event_camera, check_frame_memory, check_positions
from twin.formats.t3p import TICK_S
from twin.options import Count, NonNegative, Positive, validated
from twin.scan.plan import ScanPlan

BLOCK_RECORDS = 2**15
"""Half a megabyte, which stays in the cache between the passes over the events."""

FRAME_BYTES = 64 * 2**20
"""Memory of the frames of one block, if frames are provided."""

FIRST_EVENTS = 15
Events = NDArray[np.void]
Chips = str | Sequence[tuple[int, int, bool]]


@validated
class EventOptions:
    """Options of the assignment of events to positions; None is the value of the file.

    Attributes:
        scan: (rows, columns), or (N,) for a list of positions.
        camera: (H, W).
        dwell_s: dwell time.
        pattern: "raster" or "serpentine".
        settle_s, flyback_s: time at the start of every line, and between lines; events in it are ignored.
        start_s: start of the scan on the camera's clock; "first" is the time of the first event.
        acceptance_s: use only events of the first part of each dwell time, which emulates a lower dose.
        window_s: largest delay of an event.
        fine_time: use the fine time; None uses it where the file is known to have a true one.
        frames: provide frames to agents that need them, at the cost of memory and time.
        records: number of records that are read at a time.
        chips: where the chips of the camera lie, if hits have chip numbers: "single", "quad", or row, column and
            whether turned by 180 degrees of each chip.
        gap_px: pixels between neighbouring chips.
    """

    scan: Shape | None = None
    camera: Camera | None = None
    dwell_s: Positive | None = None
    pattern: Literal["raster", "serpentine"] | None = None
    settle_s: NonNegative | None = None
    flyback_s: NonNegative | None = None
    start_s: float | Literal["first"] = 0.0
    acceptance_s: Positive | None = None
    window_s: NonNegative = 1e-4
    fine_time: bool | None = None
    frames: bool = False
    records: Count = BLOCK_RECORDS
    chips: Chips | None = None
    gap_px: Annotated[int, Ge(0), Le(SIDE)] = 0

    @field_validator("start_s", mode="before")
    @classmethod
    def _time_or_first(cls, given: Any) -> Any:
        if isinstance(given, str) and given != "first":
            raise ValueError(f"expected a time or first; got {given!r}")
        return given


class EventFileSource(Source):
    """Events of a file in blocks.

    Positions are in order of read-out, each once, also those without events. Positions whose data were lost are left
    out and counted as missing. Events without a position are counted in `counts`; faults are noted in `health`.

    Args:
        file: path.
        options: see `EventOptions`.
    """

    what = "records"

    def __init__(self, file: str | Path, options: EventOptions) -> None:
        self.options, self.health, self.counts = options, Health(), EventCounts()
        self._path = Path(file)
        self._lost: list[tuple[int, int]] = []
        self._given = 0

    def _describe(self, layout: Layout, metadata: Metadata, events: int) -> None:
        """Set the metadata, after a check of what they announce; close the file if they are refused.

        Raises:
            SourceError: sizes that the file and the memory do not support, or no such scan.
        """
        try:
            # What the operator says goes: nothing here is as large as the scan.
            if self.options.scan is None:
                check_positions(layout.count, events, self._path.name, "events")
            if self.options.camera is None:
                check_event_camera(layout.camera, events, self._path.name)
            check_frame_memory(layout.frame_bytes, self._path.name)
            if self.options.dwell_s is not None:
                metadata = replace(metadata, dwell_s=self.options.dwell_s)
            self.meta = StreamMeta(layout, metadata, has_frames=self.options.frames)
            if metadata.dwell_s is not None:
                self._plan()
        except FormatError as error:
            self.close()
            text = str(error).removeprefix(f"{self._path.name}: ")
            raise SourceError(f"{self._path.name}: {text}") from error
        except BaseException:
            self.close()
            raise

    # --- of each kind of file --------------------------------------------------------------------

    @abstractmethod
    def _hits(self, order: EventOrder) -> Iterator[tuple[int, Events]]:
        """Yield (index of the first record, hits) in the order of the file; note faults and lost data before."""

    @abstractmethod
    def _first_events(self) -> Events:
        """Return some events of the beginning."""

    def _known_complete(self) -> int:
        """Return the number of positions known to be complete, with or without events."""
        return 0

    def _counter_bits(self) -> int | None:
        return None

    def _fine(self) -> bool:
        if self.options.fine_time is not None:
            return self.options.fine_time
        return bool(self.meta.metadata.provenance.get(FINE_TIME, False))

    def _plan(self) -> ScanPlan:
        """Plan of the scan by file and options.

        Raises:
            FormatError: no such scan is possible.
        """
        plan, options = plan_of(self.meta.layout, self.meta.metadata), self.options
        changes = {
            name: getattr(options, name)
            for name in ("pattern", "settle_s", "flyback_s")
            if getattr(options, name) is not None
        }
        try:
            plan = replace(plan, **changes)
        except ValueError as error:
            raise FormatError(str(error)) from error
        clock_of(plan, 0.0, options.acceptance_s)
        return plan

    # --- positions -------------------------------------------------------------------------------

    def blocks(self) -> Iterator[EventBlock]:
        """Sort events into positions by their times; what a file lacks or repeats becomes a fault.

        Raises:
            SourceError: the plan or the clock of the scan is unknown, or no acquisition fits the plan.
        """
        try:
            plan = self._plan()
            clock = self._clock(plan)
        except FormatError as error:
            raise SourceError(f"{error}; give it as an option") from error
        camera = self.meta.layout.camera
        order = EventOrder(
            clock,
            camera[0] * camera[1],
            window_s=self.options.window_s,
            fine=self._fine(),
            counter_bits=self._counter_bits(),
            most_positions=self._most_positions(),
        )
        self._ticks: Ticks = clock.ticks
        scan, self.counts = EventScan(plan, camera, order), order.counts
        try:
            for first, events in self._hits(order):
                before = replace(order.counts)
                yield from self._handed(scan.push(events))
                self._note_faults(before, f"{self.what} {first} to {first + len(events)}")
            before = replace(order.counts)
            # The positions of a truncated file that are described as complete may lie beyond its end.
            yield from self._handed(scan.flush(self._known_complete()))
            self._note_faults(before, "at the end")
            self._conclude(order.done, plan.count)
        except (FormatError, OSError) as error:
            self.health.fault(str(error))
        finally:
            self.health.missing = plan.count - self.health.received

    def _handed(self, blocks: Iterator[EventBlock]) -> Iterator[EventBlock]:
        """Hand on blocks without the positions whose data were lost."""
        for block in blocks:
            first, self._given = self._given, self._given + len(block)
            for piece in self._kept(block, first) if self._lost else (block,):
                self.health.received += len(piece)
                yield piece

    def _kept(self, block: EventBlock, first: int) -> Iterator[EventBlock]:
        """Yield the parts of a block between lost positions; its own first position is `first`."""
        position = first + np.arange(len(block))
        there = np.ones(len(block), bool)
        for start, stop in self._lost:
            there &= (position < start) | (position >= stop)
        self._lost = [gap for gap in self._lost if gap[1] > first + len(block)]
        edges = np.flatnonzero(np.diff(there, prepend=False, append=False))
        for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            yield EventBlock(
                block.index, block.weight, block.indptr[begin : end + 1], block.pixel[begin:end], block.camera
            )

    def _lose(self, start: int, stop: int, where: str) -> None:
        """Note that the data from one tick to another were lost."""
        clock, (begin, end) = self._ticks, (start * PER_TICK, stop * PER_TICK)
        first, last = ended(begin, clock), ended(end - 1, clock)
        after = last + 1 if last < clock.positions and begins(last, clock) < end else last
        if after > first:
            self._lost.append((first, after))
        self.health.fault(
            f"{where}: data were lost from {start * TICK_S:.6g} s on for {(stop - start) * TICK_S:.3g} s;"
            f" {max(0, after - first)} positions are left out"
        )

    def _clock(self, plan: ScanPlan) -> EventClock:
        start_s = self.options.start_s
        return self._clock_from(plan, self._first_s() if start_s == "first" else float(start_s))

    def _clock_from(self, plan: ScanPlan, start_s: float) -> EventClock:
        return clock_of(plan, start_s, self.options.acceptance_s)

    def _first_s(self) -> float:
        """Time of the first event of the beginning that is consistent with the others."""
        events = self._first_events()
        events = events[events["toa"] < LAST_TICK][:FIRST_EVENTS]
        if not len(events):
            return 0.0
        ticks = np.sort(event_time(events, self._fine())) / PER_TICK
        middle = ticks[(len(ticks) - 1) // 2]
        first = float(ticks[ticks >= middle - self.options.window_s / TICK_S - 1][0])
        return first * TICK_S if first.is_integer() else max(0.0, first * TICK_S - 1e-12)

    def _most_positions(self) -> int:
        height, width = self.meta.layout.camera
        return max(1, FRAME_BYTES // (4 * height * width)) if self.options.frames else 2**16

    def _note_faults(self, before: EventCounts, where: str) -> None:
        for name in FAULTS:
            new = getattr(self.counts, name) - getattr(before, name)
            if new:
                self.health.fault(f"{where}: {new} events {FAULTS[name]}")

    def _conclude(self, done: int, count: int) -> None:
        for name in ("before", "after"):
            count_outside = getattr(self.counts, name)
            if count_outside:
                self.health.fault(f"{count_outside} events {name} the scan")
        if done < count:
            self.health.fault(f"the events end with position {done} of {count}")
