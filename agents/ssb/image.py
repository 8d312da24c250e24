"""The phase image from single-sideband sums: scale, weighting of the frequencies, and noise."""

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, uniform_filter

from agents.ssb.accumulate import Complex, SidebandSum
from agents.ssb.weights import BrightField, Trotters
from twin.arrays import Floats

WEIGHTINGS = ("flat", "white", "overlap", "wiener")
"""Weights of the spatial frequencies.

- flat: 1, the true spectrum of the phase; noise is strongest where the overlaps are small.
- white: the square root of the overlap: white noise.
- overlap: the overlap: the plain sum over the sidebands, best for detecting a single atom in noise.
- wiener: signal / (signal + noise), estimated around each frequency: the least mean squared error.
"""
NEIGHBOURS = 3
"""Side, in frequencies, of the square over which the power of the signal is averaged."""


@dataclass(frozen=True, eq=False)
class PhaseSpectrum:
    """Fourier coefficients of the phase and their noise; laid out as in `Trotters`.

    Attributes:
        phase: Phi(Q) times the number of positions; zero where no phase is transferred.
        variance: variance of `phase`.
        known: true where phase is transferred.
    """

    phase: Complex
    variance: Floats
    known: NDArray[np.bool_]

    def __add__(self, other: "PhaseSpectrum") -> "PhaseSpectrum":
        """Combine two parts of one scan."""
        return PhaseSpectrum(self.phase + other.phase, self.variance + other.variance, self.known & other.known)


def phase_spectrum(sums: SidebandSum, share: Floats, cutoff: float) -> PhaseSpectrum:
    """Solve i Phi(Q) a^2 sum_K w g = psi(Q) for the phase.

    Args:
        sums: sums of at least one position.
        share: fraction of each square inside the disc, (K,).
        cutoff: smallest strength of a frequency that is used, as a fraction of the whole disc.
    """
    weights = sums.weights
    known = weights.strength > cutoff * weights.full
    # a^2: counts of a square inside the disc at one position.
    counts = max(float(sums.pattern.sum()), 1.0) / float(share.sum()) / sums.count
    scale = counts * np.where(known, weights.response, 1.0)
    return PhaseSpectrum(
        np.where(known, -1j * sums.psi() / scale, 0.0),
        np.where(known, sums.noise() / np.abs(scale) ** 2, 0.0),
        known,
    )


def transfer(spectrum: PhaseSpectrum, weights: Trotters, weighting: str) -> Floats:
    """Weight of every frequency by one of `WEIGHTINGS`; at most 1."""
    if weighting == "wiener":
        return wiener(spectrum)
    power = {"flat": 0.0, "white": 0.5, "overlap": 1.0}[weighting]
    strongest = float(weights.strength.max(initial=0.0))
    relative = weights.strength / strongest if strongest > 0 else weights.strength
    return np.where(spectrum.known, relative**power, 0.0)


def wiener(spectrum: PhaseSpectrum) -> Floats:
    """Wiener filter, signal / (signal + noise), (fast frequencies, slow frequencies)."""
    around = uniform_filter(spectrum.known.astype(np.float64), NEIGHBOURS, mode="constant")
    excess = uniform_filter(np.abs(spectrum.phase) ** 2 - spectrum.variance, NEIGHBOURS, mode="constant")
    signal = np.maximum(excess, 0.0) / np.where(around > 0, around, 1.0)
    total = signal + spectrum.variance
    return np.where(spectrum.known, signal / np.where(total > 0, total, 1.0), 0.0)


def image(phase: Complex, scan: tuple[int, int]) -> Floats:
    """Real image, (rows, columns), from half of its frequencies, laid out as in `Trotters`."""
    return np.asarray(scipy.fft.irfft2(np.fft.ifftshift(phase, axes=1).T, s=scan), np.float64)


def spread(variance: Floats, scan: tuple[int, int], visited: int) -> float:
    """Standard deviation of the image at a visited position, from the variance of its weighted frequencies."""
    # Positive fast frequencies also represent their negatives; `phase` carries the count.
    both = np.full(len(variance), 2.0)
    both[0] = 1.0
    count = scan[0] * scan[1]
    return float(np.sqrt((both @ variance).sum() / count / visited))


def density(visited: NDArray[np.bool_], width: float) -> Floats:
    """Fraction of the positions within about a probe's width of each position that has been visited, (rows, columns).

    The sums at a position collect the signal of these positions: the image is weaker by the fraction that is missing.

    Args:
        visited: (rows, columns).
        width: width of the probe in scan steps.
    """
    if visited.all():
        return np.ones(visited.shape)
    near = gaussian_filter(visited.astype(np.float64), width, mode="constant", truncate=3.0)
    full = gaussian_filter(np.ones(visited.shape), width, mode="constant", truncate=3.0)
    return np.maximum(near / full, 1e-3)


def off_centre(pattern: Floats, field: BrightField) -> tuple[float, float]:
    """Shift of the mean pattern's centre of mass from that of a uniform disc, (x, y) on the camera, mrad."""
    share = field.share
    middle = (share @ field.middle_mrad) / share.sum()
    x, y = (pattern @ field.middle_mrad) / max(float(pattern.sum()), 1.0) - middle
    return float(x), float(y)


def skewness(values: Floats) -> float:
    """Third standardised moment."""
    centred = values - values.mean()
    scale = float(np.sqrt((centred**2).mean()))
    return float((centred**3).mean() / scale**3) if scale > 0 else 0.0
