"""Priors: what a phase is expected to look like, as a step that pulls an image towards it.

A step takes an image and a strength and returns an image of the same shape, as a proximal operator does. Any
denoiser is such a step (plug and play: Venkatakrishnan, Bouman and Wohlberg 2013; Kamilov et al. 2023).
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
import scipy.fft
from numpy.lib.stride_tricks import sliding_window_view

from twin.arrays import Floats

Step = Callable[[Floats, float], Floats]
"""Image and strength, the standard deviation of the noise to remove, to an image."""

Prior = Literal["tikhonov", "smooth", "tv", "denoiser"]

DUAL_STEPS = 25
PATCH = 24
"""Side of the denoiser's patches, pixels."""
HARD = 2.7
"""Threshold of its coefficients over the noise."""


def tikhonov(image: Floats, strength: float) -> Floats:
    """Proximal step of `strength^2 |image|^2 / 2`: shrink towards zero."""
    return np.asarray(image / (1.0 + strength**2))


def smooth(image: Floats, strength: float) -> Floats:
    """Proximal step of `strength^2 |grad image|^2 / 2`: Tikhonov's prior on the slope; the mean stays.

    Args:
        image: (R, C), periodic.
        strength: in pixels: waves of `2 pi strength` pixels are halved.

    Example:
        >>> wave = np.cos(np.arange(16) * np.pi / 4)[None].repeat(4, axis=0)  # eight pixels long
        >>> round(float(smooth(wave + 3, 1.0).max()), 3)  # 3 + 1 / (3 - sqrt(2))
        3.631
    """
    squared = [2.0 - 2.0 * np.cos(2.0 * np.pi * scipy.fft.fftfreq(n)) for n in image.shape]
    shrunk = scipy.fft.fft2(image) / (1.0 + strength**2 * (squared[0][:, None] + squared[1]))
    return np.asarray(scipy.fft.ifft2(shrunk).real)


def with_spectrum(power: Floats) -> Step:
    """Prior of matter whose power spectrum is known, as of an amorphous film: a Gaussian field with that spectrum.

    Its step is Wiener's filter. Where a neighbouring region of the same matter has been seen with many electrons,
    its spectrum serves, averaged over rings.

    Args:
        power: mean squared magnitude of `scipy.fft.fft2` of such an image over its number of pixels, (R, C).

    Example:
        >>> step = with_spectrum(np.full((4, 4), 3.0))
        >>> step(np.eye(4), 1.0)[0].tolist()  # white, as strong as the noise three times over
        [0.75, 0.0, 0.0, 0.0]
    """

    def step(image: Floats, strength: float) -> Floats:
        share = power / np.maximum(power + strength**2, np.finfo(float).tiny)
        return np.asarray(scipy.fft.ifft2(scipy.fft.fft2(image) * share).real)

    return step


def total_variation(image: Floats, strength: float, steps: int = DUAL_STEPS) -> Floats:
    """Proximal step of `strength` times the isotropic total variation (Chambolle 2004; Beck and Teboulle 2009).

    Args:
        image: (R, C), periodic.
        strength: weight of the total variation against half the squared distance.
        steps: of the dual iteration.
    """
    if strength <= 0:
        return image
    dual = np.zeros((2, *image.shape))
    ahead, momentum = dual, 1.0
    for _ in range(steps):
        moved = ahead + _gradient(image + strength * _divergence(ahead)) / (8.0 * strength)
        new = moved / np.maximum(1.0, np.hypot(moved[0], moved[1]))
        following = (1.0 + math.sqrt(1.0 + 4.0 * momentum**2)) / 2.0
        ahead, dual, momentum = new + (momentum - 1.0) / following * (new - dual), new, following
    return np.asarray(image + strength * _divergence(dual))


def patch_denoiser(image: Floats, strength: float) -> Floats:
    """Remove white noise: hard thresholds of the cosine transforms of overlapping patches (Yu and Sapiro 2011).

    Args:
        image: (R, C), periodic, at least 8 x 8.
        strength: standard deviation of the noise.
    """
    side = min(PATCH, min(image.shape) // 2)
    hop = max(1, side // 4)
    padded = np.pad(image, ((0, side + hop), (0, side + hop)), mode="wrap")
    patches = sliding_window_view(padded, (side, side))[::hop, ::hop]
    coefficients = scipy.fft.dctn(patches, axes=(2, 3), norm="ortho")
    kept = np.abs(coefficients) > HARD * strength
    kept[..., 0, 0] = True
    weight = 1.0 / kept.sum(axis=(2, 3))
    smooth = scipy.fft.idctn(coefficients * kept, axes=(2, 3), norm="ortho") * weight[..., None, None]
    total: Floats = np.zeros(padded.shape)
    weights: Floats = np.zeros(padded.shape)
    for (i, j), value in np.ndenumerate(weight):
        window = slice(i * hop, i * hop + side), slice(j * hop, j * hop + side)
        total[window] += smooth[i, j]
        weights[window] += value
    rows, columns = image.shape
    sums: Floats
    for sums in (total, weights):  # what lies beyond the edges is their other side
        sums[: sums.shape[0] - rows] += sums[rows:]
        sums[:, : sums.shape[1] - columns] += sums[:, columns:]
    return np.asarray(total[:rows, :columns] / weights[:rows, :columns])


STEPS: dict[str, Step] = {"tikhonov": tikhonov, "smooth": smooth, "tv": total_variation, "denoiser": patch_denoiser}


def _gradient(image: Floats) -> Floats:
    return np.stack([np.roll(image, -1, axis) - image for axis in (0, 1)])


def _divergence(field: Floats) -> Floats:
    return np.asarray(sum(field[axis] - np.roll(field[axis], 1, axis) for axis in (0, 1)))
