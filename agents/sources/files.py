"""Frames of a dataset on disc (.mib, .zarr, .hspy), in the order of the file.

Processed pixels of a .mib file stay big-endian. A damaged or truncated file yields its whole frames and a fault.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.base import StreamMeta
from agents.block import FrameBlock, Frames
from agents.source import Health, Source, SourceError
from agents.sources import Shape
from agents.sources.merlin_assembly import frames_of
from twin.formats import merlin_header as mh
from twin.formats import open_frames
from twin.formats.dataset import FormatError, FrameReader
from twin.formats.merlin_header import UsualHeader
from twin.formats.mib import MibReader
from twin.options import Count, checked_options, validated


@validated
class Options:
    """Options of reading.

    Attributes:
        scan: (rows, columns), or (N,), of a .mib file; None is that of its .hdr file.
        block_bytes: memory of the frames in a block.
    """

    scan: Shape | None = None
    block_bytes: Count = 2**22


def make(where: str, options: Mapping[str, Any]) -> "FileSource":
    """Open a dataset by its path.

    Raises:
        OptionError: an unknown option or a bad value.
        SourceError: as `FileSource`.
    """
    return FileSource(Path(where), checked_options(Options, options))


class FileSource(Source):
    """A dataset opened for one pass.

    Args:
        path: path; the suffix selects the format.
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
        for note in self._reader.notes:
            if note not in self.health.faults:
                self.health.fault(note)
        self.meta = StreamMeta(self._reader.layout, self._reader.metadata)

    def _open(self) -> FrameReader:
        try:
            return self._open_as(tolerate=False)
        except FormatError as error:
            if error.complete == 0:
                raise
            reader = self._open_as(tolerate=True)
            self.health.fault(str(error))
            return reader

    def _open_as(self, tolerate: bool) -> FrameReader:
        if self._options.scan is None:
            return open_frames(self._path, tolerate=tolerate)
        if self._path.suffix != ".mib":
            raise FormatError(f"{self._path}: option scan is for .mib files; {self._path.suffix} files have their own")
        if not self._path.exists():
            raise FormatError(f"{self._path} does not exist")
        return MibReader(self._path, self._options.scan, tolerate)

    def blocks(self) -> Iterator[FrameBlock]:
        layout = self._reader.layout
        acquired = self._reader.acquired.ravel()
        most = max(1, self._options.block_bytes // layout.frame_bytes)
        try:
            for first, frames in self._pieces():
                for k in range(0, len(frames), most):
                    piece = frames[k : k + most]
                    index = np.arange(first + k, first + k + len(piece))
                    there = acquired[index]
                    if there.any():
                        self.health.received += int(there.sum())
                        whole = bool(there.all())
                        yield self._block(piece if whole else piece[there], index if whole else index[there])
        except (FormatError, OSError, ValueError) as error:
            self.health.fault(str(error))
        finally:
            self.health.missing = layout.count - self.health.received

    def close(self) -> None:
        self._reader.close()

    def _block(self, frames: Frames, index: NDArray[np.integer]) -> FrameBlock:
        row, column = np.divmod(index, self._reader.layout.scan[-1])
        return FrameBlock(frames, np.stack([row, column], axis=1).astype(np.int32))

    def _pieces(self) -> Iterator[tuple[int, Frames]]:
        """Yield (index of the first, frames) in pieces that are fast to read; damaged frames are left out."""
        reader = self._reader
        if isinstance(reader, MibReader) and reader.header.pixel in mh.PIXEL_BYTES:
            yield from self._as_stored(reader)
            return
        # A chunk on disc is a scan row: smaller pieces would decompress it repeatedly.
        step = min(reader.layout.block, reader.layout.scan[-1])
        first = 0
        while first < reader.extent:
            count = min(step, reader.extent - first)
            try:
                frames = reader.read(first, count)
            except (FormatError, OSError, ValueError, RuntimeError) as error:
                # Codecs of zarr raise errors of many types. Only a FormatError has the number of the damaged frame.
                broken = error.complete if isinstance(error, FormatError) else -1
                if first < broken < first + count:
                    count = broken - first
                    yield first, reader.read(first, count)
                    first += count
                    continue
                count = min(error.lost, count) if isinstance(error, FormatError) and broken == first else count
                self.health.fault(f"{self._path.name}: {count} frames from {first} are left out: {error}")
            else:
                yield first, frames
            first += count

    def _as_stored(self, reader: MibReader) -> Iterator[tuple[int, Frames]]:
        """Yield frames of a .mib file as stored. Read, not mapped: a mapped file that shrinks would end the process."""
        header = reader.header
        stride = header.length + header.payload_bytes
        step = max(1, self._options.block_bytes // stride)
        with self._path.open("rb") as file:
            usual, expected = UsualHeader(header, file.read(header.length)), header.sequence
            file.seek(0)
            for first in range(0, reader.extent, step):
                count = min(step, reader.extent - first)
                raw = np.fromfile(file, np.uint8, count * stride)
                raw = raw[: len(raw) // stride * stride].reshape(-1, stride)
                shorter = len(raw) < count
                if shorter:
                    self.health.fault(f"{self._path.name}: the file has become shorter: {first + len(raw)} frames")
                frames, begin = frames_of(raw[:, header.length :], header), 0
                for k, row in enumerate(raw):
                    number = self._number(row[: header.length].tobytes(), usual, first + k)
                    if number is None:
                        yield first + begin, frames[begin:k]
                        begin, number = k + 1, expected
                    elif number != expected:
                        self._note_jump(first + k, number, expected)
                    expected = number + 1
                yield first + begin, frames[begin:]
                if shorter:
                    return

    def _note_jump(self, frame: int, number: int, expected: int) -> None:
        self.health.fault(
            f"{self._path.name}: frame {frame} has the number {number}, not {expected}: frames may be missing;"
            " positions follow the order of the file"
        )

    def _number(self, raw: bytes, usual: UsualHeader, frame: int) -> int | None:
        """Frame number of a header; None, and a fault, for one that is damaged or differs from the first."""
        number = usual.number(raw)
        if number is not None:
            return number
        try:
            header = mh.parse_header(raw)
            if header.kind == usual.header.kind:
                return header.sequence
            problem = mh.difference(header, usual.header)
        except FormatError as error:
            problem = str(error)
        self.health.fault(f"{self._path.name}: frame {frame} is left out: {problem}")
        return None
