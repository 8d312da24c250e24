"""Sums over frames: the plain definitions that faster kernels have to equal."""

import numpy as np
from numpy.typing import NDArray

from agents.region import Region

Floats = NDArray[np.float64]
Frames = NDArray[np.unsignedinteger]


def moments(frames: Frames, region: Region | None) -> Floats:
    """Counts, sum of column * counts and sum of row * counts, (N, 3); see `Block.moments`."""
    row, column = np.indices(frames.shape[1:])
    inside = np.ones(frames.shape[1:], bool)
    if region is not None:
        distance = np.hypot(row - region.centre_px[0], column - region.centre_px[1])
        inside = (region.inner_px <= distance) & (distance <= region.outer_px)
    weights = np.stack([inside, column * inside, row * inside]).astype(np.float64)
    return np.einsum("nhw,dhw->nd", frames.astype(np.float64), weights)


def sums(frames: Frames, weights: NDArray[np.float32]) -> Floats:
    """Counts under each weight image, (N, D)."""
    return np.einsum("nhw,dhw->nd", frames.astype(np.float64), weights.astype(np.float64))
