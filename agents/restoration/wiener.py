"""Wiener's filter of stabilised counts: the classical restoration against shot noise alone."""

import numpy as np
import scipy.fft
from scipy.ndimage import gaussian_filter

from agents.restoration.anscombe import expected, stabilised
from twin.arrays import Floats

SMOOTH_BINS = 1.0
"""Rms, in frequencies, over which the power spectrum is averaged."""
HIGH, FLOOR_BINS = 0.8, 3.0
"""Part of the frequencies across the lines from which on there is noise alone, and rms, in frequencies of 128 px, over
which it is averaged along them."""
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


def scale_free_wiener(image: Floats) -> Floats:
    """Image under Wiener's filter for a noise that is measured at high frequencies across the lines, (rows, columns).

    For any unit and for noise that a slow detector has smeared along the lines: its power is that of the highest
    frequencies across them, at each frequency along them. Cosine transforms continue the image by its mirror image.

    Args:
        image: lines along rows, (rows, columns).

    Example:
        >>> import numpy as np
        >>> y, x = np.mgrid[:64, :64]
        >>> truth = 4 + 3 * np.cos(x / 2) * np.cos(y / 2)
        >>> image = truth + np.random.default_rng(0).normal(0, 2, truth.shape)
        >>> bool(np.std(scale_free_wiener(image) - truth) < 1)
        True
    """
    spectrum = scipy.fft.dctn(image, norm="ortho")
    power = spectrum**2
    rows = image.shape[0]
    floor = power[min(round(HIGH * rows), rows - 1) :].mean(axis=0)
    floor = gaussian_filter(floor, FLOOR_BINS * image.shape[1] / 128, mode="nearest")
    smooth = gaussian_filter(power, SMOOTH_BINS, mode="nearest")
    gain = np.maximum(1.0 - floor[None, :] / np.maximum(smooth, 1e-30), LEAST_GAIN)
    gain[0, 0] = 1.0
    return np.asarray(scipy.fft.idctn(gain * spectrum, norm="ortho"))
