"""Quality of the probe for given aberrations: phase at the aperture, Strehl ratio, size.

Free functions of `Aberrations` and `Optics` in numpy; coherent, without focal spread or source size.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.optimize import brentq
from scipy.special import j1

from twin.aberrations import NAMES, Aberrations, aberration_basis
from twin.arrays import Array
from twin.optics import Optics, probe_extent_nm

QUARTER_PI_LIMIT_RAD = math.pi / 4
"""Phase at the aperture's edge up to which an aberration is commonly considered harmless."""

RINGS, SPOKES = 64, 192
"""Quadrature over the aperture; accurate up to some 100 rad of phase."""

TAIL_WIDTHS = 32.0
"""Window beyond the geometric probe, in units of lambda / alpha: it holds 99.4 % of an Airy pattern."""

BINS_PER_PIXEL = 2


@lru_cache(maxsize=4)
def _quadrature(optics: Optics) -> tuple[Array, Array, Array]:
    """Basis (25, P) in rad/nm on rings and spokes, the first `SPOKES` points on the edge; tilts (2, P); weights (P,).

    Gauss-Legendre in the squared radius, in which the area is uniform. The edge has weight zero.
    """
    nodes, weights = np.polynomial.legendre.leggauss(RINGS)
    radii = np.concatenate([[1.0], np.sqrt((nodes + 1) / 2)])
    shares = np.concatenate([[0.0], weights / (2 * SPOKES)])
    phi = 2 * np.pi * np.arange(SPOKES) / SPOKES
    x, y = np.outer(radii, np.cos(phi)).ravel(), np.outer(radii, np.sin(phi)).ravel()
    basis = aberration_basis(NAMES, optics.convergence_mrad * x, optics.convergence_mrad * y, optics.wavelength_nm)
    return basis, np.stack([x, y]), np.repeat(shares, SPOKES)


def residual_phase_rad(aberrations: Aberrations, optics: Optics) -> float:
    """Largest |chi| over the aperture including its edge, rad. Chi is zero on the axis."""
    basis, _, _ = _quadrature(optics)
    return float(np.max(np.abs(aberrations.array() @ basis)))


@lru_cache(maxsize=64)
def quarter_pi_limit_nm(name: str, optics: Optics) -> float:
    """Value of one coefficient, nm, for a phase of pi / 4 at the edge of the aperture.

    Raises:
        ValueError: an unknown name.
    """
    return QUARTER_PI_LIMIT_RAD / residual_phase_rad(Aberrations.of({name: 1.0}), optics)


def strehl_ratio(aberrations: Aberrations, optics: Optics) -> float:
    """Intensity at the probe's centre over that of the perfect probe, |<exp(-i chi)>|^2 (Born & Wolf, 9.1.3).

    At the centre, the least-squares tilt of the phase is zero: the displacement of a probe by coma does not count.
    Without odd aberrations the centre is on the optic axis.
    """
    basis, tilts, weights = _quadrature(optics)
    chi = aberrations.array() @ basis
    chi = chi - _tilt(chi, tilts, weights) @ tilts
    return float(abs(np.sum(weights * np.exp(-1j * chi))) ** 2)


def _tilt(chi: Array, tilts: Array, weights: Array) -> Array:
    """Least-squares slope of chi along x and y, rad per aperture radius, shape (2,)."""
    slopes: Array = (tilts * weights) @ chi / ((tilts**2) @ weights)
    return slopes


def probe_intensity(aberrations: Aberrations, optics: Optics, sampling_nm: float, pixels: int) -> NDArray[np.float64]:
    """|psi|^2 of the probe, normalised to a sum of 1, (pixels, pixels), y before x, the axis at pixels // 2.

    Args:
        aberrations: all coefficients.
        optics: energy and aperture; its grid is not used.
        sampling_nm: size of a pixel.
        pixels: number of pixels per side.

    Raises:
        ValueError: the sampling is too coarse for the aperture.
    """
    limit = optics.wavelength_nm / (2e-3 * optics.convergence_mrad)
    if sampling_nm > limit:
        raise ValueError(f"sampling_nm is {sampling_nm:g}; this aperture needs at most {limit:.4g}")
    intensity = fft.fftshift(_intensity(aberrations, optics, pixels * sampling_nm, pixels, np.zeros(2)))
    total: NDArray[np.float64] = intensity / intensity.sum()
    return total


@lru_cache(maxsize=16)
def _aperture(optics: Optics, window_nm: float, pixels: int) -> tuple[NDArray[np.intp], Array, Array, Array]:
    """The aperture on the frequencies of a window, in the order of an FFT.

    Returns:
        Flat indices into (pixels, pixels) of the pixels that the aperture touches, (P,); fraction of each inside, (P,);
        rad/nm of every coefficient, (25, P); angles x and y in aperture radii, (2, P).
    """
    step_mrad = optics.wavelength_nm / window_nm * 1e3
    axis = fft.fftfreq(pixels, 1 / pixels) * step_mrad
    x, y = np.meshgrid(axis, axis)
    share = np.clip((optics.convergence_mrad - np.hypot(x, y)) / step_mrad + 0.5, 0.0, 1.0).ravel()
    touched = np.flatnonzero(share)
    x, y = x.ravel()[touched], y.ravel()[touched]
    basis = aberration_basis(NAMES, x, y, optics.wavelength_nm)
    return touched, share[touched], basis, np.stack([x, y]) / optics.convergence_mrad


def _intensity(
    aberrations: Aberrations, optics: Optics, window_nm: float, pixels: int, tilt_rad: Array
) -> NDArray[np.float64]:
    """|psi|^2 up to a factor, (pixels, pixels), the axis at index 0; `tilt_rad`, (2,), is subtracted from the phase."""
    touched, share, basis, angles = _aperture(optics, window_nm, pixels)
    present = np.flatnonzero(aberrations.array())
    chi = aberrations.array()[present] @ basis[present] - tilt_rad @ angles
    wave = np.zeros(pixels * pixels, complex)
    wave[touched] = share * np.exp(-1j * chi)
    return np.abs(fft.ifft2(wave.reshape(pixels, pixels))) ** 2


def probe_d50_nm(aberrations: Aberrations, optics: Optics) -> float:
    """Diameter of the circle about the probe's centre (as in `strehl_ratio`) that holds half of the electrons, nm.

    The fraction within r is the integral of `T(k) r J1(2 pi k r) / k` over the plane of k, with T the transfer
    function (autocorrelation of the aperture's wave): the pixels may be larger than the result.
    """
    basis, tilts, weights = _quadrature(optics)
    tilt = _tilt(aberrations.array() @ basis, tilts, weights)
    width_nm = optics.wavelength_nm / (optics.convergence_mrad * 1e-3)
    needed = 1.3 * probe_extent_nm(optics, aberrations) / width_nm + TAIL_WIDTHS
    # Windows of a few sizes, for which the aperture is cached.
    widths = TAIL_WIDTHS * 2 ** (math.ceil(2 * math.log2(needed / TAIL_WIDTHS)) / 2)
    # The autocorrelation is twice as wide as the aperture.
    pixels = int(fft.next_fast_len(4 * math.ceil(widths) + 8))
    intensity = _intensity(aberrations, optics, widths * width_nm, pixels, tilt)
    # Normalised to the electrons that pass the sharp aperture: its soft pixels damp the tails of the probe.
    transfer = np.real(fft.fft2(intensity)) * pixels**2 / (math.pi * widths**2)
    radius, which = _frequency_bins(pixels)
    share = np.bincount(which, transfer.ravel())
    found = brentq(_beyond_half, 0.05 / widths, 0.5, (radius, share), xtol=1e-7)
    return 2 * widths * width_nm * float(found)


def _beyond_half(radius: float, frequency: Array, transfer: Array) -> float:
    """Fraction of the electrons within `radius` windows, minus one half; frequencies in periods per window, (B,)."""
    return float(np.sum(transfer * radius * j1(2 * np.pi * frequency * radius) / frequency)) - 0.5


@lru_cache(maxsize=32)
def _frequency_bins(pixels: int) -> tuple[Array, NDArray[np.intp]]:
    """Mean |k| of fine rings of frequencies, (B,), and the ring of every pixel, (pixels**2,); periods per window."""
    axis = fft.fftfreq(pixels, 1 / pixels)
    # J1(x) / x is flat at zero: the pixel at k = 0 may be displaced a little.
    radius = np.maximum(np.hypot(axis[:, None], axis[None, :]).ravel(), 1e-6)
    _, which = np.unique((radius * BINS_PER_PIXEL).astype(int), return_inverse=True)
    return np.bincount(which, radius) / np.bincount(which), which
