"""Exact means and transfer of a counting camera, and settings of two real chips, for tests to compare with.

The charge cloud is Gaussian, so the fraction in a pixel is a product of one factor along x and one along y: with d the
distance from pixel centre to electron and s the cloud's rms radius, in pixels,
f(d) = Phi((d + 1/2) / s) - Phi((d - 1/2) / s). A pixel counts where f(dx) f(dy) reaches the threshold t.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammainc, ndtr

from twin.cameras import sharing
from twin.cameras.properties import CountingCamera, EventCamera

QUADRATURE = 4000
"""Midpoints per pixel: the area above a threshold is then accurate to 1e-6."""

MEDIPIX3 = CountingCamera(charge_spread_px=0.25, threshold=0.3, dead_time_s=1e-6, bit_depth=12)
"""Plausible for a 55 um hybrid counting chip at 300 kV in single-pixel mode (Ballabriga et al. 2011)."""

TIMEPIX3 = EventCamera(
    deposit_width_kev=15.0,
    charge_spread_px=0.3,
    toa_rms_ns=1.6,
    timewalk_ns_kev=150.0,
    dead_time_s=475e-9,
    reorder_s=20e-6,
)
"""Plausible for a 55 um hybrid event chip at 300 kV (Poikela et al. 2014: 475 ns between hits of a pixel)."""


def recorded_mean(expected_e: ArrayLike, dead_share: float, paralyzable: bool) -> NDArray[np.float64]:
    """Mean count of a pixel on which `expected_e` electrons fall evenly in time; exact, same shape.

    Awake at the start. A paralyzable pixel counts each electron whose predecessor is at least the dead time away,
    (1 - exp(-x)) + (lambda - x) exp(-x) with x = lambda * dead_share. A non-paralyzable one counts a k-th time if k
    electrons fall outside the k - 1 dead times before it: a sum of gamma distributions. For many counts in a short
    dead time these are lambda exp(-x) and lambda / (1 + x) (Knoll, Radiation Detection and Measurement, chapter 4).

    Args:
        expected_e: mean number of electrons in the exposure.
        dead_share: dead time as a share of the exposure.
        paralyzable: whether an electron within the dead time extends it.
    """
    mean = np.asarray(expected_e, np.float64)
    if dead_share == 0.0:
        return mean.copy()
    if paralyzable:
        x = mean * min(dead_share, 1.0)
        return np.asarray(-np.expm1(-x) + (mean - x) * np.exp(-x))
    k = np.arange(1, math.ceil(1.0 / dead_share) + 1)
    live = np.maximum(1.0 - (k - 1) * dead_share, 0.0)
    return np.asarray(gammainc(k, mean[..., None] * live).sum(-1))


def count_kernel(spread_px: float, threshold: float) -> NDArray[np.float64]:
    """Mean counts in the pixels around the one that an electron falls into, (2 r + 1, 2 r + 1).

    The average over the electron's place in its pixel: the area of that pixel from where a neighbour counts. Its sum
    is the mean number of counts per electron.
    """
    r = sharing.reach_px(spread_px, threshold)
    inside = (np.arange(QUADRATURE) + 0.5) / QUADRATURE - 0.5
    kernel = np.empty((2 * r + 1, 2 * r + 1))
    for row, i in enumerate(range(-r, r + 1)):
        width = half_width_px(inside + i, spread_px, threshold)
        for column, j in enumerate(range(-r, r + 1)):
            kernel[row, column] = np.mean(np.clip(width, j - 0.5, j + 0.5) - np.clip(-width, j - 0.5, j + 0.5))
    return kernel


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
    low, high = np.zeros_like(dy_px), np.full_like(dy_px, 1.0 + sharing.reach_px(spread_px, threshold))
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
    r = sharing.reach_px(spread_px, threshold)
    y = ((np.arange((2 * r + 1) * QUADRATURE) + 0.5) / QUADRATURE) - (r + 0.5)
    width = half_width_px(y, spread_px, threshold)
    f = np.asarray(frequency, np.float64)[:, None]
    return np.asarray(np.sum(2 * width * np.sinc(2 * f * width), axis=1) / np.sum(2 * width))
