"""Goodness of fit of the COM family: test whether a map of centres of mass is the gradient of a phase.

For a thin specimen and a camera that collects all electrons it is, exactly (thesis eq 3.2). A wrong rotation or
transpose, scan distortions, a thick specimen or electrons beyond the camera make the test fail.
"""

import math
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from agents.base import Trust
from agents.com.integration import unexplained
from agents.trust import whiteness
from twin.arrays import Floats

MODEL = "centres of mass are the gradient of one phase"

LARGEST_PART = 512
"""Largest side that is tested as one, positions: larger maps are cut to bound memory."""

NOISE_UNCERTAINTY = 0.02
"""Relative standard error of the variance, which is pooled over the scan and both axes."""


def gradient_trust(gradient: Floats, variance: Floats) -> Trust | None:
    """Test the complete rows of a map.

    Args:
        gradient: along the fast and the slow axis, (R, C, 2), NaN where unknown.
        variance: variance of either component, (R, C), in the square of the gradient's unit.

    Returns:
        The outcome, or None if too few rows are complete or the data have no noise.
    """
    rows = complete_rows(np.isfinite(gradient).all(axis=2) & (variance > 0))
    if rows.stop == rows.start:
        return None
    gradient, variance = gradient[rows], variance[rows]
    residual = np.empty(variance.shape)
    for part in product(*(_parts(side) for side in variance.shape)):
        residual[part] = unexplained(gradient[part], variance[part])
    return whiteness(residual, MODEL, noise_uncertainty=NOISE_UNCERTAINTY)


def complete_rows(known: NDArray[np.bool_]) -> slice:
    """Longest run of rows in which every position is known; an empty slice if there is none."""
    full = np.concatenate([[False], known.all(axis=1), [False]]).astype(np.int8)
    starts, stops = np.flatnonzero(np.diff(full) == 1), np.flatnonzero(np.diff(full) == -1)
    if not len(starts):
        return slice(0, 0)
    longest = int(np.argmax(stops - starts))
    return slice(int(starts[longest]), int(stops[longest]))


def _parts(side: int) -> list[slice]:
    """Cut a side into the fewest nearly equal parts of at most `LARGEST_PART`."""
    cuts = np.linspace(0, side, math.ceil(side / LARGEST_PART) + 1).round().astype(int).tolist()
    return [slice(first, stop) for first, stop in pairwise(cuts)]
