"""How much of a frame is saturated."""

import numpy as np

from controller import preprocess
from twin.types import Frame

SATURATED_SHARE = "saturated_share"
"""Setting of a frame that tells its saturated fraction."""
LEAST_LIMIT, FEWEST_AT_LIMIT, AT_LIMIT = 4, 5, 1.5
"""Smallest count at which a camera can be seen to cut off, and how many pixels have it then: at least this number, and
this multiple of those at the next lower count."""


def saturated(frame: Frame) -> float:
    """Fraction of the lit pixels at the largest count, if the camera cuts off there; single stuck pixels do not count.

    Where nothing is cut off, fewer pixels have the largest count than the next lower one. If the counts were changed
    after the read-out, for example by a gain reference, the fraction is taken from the settings of the frame.

    Example:
        >>> counts = np.random.default_rng(0).poisson(40.0, (64, 64)).astype(np.uint16)
        >>> whole = Frame(counts, dose_e=2e5, exposure_s=0.5, clock_s=0.0)
        >>> cut = Frame(counts.clip(max=40), dose_e=2e5, exposure_s=0.5, clock_s=0.0)
        >>> saturated(whole), 0.5 < saturated(cut) < 0.6
        (0.0, True)
    """
    if SATURATED_SHARE in frame.settings:
        return frame.settings[SATURATED_SHARE]
    counts = preprocess.remove_defects(np.asarray(frame.counts, np.float64))
    lit = counts[counts > 0.5 * np.percentile(counts, 90)]
    values, pixels = np.unique(lit, return_counts=True)
    if not len(values) or values[-1] < LEAST_LIMIT or pixels[-1] < FEWEST_AT_LIMIT:
        return 0.0
    next_lower = pixels[-2] if len(values) > 1 else 0
    return float(pixels[-1] / len(lit)) if pixels[-1] > AT_LIMIT * next_lower else 0.0
