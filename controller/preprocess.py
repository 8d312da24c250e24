"""From a raw camera frame to the power spectrum that the networks see (van Hulst et al. 2026, section II-B)."""

import math
from collections.abc import Iterator, Sequence
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


def normalise(power: Array, windowed_sum: float) -> tuple[Array, NoiseFloor]:
    """Spectrum without dose and gain, `asinh((S - floor) / knee)`, shape (H, W), and the floor.

    S is divided by (sum of hann * counts)^2, in which dose and gain cancel, and scaled so that the
    shot noise of a uniform frame of `REFERENCE_DOSE_E` is one; the floor of the frame itself, which does
    depend on dose, is measured and taken off. asinh is linear in the noise and logarithmic in the signal.
    """
    # Uniform frame: floor / sum^2 = sum h^2 N / (sum h N)^2 = (9/4) / dose for a separable Hann window.
    scaled = power / windowed_sum**2 * (REFERENCE_DOSE_E / 2.25)
    floor = noise_floor(scaled)
    signal = ndimage.gaussian_filter(scaled - floor.power(len(power)), SMOOTHING_PX)
    return np.arcsinh(signal / KNEE), floor


PATCHES = 3
"""Sub-areas along each axis of the camera, half overlapping: defocus and astigmatism differ from one to the next by
what coma and three-fold astigmatism make of the angle between them."""


def patch_pixels(side: int) -> int:
    """Side of a sub-area, camera pixels: 48 of 128."""
    return 3 * side // 8


def patch_starts(side: int) -> list[int]:
    """First row, or column, of the sub-areas along an axis."""
    return [side * (i + 1) // (PATCHES + 1) - patch_pixels(side) // 2 for i in range(PATCHES)]


@dataclass(frozen=True)
class Patches:
    """Spectra of a frame's sub-areas.

    Attributes:
        values: normalised half-plane spectra, float32, (PATCHES^2, h, h / 2), row by row, each as `Spectrum.values`.
    """

    values: NDArray[np.float32]


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
    return _whole(signal(frame))[0]


def whole_and_patches(frame: Frame) -> tuple[Spectrum, Patches]:
    """The spectrum of the frame and those of its sub-areas, which share its noise floor.

    Raises:
        ValueError: the frame is not square, or holds no signal.
    """
    counts = signal(frame)
    whole, floor = _whole(counts)
    side, height = len(counts), patch_pixels(len(counts))
    corners = tuple((row, column) for row in patch_starts(side) for column in patch_starts(side))
    spectra = []
    for scaled, noise in area_powers(counts, floor, corners, height):
        smooth = ndimage.gaussian_filter(scaled - noise, SMOOTHING_PX) * (height / side) ** 2
        spectra.append(np.arcsinh(smooth / KNEE)[:, height // 2 :])
    return whole, Patches(np.stack(spectra).astype(np.float32))


def area_powers(
    counts: Array, floor: NoiseFloor, corners: Sequence[tuple[int, int]], height: int, less: Array | None = None
) -> Iterator[tuple[Array, Array]]:
    """Scaled power spectrum and shot noise of each sub-area, (h, h), as `normalise` has them of the whole.

    Args:
        counts: above the dark level, (H, W).
        floor: of the whole.
        corners: first row and column of each.
        height: side, h.
        less: an expectation to take off before the transform, (H, W).
    """
    side = len(counts)
    window, wide = hann_window(height), hann_window(side)
    # Shot noise behind a window carries the sum of window^2 * counts, whatever the gain.
    per_count = floor.level * np.sum(wide * counts) ** 2 / np.sum(wide**2 * counts)
    # Frequency pixels of a sub-area are wider by side / height.
    shape = NoiseFloor(1.0, floor.decay * (side / height) ** 2).power(height)
    for row, column in corners:
        here = np.s_[row : row + height, column : column + height]
        part = counts[here]
        total = max(float(np.sum(window * part)), 1.0)
        noise = per_count * np.sum(window**2 * part) / total**2
        power = spectrum(part if less is None else part - less[here])
        yield power / total**2 * (REFERENCE_DOSE_E / 2.25), noise * shape


def signal(frame: Frame) -> Array:
    """Counts above the dark level, without stuck pixels."""
    counts: Array = np.asarray(frame.counts, dtype=np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.shape[0] % 2:
        raise ValueError(f"a Ronchigram is square with an even side; got shape {counts.shape}")
    return remove_defects(counts - frame.settings.get("dark_level", 0.0))


def _whole(counts: Array) -> tuple[Spectrum, NoiseFloor]:
    """The normalised spectrum of the whole frame and the noise floor that was taken off."""
    windowed_sum = float(np.sum(hann_window(counts.shape[0]) * counts))
    if not windowed_sum > 0:  # also when it is not a number
        raise ValueError("the frame holds no signal above its dark level")
    values, floor = normalise(spectrum(counts), windowed_sum)
    return Spectrum(values[:, counts.shape[1] // 2 :].astype(np.float32), floor.level), floor
