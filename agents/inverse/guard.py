"""Does a feature come from the data or from the prior? A likelihood ratio for one feature of an image.

The image is compared with itself without the feature; the amplitude of the feature is fitted to the data.
For weak-phase data the estimate is linear and Gaussian, hence its false-alarm rate is known.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import norm

from agents.inverse.data import PhaseData
from twin.arrays import Floats

FALSE_ALARM = 0.01
"""Probability that a verdict rejects a true hypothesis."""

Word = Literal["supported", "not needed", "contradicted"]


@dataclass(frozen=True)
class Verdict:
    """Result of the test of one feature.

    Attributes:
        word: "supported": the image without the feature is rejected, and the amplitude fits. "not needed": the data
            do not reject the image without it. "contradicted": they reject the feature as it stands in the image.
        amplitude: of the feature in the data over that in the image: 1 if true, 0 if invented.
        sigma: standard error of the amplitude.
        log_likelihood_ratio: of the image with the feature against the image without it; negative favours the latter.
    """

    word: Word
    amplitude: float
    sigma: float
    log_likelihood_ratio: float


def patch(image: Floats, row: float, column: float, radius_px: float) -> Floats:
    """A feature as an image: what a round patch holds above its rim, with a smooth edge; periodic.

    Args:
        image: (R, C).
        row, column: middle of the feature.
        radius_px: of the patch.
    """
    y, x = ((np.arange(n) - middle + n / 2) % n - n / 2 for n, middle in zip(image.shape, (row, column), strict=True))
    distance = np.hypot(y[:, None], x)
    inside = np.cos(np.pi / 2 * np.clip(distance / radius_px, 0.0, 1.0)) ** 2
    rim = np.abs(distance - radius_px) <= 0.75
    return np.asarray(inside * (image - (float(image[rim].mean()) if rim.any() else 0.0)))


def judge(data: PhaseData, image: Floats, feature: Floats, false_alarm: float = FALSE_ALARM) -> Verdict:
    """Test a feature of an image against the data.

    Args:
        data: weak-phase data.
        image: with the feature, rad, (R, C).
        feature: the part of the image in question, of the same shape, see `patch`.
        false_alarm: probability of "supported" for a feature that is not in the data, and of "contradicted" for one
            that is there as in the image; the rest of the image is taken as right.

    Raises:
        ValueError: image or feature differ from the data in shape.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> atom = np.zeros((16, 16))
        >>> atom[7:10, 7:10] = 1.0
        >>> spectrum = np.fft.rfft2(atom + 0.1 * rng.standard_normal(atom.shape))
        >>> data = PhaseData(spectrum, np.full(spectrum.shape, 1 / (256 * 0.1**2)), atom.shape)
        >>> judge(data, atom, atom).word, judge(data, 2 * atom, atom).word
        ('supported', 'contradicted')
    """
    if not image.shape == feature.shape == data.shape:
        raise ValueError(
            f"image {image.shape} and feature {feature.shape} must have the shape of the data, {data.shape}"
        )
    information = data.product(feature, feature)
    if information <= 0:
        return Verdict("not needed", 0.0, math.inf, 0.0)
    without = image - feature
    amplitude, sigma = data.explained(feature, without) / information, 1.0 / math.sqrt(information)
    limit = float(norm.isf(false_alarm / 2))
    there, as_told = amplitude > float(norm.isf(false_alarm)) * sigma, abs(amplitude - 1.0) <= limit * sigma
    word: Word = "contradicted" if not as_told else "supported" if there else "not needed"
    return Verdict(word, amplitude, sigma, information * (amplitude - 0.5))
