"""Goodness of fit of the COM family: test whether a map of centres of mass is the gradient of a phase.

For a thin specimen and a camera that collects all electrons it is, exactly (thesis eq 3.2). A wrong rotation or
transpose, scan distortions, a thick specimen or electrons beyond the camera make the test fail.
"""

import math
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray

from agents.base import ResidualMap, Trust
from agents.com.integration import unexplained
from agents.com.rotation import curl_and_divergence
from agents.trust import whiteness
from twin.arrays import Floats

MODEL = "centres of mass are the gradient of one phase"

LARGEST_PART = 512
"""Largest side that is tested as one, positions: larger maps are cut to bound memory."""

EXPLAINS = 0.5
"""Part of the curl's power that a rotation or transpose has to take away to be named as a cause."""

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
    whole = np.full(variance.shape, np.nan)
    gradient, variance, residual = gradient[rows], variance[rows], whole[rows]
    for part in product(*(_parts(side) for side in variance.shape)):
        residual[part] = unexplained(gradient[part], variance[part])
    trust = whiteness(residual, MODEL, noise_uncertainty=NOISE_UNCERTAINTY)
    return None if trust is None else replace(trust, residual=ResidualMap(whole, "scan"))


def misfit_notes(gradient: Floats, trust: Trust | None) -> tuple[str, ...]:
    """Return notes on a map that is no gradient: by how much, the likely cause, and what to do; none where it fits.

    A rotation or transpose is named if it takes at least half of the curl's power away.

    Args:
        gradient: as for `gradient_trust`.
        trust: its verdict.
    """
    if trust is None or trust.fits:
        return ()
    size = (
        f"does not fit: centres of mass differ from a gradient by {math.sqrt(max(trust.variance, 0.0)):.2g} times their"
        f" noise, neighbours' differences correlate by {trust.correlation:+.2f}"
    )
    curl, (least, angle), (other, _) = _curl_powers(gradient)
    if other < EXPLAINS * min(curl, least):
        cause, remedy = "rows and columns of the camera are exchanged", "set transposed, or let dpc find it"
    elif least < EXPLAINS * curl:
        cause = "the rotation between camera and scan is not as told"
        remedy = f"add {-angle:+.0f} deg to rotation_deg (or 180 deg more), or let dpc find it"
    else:
        cause = "a specimen too thick for one projection, a distorted scan, or electrons beyond the camera"
        remedy = "take the image as qualitative: where atoms are holds, values of the phase do not; use a thinner area"
    return size, f"likely cause: {cause}", f"what to do: {remedy}"


def _curl_powers(gradient: Floats) -> tuple[float, tuple[float, float], tuple[float, float]]:
    """Mean squared curl as told; the least by a rotation, and its angle, deg; the same with the axes exchanged."""
    powers = []
    for field in (gradient, gradient[..., ::-1]):
        both = np.stack(curl_and_divergence(field))
        known = both[:, np.isfinite(both).all(axis=0)]
        product = known @ known.T / max(known.shape[1], 1)
        values, vectors = np.linalg.eigh(product)
        cosine, sine = vectors[:, 0] * (1.0 if vectors[0, 0] >= 0 else -1.0)
        powers.append((float(product[0, 0]), float(values[0]), math.degrees(math.atan2(sine, cosine))))
    told, turned = powers
    return told[0], told[1:], turned[1:]


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
