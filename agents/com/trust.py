"""Whether a map of centres of mass is the gradient of a phase, within its noise: the trust of the COM family.

For a thin specimen under a beam that is collected in full it is one, exactly (thesis eq 3.2). A wrong rotation or a
transposed camera, scan distortions, a thick specimen or beam lost beyond the camera make it something else.
"""

import math
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from agents.base import Trust
from agents.com.integration import unexplained
from agents.trust import whiteness

Floats = NDArray[np.float64]

MODEL = "centres of mass are the gradient of one phase"

LARGEST_PART = 512
"""Positions along a side that are tested as one: larger maps are cut, which bounds memory."""

NOISE_UNCERTAINTY = 0.02
"""Relative standard error of the variance: the pattern's width is averaged over the scan and over both axes."""


def gradient_trust(gradient: Floats, variance: Floats) -> Trust | None:
    """Test of the rows that are complete.

    Args:
        gradient: along the fast and the slow axis, (R, C, 2), NaN where nothing is known.
        variance: of either component, (R, C), in the square of the gradient's unit.

    Returns:
        The verdict, or None when too few rows are complete, or for data without noise.
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
    """The longest run of rows in which every position is known; an empty slice when there is none."""
    full = np.concatenate([[False], known.all(axis=1), [False]]).astype(np.int8)
    starts, stops = np.flatnonzero(np.diff(full) == 1), np.flatnonzero(np.diff(full) == -1)
    if not len(starts):
        return slice(0, 0)
    longest = int(np.argmax(stops - starts))
    return slice(int(starts[longest]), int(stops[longest]))


def _parts(side: int) -> list[slice]:
    """A side cut into as few nearly equal parts as may be."""
    cuts = np.linspace(0, side, math.ceil(side / LARGEST_PART) + 1).round().astype(int).tolist()
    return [slice(first, stop) for first, stop in pairwise(cuts)]
