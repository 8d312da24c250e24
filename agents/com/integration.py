"""Integration of a gradient map by Fourier transforms (iCOM, thesis eq 3.5), and the part of it that has no potential.

A scan is not periodic. Mirrored at its edges it is: the phase becomes a sum of cosines, its gradient a product of sines
along one and cosines along the other axis, and the fit is the least-squares fit on the scan itself.
"""

import math
from typing import Literal

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from twin.arrays import Floats

Boundary = Literal["mirror", "periodic"]

MARGIN = 2
"""Positions at every edge that the test of residuals leaves out: mirroring is inaccurate there."""
TAPER = 10
"""Positions of the smooth rise of the tested part."""
TESTED = 8
"""Smallest side of the tested part, positions."""


def integrate(
    gradient: Floats,
    step_nm: float = 1.0,
    boundary: Boundary = "mirror",
    k_min_per_nm: float | None = None,
    k_max_per_nm: float | None = None,
) -> Floats:
    """Phase of mean zero whose gradient is the least-squares fit to a map (eq 3.5).

    Args:
        gradient: along the fast and the slow axis, (R, C, 2), rad / nm; zero where unknown.
        step_nm: scan step.
        boundary: "mirror", or "periodic" for a scan of whole periods of the specimen.
        k_min_per_nm, k_max_per_nm: band of frequencies (eq 3.9), cycles per nm; None for no limit.

    Returns:
        (R, C), rad.
    """
    shape = gradient.shape[:2]
    if boundary == "periodic":
        k_y, k_x = _repeating(shape)
        gain = _gain(k_x, k_y, step_nm, k_min_per_nm, k_max_per_nm)
        spectrum = scipy.fft.rfft2(gradient, axes=(0, 1))
        divergence = k_x * spectrum[..., 0] + k_y * spectrum[..., 1]
        return scipy.fft.irfft2(-1j * gain * divergence, shape)
    # Cosine p has p / 2 cycles along the axis; its derivative is minus the sine of the same number.
    k_y, k_x = np.arange(shape[0])[:, None] / (2 * shape[0]), np.arange(shape[1]) / (2 * shape[1])
    gain = _gain(k_x, k_y, step_nm, k_min_per_nm, k_max_per_nm)
    fast = scipy.fft.dct(_sines(gradient[..., 0], 1), axis=0, norm="ortho")
    slow = scipy.fft.dct(_sines(gradient[..., 1], 0), axis=1, norm="ortho")
    return scipy.fft.idctn(-gain * (k_x * fast + k_y * slow), norm="ortho")


def unexplained(gradient: Floats, variance: Floats) -> Floats:
    """Solenoidal part of a gradient map over its noise: white and of variance one if the map is a gradient.

    The best-fitting phase is multiplied by a smooth window: the map becomes periodic, and derivatives are exact for
    every frequency of the scan. At each frequency no phase has a gradient across the wave vector. This component is one
    residual per position; the other one was fitted.

    Args:
        gradient: (R, C, 2), every position known; any unit.
        variance: variance of either component, (R, C), in the square of this unit.

    Returns:
        (R, C), NaN near the edges; all NaN for a scan that is too small.
    """
    rows, columns = gradient.shape[:2]
    taper = min(TAPER, min(rows, columns) // 4)
    frame = MARGIN + taper
    residual = np.full((rows, columns), np.nan)
    if min(rows, columns) < 2 * frame + TESTED:
        return residual
    (window_y, slope_y), (window_x, slope_x) = _window(rows, taper), _window(columns, taper)
    window = window_y[:, None] * window_x
    phase = integrate(gradient)
    phase -= (window * phase).sum() / window.sum()
    # Gradient of window times phase, with the measured gradient of the phase.
    fast = window * gradient[..., 0] + phase * window_y[:, None] * slope_x
    slow = window * gradient[..., 1] + phase * slope_y[:, None] * window_x
    across_y, across_x = _across((rows, columns))
    spectrum = across_x * scipy.fft.rfft2(fast) + across_y * scipy.fft.rfft2(slow)
    power = scipy.fft.irfft2(across_x, (rows, columns)) ** 2 + scipy.fft.irfft2(across_y, (rows, columns)) ** 2
    noise = scipy.fft.irfft2(scipy.fft.rfft2(power) * scipy.fft.rfft2(window**2 * variance), (rows, columns))
    part = slice(frame, rows - frame), slice(frame, columns - frame)
    residual[part] = (scipy.fft.irfft2(spectrum, (rows, columns)) / np.sqrt(noise))[part]
    return residual


def _repeating(shape: tuple[int, int]) -> tuple[Floats, Floats]:
    """Frequencies along the slow and the fast axis for `rfft2`, cycles per position.

    The Nyquist frequency of an even number is set to zero: a real wave of it has no derivative on the grid.
    """
    k_y, k_x = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])
    return np.where(np.abs(k_y) == 0.5, 0.0, k_y), np.where(k_x == 0.5, 0.0, k_x)


def _gain(k_x: Floats, k_y: Floats, step_nm: float, k_min_per_nm: float | None, k_max_per_nm: float | None) -> Floats:
    """step / (2 pi k^2), zero for k = 0 and outside the band; k in cycles per position."""
    k2 = k_x**2 + k_y**2
    kept = k2 > 0.0
    if k_min_per_nm is not None:
        kept &= k2 >= (k_min_per_nm * step_nm) ** 2
    if k_max_per_nm is not None:
        kept &= k2 <= (k_max_per_nm * step_nm) ** 2
    return np.where(kept, step_nm / (2.0 * math.pi * np.where(kept, k2, 1.0)), 0.0)


def _sines(values: Floats, axis: int) -> Floats:
    """Sine coefficients with number p at index p; the last one, which has no cosine, is dropped."""
    shifted = np.roll(scipy.fft.dst(values, axis=axis, norm="ortho"), 1, axis=axis)
    np.moveaxis(shifted, axis, 0)[0] = 0.0
    return shifted


def _across(shape: tuple[int, int]) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
    """Unit vector normal to each wave vector, slow and fast component, times i, for `rfft2`; zero for the mean."""
    k_y, k_x = _repeating(shape)
    k = np.hypot(k_x, k_y)
    k = np.where(k > 0, k, np.inf)
    return -1j * k_x / k, 1j * k_y / k


def _window(size: int, taper: int) -> tuple[Floats, Floats]:
    """Window of `MARGIN` zeros, a smooth rise, ones, and the mirror image; and its derivative per position."""
    m = np.arange(size)
    t = np.clip((np.minimum(m, size - 1 - m) - MARGIN) / taper, 0.0, 1.0)
    slope = 30.0 * t**2 * (1.0 - t) ** 2 / taper
    return t**3 * (10.0 - 15.0 * t + 6.0 * t**2), np.where(m < size / 2, slope, -slope)
