"""Frames of a dataset on disc (.zarr, .hspy and others), in the order of the file.

Frames stored by position keep it. A list of frames in read-out order, as some cameras write it, becomes a scan by the
same options as a Merlin file. A damaged file yields its whole frames and faults.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from agents.base import StreamMeta
from agents.block import FrameBlock, Frames
from agents.source import Health, Source, SourceError
from agents.sources.frame_list import FrameListOptions
from agents.sources.merlin_assembly import FrameOrder
from twin.formats import open_frames
from twin.formats.dataset import FormatError, FrameReader
from twin.formats.file_checks import check_positions
from twin.options import checked_options, validated

ORDER_OPTIONS = ("scan", "first_frame", "last_frame", "skip_frames", "flyback_frames", "serpentine")


@validated
class Options(FrameListOptions):
    """Options of reading. All but `block_bytes` are for a list of frames; other files have positions of their own.

    Attributes:
        flyback_frames: frames at the end of each row without a position.
    """

    flyback_frames: Annotated[int, Ge(0)] = 0


def make(where: str, options: Mapping[str, Any]) -> "FileSource":
    """Open a dataset by its path; see `agents.sources.open_source`."""
    return FileSource(Path(where), checked_options(Options, options))


class FileSource(Source):
    """A dataset opened for one pass.

    Args:
        path: path; the suffix selects the format.
        options: see `Options`.

    Raises:
        SourceError: no such file, no whole frame in it, or options of a list for a file of positions.
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
        try:
            self._order = self._read_out_order()
            layout = self._reader.layout
            layout = layout if self._order is None else replace(layout, scan=self._order.scan)
            self.meta = StreamMeta(layout, self._reader.metadata)
        except FormatError as error:
            self.close()
            raise SourceError(str(error)) from error

    def _open(self) -> FrameReader:
        try:
            return open_frames(self._path)
        except FormatError as error:
            if error.complete == 0:
                raise
            reader = open_frames(self._path, tolerate=True)
            self.health.fault(str(error))
            return reader

    def _read_out_order(self) -> FrameOrder | None:
        """Return where the frames of a list belong; None for frames that have their own positions.

        Raises:
            FormatError: options of a list for other frames, or a scan that cannot be.
        """
        options, layout = self._options, self._reader.layout
        given = [name for name in ORDER_OPTIONS if getattr(options, name) != getattr(Options(), name)]
        self._range = range(layout.count)
        if not given:
            return None
        if len(layout.scan) == 2:
            raise FormatError(
                f"{self._path}: option {given[0]} is for .mib files and lists of frames; the frames of this file have"
                f" their positions in a scan of {layout.scan}"
            )
        self._range = self._range[options.first_frame : options.last_frame]
        frames = len(self._range) - options.skip_frames
        if frames < 1:
            raise FormatError(f"{self._path}: no frame is left of {layout.count} by {', '.join(given)}")
        scan = options.scan or (frames,)
        order = FrameOrder(scan, 0, options.skip_frames, options.flyback_frames, options.serpentine)
        check_positions(order.frames, layout.count, str(self._path), given=True)
        if order.frames < len(self._range):
            self.health.fault(
                f"{self._path.name}: {len(self._range) - order.frames} frames after the {order.frames} of a scan of"
                f" {scan} are left out"
            )
        return order

    def blocks(self) -> Iterator[FrameBlock]:
        """Yield the acquired frames that have a position; a fault of the file ends the stream."""
        layout = self.meta.layout
        acquired = self._reader.acquired.ravel()
        most = max(1, self._options.block_bytes // layout.frame_bytes)
        try:
            for first, frames in self._pieces():
                for k in range(0, len(frames), most):
                    piece = frames[k : k + most]
                    index, pixel, there = self._places(first + k, len(piece))
                    there = there & acquired[index]
                    if there.any():
                        self.health.received += int(there.sum())
                        whole = bool(there.all())
                        yield FrameBlock(piece if whole else piece[there], pixel if whole else pixel[there])
        except (FormatError, OSError, ValueError) as error:
            self.health.fault(str(error))
        finally:
            self.health.missing = layout.count - self.health.received

    def close(self) -> None:
        self._reader.close()

    def _places(self, first: int, count: int) -> tuple[NDArray[np.intp], NDArray[np.int32], NDArray[np.bool_]]:
        """Return index in the file, (row, column), and whether there is such a position, of consecutive frames."""
        index = np.arange(first, first + count)
        if self._order is None:
            row, column = np.divmod(index, self._reader.layout.scan[-1])
            return index, np.stack([row, column], axis=1).astype(np.int32), np.ones(count, bool)
        places = [self._order.place(k - self._range.start) if k in self._range else None for k in index.tolist()]
        there = np.array([place is not None for place in places])
        return index, np.array([place or (0, 0) for place in places], np.int32), there

    def _pieces(self) -> Iterator[tuple[int, Frames]]:
        """Yield (index of the first, frames) in pieces that are fast to read; damaged frames are left out."""
        reader = self._reader
        # A chunk on disc is a scan row: smaller pieces would decompress it repeatedly.
        step = min(reader.layout.block, reader.layout.scan[-1])
        first, extent = 0, min(reader.extent, self._range.stop)
        while first < extent:
            count = min(step, extent - first)
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
