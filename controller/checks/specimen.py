"""Does a frame show a specimen? An evenly lit disc has shot noise alone; a film adds power to the spectrum."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from controller import preprocess
from twin.arrays import Array

INNER = 11 / 16
"""Side of the square inside the disc that is looked at, over the frame's side: it leaves out the edge of the disc."""
LOW_PX, HIGH_PX, TILE_PX, FULL_TILE = 3, 26, 6, 18
"""Band of frequencies, and side and least number of frequencies of its tiles, for a square of 88 pixels."""
CORRELATION = 3.78
"""Design effect of a Hann periodogram, see `spectrum.model.CORRELATION`."""
EMPTY = 2.7
"""`visibility` of one frame below which no specimen is seen. One frame of an empty disc in a hundred exceeds it; films
of severity 1 at states of the start box reach it in 97 %, the others are in focus or have little dose."""
EMPTY_MEAN, EMPTY_RMS, CERTAIN = 1.1, 0.55, 4.0
"""Mean and rms of the visibility of an empty disc at 1.8e5 to 3e6 electrons, and the number of standard errors from
which the mean of several frames is above it."""


@lru_cache(maxsize=4)
def _tiles(side: int) -> tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]:
    """Band on half a plane, tile of each of its frequencies, number of frequencies of each tile."""
    y, x = np.mgrid[:side, :side] - side // 2
    scale = side / 88
    radius = np.hypot(y, x)
    half = (radius >= LOW_PX * scale) & (radius <= HIGH_PX * scale) & ((x > 0) | ((x == 0) & (y > 0)))
    label = ((y[half] + side) // TILE_PX) * 10 * side + (x[half] + side) // TILE_PX
    _, tile = np.unique(label, return_inverse=True)
    return half, tile, np.bincount(tile)


def visibility(counts: Array) -> float:
    """Mean squared deviation of the spectrum's tiles from the shot noise, in units of its variance; about 1 for none.

    Args:
        counts: above the dark level, on the reference camera, (H, H).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> visibility(rng.poisson(80.0, (128, 128)).astype(float)) < EMPTY
        True
        >>> stripes = 80.0 + 8.0 * np.cos(np.arange(128))
        >>> visibility(rng.poisson(np.tile(stripes, (128, 1))).astype(float)) > EMPTY
        True
    """
    side = round(INNER * len(counts) / 2) * 2
    start = (len(counts) - side) // 2
    middle = preprocess.remove_defects(counts)[start : start + side, start : start + side]
    power = preprocess.spectrum(middle)
    ratio = power / preprocess.noise_floor(power).power(side)
    half, tile, count = _tiles(side)
    mean = np.bincount(tile, ratio[half]) / count
    full = count >= FULL_TILE
    return float(np.mean((mean[full] - 1) ** 2 * count[full])) / CORRELATION


def is_seen(visibilities: Sequence[float]) -> bool:
    """Whether frames of these visibilities together show a specimen.

    Example:
        >>> is_seen([1.2, 0.8, 1.5]), is_seen([2.2, 2.6, 3.1])
        (False, True)
    """
    number = len(visibilities)
    return number > 0 and float(np.mean(visibilities)) >= EMPTY_MEAN + CERTAIN * EMPTY_RMS / number**0.5
