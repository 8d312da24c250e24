"""A dataset as a zarr 3 group: compressed, chunked by scan rows, attributes in plain JSON.

    name.zarr/          attributes: format, version, max_count, metadata
      frames            (rows, columns, H, W) or (N, H, W), unsigned
      acquired          (rows, columns) or (N,), bool: whether a position has its frame

Readable with zarr alone. `max_count` is absent when it is the limit of the dtype.
"""

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from twin.formats import placement, zarr_chunks
from twin.formats.dataset import (
    FormatError,
    FrameReader,
    Frames,
    FrameWriter,
    Layout,
    Metadata,
    check_free,
    first_line,
    numbers,
    told,
)
from twin.formats.zarr_chunks import Chunks, DamagedChunk, Region

FORMAT = "stemtwin-4dstem"
VERSION = 1


def chunk_shape(layout: Layout) -> tuple[int, ...]:
    """Return the shape of a chunk: frames of one scan row, at most `dataset.BLOCK_BYTES`."""
    across = min(layout.scan[-1], layout.block)
    return (*(1 for _ in layout.scan[:-1]), across, *layout.camera)


def open_arrays(
    path: Path, kind: str, version: int, names: tuple[str, ...], what: str
) -> tuple[list[Any], dict[str, Any]]:
    """Open the arrays of a zarr group, and return them with its attributes.

    Args:
        path: of the group.
        kind, version: expected attributes `format` and `version`.
        names: of the arrays.
        what: the group is, for messages.

    Raises:
        FormatError: not such a group.
    """
    try:
        # Never version 2: one of its codecs unpickles.
        group: Any = zarr.open_group(path, mode="r", zarr_format=3)
        arrays, attributes = [group[name] for name in names], dict(group.attrs)
    except zarr.errors.GroupNotFoundError:
        raise FormatError(f"{path}: not {what}: no zarr group is there") from None
    except KeyError as error:
        raise FormatError(f"{path}: not {what}: it has no {first_line(error)}") from None
    except Exception as error:
        # Whatever JSON and codecs of a damaged group raise.
        raise FormatError(f"{path}: not {what}: {first_line(error)}") from None
    if (attributes.get("format"), attributes.get("version")) != (kind, version):
        raise FormatError(f"{path}: not {kind}, version {version}: {attributes.get('format')!r}")
    for name, array in zip(names, arrays, strict=True):
        if not isinstance(array, zarr.Array):
            raise FormatError(f"{path}: not {what}: {name} is no array")
    return arrays, attributes


class ZarrWriter(FrameWriter):
    """Writes `path`, a directory. Blocks of complete rows are fastest: a chunk that grows is compressed again.

    Raises:
        FormatError: `path` exists.
    """

    def __init__(self, path: Path, layout: Layout, metadata: Metadata) -> None:
        check_free(path)
        self.layout, self.count = layout, 0
        group = zarr.create_group(path, zarr_format=3)
        limits = {} if layout.max_count is None else {"max_count": layout.max_count}
        self._frames: Any = group.create_array(
            "frames",
            shape=(*layout.scan, *layout.camera),
            chunks=chunk_shape(layout),
            dtype=layout.dtype,
            compressors=zarr_chunks.compression(),
            # Zarr leaves out chunks of zeros; then a lost one could not be told from a dark one.
            config={"write_empty_chunks": True},
            dimension_names=[*("scan_y", "scan_x")[-len(layout.scan) :], "camera_y", "camera_x"],
        )
        of_a_row = (*(1 for _ in layout.scan[:-1]), min(layout.scan[-1], 65536))
        self._acquired: Any = group.create_array(
            "acquired", shape=layout.scan, chunks=of_a_row, dtype="bool", compressors=zarr_chunks.compression()
        )
        # Last: a group without attributes is incomplete.
        group.attrs.update(
            {"format": FORMAT, "version": VERSION, zarr_chunks.COMPLETE: True, **limits, "metadata": metadata.plain()}
        )

    def _write(self, frames: Frames, pixel: NDArray[np.integer] | None) -> None:
        flat = placement.flat_index(self.layout, self.count, len(frames), pixel)
        placement.write(self._frames, self._acquired, self.layout, flat, frames)

    def close(self) -> None:
        """Do nothing: every append is on disc."""


class ZarrReader(FrameReader):
    """Reads a dataset of `ZarrWriter`, in blocks.

    Args:
        path: of the group.
        tolerate: leave out the frames of damaged and missing chunks, and note them, instead of raising.

    Raises:
        FormatError: not a zarr group of this format; the message names what is missing.
    """

    def __init__(self, path: Path, tolerate: bool = False) -> None:
        arrays, attributes = open_arrays(path, FORMAT, VERSION, ("frames", "acquired"), "a dataset in zarr")
        frames, acquired = arrays
        self.tolerate = tolerate
        with told(path):
            scan, camera = tuple(frames.shape[:-2]), tuple(frames.shape[-2:])
            limit = attributes.get("max_count")
            if acquired.shape != scan or isinstance(limit, bool) or not isinstance(limit, int | None):
                raise FormatError(f"{path}: acquired {acquired.shape} and max_count {limit!r} do not fit frames {scan}")
            self.layout = Layout(scan, (camera[0], camera[1]), str(frames.dtype), limit)
            plain = attributes.get("metadata", {})
            self.metadata = Metadata.of(plain if isinstance(plain, dict) else {}, str(path))
            self._complete = attributes.get(zarr_chunks.COMPLETE) is True
            self._frames = Chunks(path, "frames", frames, self._expected, self._holds)
            self._frames.check_size()
            if self._complete and self._frames.shape[-2:] != camera:
                raise FormatError(f"{path}: frames of {camera} in chunks of {self._frames.shape}: the file is damaged")
            self.acquired = self._mask(Chunks(path, "acquired", acquired, zarr_chunks.never, self._holds))

    def _mask(self, chunks: Chunks) -> NDArray[np.bool_]:
        """Read the acquired positions; with `tolerate`, those of a damaged chunk are not acquired."""
        chunks.check_all()
        try:
            return chunks.read((slice(None),)).astype(bool)
        except FormatError as error:
            if not self.tolerate:
                # The frames themselves may be whole: `complete` invites to open it again with `tolerate`.
                raise FormatError(str(error), complete=1) from None
        mask = np.zeros(self.layout.scan, dtype=bool)
        for number in np.ndindex(
            *(-(-size // side) for size, side in zip(self.layout.scan, chunks.shape, strict=True))
        ):
            try:
                mask[chunks.region(number)] = chunks.read(chunks.region(number))
            except FormatError as error:
                self.notes += (str(error),)
        return mask

    def _holds(self, region: Region) -> str:
        """Name the frames of a region; those of several rows by their rows."""
        *rows, across = region[: len(self.layout.scan)]
        if rows and rows[0].stop - rows[0].start > 1:
            return f"{numbers('row', rows[0].start, rows[0].stop - 1)} of the scan"
        row = rows[0].start if rows else 0
        return numbers("frame", row * self.layout.scan[-1] + across.start, row * self.layout.scan[-1] + across.stop - 1)

    def _read(self, first: int, count: int) -> Frames:
        frames = np.empty((count, *self.layout.camera), dtype=self.layout.dtype)
        for where, which in placement.runs(self.layout, np.arange(first, first + count)):
            try:
                frames[which] = self._frames.read(where)
            except DamagedChunk as error:
                across: Any = where[-1]
                lost, origin = error.region[len(self.layout.scan) - 1], first + which.start - across.start
                begin, end = max(origin + lost.start, first + which.start), min(origin + lost.stop, first + which.stop)
                raise FormatError(str(error), begin, end - begin) from None
        return frames

    def _expected(self, region: Region) -> bool:
        """Whether a chunk of frames was written."""
        return self._complete and bool(self.acquired[region[: len(self.layout.scan)]].any())

    def close(self) -> None:
        """Do nothing: no file is open between reads."""
