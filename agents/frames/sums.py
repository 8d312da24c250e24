"""Sums over frames: moments of whole frames or of a region, and counts under weight images.

Kernels read frames as they lie in memory: uint8, uint16 or uint32 of either byte order, in blocks that may be cut out
of a larger array or file, as long as the pixels of a row are neighbours. Anything else is copied once, or, if it is of
another type, computed by the plain definition in float64. Sums of whole counts are exact below 2^53.
"""

import weakref
from functools import lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import uint16, uint32
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from agents.frames.prefetch import AHEAD_BYTES, LINE_BYTES, prefetch, prefetch_all
from agents.frames.region import Region

Floats = NDArray[np.float64]
Frames = NDArray[np.unsignedinteger]
Integers = NDArray[np.intp]


def moments(frames: Frames, region: Region | None) -> Floats:
    """Counts, sum of column * counts and sum of row * counts, (N, 3); see `Block.moments`."""
    return moments_and_squares(frames, region)[:, :3]


def squares(frames: Frames, region: Region | None) -> Floats:
    """Sum of (column^2 + row^2) * counts, (N,); see `Block.squares`."""
    return moments_and_squares(frames, region)[:, 3]


def moments_and_squares(frames: Frames, region: Region | None) -> Floats:
    """The moments and, in a fourth column, the squares, (N, 4): reading the frames once gives both."""
    if not _is_counted(frames):
        return _plain_sums(frames, _moment_weights(region, frames.shape[1:]))
    pixels = _pixels(frames)
    count, height, width = frames.shape
    columns, rows = _scratch(pixels, width), _scratch(pixels, height)
    out = np.empty((count, 4))
    if region is None:
        _whole_moments(*pixels, columns, rows, out)
    else:
        runs, mask = _region_runs(region, (height, width), columns.itemsize)
        _region_moments(*pixels, runs, mask, columns, rows, out)
    return out


def sums(frames: Frames, weights: NDArray[np.float32]) -> Floats:
    """Counts under each weight image, (N, D).

    Weights are compiled to runs of pixels, so that none is read that no detector covers. Read-only weights are compiled
    only once; others may have changed between two calls and are compiled at each.

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
    _weighted_sums(*_pixels(frames), *_compiled(weights), out)
    return out


class Pixels(NamedTuple):
    """A block of frames as kernels read it: pixel (y, x) of frame n is `data[n * frame_step + y * row_step + x]`.

    Attributes:
        data: all of the block's memory in one piece, read-only, in the machine's own byte order whatever it holds.
        frame_step, row_step: items from one frame or row to the next.
        swapped: the counts are of the other byte order.
    """

    data: Frames
    frame_step: int
    row_step: int
    swapped: bool


def _is_counted(frames: NDArray[Any]) -> bool:
    """Whether the kernels know the type."""
    return frames.dtype.kind == "u" and frames.dtype.itemsize in (1, 2, 4)


def _pixels(frames: Frames) -> Pixels:
    """The same memory where the pixels of a row are neighbours, else a copy."""
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
    """Room for sums over a row or a column of the largest camera."""
    return np.empty(size, np.uint64 if pixels.data.itemsize == 4 else np.uint32)


def _inside(region: Region | None, camera: tuple[int, ...]) -> NDArray[np.bool_]:
    """Whole pixels of a region, (H, W)."""
    if region is None:
        return np.ones(camera, bool)
    row, column = np.indices(camera)
    distance = np.hypot(row - region.centre_px[0], column - region.centre_px[1])
    return np.asarray((region.inner_px <= distance) & (distance <= region.outer_px))


def _moment_weights(region: Region | None, camera: tuple[int, ...]) -> Floats:
    """What counts are multiplied by for each moment and for the squares, (4, H, W)."""
    row, column = np.indices(camera)
    return np.stack([np.ones(camera), column, row, column**2 + row**2]) * _inside(region, camera)


def _plain_sums(frames: NDArray[Any], weights: NDArray[np.floating]) -> Floats:
    """The definition, for types that no kernel knows."""
    return np.einsum("nhw,dhw->nd", frames.astype(np.float64), weights.astype(np.float64))


@lru_cache(maxsize=16)
def _region_runs(region: Region, camera: tuple[int, int], itemsize: int) -> tuple[Integers, Frames]:
    """A region as runs of pixels, (row, first column, behind the last, where its mask begins), (R, 4), rows rising.

    The mask of a pixel inside has all bits set.
    """
    inside = _inside(region, camera).astype(np.float32)
    runs, weights = compile_weights(inside[None])
    wide = np.dtype(f"u{itemsize}")
    # Contiguous whatever their number, so that the kernel is compiled for one layout of memory.
    return np.ascontiguousarray(runs[:, 1:]), np.where(weights > 0, np.iinfo(wide).max, 0).astype(wide)


LONGEST_GAP = 64
"""Pixels without weight that are read nevertheless: to stop and start again takes longer."""


class Compiled(NamedTuple):
    """Weight images as runs of pixels, from the top of the camera downwards.

    Attributes:
        runs: (detector, row, first column, column behind the last, where its weights begin), (R, 5).
        weights: of all runs, one after the other.
    """

    runs: Integers
    weights: NDArray[np.float32]


_compiled_before: dict[int, tuple["weakref.ref[NDArray[np.float32]]", Compiled]] = {}


def _compiled(weights: NDArray[np.float32]) -> Compiled:
    """Compile weights, or find what was compiled of the same read-only array."""
    key = id(weights)
    known = _compiled_before.get(key)
    if known is not None and known[0]() is weights:
        return known[1]
    made = compile_weights(weights)
    if not weights.flags.writeable and (weights.base is None or not weights.base.flags.writeable):
        _compiled_before[key] = (weakref.ref(weights, lambda _: _compiled_before.pop(key, None)), made)
    return made


def compile_weights(weights: NDArray[np.float32]) -> Compiled:
    """Weight images, (D, H, W), as what the kernel walks through."""
    runs: list[tuple[int, ...]] = []
    parts: list[NDArray[np.float32]] = [np.empty(0, np.float32)]
    begin = 0
    # Rows first: memory is then read from its beginning to its end, once for all detectors.
    for row, detector in np.argwhere((weights != 0).any(axis=2).T).tolist():
        line = weights[detector, row]
        for first, behind in _hulls(line != 0).tolist():
            runs.append((detector, row, first, behind, begin))
            parts.append(line[first:behind])
            begin += behind - first
    return Compiled(np.array(runs, np.intp).reshape(-1, 5), np.concatenate(parts).astype(np.float32))


def _hulls(line: NDArray[np.bool_]) -> Integers:
    """(first, behind the last) of the stretches of a row that hold all true entries and no long gap, (R, 2)."""
    at = np.flatnonzero(line)
    if not len(at):
        return np.empty((0, 2), np.intp)
    gaps = np.flatnonzero(np.diff(at) > LONGEST_GAP)
    return np.stack([at[np.append(0, gaps + 1)], at[np.append(gaps, len(at) - 1)] + 1], axis=1)


@numba.njit(inline="always", cache=True)
def _count(value: Any, data: Frames, swapped: bool) -> Any:
    """A count in the machine's own byte order; `data` tells its type when the kernel is compiled."""
    if not swapped or data.itemsize == 1:
        return data.dtype.type(value)
    if data.itemsize == 2:
        return data.dtype.type((uint16(value) >> uint16(8)) | (uint16(value) << uint16(8)))
    pairs = ((uint32(value) & uint32(0x00FF00FF)) << uint32(8)) | ((uint32(value) >> uint32(8)) & uint32(0x00FF00FF))
    return data.dtype.type((uint32(pairs) << uint32(16)) | (uint32(pairs) >> uint32(16)))


@numba.njit(fastmath={"reassoc", "nsz"}, cache=True)
def _by_index(counts: NDArray[np.unsignedinteger]) -> tuple[float, float, float]:
    """Sums of counts, index * counts and index^2 * counts: whole numbers, so that their order does not matter."""
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
    """Moments and squares of whole frames into `out`, (N, 4).

    Two rows at a time: half as many passes over the sums of the columns.

    Args:
        data, frame_step, row_step, swapped: see `Pixels`.
        columns, rows: scratch of a frame's width and height, of a type that holds the sum of each.
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
    """Moments and squares of the pixels of a region, see `_region_runs`; else as `_whole_moments`."""
    wide = columns.dtype.type
    line, near = LINE_BYTES // data.itemsize, _runs_ahead(runs[:, 2] - runs[:, 1], data.itemsize)
    for n in range(len(out)):
        columns[:] = 0
        rows[:] = 0
        for i in range(len(runs)):
            j, later = i + near, n * frame_step
            if j >= len(runs):
                j, later = j - len(runs), later + frame_step
            later += runs[j, 0] * row_step
            for x in range(later + runs[j, 1], later + runs[j, 2], line):
                prefetch(data, x)
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
    """How many runs of these lengths lie `AHEAD_BYTES` apart, at most all of them."""
    total = max(1, lengths.sum() * itemsize)
    return min(len(lengths), 1 + AHEAD_BYTES * len(lengths) // total)


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
    """Counts under weight images into `out`, (N, D), which comes in as zeros; see `Pixels` and `Compiled`."""
    line, near = LINE_BYTES // data.itemsize, _runs_ahead(runs[:, 3] - runs[:, 2], data.itemsize)
    for n in range(len(out)):
        for i in range(len(runs)):
            j, later = i + near, n * frame_step
            if j >= len(runs):
                j, later = j - len(runs), later + frame_step
            later += runs[j, 1] * row_step
            for x in range(later + runs[j, 2], later + runs[j, 3], line):
                prefetch(data, x)
            detector, row, first, behind, begin = runs[i]
            start = n * frame_step + row * row_step
            counts, share = data[start + first : start + behind], weights[begin : begin + behind - first]
            total = 0.0
            for x in range(counts.size):
                total += np.float64(share[x]) * np.float64(_count(counts[x], data, swapped))
            out[n, detector] += total
