"""From a raw camera frame to the normalised power spectrum (van Hulst et al. 2026, section II-B)."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from twin.arrays import Array
from twin.errors import StemtwinError
from twin.types import Frame


class NoSignal(StemtwinError, ValueError):
    """A frame without any signal above its dark level."""


REFERENCE_DOSE_E = 1e6
"""Dose of a uniform frame whose shot-noise floor is 1 in the normalised spectrum."""

HOT_SIGMA = 8.0
"""Deviation from the median of its neighbourhood, in standard deviations of shot noise, of a defective pixel."""
KNEE = 8.0
"""Signal, in units of the reference floor, at which the normalised spectrum turns from linear to logarithmic."""
SMOOTHING_PX = 0.7


@lru_cache(maxsize=4)
def hann_window(pixels: int) -> Array:
    """Separable periodic Hann window, shape (pixels, pixels)."""
    line = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(pixels) / pixels)
    return np.outer(line, line)


_MEDIAN_OF_NINE = (
    *((1, 2), (4, 5), (7, 8), (0, 1), (3, 4), (6, 7), (1, 2), (4, 5), (7, 8), (0, 3)),
    *((5, 8), (4, 7), (3, 6), (1, 4), (2, 5), (4, 7), (4, 2), (6, 4), (4, 2)),
)
"""Exchanges that bring the median of nine numbers to place 4 (Devillard, Fast median search, 1998)."""


def median_3x3(image: Array) -> Array:
    """Median of each pixel and its neighbours, (H, W), edges repeated; a fifth of the time of SciPy's filter."""
    height, width = image.shape
    padded = np.pad(image, 1, mode="edge")
    nine = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    for low, high in _MEDIAN_OF_NINE:
        nine[low], nine[high] = np.minimum(nine[low], nine[high]), np.maximum(nine[low], nine[high])
    return nine[4]


def remove_defects(counts: Array) -> Array:
    """Replace isolated outliers (hot, dead pixels) by the median of their neighbourhood, shape (H, W).

    An outlier differs from the 3x3 median by more than `HOT_SIGMA` standard deviations of shot noise.
    """
    median = median_3x3(counts)
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
        """Return the floor at every frequency, shape (pixels, pixels), zero frequency at the centre."""
        return self.level * np.exp(-self.decay * _radius(pixels) ** 2)


@lru_cache(maxsize=4)
def _radius(pixels: int) -> Array:
    axis = np.arange(pixels) - pixels // 2
    return np.hypot(axis[:, None], axis[None, :])


BANDS = ((0.6, 0.94), (1.0, 1.3))
"""Frequencies without film signal, as fractions of the Nyquist frequency: a ring, and the corners beyond it."""


def noise_floor(power: Array) -> NoiseFloor:
    """Estimate level and decay of the shot noise from the medians of `BANDS` (its power is exponentially distributed).

    The noise is white before the camera blurs it. At low frequency the film hides it, and it is extrapolated.
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
        floor: level of the shot noise that was subtracted; 1 for a uniform frame of `REFERENCE_DOSE_E`.
    """

    values: NDArray[np.float32]
    floor: float


def windowed_sum(counts: Array) -> float:
    """Sum of Hann window times counts (H, H).

    Raises:
        NoSignal: the frame holds none.
    """
    total = float(np.sum(hann_window(counts.shape[0]) * counts))
    if not total > 0:  # also when it is not a number
        raise NoSignal("the frame holds no signal above its dark level")
    return total


def per_dose(power: Array, total: float) -> Array:
    """Divide a spectrum by the squared `windowed_sum` of its counts: dose and gain cancel.

    Scaled such that the shot noise of a uniform frame of `REFERENCE_DOSE_E` is 1.
    """
    # Uniform frame: floor / sum^2 = sum h^2 N / (sum h N)^2 = (9/4) / dose for a separable Hann window.
    return power / total**2 * (REFERENCE_DOSE_E / 2.25)


def normalise(power: Array, total: float) -> tuple[Array, NoiseFloor]:
    """Normalise a spectrum for dose and gain: return `asinh((S - floor) / knee)`, shape (H, W), and the floor.

    S is the spectrum `per_dose`; the frame's own floor, which depends on its dose, is measured and subtracted.
    asinh is linear in the noise and logarithmic in the signal.
    """
    scaled = per_dose(power, total)
    floor = noise_floor(scaled)
    signal = ndimage.gaussian_filter(scaled - floor.power(len(power)), SMOOTHING_PX)
    return np.arcsinh(signal / KNEE), floor


PATCHES = 3
"""Sub-areas along each axis of the camera, half overlapping. Coma and three-fold astigmatism make the local defocus
and astigmatism differ between them."""


def patch_pixels(side: int) -> int:
    """Side of a sub-area in camera pixels, for example 48 of 128."""
    return 3 * side // 8


def patch_starts(side: int) -> list[int]:
    """First row (or column) of each sub-area along an axis."""
    return [side * (i + 1) // (PATCHES + 1) - patch_pixels(side) // 2 for i in range(PATCHES)]


@dataclass(frozen=True)
class Patches:
    """Spectra of a frame's sub-areas.

    Attributes:
        values: normalised half-plane spectra, float32, (PATCHES^2, h, h / 2), row by row, each as `Spectrum.values`.
    """

    values: NDArray[np.float32]


def check_shape(frame: Frame, side: int) -> None:
    """Refuse a frame that is not (side, side).

    Raises:
        ValueError: names both shapes.
    """
    if frame.counts.shape != (side, side):
        raise ValueError(f"a frame of shape ({side}, {side}) is expected; got shape {frame.counts.shape}")


def power_spectrum(frame: Frame) -> Spectrum:
    """Return the windowed power spectrum (eq 3), normalised for dose and gain.

    The image is real, so half of the plane is enough. The disc's own transform, at the lowest three
    frequencies, stays in; the networks subtract a mean per pixel.

    Raises:
        ValueError: the frame is not square, or holds no signal.

    Example:
        >>> counts = np.random.default_rng(0).poisson(60.0, (128, 128)).astype(np.uint16)
        >>> spectrum = power_spectrum(Frame(counts, dose_e=1e6, exposure_s=0.5, clock_s=0.0))
        >>> spectrum.values.shape
        (128, 64)
        >>> round(spectrum.floor, 1)  # 60 electrons per pixel are 1e6 electrons on the camera
        1.0
    """
    return _whole(signal(frame))[0]


PLAIN_UNIT = 256.0
"""Unit of `plain_spectrum`: so many noise floors of a uniform frame of `REFERENCE_DOSE_E`, within half precision."""


def plain_spectrum(frame: Frame) -> Spectrum:
    """Return the windowed power spectrum (eq 3) and nothing more, half plane, in a fixed unit.

    Defective pixels, dose, gain and shot noise stay in; only the dark level is subtracted, which a camera adds.

    Raises:
        ValueError: the frame is not square, or holds no signal.
    """
    counts = above_dark(frame)
    power, half = spectrum(counts), counts.shape[1] // 2
    floor = noise_floor(per_dose(power, windowed_sum(counts))).level
    reference = per_dose(power, REFERENCE_DOSE_E / 4)  # a separable Hann window averages 1/4
    return Spectrum((reference[:, half:] / PLAIN_UNIT).astype(np.float32), floor)


READINGS: Mapping[str, Callable[[Frame], Spectrum]] = {"normalised": power_spectrum, "plain": plain_spectrum}
"""Preprocessing by name: "plain" is the paper's (eq 3), "normalised" adds what makes days alike."""


def whole_and_patches(frame: Frame) -> tuple[Spectrum, Patches]:
    """Return the spectrum of the frame and those of its sub-areas, which share its noise floor.

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
    """Yield power spectrum (`per_dose`) and shot noise of each sub-area, (h, h).

    Args:
        counts: above the dark level, (H, W).
        floor: of the whole frame.
        corners: first row and column of each sub-area.
        height: side of a sub-area, h.
        less: expected counts, subtracted before the transform, (H, W).
    """
    side = len(counts)
    window, wide = hann_window(height), hann_window(side)
    # Shot noise behind a window carries the sum of window^2 * counts, whatever the gain.
    per_count = floor.level * np.sum(wide * counts) ** 2 / np.sum(wide**2 * counts)
    # Frequency pixels of a sub-area are wider by side / height.
    shape = NoiseFloor(1.0, floor.decay * (side / height) ** 2).power(height)
    for row, column in corners:
        area = np.s_[row : row + height, column : column + height]
        part = counts[area]
        total = max(float(np.sum(window * part)), 1.0)
        noise = per_count * np.sum(window**2 * part) / total**2
        power = spectrum(part if less is None else part - less[area])
        yield per_dose(power, total), noise * shape


def above_dark(frame: Frame) -> Array:
    """Subtract the dark level, (H, H).

    Raises:
        ValueError: the frame is not square with an even side.
    """
    counts: Array = np.asarray(frame.counts, dtype=np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.shape[0] % 2:
        raise ValueError(f"a Ronchigram is square with an even side; got shape {counts.shape}")
    return counts - frame.settings.get("dark_level", 0.0)


def signal(frame: Frame) -> Array:
    """Return the counts above the dark level with defective pixels replaced, (H, H).

    Raises:
        ValueError: the frame is not square with an even side.
    """
    return remove_defects(above_dark(frame))


def _whole(counts: Array) -> tuple[Spectrum, NoiseFloor]:
    """Return the normalised spectrum of the whole frame and the noise floor that was subtracted."""
    values, floor = normalise(spectrum(counts), windowed_sum(counts))
    return Spectrum(values[:, counts.shape[1] // 2 :].astype(np.float32), floor.level), floor
