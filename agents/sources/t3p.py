"""Timepix3 events of a `.t3p` file, as blocks of whole positions; memory is that of a block, not of the file."""

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
"""Half a megabyte, which stays in the cache between the passes over the events."""

FRAME_BYTES = 64 * 2**20
"""Memory of the frames of one block, if frames are provided."""

FIRST_EVENTS = 15
Events = NDArray[np.void]


@validated
class Options:
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
        counter_bits: bits of a tick counter that rolls over.
        fine_time: use the fine time; None uses it for files of the simulated camera only.
        frames: provide frames to agents that need them, at the cost of memory and time.
        records: number of records that are read at a time.
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
            raise ValueError(f"expected a time or first; got {given!r}")
        return given


class T3pSource(Source):
    """Events of a file in blocks; a truncated file yields its whole records.

    Positions are in order of read-out, each once, also those without events. Events without a position are counted in
    `counts`; faults are noted in `health`.

    Args:
        file: path of the .t3p file; the JSON file beside it may be missing if the options replace it.
        options: see `Options`.

    Raises:
        SourceError: no such file, an invalid description, or scan, camera or dwell time not known.
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
            described = self._reader.records
            self._cut_off = bool(rest) or (described is not None and self._reader.count < described)
            if self._cut_off:
                within = f", and ends within the next, after {rest} of 16 bytes" if rest else ""
                of = "" if described is None else f" of {described}"
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
                self._note_faults(before, f"records {first} to {first + len(events)}")
            before = replace(order.counts)
            # The positions of a truncated file that are described as complete may lie beyond its end.
            yield from self._handed(scan.flush(0 if self._cut_off else self._reader.frames))
            self._note_faults(before, "at the end")
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
        """Time of the first event of the beginning that is consistent with the others."""
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


def make(where: str, options: Mapping[str, Any]) -> T3pSource:
    """Open a file by its path.

    Raises:
        OptionError: an unknown option or a bad value.
        SourceError: as `T3pSource`.
    """
    return T3pSource(where, checked_options(Options, options))


def _layout(described: Layout | None, options: Options, file: Path) -> Layout:
    scan = options.scan or (described.scan if described else None)
    camera = options.camera or (described.camera if described else None)
    if scan is None or camera is None:
        raise SourceError(
            f"{file.name}: no {file.name}.json beside it: give scan and camera, rows before columns, as options"
        )
    return Layout(scan, camera, "uint32")
