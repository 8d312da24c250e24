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

from twin.formats import placement
from twin.formats.dataset import FormatError, FrameReader, Frames, FrameWriter, Layout, Metadata, check_free

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
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise FormatError(f"{path}: not {what}: {error}") from None
    if (attributes.get("format"), attributes.get("version")) != (kind, version):
        raise FormatError(f"{path}: not {kind}, version {version}: {attributes.get('format')!r}")
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
            dimension_names=[*("scan_y", "scan_x")[-len(layout.scan) :], "camera_y", "camera_x"],
        )
        of_a_row = (*(1 for _ in layout.scan[:-1]), min(layout.scan[-1], 65536))
        self._acquired: Any = group.create_array("acquired", shape=layout.scan, chunks=of_a_row, dtype="bool")
        # Last: a group without attributes is incomplete.
        group.attrs.update({"format": FORMAT, "version": VERSION, **limits, "metadata": metadata.plain()})

    def _write(self, frames: Frames, pixel: NDArray[np.integer] | None) -> None:
        flat = placement.flat_index(self.layout, self.count, len(frames), pixel)
        placement.write(self._frames, self._acquired, self.layout, flat, frames)

    def close(self) -> None:
        """Do nothing: every append is on disc."""


class ZarrReader(FrameReader):
    """Reads a dataset of `ZarrWriter`, in blocks.

    Raises:
        FormatError: not a zarr group of this format; the message names what is missing.
    """

    def __init__(self, path: Path) -> None:
        arrays, attributes = open_arrays(path, FORMAT, VERSION, ("frames", "acquired"), "a dataset in zarr")
        self._frames, acquired = arrays
        scan, camera = tuple(self._frames.shape[:-2]), tuple(self._frames.shape[-2:])
        limit = attributes.get("max_count")
        if acquired.shape != scan or not isinstance(limit, int | None):
            raise FormatError(f"{path}: acquired {acquired.shape} and max_count {limit!r} do not fit frames {scan}")
        self.layout = Layout(scan, (camera[0], camera[1]), str(self._frames.dtype), limit)
        plain = attributes.get("metadata", {})
        self.metadata = Metadata.of(plain if isinstance(plain, dict) else {}, str(path))
        self.acquired = np.asarray(acquired[...], dtype=bool)

    def _read(self, first: int, count: int) -> Frames:
        return placement.read(self._frames, self.layout, first, count)

    def close(self) -> None:
        """Do nothing: no file is open between reads."""
