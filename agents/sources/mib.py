"""Frames of a Merlin file, or of the parts of a split acquisition, in the order in which they were read out.

Processed pixels stay big-endian. A damaged or truncated file yields its whole frames and a fault.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from agents.base import StreamMeta
from agents.block import FrameBlock
from agents.source import Health, Source, SourceError
from agents.sources.frame_list import FrameListOptions
from agents.sources.frame_numbers import Choice, numbering
from agents.sources.merlin_assembly import FrameOrder, frames_of
from twin.formats import merlin_header as mh
from twin.formats.dataset import FormatError, Layout
from twin.formats.merlin_header import UsualHeader
from twin.formats.mib import MibReader
from twin.formats.mib_files import columns_of_times
from twin.options import checked_options, validated


@validated
class Options(FrameListOptions):
    """Options of reading a .mib file.

    Attributes:
        scan: (rows, columns), or (N,); None is that of the .hdr file, or of the pauses in the time stamps.
        flyback_frames: frames at the end of each row without a position; None is what the .hdr says, or none.
        positions: follow the "number" of each frame, which leaves gaps where frames were lost, or the "order" of the
            file; None follows the numbers if they differ from frame to frame and fit the scan.
        counter: 0 or 1 where both counters of the chip were on, "all" reads every frame as a position.
        parts: read all parts of a split acquisition; False reads this file alone.
    """

    flyback_frames: Annotated[int, Ge(0)] | None = None
    positions: Choice = None
    counter: Literal["all"] | Annotated[int, Ge(0)] | None = None
    parts: bool = True


def make(where: str, options: Mapping[str, Any]) -> "MibSource":
    """Open a file by its path; see `agents.sources.open_source`."""
    return MibSource(Path(where), checked_options(Options, options))


class MibSource(Source):
    """A Merlin file opened for one pass.

    Args:
        path: of the .mib file.
        options: see `Options`.

    Raises:
        SourceError: no such file, or no whole frame in it.
    """

    def __init__(self, path: Path, options: Options | None = None) -> None:
        self.health = Health()
        self._path, self._options = path, options or Options()
        try:
            self._reader = self._open()
        except (FormatError, OSError) as error:
            raise SourceError(str(error)) from error
        try:
            self._arrange()
        except (FormatError, OSError) as error:
            self.close()
            raise SourceError(str(error)) from error
        except BaseException:
            self.close()
            raise

    def _open(self) -> MibReader:
        try:
            reader = self._open_as(tolerate=False)
        except FormatError as error:
            if error.complete == 0:
                raise
            reader = self._open_as(tolerate=True)
            self.health.fault(str(error))
        for note in reader.notes:
            self.health.fault(f"{self._path.name}: {note}")
        return reader

    def _open_as(self, tolerate: bool) -> MibReader:
        options = self._options
        return MibReader(self._path, options.scan, tolerate, options.counter, options.parts, surplus=True)

    # --- which frame belongs where ---------------------------------------------------------------

    def _arrange(self) -> None:
        """Set the range of stored frames, the order of read-out, and the layout."""
        reader, options = self._reader, self._options
        every = reader.every
        chosen = range(reader.complete)[options.first_frame : options.last_frame]
        if not chosen:
            raise FormatError(
                f"{self._path}: no frame from first_frame {options.first_frame} to last_frame {options.last_frame} of"
                f" {reader.complete}"
            )
        if options.skip_frames >= len(chosen):
            raise FormatError(f"{self._path}: no frame is left of {len(chosen)} by skip_frames={options.skip_frames}")
        self._first, self._stop = chosen.start * every + reader.offset, (chosen.stop - 1) * every + reader.offset + 1
        whole = len(chosen) == reader.complete
        if whole:
            self._stop = reader.stored.complete
        self._order = FrameOrder(self._scan(len(chosen)), 0, options.skip_frames, self._flyback(), options.serpentine)
        layout = reader.layout
        self.meta = StreamMeta(Layout(self._order.scan, layout.camera, layout.dtype, layout.max_count), reader.metadata)
        self._numbering = numbering(
            self._numbers_of,
            len(chosen),
            self._order.frames,
            self._rise_of_numbers(),
            options.positions,
            whole,
            reader.counter is not None,
        )
        if self._numbering.absent:
            self.health.fault(
                f"{self._path.name}: the lowest frame number is"
                f" {self._numbering.origin + self._numbering.absent * self._numbering.rise}: {self._numbering.absent}"
                " of the scan are missing before it; positions=order begins with the first frame of the file"
            )

    def _scan(self, frames: int) -> tuple[int, ...]:
        """Return the shape of the scan for this many frames."""
        reader, options = self._reader, self._options
        whole = frames == reader.complete
        if options.scan is not None or (len(reader.layout.scan) == 2 and whole):
            return reader.layout.scan
        if not whole and reader.layout.count > frames - options.skip_frames:
            return (max(1, frames - options.skip_frames),)
        if len(reader.layout.scan) == 2:
            return reader.layout.scan
        start = self._first + options.skip_frames * reader.every
        columns = columns_of_times(np.fromiter(reader.stored.times_s(start, reader.every), np.float64))
        if columns is None:
            return (max(1, reader.layout.count - options.skip_frames),)
        # Flyback frames, if there are any, are among those between two pauses.
        positions = columns - (options.flyback_frames or 0)
        rows = -(-(max(frames, reader.layout.count) - options.skip_frames) // columns)
        self.health.fault(
            f"{self._path.name}: the scan has {positions} columns by the pauses in the time stamps, {rows} rows;"
            " give scan if that is not so"
        )
        return rows, max(1, positions)

    def _flyback(self) -> int:
        """Return the frames at the end of each row without a position, as chosen or as the text header implies."""
        reader, announced = self._reader, self._reader.announced
        if self._options.flyback_frames is not None:
            return self._options.flyback_frames
        if announced is None or len(reader.layout.scan) != 2 or self._options.first_frame is not None:
            return 0
        rows, columns = reader.layout.scan
        more = announced.frames_per_trigger - columns
        if more <= 0 or rows * announced.frames_per_trigger not in (announced.frames, reader.complete):
            return 0
        self.health.fault(
            f"{self._path.name}: {announced.frames_per_trigger} frames per trigger for {columns} columns: the last"
            f" {more} of each row are taken for the flyback (flyback_frames={more})"
        )
        return more

    def _rise_of_numbers(self) -> int:
        """Return by how much frame numbers rise from one position to the next.

        The two frames of an exposure by both counters have one number, or two.
        """
        stored = self._reader.stored
        try:
            pair = {stored.head_of(k).sequence for k in range(min(self._reader.every, stored.complete))}
        except FormatError:
            return self._reader.every
        return len(pair)

    def _numbers_of(self, frames: range) -> list[int]:
        """Return the numbers of frames, those of the counter that is read; none for damaged ones."""
        found = []
        for frame in frames:
            try:
                found.append(self._reader.stored.head_of(self._first + frame * self._reader.every).sequence)
            except FormatError:
                continue
        return found

    # --- reading ---------------------------------------------------------------------------------

    def blocks(self) -> Iterator[FrameBlock]:
        """Yield the frames that have a position; a fault of the file ends the stream."""
        try:
            yield from self._runs()
        except (FormatError, OSError, ValueError) as error:
            self.health.fault(str(error))
        finally:
            self.health.missing = self.meta.layout.count - self.health.received

    def close(self) -> None:
        self._reader.close()

    def _runs(self) -> Iterator[FrameBlock]:
        """Yield the frames that have a position, block by block; the others are counted, damaged ones are faults."""
        reader = self._reader
        stored, header, every = reader.stored, reader.header, reader.every
        step = max(1, self._options.block_bytes // stored.stride // every) * every
        self._count = 0
        self._usual = UsualHeader(header, stored.head_bytes(self._first))
        self._expected: int | None = None
        self._beyond = 0
        self._seen = np.zeros(self.meta.layout.count, bool)
        for first in range(self._first, self._stop, step):
            count = min(step, self._stop - first)
            raw = stored.read(first, count)
            rows, pixel = self._positions(raw, first)
            if len(rows):
                frames = frames_of(_taken(raw, rows)[:, header.length :], header)
                self.health.received += len(rows)
                yield FrameBlock(frames, pixel)
            if len(raw) < count:
                self.health.fault(f"{self._path.name}: the file has become shorter: {first + len(raw)} frames")
                break
        if self._beyond:
            self.health.fault(
                f"{self._path.name}: {self._beyond} frames after the {self._order.frames} of a scan of"
                f" {self._order.scan} are left out"
            )

    def _positions(self, raw: NDArray[np.uint8], first: int) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
        """Return the rows of a block whose frames have a position, (n,), and the positions, (n, 2).

        Frames beyond the scan and repeated ones are counted, damaged ones are faults.
        """
        length, origin, rise = self._reader.header.length, self._numbering.origin, self._numbering.rise
        rows = self._of_the_counter(raw, first)
        numbers = [self._number(raw[k, :length].tobytes(), first + k) for k in rows.tolist()]
        known = np.array([number is not None for number in numbers], bool)
        index = self._count + np.arange(len(rows))
        self._count += len(rows)
        if self._numbering.followed:
            told = np.array([number or 0 for number in numbers], object)
            index = np.clip((told - origin) // rise, -1, self._order.frames).astype(np.int64)
        inside = (index >= 0) & (index < self._order.frames)
        self._beyond += int(np.count_nonzero(known & ~inside))
        pixel, there = self._order.places(index)
        there &= known & inside
        rows, pixel = rows[there], pixel[there]
        flat = pixel[:, 0].astype(np.int64) * self._order.scan[-1] + pixel[:, 1]
        fresh = ~self._seen[flat]
        fresh[np.setdiff1d(np.arange(len(flat)), np.unique(flat, return_index=True)[1])] = False
        self._seen[flat] = True
        self.health.duplicates += int(np.count_nonzero(~fresh))
        return rows[fresh], pixel[fresh]

    def _of_the_counter(self, raw: NDArray[np.uint8], first: int) -> NDArray[np.intp]:
        """Return the rows of the frames of the counter that is read, also where one of a pair is lost, (n,)."""
        wanted, every = self._reader.counter, self._reader.every
        if wanted is None:
            return np.arange(len(raw))
        counters = [mh.counter_of(row.tobytes()) for row in raw[:, :256]]
        due = (first - self._first + np.arange(len(raw))) % every == 0  # for a header that does not say
        mine = [due[k] if counter is None else counter == wanted for k, counter in enumerate(counters)]
        return np.flatnonzero(mine)

    def _number(self, raw: bytes, frame: int) -> int | None:
        """Frame number of a header; None, and a fault, for one that is damaged or differs from the first."""
        number = self._usual.number(raw)
        if number is None:
            number = self._parsed_number(raw, frame)
        if number is not None and self._expected not in (None, number):
            self._note_jump(frame, number, self._expected or 0)
        counted = self._expected if number is None else number
        self._expected = None if counted is None else counted + self._numbering.rise
        return number

    def _note_jump(self, frame: int, number: int, expected: int) -> None:
        path, within = self._reader.stored.place(frame)
        where = f"{path.name}: frame {within} has the number {number}, not {expected}"
        if not self._numbering.followed:
            self.health.fault(
                f"{where}: frames may be missing; positions follow the order of the file"
                " (positions=number: the numbers)"
            )
        elif number > expected and not self._numbering.falling:
            lost = (number - expected) // self._numbering.rise
            self.health.fault(f"{where}: {lost} {'frame is' if lost == 1 else 'frames are'} missing before it")
        else:
            self.health.fault(f"{where}: positions follow the numbers")

    def _parsed_number(self, raw: bytes, frame: int) -> int | None:
        reader = self._reader
        try:
            header = mh.parse_header(raw)
            if header.kind != reader.header.kind:
                raise FormatError(mh.difference(header, reader.header))
            if reader.counter is not None and header.counter != reader.counter:
                raise FormatError(f"it is of counter {header.counter}, where one of {reader.counter} is due")
            return header.sequence
        except FormatError as error:
            path, within = reader.stored.place(frame)
            self.health.fault(f"{path.name}: frame {within} is left out: {error}")
            return None


def _taken(raw: NDArray[np.uint8], rows: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Return rows of an array: a view if they are evenly spaced, else a copy."""
    steps = np.diff(rows)
    if len(rows) == 1 or np.all(steps == steps[0]):
        return raw[rows[0] : rows[-1] + 1 : steps[0] if len(rows) > 1 else 1]
    return raw[rows]
