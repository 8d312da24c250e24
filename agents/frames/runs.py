"""Weight images and regions as runs of pixels, so that kernels read only pixels with weight."""

import weakref
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.frames.region import Region

Frames = NDArray[np.unsignedinteger]
Integers = NDArray[np.intp]

LONGEST_GAP = 64
"""Gaps of up to this many pixels without weight are read: a new run takes longer."""


class Compiled(NamedTuple):
    """Weight images as runs of pixels, from the top of the camera downwards.

    Attributes:
        runs: (detector, row, first column, column after the last, index of its first weight), (R, 5).
        weights: weights of all runs in order.
    """

    runs: Integers
    weights: NDArray[np.float32]


cache: dict[int, tuple["weakref.ref[NDArray[np.float32]]", Compiled]] = {}


def compiled(weights: NDArray[np.float32]) -> Compiled:
    """Compile weights; those of a read-only array are kept as long as the array."""
    key = id(weights)
    kept = cache.get(key)
    if kept is not None and kept[0]() is weights:
        return kept[1]
    made = compile_weights(weights)
    if not weights.flags.writeable and (weights.base is None or not weights.base.flags.writeable):
        cache[key] = (weakref.ref(weights, lambda _: cache.pop(key, None)), made)
    return made


def compile_weights(weights: NDArray[np.float32]) -> Compiled:
    """Compile weight images, (D, H, W)."""
    runs: list[tuple[int, ...]] = []
    parts: list[NDArray[np.float32]] = [np.empty(0, np.float32)]
    begin = 0
    # Rows first: memory is read in order, once for all detectors.
    for row, detector in np.argwhere((weights != 0).any(axis=2).T).tolist():
        line = weights[detector, row]
        for first, stop in _hulls(line != 0).tolist():
            runs.append((detector, row, first, stop, begin))
            parts.append(line[first:stop])
            begin += stop - first
    return Compiled(np.array(runs, np.intp).reshape(-1, 5), np.concatenate(parts).astype(np.float32))


def _hulls(line: NDArray[np.bool_]) -> Integers:
    """(first, after the last) of the stretches of a row with all true entries and no long gap, (R, 2)."""
    at = np.flatnonzero(line)
    if not len(at):
        return np.empty((0, 2), np.intp)
    gaps = np.flatnonzero(np.diff(at) > LONGEST_GAP)
    return np.stack([at[np.append(0, gaps + 1)], at[np.append(gaps, len(at) - 1)] + 1], axis=1)


@lru_cache(maxsize=16)
def region_runs(region: Region, camera: tuple[int, int], itemsize: int) -> tuple[Integers, Frames]:
    """A region as runs of pixels, (row, first column, after the last, index of its first mask), (R, 4), and the masks.

    The mask of a pixel inside has all bits set.
    """
    runs, weights = compile_weights(region.mask(camera).astype(np.float32)[None])
    wide = np.dtype(f"u{itemsize}")
    # Contiguous also for a single run: the kernel is compiled for one memory layout.
    return np.ascontiguousarray(runs[:, 1:]), np.where(weights > 0, np.iinfo(wide).max, 0).astype(wide)
