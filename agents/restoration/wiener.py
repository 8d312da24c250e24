"""Wiener's filter of stabilised counts: the classical restoration against shot noise alone."""

import numpy as np
import scipy.fft
from scipy.ndimage import gaussian_filter

from agents.restoration.anscombe import expected, stabilised
from twin.arrays import Floats

SMOOTH_BINS = 1.0
"""Rms, in frequencies, over which the power spectrum is averaged."""
LEAST_GAIN = 1e-3
"""Gain of frequencies without signal."""


def wiener(counts: Floats) -> Floats:
    """Expected counts of an image, estimated from the image alone, (rows, columns).

    Anscombe's transform gives every pixel a variance of one; the filter passes each frequency by the share of the
    signal in its power, S / (S + 1), with S estimated from the image's spectrum; the inverse of the transform is the
    unbiased one. The image is continued by its mirror image, so that opposite edges need not fit.

    Args:
        counts: electrons, (rows, columns).

    Example:
        >>> import numpy as np
        >>> y, x = np.mgrid[:64, :64]
        >>> truth = 4 + 3 * np.cos(x / 2) * np.cos(y / 2)
        >>> counts = np.random.default_rng(0).poisson(truth).astype(float)
        >>> error = [float(np.sqrt(np.mean((image - truth) ** 2))) for image in (counts, wiener(counts))]
        >>> error[1] < 0.5 * error[0]
        True
    """
    values = stabilised(counts)
    level = values.mean()
    mirrored = np.pad(values - level, [(0, n) for n in values.shape], mode="symmetric")
    spectrum = scipy.fft.rfft2(mirrored, norm="ortho")
    power = gaussian_filter(np.abs(spectrum) ** 2, SMOOTH_BINS, mode="nearest")
    gain = np.maximum(1.0 - 1.0 / np.maximum(power, 1e-12), LEAST_GAIN)
    filtered = scipy.fft.irfft2(gain * spectrum, s=mirrored.shape, norm="ortho")
    return expected(filtered[: values.shape[0], : values.shape[1]] + level)
