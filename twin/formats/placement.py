"""Positions of frames in an array of shape (rows, columns, H, W) or (N, H, W), in zarr or HDF5."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twin.formats.dataset import FormatError, Frames, Layout

Index = NDArray[np.int64]


def flat_index(layout: Layout, first: int, count: int, pixel: NDArray[np.integer] | None) -> Index:
    """Return the position of each of `count` frames in the flattened scan, shape (count,).

    Args:
        layout: of the dataset.
        first: number of frames written before, where raster order continues.
        count: frames to place.
        pixel: (row, column), shape (count, 2); None for raster order, and for a list of positions.

    Raises:
        FormatError: a pixel outside the image, or given twice.
    """
    if pixel is None:
        return np.arange(first, first + count)
    if len(layout.scan) != 2:
        raise FormatError("a list of positions has no image: pixel goes with a scan of (rows, columns)")
    if pixel.shape != (count, 2):
        raise FormatError(f"pixel has shape ({count}, 2), one (row, column) per frame; got {pixel.shape}")
    rows, columns = pixel[:, 0].astype(np.int64), pixel[:, 1].astype(np.int64)
    outside = (rows < 0) | (rows >= layout.scan[0]) | (columns < 0) | (columns >= layout.scan[1])
    if outside.any():
        worst = int(np.argmax(outside))
        raise FormatError(f"pixel ({rows[worst]}, {columns[worst]}) is outside an image of {layout.scan}")
    flat = rows * layout.scan[1] + columns
    if len(np.unique(flat)) != count:
        raise FormatError("a pixel is given twice in one block")
    return flat


def runs(layout: Layout, flat: Index) -> Iterator[tuple[tuple[int | slice, ...], slice]]:
    """Yield (index into the array, slice of the frames) for sorted positions `flat`, in runs that never cross a row."""
    columns = layout.scan[-1]
    breaks = np.flatnonzero((np.diff(flat) != 1) | (flat[1:] % columns == 0)) + 1
    edges = [0, *breaks.tolist(), len(flat)] if len(flat) else []
    for start, stop in pairwise(edges):
        row, column = divmod(int(flat[start]), columns)
        across = slice(column, column + stop - start)
        yield ((row, across) if len(layout.scan) == 2 else (across,)), slice(start, stop)


def write(array: Any, acquired: Any, layout: Layout, flat: Index, frames: Frames) -> None:
    """Write frames, (n, H, W), to the positions `flat`, and then `acquired`, so that it never claims a missing frame.

    Args:
        array: supports slices, shape (*scan, H, W).
        acquired: supports slices, shape (*scan,), bool.
        layout: of the dataset.
        flat: from `flat_index`.
        frames: counts.

    Raises:
        FormatError: a position has its frame already; nothing was written.
    """
    order = np.argsort(flat)
    pieces = list(runs(layout, flat[order]))
    for where, _ in pieces:
        if np.any(acquired[where]):
            raise FormatError(f"the scan position {where} has its frame already")
    ordered = frames if np.array_equal(order, np.arange(len(order))) else frames[order]
    for where, which in pieces:
        array[where] = ordered[which].astype(layout.dtype, copy=False)
    for where, _ in pieces:
        acquired[where] = True


def read(array: Any, layout: Layout, first: int, count: int) -> Frames:
    """Return frames `first` to `first + count` of the flattened scan, (count, H, W)."""
    frames = np.empty((count, *layout.camera), dtype=layout.dtype)
    for where, which in runs(layout, np.arange(first, first + count)):
        frames[which] = array[where]
    return frames
