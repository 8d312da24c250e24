"""Charge sharing: the reach of an electron's charge cloud, a Gaussian of rms radius s pixels."""

import math

from scipy.special import ndtri


def reach_px(spread_px: float, threshold: float) -> int:
    """Largest distance, in pixels, of a pixel that can collect the fraction `threshold` of the charge; exact bound.

    The near edge of a pixel k away is at least k - 1 away, so that it collects at most Phi(-(k - 1) / s).
    """
    if spread_px == 0.0:
        return 0
    return 1 + math.floor(spread_px * max(float(ndtri(1.0 - threshold)), 0.0))
