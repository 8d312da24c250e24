"""The riCOM kernel, the contribution of one probe position to the image around it, and its transfer function.

Yu, Friedrich, Jannis, Van Aert and Verbeeck, Microsc. Microanal. 28, 1526 (2022): eqs 3.4 and 3.6-3.9 of Friedrich's
thesis (2023). The summation is in `ricom_scatter`.
"""

import math

import numpy as np
import scipy.signal
import scipy.special

from twin.arrays import Floats

LARGEST_FILTERED = 2049
"""Largest side of a filtered kernel: filtering takes arrays of three times this side, 0.3 GB each."""


def kernel(
    size: int, step_nm: float = 1.0, k_min_per_nm: float | None = None, k_max_per_nm: float | None = None
) -> Floats:
    """Kernel `step / (2 pi) * m / |m|^2` of eq 3.4, filtered as in eq 3.8 if limits are given.

    The sum over kernel times gradient in rad / nm is a phase in rad: eq 3.3 with a = step^2. The kernel is zero at the
    probe itself.

    Args:
        size: n, odd: pixels along a side.
        step_nm: scan step; 1 for a kernel and frequencies in pixels.
        k_min_per_nm, k_max_per_nm: band of frequencies (eq 3.9), cycles per nm; None for no limit.

    Returns:
        Components along the fast and the slow axis, (2, n, n); element (c, i, j) is for a pixel i - (n - 1) / 2 rows
        and j - (n - 1) / 2 columns from the probe. Exactly odd under a rotation by 180 degrees.

    Raises:
        ValueError: an even size, a band that the scan's step cannot hold, or a filter of a kernel too large for it.
    """
    check_size(size)
    check_band(k_min_per_nm, k_max_per_nm, step_nm)
    filtered = k_min_per_nm is not None or k_max_per_nm is not None
    if filtered and size > LARGEST_FILTERED:
        raise ValueError(f"a kernel with a filter has at most {LARGEST_FILTERED} pixels along a side; got {size}")
    m = np.arange(size) - size // 2
    distance2 = (m[:, None] ** 2 + m**2).astype(np.float64)
    distance2[size // 2, size // 2] = 1.0
    along_fast = m / distance2
    if filtered:
        # A filter of twice the size extends from every pixel of the kernel to every other.
        weights = band_pass(2 * size - 1, step_nm, k_min_per_nm, k_max_per_nm)
        along_fast = _symmetric(scipy.signal.fftconvolve(along_fast, weights, mode="same"))
    return np.stack([along_fast, along_fast.T]) * (step_nm / (2.0 * math.pi))


def band_pass(size: int, step_nm: float, k_min_per_nm: float | None, k_max_per_nm: float | None) -> Floats:
    """Real-space weights of a filter with sharp limits (eq 3.9), (size, size), centred.

    The transform of the disc of frequencies is exact, not sampled: the weights do not depend on the size.
    """
    weights = np.zeros((size, size))
    if k_max_per_nm is None:
        weights[size // 2, size // 2] = 1.0
    else:
        weights += _disc(size, k_max_per_nm * step_nm)
    if k_min_per_nm is not None:
        weights -= _disc(size, k_min_per_nm * step_nm)
    return weights


def transfer(vector_kernel: Floats, k_x: Floats, k_y: Floats) -> Floats:
    """Exact transfer function of a kernel for the phase; 1 for perfect integration.

    The image of `exp(2 pi i k r)`, from its exact gradient, is the transfer function times the same wave.

    Args:
        vector_kernel: (2, n, m) for a step of one pixel; divide one in nm by the step.
        k_x, k_y: frequencies along the fast and the slow axis, cycles per pixel, both (...,).

    Returns:
        (...,), real.
    """
    rows, columns = vector_kernel.shape[1:]
    y, x = np.arange(rows) - rows // 2, np.arange(columns) - columns // 2
    wave_y = np.exp(-2j * math.pi * np.multiply.outer(k_y, y))
    wave_x = np.exp(-2j * math.pi * np.multiply.outer(k_x, x))
    spectrum = np.einsum("...i,cij,...j->c...", wave_y, vector_kernel, wave_x, optimize=True)
    # The gradient of the wave is 2 pi i k; the transform of the kernel is imaginary, because the kernel is odd.
    return np.real(2j * math.pi * (k_x * spectrum[0] + k_y * spectrum[1]))


def line_transfer(size: int, k: Floats) -> Floats:
    """Transfer function of eqs 3.6-3.7, 1 - cos(2 pi k (n - 1) / 2), for integration along a single line.

    Eq 3.7 has this times N / (2 pi k), because it refers to the gradient instead of the phase.

    Args:
        size: side n of the kernel.
        k: cycles per pixel, any shape.
    """
    return 1.0 - np.cos(math.pi * (size - 1) * k)


def check_size(size: int) -> None:
    """Refuse an even size.

    Raises:
        ValueError: the message suggests the nearest odd sizes.
    """
    if size < 1 or size % 2 == 0:
        choice = "1" if size < 1 else f"{size - 1} or {size + 1}"
        raise ValueError(f"a kernel has an odd number of pixels along a side; got {size}, use {choice}")


def check_band(k_min_per_nm: float | None, k_max_per_nm: float | None, step_nm: float) -> None:
    """Refuse frequencies beyond the Nyquist limit of the scan.

    Raises:
        ValueError: not 0 < k_min < k_max < 1 / (2 step).
    """
    nyquist = 0.5 / step_nm
    for label, k in (("k_min_per_nm", k_min_per_nm), ("k_max_per_nm", k_max_per_nm)):
        if k is not None and not 0.0 < k < nyquist:
            raise ValueError(
                f"{label} {k:g} must lie between 0 and {nyquist:g}, the scan's Nyquist frequency; None is no limit"
            )
    if k_min_per_nm is not None and k_max_per_nm is not None and k_min_per_nm >= k_max_per_nm:
        raise ValueError(f"k_min_per_nm {k_min_per_nm:g} must lie below k_max_per_nm {k_max_per_nm:g}")


def _disc(size: int, k: float) -> Floats:
    """Inverse transform of a disc of radius k (cycles per pixel): k J1(2 pi k r) / r, (size, size)."""
    m = np.arange(size) - size // 2
    r = np.hypot(m[:, None], m)
    r[size // 2, size // 2] = 1.0
    disc = k * scipy.special.j1(2.0 * math.pi * k * r) / r
    disc[size // 2, size // 2] = math.pi * k**2
    return disc


def _symmetric(along_fast: Floats) -> Floats:
    """Make it exactly odd in columns and even in rows, which a Fourier convolution is only to rounding."""
    odd = (along_fast - along_fast[:, ::-1]) / 2
    return (odd + odd[::-1]) / 2
