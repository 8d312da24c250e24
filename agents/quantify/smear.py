"""The tail of a slow detector, estimated from an image and removed exactly.

The tail acts after the shot noise: counts are white along a line, then smeared (Friedrich 2023, eq 2.16). Its inverse
is causal and adds no noise of its own, for the response begins with its largest weight.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from twin.arrays import Floats
from twin.scan.response import sampled_weights

Shape = Literal["exponential", "half_lorentzian"]
SHAPES: tuple[Shape, ...] = ("half_lorentzian", "exponential")
RANGES = {"half_lorentzian": (0.3, 60.0), "exponential": (0.05, 6.0)}
"""Smallest and largest alpha and beta that are looked for, per pixel."""
GRID = 60
SIGNIFICANT = 20.0
"""Twice the gain in log likelihood from which on a tail is believed; chance gives 20 once in 1e5 images."""
SMALL = 1e-4
"""Change of the logarithm of a constant for derivatives."""
NOISE_FROM = 0.7
"""Frequency, in cycles per width of a column, from which on an image has noise alone."""


@dataclass(frozen=True)
class Smear:
    """Response of a detector, sampled at whole pixels.

    Attributes:
        shape: decay, eq 2.17 or 2.18.
        constant_per_px: beta, or alpha.
    """

    shape: Shape
    constant_per_px: float

    def weights(self, taps: int) -> Floats:
        """See `twin.scan.response.sampled_weights`, (taps,)."""
        return sampled_weights(self.shape, self.constant_per_px, taps)

    def scaled(self, logarithm: float) -> "Smear":
        """The same decay, its constant times exp(logarithm), within what is looked for."""
        low, high = RANGES[self.shape]
        return Smear(self.shape, float(np.clip(self.constant_per_px * math.exp(logarithm), low, high)))


def inverse(weights: Floats) -> Floats:
    """Weights g of the causal inverse: g convolved with `weights` is 1, 0, 0, ...; shape (taps,)."""
    from scipy.signal import lfilter

    impulse = np.zeros(len(weights))
    impulse[0] = 1.0
    return np.asarray(lfilter([1.0], weights, impulse))


def smeared(image: Floats, weights: Floats, level: Floats) -> Floats:
    """Signal as a slow detector records it, (rows, columns).

    Args:
        image: signal, lines along rows.
        weights: response, (columns,).
        level: signal before each line, (rows,).
    """
    return (image - level[:, None]) @ _toeplitz(weights) + level[:, None]


def restored(recorded: Floats, weights: Floats, level: Floats) -> Floats:
    """Signal before the detector's response, exact, (rows, columns); arguments as in `smeared`."""
    return (recorded - level[:, None]) @ _toeplitz(inverse(weights)) + level[:, None]


def slope(recorded: Floats, smear: Smear, level: Floats) -> Floats:
    """Derivative of the restored signal by the logarithm of the response's constant, (rows, columns)."""
    across = recorded.shape[1]
    more, less = (restored(recorded, smear.scaled(sign * SMALL).weights(across), level) for sign in (1, -1))
    return (more - less) / (2 * SMALL)


def first_level(recorded: Floats) -> Floats:
    """Rough signal before each line: mean of its first three pixels in it and its neighbours, (rows,)."""
    from scipy.ndimage import uniform_filter1d

    return np.asarray(uniform_filter1d(recorded[:, :3].mean(axis=1), 3, mode="nearest"))


def estimate(image: Floats, width_px: float, shape: Shape = "half_lorentzian") -> tuple[Smear, bool]:
    """Response from the noise at frequencies beyond those of the columns, and whether it is more than chance.

    Whittle's likelihood of the mean power spectrum along the lines: it falls as the response's, and not at all without
    one. The image need not be in electrons.

    Args:
        image: (rows, columns), lines along rows.
        width_px: width of a column.
        shape: decay.
    """
    rows, across = image.shape
    window = np.hanning(across + 2)[1:-1]
    power = (np.abs(np.fft.rfft((image - image.mean(axis=1, keepdims=True)) * window, axis=1)) ** 2).mean(axis=0)
    frequency = np.fft.rfftfreq(across)
    noise = frequency >= min(NOISE_FROM / width_px, 0.4)
    # A window of this kind makes two neighbouring frequencies depend on each other: half of them count.
    looks = rows / 2 * float(np.mean(power[noise] > 0))
    if not looks or np.count_nonzero(noise) < 4:
        return Smear(shape, RANGES[shape][0]), False

    def misfit(expected: Floats) -> float:
        ratio = power[noise] / expected[noise]
        return 2 * looks * float(np.sum(np.log(expected[noise]) + math.log(ratio.mean())))

    candidates = [Smear(shape, float(c)) for c in np.geomspace(*RANGES[shape], GRID)]
    misfits = [misfit(np.abs(np.fft.rfft(c.weights(across), across)) ** 2) for c in candidates]
    best = int(np.argmin(misfits))
    return candidates[best], misfit(np.ones_like(power)) - misfits[best] > SIGNIFICANT


def likelier(recorded: Floats, expected: Floats, variance: Floats, smear: Smear) -> Smear:
    """Response of either shape under which the noise about an expected image is likeliest; the given one if near.

    Args:
        recorded: image, (rows, columns).
        expected: expected image without the response.
        variance: of its pixels, up to a factor.
        smear: response with which the image was fitted.
    """
    across, level = recorded.shape[1], expected[:, 0]

    def misfit(candidate: Smear) -> float:
        weights = candidate.weights(across)
        square = float(np.mean((restored(recorded, weights, level) - expected) ** 2 / variance))
        return recorded.size * (math.log(square) + 2 * math.log(weights[0]))

    candidates = [Smear(shape, float(c)) for shape in SHAPES for c in np.geomspace(*RANGES[shape], GRID)]
    best = min(candidates, key=misfit)
    return best if best.shape != smear.shape and misfit(smear) - misfit(best) > SIGNIFICANT else smear


def _toeplitz(weights: Floats) -> Floats:
    """Matrix of a causal filter, to multiply lines with from the right, (columns, columns)."""
    from scipy.linalg import toeplitz

    first = np.zeros(len(weights))
    first[0] = weights[0]
    return np.asarray(toeplitz(first, weights))
