"""From single-sideband sums to a phase image: scale, weighting of the frequencies, and noise."""

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, uniform_filter

from agents.ssb.accumulate import Complex, Floats, SidebandSum
from agents.ssb.weights import BrightField, Trotters

WEIGHTINGS = ("flat", "white", "overlap", "wiener")
"""How spatial frequencies are weighted.

- flat: each as strong as it is in the specimen; noise is strongest where the overlaps are small.
- white: by the square root of the overlap: noise of all frequencies alike.
- overlap: by the overlap: the plain sum over the sidebands, best for seeing a single atom in noise.
- wiener: by signal over signal and noise, estimated around each frequency: nearest to the truth in least squares.
"""
NEIGHBOURS = 3
"""The signal's power is averaged over a square of this many frequencies."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """Fourier coefficients of the phase and their noise; laid out as in `Trotters`.

    Attributes:
        phase: Phi(Q) times the number of positions; zero where no phase is transferred.
        variance: of it.
        known: where phase is transferred.
    """

    phase: Complex
    variance: Floats
    known: NDArray[np.bool_]

    def __add__(self, other: "Estimate") -> "Estimate":
        """Of two parts of one scan."""
        return Estimate(self.phase + other.phase, self.variance + other.variance, self.known & other.known)


def estimate(sums: SidebandSum, share: Floats, cutoff: float) -> Estimate:
    """Coefficients of the phase: i Phi(Q) a^2 sum_K w g = psi(Q).

    Args:
        sums: of at least one position.
        share: of each square inside the disc, (K,).
        cutoff: smallest strength of a frequency that is used, as a share of the whole disc.
    """
    weights = sums.weights
    known = weights.strength > cutoff * weights.full
    # a^2: counts of a square inside the disc at one position.
    counts = max(float(sums.pattern.sum()), 1.0) / float(share.sum()) / sums.count
    scale = counts * np.where(known, weights.response, 1.0)
    return Estimate(
        np.where(known, -1j * sums.psi() / scale, 0.0),
        np.where(known, sums.noise() / np.abs(scale) ** 2, 0.0),
        known,
    )


def transfer(found: Estimate, weights: Trotters, weighting: str) -> Floats:
    """Factor of every frequency, one of `WEIGHTINGS`; at most 1."""
    if weighting == "wiener":
        return wiener(found)
    power = {"flat": 0.0, "white": 0.5, "overlap": 1.0}[weighting]
    strongest = float(weights.strength.max(initial=0.0))
    relative = weights.strength / strongest if strongest > 0 else weights.strength
    return np.where(found.known, relative**power, 0.0)


def wiener(found: Estimate) -> Floats:
    """Signal over signal and noise, (fast frequencies, slow frequencies)."""
    around = uniform_filter(found.known.astype(np.float64), NEIGHBOURS, mode="constant")
    excess = uniform_filter(np.abs(found.phase) ** 2 - found.variance, NEIGHBOURS, mode="constant")
    signal = np.maximum(excess, 0.0) / np.where(around > 0, around, 1.0)
    total = signal + found.variance
    return np.where(found.known, signal / np.where(total > 0, total, 1.0), 0.0)


def image(phase: Complex, scan: tuple[int, int]) -> Floats:
    """(rows, columns) of a real image from half of its frequencies, laid out as in `Trotters`."""
    return np.asarray(scipy.fft.irfft2(np.fft.ifftshift(phase, axes=1).T, s=scan), np.float64)


def spread(variance: Floats, scan: tuple[int, int], visited: int) -> float:
    """Standard deviation of the image at a visited position, from the variance of its weighted frequencies."""
    # Frequencies along the fast axis beyond zero stand for their negatives as well; `phase` carries the count.
    both = np.full(len(variance), 2.0)
    both[0] = 1.0
    count = scan[0] * scan[1]
    return float(np.sqrt((both @ variance).sum() / count / visited))


def density(visited: NDArray[np.bool_], width: float) -> Floats:
    """Share of the positions around each one that has been visited, 1 where all have, (rows, columns).

    The sums at a position gather what the probe saw of it from positions about a probe's width around; where some
    are missing, the image is weaker by their share.

    Args:
        visited: (rows, columns).
        width: of the probe, positions.
    """
    if visited.all():
        return np.ones(visited.shape)
    near = gaussian_filter(visited.astype(np.float64), width, mode="constant", truncate=3.0)
    full = gaussian_filter(np.ones(visited.shape), width, mode="constant", truncate=3.0)
    return np.maximum(near / full, 1e-3)


def off_centre(pattern: Floats, field: BrightField) -> tuple[float, float]:
    """Centre of mass of the mean pattern from that of a uniform disc, (x, y) on the camera, mrad."""
    share = field.share
    middle = (share @ field.middle_mrad) / share.sum()
    x, y = (pattern @ field.middle_mrad) / max(float(pattern.sum()), 1.0) - middle
    return float(x), float(y)


def skewness(values: Floats) -> float:
    """Third standardised moment."""
    centred = values - values.mean()
    scale = float(np.sqrt((centred**2).mean()))
    return float((centred**3).mean() / scale**3) if scale > 0 else 0.0
