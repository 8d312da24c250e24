"""Timepix3 events from a `.t3p` file, as blocks of whole positions; memory goes with the block, not with the file."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray
from pydantic import field_validator

from agents.base import StreamMeta
from agents.events.block import EventBlock
from agents.events.order import FAULTS, EventCounts, EventOrder
from agents.events.scan import EventScan
from agents.source import Health, Source, SourceError
from agents.sources import Camera, Shape
from twin.formats.dataset import FormatError, Layout
from twin.formats.event_clock import FINE_TIME, EventClock, clock_of, plan_of
from twin.formats.t3p import TICK_S, T3pReader
from twin.options import Count, NonNegative, Positive, checked_options, validated
from twin.scan.plan import ScanPlan

BLOCK_RECORDS = 2**15
"""Half a megabyte: what a pass over the events left in the cache, the next finds there."""

FRAME_BYTES = 64 * 2**20
"""Of the frames of one block, where frames are wanted."""

FIRST_EVENTS = 15
Events = NDArray[np.void]


@validated
class Options:
    """How events become positions; what is None is as the file says.

    Attributes:
        scan: (rows, columns), or (N,) for a list of positions.
        camera: (H, W).
        dwell_s: time per position.
        pattern: "raster" or "serpentine".
        settle_s, flyback_s: at the start of every line, and from one line to the next; events of that time count
            nothing.
        start_s: when the scan begins, on the camera's clock; "first" takes the first event's time.
        acceptance_s: only events of the first part of each dwell count, which emulates a lower dose.
        window_s: how far out of order of time events may come.
        counter_bits: of a tick counter that rolls over.
        fine_time: positions by the fine time; None where the twin's camera made the file, otherwise by the tick alone.
        frames: agents that need frames may have them, at the price of memory and time.
        records: of a block at a time.
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
    counter_bits: Annotated[int, Ge(8), Le(46)] | None = None
    fine_time: bool | None = None
    frames: bool = False
    records: Count = BLOCK_RECORDS

    @field_validator("start_s", mode="before")
    @classmethod
    def _time_or_first(cls, given: Any) -> Any:
        if isinstance(given, str) and given != "first":
            raise ValueError(f"a time or first; got {given!r}")
        return given


class T3pSource(Source):
    """Events of a file in blocks; a file that is cut off gives its whole records.

    Positions are in order of read-out, each once; those without an event come as empty ones. What belongs nowhere is
    counted in `counts` and, where something must be wrong, told in `health`.

    Args:
        file: path of the .t3p file; the JSON file beside it may be missing if the options say what it would.
        options: see there.

    Raises:
        SourceError: no such file, a broken description, or nothing that tells scan, camera and dwell.
    """

    def __init__(self, file: str | Path, options: Options | None = None) -> None:
        self.options, self.health, self.counts = options or Options(), Health(), EventCounts()
        path_ = Path(file)
        try:
            self._reader = T3pReader(path_, tolerate=True)
        except (OSError, FormatError) as error:
            raise SourceError(str(error)) from error
        try:
            rest = path_.stat().st_size % 16
            told = self._reader.records
            self._cut_off = bool(rest) or (told is not None and self._reader.count < told)
            if self._cut_off:
                within = f", and ends within the next, after {rest} of 16 bytes" if rest else ""
                of = "" if told is None else f" of {told}"
                self.health.fault(f"the file is cut off: it has {self._reader.count} whole records{of}{within}")
            layout = _layout(self._reader.layout, self.options, path_)
            metadata = self._reader.metadata
            if self.options.dwell_s is not None:
                metadata = replace(metadata, dwell_s=self.options.dwell_s)
            self.meta = StreamMeta(layout, metadata, has_frames=self.options.frames)
            if metadata.dwell_s is not None:
                self._plan()
        except FormatError as error:
            self.close()
            raise SourceError(f"{path_.name}: {error}") from error
        except BaseException:
            self.close()
            raise

    def blocks(self) -> Iterator[EventBlock]:
        plan, chunks = self._checked_plan()
        camera = self.meta.layout.camera
        order = EventOrder(
            self._clock(plan),
            camera[0] * camera[1],
            window_s=self.options.window_s,
            fine=self._fine(),
            counter_bits=self.options.counter_bits,
            most_positions=self._most_positions(),
        )
        scan, self.counts = EventScan(plan, camera, order), order.counts
        try:
            for first, events in chunks:
                before = replace(order.counts)
                yield from self._handed(scan.push(events))
                self._tell(before, f"records {first} to {first + len(events)}")
            before = replace(order.counts)
            # Of a file that was cut off nobody knows which of the positions said to be complete lie behind its end.
            yield from self._handed(scan.flush(0 if self._cut_off else self._reader.frames))
            self._tell(before, "at the end")
            self._conclude(order.done, plan.count)
        finally:
            self.health.missing = plan.count - self.health.received

    def close(self) -> None:
        self._reader.close()

    def _handed(self, blocks: Iterator[EventBlock]) -> Iterator[EventBlock]:
        for block in blocks:
            self.health.received += len(block)
            yield block

    def _plan(self) -> ScanPlan:
        """The scan as file and options have it.

        Raises:
            FormatError: it cannot be.
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

    def _checked_plan(self) -> tuple[ScanPlan, Iterator[tuple[int, Events]]]:
        try:
            return self._plan(), self._reader.blocks(self.options.records)
        except FormatError as error:
            raise SourceError(f"{error}; give it as an option") from error

    def _clock(self, plan: ScanPlan) -> EventClock:
        start_s = self.options.start_s
        if start_s == "first":
            start_s = self._first_s()
        return clock_of(plan, float(start_s), self.options.acceptance_s)

    def _first_s(self) -> float:
        """Time of the first event; of those at the beginning, one that the others agree with."""
        events = self._reader.read(0, min(FIRST_EVENTS, self._reader.count))
        if not len(events):
            return 0.0
        ticks = np.sort(events["toa"]).astype(np.float64)
        middle = ticks[(len(ticks) - 1) // 2]
        return float(ticks[ticks >= middle - self.options.window_s / TICK_S - 1][0] * TICK_S)

    def _fine(self) -> bool:
        if self.options.fine_time is not None:
            return self.options.fine_time
        return bool(self.meta.metadata.provenance.get(FINE_TIME, False))

    def _most_positions(self) -> int:
        height, width = self.meta.layout.camera
        return max(1, FRAME_BYTES // (4 * height * width)) if self.options.frames else 2**16

    def _tell(self, before: EventCounts, where: str) -> None:
        for name in FAULTS:
            new = getattr(self.counts, name) - getattr(before, name)
            if new:
                self.health.fault(f"{where}: {new} events {FAULTS[name]}")

    def _conclude(self, done: int, count: int) -> None:
        for name in ("before", "after"):
            there = getattr(self.counts, name)
            if there:
                self.health.fault(f"{there} events {name} the scan")
        if done < count:
            self.health.fault(f"the events end with position {done} of {count}")


def make(where: str, options: Mapping[str, Any]) -> T3pSource:
    """A file as a source.

    Raises:
        OptionError: an unknown option or a bad value.
        SourceError: no such file, or too little is known about it.
    """
    return T3pSource(where, checked_options(Options, options))


def _layout(told: Layout | None, options: Options, file: Path) -> Layout:
    scan = options.scan or (told.scan if told else None)
    camera = options.camera or (told.camera if told else None)
    if scan is None or camera is None:
        raise SourceError(
            f"{file.name}: no {file.name}.json beside it: give scan and camera, rows before columns, as options"
        )
    return Layout(scan, camera, "uint32")
