"""Charge sharing: division of an electron's charge among pixels, and the pixels above a threshold.

The charge cloud is Gaussian, so the fraction in a pixel is a product of one factor along x and one along y: with d the
distance from pixel centre to electron and s the cloud's rms radius, in pixels,
f(d) = Phi((d + 1/2) / s) - Phi((d - 1/2) / s). A pixel counts where f(dx) f(dy) reaches the threshold t.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

QUADRATURE = 4000
"""Midpoints per pixel: the area above a threshold is then accurate to 1e-6."""


def reach_px(spread_px: float, threshold: float) -> int:
    """Largest distance, in pixels, of a pixel that can collect the fraction `threshold` of the charge; exact bound.

    The near edge of a pixel k away is at least k - 1 away, so that it collects at most Phi(-(k - 1) / s).
    """
    if spread_px == 0.0:
        return 0
    return 1 + math.floor(spread_px * max(float(ndtri(1.0 - threshold)), 0.0))


def axis_share(distance_px: NDArray[np.float64], spread_px: float) -> NDArray[np.float64]:
    """f(d) of the module's docstring; any shape. Without spread, 1 inside the pixel and 0 outside."""
    if spread_px == 0.0:
        return (np.abs(distance_px) < 0.5).astype(np.float64)
    return np.asarray(ndtr((distance_px + 0.5) / spread_px) - ndtr((distance_px - 0.5) / spread_px))


def half_width_px(dy_px: NDArray[np.float64], spread_px: float, threshold: float) -> NDArray[np.float64]:
    """Largest |dx| at which a pixel counts an electron at distance dy from its row; 0 if none; same shape.

    By bisection: f decreases on both sides of its centre.
    """
    across = axis_share(dy_px, spread_px)
    low, high = np.zeros_like(dy_px), np.full_like(dy_px, 1.0 + reach_px(spread_px, threshold))
    for _ in range(50):
        middle = (low + high) / 2
        counts = axis_share(middle, spread_px) * across >= threshold
        low, high = np.where(counts, middle, low), np.where(counts, high, middle)
    return np.where(across * axis_share(np.zeros(1), spread_px) >= threshold, low, 0.0)


def modulation_transfer(frequency: ArrayLike, spread_px: float, threshold: float) -> NDArray[np.float64]:
    """Transfer along x before sampling, 1 at zero; `frequency` in cycles per pixel, shape (n,).

    Fourier transform of the area in which a pixel counts: integral of sin(2 pi f a(y)) / (pi f) over y, with the half
    width a(y). Without spread it is the pixel's sinc; thresholds above a half make the effective pixel smaller and the
    transfer higher, lower thresholds the opposite (McMullan et al., Ultramicroscopy 107, 401, 2007).
    """
    r = reach_px(spread_px, threshold)
    y = ((np.arange((2 * r + 1) * QUADRATURE) + 0.5) / QUADRATURE) - (r + 0.5)
    width = half_width_px(y, spread_px, threshold)
    f = np.asarray(frequency, np.float64)[:, None]
    return np.asarray(np.sum(2 * width * np.sinc(2 * f * width), axis=1) / np.sum(2 * width))
