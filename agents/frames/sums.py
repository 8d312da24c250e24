"""Sums over frames: moments of whole frames or of a region, and counts weighted with images.

Kernels read uint8, uint16 and uint32 of either byte order in place, also in slices of a larger array or file, if the
pixels of a row are contiguous. Other layouts are copied; other types are summed in float64 by the definition. Sums of
integer counts are exact below 2^53.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numba import uint16, uint32
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from agents.frames.prefetch import AHEAD_BYTES, LINE_BYTES, prefetch, prefetch_all
from agents.frames.region import Region
from agents.frames.runs import compiled, region_runs
from twin.arrays import Floats

Frames = NDArray[np.unsignedinteger]
Integers = NDArray[np.intp]


def moments(frames: Frames, region: Region | None) -> Floats:
    """Counts, sum of column * counts and sum of row * counts, (N, 3); see `Block.moments`."""
    return moments_and_squares(frames, region)[:, :3]


def squares(frames: Frames, region: Region | None) -> Floats:
    """Sum of (column^2 + row^2) * counts, (N,); see `Block.squares`."""
    return moments_and_squares(frames, region)[:, 3]


def moments_and_squares(frames: Frames, region: Region | None) -> Floats:
    """Moments and, in a fourth column, squares, (N, 4), in one pass over the frames."""
    if not _is_counted(frames):
        return _plain_sums(frames, _moment_weights(region, frames.shape[1:]))
    pixels = _pixels(frames)
    count, height, width = frames.shape
    columns, rows = _scratch(pixels, width), _scratch(pixels, height)
    out = np.empty((count, 4))
    if region is None:
        _whole_moments(*pixels, columns, rows, out)
    else:
        runs, mask = region_runs(region, (height, width), columns.itemsize)
        _region_moments(*pixels, runs, mask, columns, rows, out)
    return out


def sums(frames: Frames, weights: NDArray[np.float32]) -> Floats:
    """Counts weighted with each image, (N, D).

    Weights are compiled to runs of pixels: pixels without weight are not read. Read-only weights are compiled once,
    others at each call, because they may have changed.

    Args:
        frames: counts, (N, H, W).
        weights: (D, H, W), any numbers.

    Raises:
        ValueError: frames and weights differ in shape.
    """
    if weights.ndim != 3 or frames.shape[1:] != weights.shape[1:]:
        raise ValueError(f"frames (N, H, W) and weights (D, H, W) must match, got {frames.shape} and {weights.shape}")
    if not _is_counted(frames):
        return _plain_sums(frames, weights)
    out = np.zeros((len(frames), len(weights)))
    _weighted_sums(*_pixels(frames), *compiled(weights), out)
    return out


class Pixels(NamedTuple):
    """A block of frames for the kernels: pixel (y, x) of frame n is `data[n * frame_step + y * row_step + x]`.

    Attributes:
        data: memory of the block, flat and read-only, viewed in native byte order.
        frame_step, row_step: items from one frame or row to the next.
        swapped: the counts are in the other byte order.
    """

    data: Frames
    frame_step: int
    row_step: int
    swapped: bool


def _is_counted(frames: NDArray[Any]) -> bool:
    """True for the data types of the kernels."""
    return frames.dtype.kind == "u" and frames.dtype.itemsize in (1, 2, 4)


def _pixels(frames: Frames) -> Pixels:
    """View the memory of frames if the pixels of a row are contiguous, else copy them."""
    item = frames.itemsize
    count, height, width = frames.shape
    steps = frames.strides
    in_place = frames.flags.aligned and (steps[2] == item or width == 1)
    if not in_place or min(steps) < 0 or steps[0] % item or steps[1] % item:
        frames = np.ascontiguousarray(frames)
        steps = frames.strides
    frame_step, row_step = steps[0] // item, steps[1] // item
    extent = (count - 1) * frame_step + (height - 1) * row_step + width if count else 0
    flat = as_strided(frames, (extent,), (item,), writeable=False)
    native = flat.dtype.newbyteorder("=")
    return Pixels(flat.view(native), frame_step, row_step, flat.dtype != native)


def _scratch(pixels: Pixels, size: int) -> Frames:
    """Scratch memory for sums over rows or columns, of a type that does not overflow."""
    return np.empty(size, np.uint64 if pixels.data.itemsize == 4 else np.uint32)


def _moment_weights(region: Region | None, camera: tuple[int, ...]) -> Floats:
    """Factors of the counts in each moment and in the squares, (4, H, W)."""
    row, column = np.indices(camera)
    inside = 1 if region is None else region.mask((camera[0], camera[1]))
    return np.stack([np.ones(camera), column, row, column**2 + row**2]) * inside


def _plain_sums(frames: NDArray[Any], weights: NDArray[np.floating]) -> Floats:
    """The definition, for other data types."""
    return np.einsum("nhw,dhw->nd", frames.astype(np.float64), weights.astype(np.float64))


@numba.njit(inline="always", cache=True)
def _count(value: Any, data: Frames, swapped: bool) -> Any:
    """Convert a count to native byte order; `data` has its type."""
    if not swapped or data.itemsize == 1:
        return data.dtype.type(value)
    if data.itemsize == 2:
        return data.dtype.type((uint16(value) >> uint16(8)) | (uint16(value) << uint16(8)))
    pairs = ((uint32(value) & uint32(0x00FF00FF)) << uint32(8)) | ((uint32(value) >> uint32(8)) & uint32(0x00FF00FF))
    return data.dtype.type((uint32(pairs) << uint32(16)) | (uint32(pairs) >> uint32(16)))


@numba.njit(fastmath={"reassoc", "nsz"}, cache=True)
def _by_index(counts: NDArray[np.unsignedinteger]) -> tuple[float, float, float]:
    """Sums of counts, index * counts and index^2 * counts: integers, hence exact in any order."""
    total, first, second = 0.0, 0.0, 0.0
    for i in range(counts.size):
        count = np.float64(counts[i])
        total += count
        first += i * count
        second += i * (i * count)
    return total, first, second


@numba.njit(cache=True)
def _whole_moments(
    data: Frames, frame_step: int, row_step: int, swapped: bool, columns: Frames, rows: Frames, out: Floats
) -> None:
    """Write moments and squares of whole frames to `out`, (N, 4).

    Two rows at a time halve the passes over the sums of the columns.

    Args:
        data, frame_step, row_step, swapped: see `Pixels`.
        columns, rows: scratch memory of the width and height of a frame.
        out: (N, 4).
    """
    wide, width, height = columns.dtype.type, columns.size, rows.size
    ahead, line = AHEAD_BYTES // data.itemsize, LINE_BYTES // data.itemsize
    for n in range(len(out)):
        columns[:] = 0
        for y in range(0, height - 1, 2):
            start = n * frame_step + y * row_step
            for x in range(start + ahead, start + ahead + width, line):
                prefetch_all(data, x)
                prefetch_all(data, x + row_step)
            upper, lower = data[start : start + width], data[start + row_step : start + row_step + width]
            above, below = wide(0), wide(0)
            for x in range(width):
                a, b = wide(_count(upper[x], data, swapped)), wide(_count(lower[x], data, swapped))
                columns[x] = wide(columns[x] + wide(a + b))
                above, below = wide(above + a), wide(below + b)
            rows[y], rows[y + 1] = above, below
        if height % 2 == 1:
            start, last = n * frame_step + (height - 1) * row_step, wide(0)
            for x in range(width):
                a = wide(_count(data[start + x], data, swapped))
                columns[x] = wide(columns[x] + a)
                last = wide(last + a)
            rows[height - 1] = last
        total, x_sum, x_square = _by_index(columns)
        _, y_sum, y_square = _by_index(rows)
        out[n, 0], out[n, 1], out[n, 2], out[n, 3] = total, x_sum, y_sum, x_square + y_square


@numba.njit(cache=True)
def _region_moments(
    data: Frames,
    frame_step: int,
    row_step: int,
    swapped: bool,
    runs: Integers,
    mask: Frames,
    columns: Frames,
    rows: Frames,
    out: Floats,
) -> None:
    """Write moments and squares of a region (`runs.region_runs`) to `out`; see `_whole_moments`."""
    wide = columns.dtype.type
    near = _runs_ahead(runs[:, 2] - runs[:, 1], data.itemsize)
    for n in range(len(out)):
        columns[:] = 0
        rows[:] = 0
        for i in range(len(runs)):
            _prefetch_run(data, frame_step, row_step, runs, 0, n, i + near)
            row, first, behind, begin = runs[i]
            start = n * frame_step + row * row_step
            counts, sums = data[start + first : start + behind], columns[first:behind]
            keep, along = mask[begin : begin + behind - first], wide(0)
            for x in range(sums.size):
                count = wide(wide(_count(counts[x], data, swapped)) & keep[x])
                sums[x] = wide(sums[x] + count)
                along = wide(along + count)
            rows[row] = wide(rows[row] + along)
        total, x_sum, x_square = _by_index(columns)
        _, y_sum, y_square = _by_index(rows)
        out[n, 0], out[n, 1], out[n, 2], out[n, 3] = total, x_sum, y_sum, x_square + y_square


@numba.njit(cache=True)
def _runs_ahead(lengths: Integers, itemsize: int) -> int:
    """Number of runs of these lengths in `AHEAD_BYTES`, at most all."""
    total = max(1, lengths.sum() * itemsize)
    return min(len(lengths), 1 + AHEAD_BYTES * len(lengths) // total)


@numba.njit(inline="always")
def _prefetch_run(data: Frames, frame_step: int, row_step: int, runs: Integers, place: int, n: int, run: int) -> None:
    """Prefetch a run of frame `n`; runs count on into the next frame.

    Its row, first column and column behind the last stand in the columns `place` to `place + 2` of `runs`.
    """
    start = n * frame_step
    if run >= len(runs):
        run, start = run - len(runs), start + frame_step
    start += runs[run, place] * row_step
    for x in range(start + runs[run, place + 1], start + runs[run, place + 2], LINE_BYTES // data.itemsize):
        prefetch(data, x)


@numba.njit(fastmath={"reassoc", "nsz", "contract"}, cache=True)
def _weighted_sums(
    data: Frames,
    frame_step: int,
    row_step: int,
    swapped: bool,
    runs: Integers,
    weights: NDArray[np.float32],
    out: Floats,
) -> None:
    """Add counts weighted with images to `out`, (N, D); see `Pixels` and `runs.Compiled`."""
    near = _runs_ahead(runs[:, 3] - runs[:, 2], data.itemsize)
    for n in range(len(out)):
        for i in range(len(runs)):
            _prefetch_run(data, frame_step, row_step, runs, 1, n, i + near)
            detector, row, first, behind, begin = runs[i]
            start = n * frame_step + row * row_step
            counts, weight = data[start + first : start + behind], weights[begin : begin + behind - first]
            total = 0.0
            for x in range(counts.size):
                total += np.float64(weight[x]) * np.float64(_count(counts[x], data, swapped))
            out[n, detector] += total
