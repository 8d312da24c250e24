"""Frames of a camera in memory, and how fast memory can be read at all."""

import numba
import numpy as np
from numpy.typing import NDArray

from benchmarks.rounds import Work

Frames = NDArray[np.unsignedinteger]


def discs(side: int, radius_px: float, size_bytes: int) -> Frames:
    """Discs of a few counts per pixel, big-endian uint16 as a Merlin camera sends them, (count, side, side)."""
    y, x = np.indices((side, side)) - side // 2
    expected = np.where(np.hypot(y, x) < radius_px, 5.0, 0.05)
    few = np.random.default_rng(0).poisson(expected, (16, side, side)).astype(">u2")
    return np.tile(few, (size_bytes // few.nbytes, 1, 1))


@numba.njit(cache=True, nogil=True)
def _sum(words: NDArray[np.uint64]) -> np.uint64:
    total = np.uint64(0)
    for word in words:
        total += word
    return total


def reading(words: NDArray[np.uint64]) -> Work:
    """A plain sum over the memory: nothing that uses every byte is faster."""
    return lambda: _sum(words)
