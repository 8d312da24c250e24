"""Timepix3 events of a `.t3p` file, as blocks of whole positions; memory is that of a block, not of the file."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from agents.events.order import EventOrder
from agents.source import SourceError
from agents.sources.event_file import EventFileSource, EventOptions
from twin.formats.chips import ChipLayout
from twin.formats.dataset import FormatError, Layout
from twin.formats.event_clock import LAST_TICK
from twin.formats.t3p import GOES_ON, LOST, T3pReader, are_marks, chip_numbers, split_marks
from twin.options import checked_options, validated

Events = NDArray[np.void]
OUTSIDE = np.uint32(2**32 - 1)


@validated
class Options(EventOptions):
    """Options of the assignment of events to positions; None is the value of the file.

    Attributes:
        counter_bits: bits of a tick counter that rolls over.
    """

    counter_bits: Annotated[int, Ge(8), Le(46)] | None = None


class T3pSource(EventFileSource):
    """Events of a file in blocks; a truncated file yields its whole records.

    Args:
        file: path of the .t3p file; the JSON file beside it may be missing if the options replace it.
        options: see `Options`.

    Raises:
        SourceError: no such file, an invalid description, scan, camera or dwell time not known, or chip numbers in the
            records without the places of the chips.
    """

    options: Options

    def __init__(self, file: str | Path, options: Options | None = None) -> None:
        super().__init__(file, options or Options())
        try:
            self._reader = T3pReader(self._path, tolerate=True)
        except (OSError, FormatError) as error:
            raise SourceError(str(error)) from error
        try:
            self._note_cut()
            self._table = self._chip_table()
            layout = self._layout()
        except BaseException as error:
            self.close()
            if isinstance(error, FormatError):
                raise SourceError(f"{self._path.name}: {error}") from error
            raise
        self._describe(layout, self._reader.metadata, self._reader.count)

    def close(self) -> None:
        self._reader.close()

    def _note_cut(self) -> None:
        """Note a file that is cut off, within a record or between two."""
        rest, described = self._path.stat().st_size % 16, self._reader.records
        self._cut_off = bool(rest) or (described is not None and self._reader.count < described)
        if self._cut_off:
            within = f", and ends within the next, after {rest} of 16 bytes" if rest else ""
            of = "" if described is None else f" of {described}"
            self.health.fault(f"the file is cut off: it has {self._reader.count} whole records{of}{within}")

    def _chip_table(self) -> NDArray[np.uint32] | None:
        """Return the pixel of the image by chip and pixel of the chip; None for one camera without chip numbers.

        Raises:
            FormatError: the records have chip numbers, and nobody says where the chips lie.
        """
        if self.options.chips is not None:
            self._chips = ChipLayout.named(self.options.chips, self.options.gap_px)
            return self._chips.table()
        if chip_numbers(self._reader.read(0, min(self.options.records, self._reader.count))):
            raise FormatError(
                "the records have chip numbers, and a pixel counts within its chip: give the places of the chips,"
                " chips=quad, or row, column and turned of each: chips=[[0,0,false],[0,1,false]]"
            )
        return None

    def _layout(self) -> Layout:
        described, options = self._reader.layout, self.options
        scan = options.scan or (described.scan if described else None)
        camera = options.camera or (described.camera if described else None)
        if self._table is not None:
            camera = self._chips.camera
        if scan is None or camera is None:
            raise SourceError(
                f"{self._path.name}: no {self._path.name}.json beside it: give scan and camera, rows before columns, as"
                " options"
            )
        return Layout(scan, camera, "uint32")

    def _counter_bits(self) -> int | None:
        return self.options.counter_bits

    def _known_complete(self) -> int:
        return 0 if self._cut_off else self._reader.frames

    def _first_events(self) -> Events:
        return split_marks(self._reader.read(0, min(64, self._reader.count)))[0]

    def _hits(self, order: EventOrder) -> Iterator[tuple[int, Events]]:
        self._open_since: int | None = None
        for first, events in self._reader.blocks(self.options.records):
            hits, marks = split_marks(events)
            order.counts.no_hits += len(marks)
            if len(marks) or self._open_since is not None:
                self._heed(events, marks, hits, first, order.tick)
            if self._table is not None:
                hits = self._placed(hits)
            elif len(hits) and int(hits["overflow"].max()):
                hits = hits.copy()
                numbered = hits["overflow"] != 0
                hits["pixel"][numbered] = OUTSIDE
                self.health.fault(f"records from {first}: {int(numbered.sum())} hits have chip numbers; give chips")
            yield first, hits
        if self._open_since is not None:
            self._lose(self._open_since, LAST_TICK - 1, "at the end")

    def _heed(self, events: Events, marks: Events, hits: Events, first: int, tick: int) -> None:
        """Note the gaps that marks tell of; a gap may begin in one block and end in another."""
        others = 0
        for place, mark in zip(np.flatnonzero(are_marks(events)), marks, strict=True):
            pixel, time = int(mark["pixel"]), int(mark["toa"])
            if mark["overflow"] != 1 or time >= LAST_TICK:
                others += 1
            elif pixel == LOST:
                self._close_gap(self._open_since, self._unwrapped(time, tick), first)
                self._open_since = self._unwrapped(time, tick)
            elif pixel == GOES_ON:
                start = self._open_since
                if start is None:
                    start = self._start_of_gap(events, int(place), time, tick)
                self._open_since = None
                self._close_gap(start, start + max(1, time), first)
            else:
                others += 1
        if others:
            self.health.fault(f"records from {first}: {others} are no hits (overflow), and are left out")
        if self._open_since is not None and len(hits):
            later = hits["toa"][hits["toa"] > self._open_since]
            if len(later) and not len(marks):
                # Hits again, and no mark of their beginning: the gap ended with the first of them.
                start, self._open_since = self._open_since, None
                self._close_gap(start, int(later.min()), first)

    def _start_of_gap(self, events: Events, place: int, length: int, tick: int) -> int:
        """Return the begin of a gap of which only the end is marked: it lies between the hits around the mark."""
        before, after = (split_marks(part)[0]["toa"] for part in (events[:place], events[place:]))
        earliest = self._unwrapped(int(before[-1]), tick) + 1 if len(before) else tick
        ends = self._unwrapped(int(after[0]), tick) if len(after) else earliest + length
        return max(0, earliest, ends - length)

    def _close_gap(self, start: int | None, stop: int, first: int) -> None:
        if start is not None and stop > start:
            self._lose(start, min(stop, LAST_TICK - 1), f"records from {first}")

    def _unwrapped(self, tick: int, now: int) -> int:
        """Return a tick on the clock of the stream, whose time is `now`, for a counter that rolls over."""
        bits = self.options.counter_bits
        if bits is None:
            return tick
        span = 1 << bits
        return now + (tick - now + span // 2) % span - span // 2

    def _placed(self, hits: Events) -> Events:
        """Return hits with the pixel of the image; those of a chip that is not there lie outside the camera."""
        assert self._table is not None
        placed, known = hits.copy(), hits["pixel"] < len(self._table)
        placed["pixel"] = np.where(known, self._table[np.where(known, hits["pixel"], 0)], OUTSIDE)
        placed["overflow"] = 0
        return placed


def make(where: str, options: Mapping[str, Any]) -> T3pSource:
    """Open a file by its path; see `agents.sources.open_source`."""
    return T3pSource(where, checked_options(Options, options))
