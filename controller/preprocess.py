"""From a raw camera frame to the power spectrum that the networks see (van Hulst et al. 2026, section II-B)."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from twin.types import Frame

Array = NDArray[np.floating]

REFERENCE_DOSE_E = 1e6
"""A shot-noise floor at this dose is 1 in the normalised spectrum."""

HOT_SIGMA = 8.0
KNEE = 8.0
SMOOTHING_PX = 0.7


@lru_cache(maxsize=4)
def hann_window(pixels: int) -> Array:
    """Separable periodic Hann window, shape (pixels, pixels)."""
    line = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(pixels) / pixels)
    return np.outer(line, line)


def remove_defects(counts: Array) -> Array:
    """Replace isolated outliers (hot, dead pixels) by the median of their neighbourhood, shape (H, W).

    An outlier differs from the 3x3 median by more than `HOT_SIGMA` standard deviations of shot noise.
    """
    median = ndimage.median_filter(counts, size=3, mode="nearest")
    return np.where(np.abs(counts - median) > HOT_SIGMA * np.sqrt(np.maximum(median, 0.0) + 4.0), median, counts)


def spectrum(counts: Array) -> Array:
    """Power spectrum |F[hann * counts]|^2, shape (H, W), zero frequency at the centre (eq 3)."""
    return fft.fftshift(np.abs(fft.fft2(hann_window(counts.shape[0]) * counts)) ** 2)


@dataclass(frozen=True)
class NoiseFloor:
    """Shot noise behind a Gaussian modulation transfer: `level * exp(-decay * f^2)`, f in frequency pixels."""

    level: float
    decay: float

    def power(self, pixels: int) -> Array:
        """The floor at every frequency, shape (pixels, pixels), zero frequency at the centre."""
        return self.level * np.exp(-self.decay * _radius(pixels) ** 2)


@lru_cache(maxsize=4)
def _radius(pixels: int) -> Array:
    axis = np.arange(pixels) - pixels // 2
    return np.hypot(axis[:, None], axis[None, :])


BANDS = ((0.6, 0.94), (1.0, 1.3))
"""Where the film no longer shows, as fractions of Nyquist's frequency: a ring, and the corners beyond it."""


def noise_floor(power: Array) -> NoiseFloor:
    """Level and decay of the shot noise from the medians of two bands (the noise is exponentially distributed).

    The noise is white before the camera blurs it; where the film shows, at low frequency, it cannot be
    measured and is extrapolated.
    """
    radius = _radius(power.shape[0]) / (power.shape[0] / 2)
    bands = [(radius > low) & (radius < high) for low, high in BANDS]
    levels = [math.log(float(np.median(power[band])) / math.log(2)) for band in bands]
    squares = [float(np.mean((radius[band] * power.shape[0] / 2) ** 2)) for band in bands]
    decay = max(0.0, (levels[0] - levels[1]) / (squares[1] - squares[0]))
    return NoiseFloor(math.exp(levels[0] + decay * squares[0]), decay)


@dataclass(frozen=True)
class Spectrum:
    """A preprocessed frame.

    Attributes:
        values: half plane of the normalised power spectrum, float32, (H, W // 2), zero frequency at (H // 2, 0).
        floor: level of the shot noise that was taken off; 1 for a uniform frame of `REFERENCE_DOSE_E`.
    """

    values: NDArray[np.float32]
    floor: float


def normalise(power: Array, windowed_sum: float) -> tuple[Array, float]:
    """Spectrum without dose and gain, `asinh((S - floor) / knee)`, shape (H, W), and the floor.

    S is divided by (sum of hann * counts)^2, in which dose and gain cancel, and scaled so that the
    shot noise of a uniform frame of `REFERENCE_DOSE_E` is one; the floor of the frame itself, which does
    depend on dose, is measured and taken off. asinh is linear in the noise and logarithmic in the signal.
    """
    # Uniform frame: floor / sum^2 = sum h^2 N / (sum h N)^2 = (9/4) / dose for a separable Hann window.
    scaled = power / windowed_sum**2 * (REFERENCE_DOSE_E / 2.25)
    floor = noise_floor(scaled)
    signal = ndimage.gaussian_filter(scaled - floor.power(len(power)), SMOOTHING_PX)
    return np.arcsinh(signal / KNEE), floor.level


def check_shape(frame: Frame, side: int) -> None:
    """Refuse what is not this camera's.

    Raises:
        ValueError: names both shapes.
    """
    if frame.counts.shape != (side, side):
        raise ValueError(f"a frame of shape ({side}, {side}) is expected; got shape {frame.counts.shape}")


def power_spectrum(frame: Frame) -> Spectrum:
    """Hann window, transform, squared modulus (eq 3), normalised so that dose and gain drop out.

    The image is real, so half of the plane is enough; the disc itself, at the lowest three
    frequencies, is left to the network's per-pixel mean.

    Raises:
        ValueError: the frame is not square, or holds no signal.
    """
    counts: Array = np.asarray(frame.counts, dtype=np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.shape[0] % 2:
        raise ValueError(f"a Ronchigram is square with an even side; got shape {counts.shape}")
    counts = remove_defects(counts - frame.settings.get("dark_level", 0.0))
    windowed_sum = float(np.sum(hann_window(counts.shape[0]) * counts))
    if not windowed_sum > 0:  # also when it is not a number
        raise ValueError("the frame holds no signal above its dark level")
    values, floor = normalise(spectrum(counts), windowed_sum)
    return Spectrum(values[:, counts.shape[1] // 2 :].astype(np.float32), floor)
