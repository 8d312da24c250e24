"""Charge sharing: how an electron's charge divides among pixels, and what a threshold makes of it on average.

The charge cloud is Gaussian, so the share of a pixel is a product of one factor along x and one along y: with d the
distance from pixel centre to electron and s the cloud's rms radius, in pixels,
f(d) = Phi((d + 1/2) / s) - Phi((d - 1/2) / s). A pixel counts where f(dx) f(dy) reaches the threshold t.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri

QUADRATURE = 4000
"""Midpoints per pixel: the area within a threshold is then good to 1e-6."""


def reach_px(spread_px: float, threshold: float) -> int:
    """Pixels on either side of the electron's own that can collect `threshold` of its charge; exact bound.

    A pixel k away begins at least k - 1 away and collects at most Phi(-(k - 1) / s).
    """
    if spread_px == 0.0:
        return 0
    return 1 + math.floor(spread_px * max(float(ndtri(1.0 - threshold)), 0.0))


def axis_share(distance_px: NDArray[np.float64], spread_px: float) -> NDArray[np.float64]:
    """f(d) of the module's docstring; any shape. Without spread it is 1 inside the pixel and 0 outside."""
    if spread_px == 0.0:
        return (np.abs(distance_px) < 0.5).astype(np.float64)
    return np.asarray(ndtr((distance_px + 0.5) / spread_px) - ndtr((distance_px - 0.5) / spread_px))


def half_width_px(dy_px: NDArray[np.float64], spread_px: float, threshold: float) -> NDArray[np.float64]:
    """Largest |dx| at which a pixel counts an electron that is dy beside its row; 0 where none; same shape.

    By bisection: f falls on both sides of its centre.
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

    The Fourier transform of where a pixel counts: integral of sin(2 pi f a(y)) / (pi f) over y, with the half width
    a(y). Without spread it is the pixel's sinc; thresholds above a half make the pixel effectively smaller and the
    transfer higher, lower ones the other way round (McMullan et al., Ultramicroscopy 107, 401, 2007).
    """
    r = reach_px(spread_px, threshold)
    y = ((np.arange((2 * r + 1) * QUADRATURE) + 0.5) / QUADRATURE) - (r + 0.5)
    width = half_width_px(y, spread_px, threshold)
    f = np.asarray(frequency, np.float64)[:, None]
    return np.asarray(np.sum(2 * width * np.sinc(2 * f * width), axis=1) / np.sum(2 * width))
