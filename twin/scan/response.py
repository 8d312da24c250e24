"""Fast-scan distortion: the light of a slow detector is still decaying when the beam has moved on.

Acts on the signal in read-out order, not on positions.
"""

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from twin.arrays import Floats
from twin.day import ScanProperties
from twin.scan.plan import ScanPath

TINY = 1e-300
INSTANT = 1e-15
"""A response shorter than this fraction of the dwell is neglected."""
NEGLIGIBLE = 1e-18
"""Fraction of a signal below rounding; smaller weights are left out."""
SEEN = 1e-3
"""A decay that is sampled at whole pixels ends where it has fallen to this fraction of its beginning."""
MOST_TAPS = 1_000_000


def response_weights(shape: str, response_s: float, dwell_s: float, taps: int) -> Floats:
    """Fraction of a position's signal recorded 0, 1, ... positions later, shape (taps,); all of them sum to 1.

    The decay is exp(-t / tau) (Friedrich 2023, eq 2.17, beta = dwell / tau per pixel) or 1 / (t^2 + g^2) (eq 2.18,
    alpha = 2 pi g / dwell per pixel). The thesis samples these at whole pixels (`sampled_weights`); here they are
    integrated over the dwell in which the electron arrives and over that in which its light is recorded: the same limit
    for slow decays, and exact for fast ones. The thesis defines h on x <= 0, relative to the recording pixel; the
    smear follows the scan direction.

    Args:
        shape: "exponential" or "half_lorentzian".
        response_s: tau, or the half width at half maximum g; 0 is no smear.
        dwell_s: time per position.
        taps: number of weights.
    """
    k = np.arange(taps, dtype=np.float64)
    ratio = response_s / dwell_s
    if ratio < INSTANT:
        return np.where(k == 0, 1.0, 0.0)
    if shape == "exponential":
        decay = -math.expm1(-1.0 / ratio)
        weights = ratio * decay**2 * np.exp(-np.maximum(k - 1.0, 0.0) / ratio)
        weights[0] = 1.0 - ratio * decay
        return weights

    def twice_integrated(t: Floats) -> Floats:
        late = np.maximum(t, TINY)
        # log(1 + (t / ratio)^2), also where the square would overflow.
        logarithm = np.logaddexp(0.0, 2.0 * (np.log(late) - math.log(ratio)))
        doubly: Floats = 2.0 / math.pi * (late * np.arctan2(late, ratio) - 0.5 * ratio * logarithm)
        return doubly

    return twice_integrated(k + 1.0) - 2.0 * twice_integrated(k) + twice_integrated(k - 1.0)


def sampled_weights(shape: str, constant_per_px: float, taps: int) -> Floats:
    """Fraction of a position's signal recorded 0, 1, ... positions later, sampled at whole pixels, shape (taps,).

    h(k) of eqs 2.17 and 2.18, exp(-beta k) or alpha / (4 pi^2 k^2 + alpha^2), cut where it falls below a thousandth of
    h(0), over its sum.

    Args:
        shape: "exponential" or "half_lorentzian".
        constant_per_px: beta, or alpha.
        taps: number of weights.

    Example:
        >>> sampled_weights("half_lorentzian", 3.0, 4).round(2).tolist()
        [0.76, 0.14, 0.04, 0.02]
        >>> sampled_weights("exponential", 2.0, 4).round(2).tolist()
        [0.86, 0.12, 0.02, 0.0]
    """
    if shape == "exponential":
        reach = -math.log(SEEN) / constant_per_px
        decay = np.exp(-constant_per_px * np.arange(math.floor(min(reach, MOST_TAPS)) + 1))
    else:
        reach = constant_per_px * math.sqrt(1 / SEEN - 1) / (2 * math.pi)
        late = 2 * math.pi * np.arange(math.floor(min(reach, MOST_TAPS)) + 1) / constant_per_px
        decay = 1.0 / (1.0 + late**2)
    weights: Floats = np.zeros(taps)
    kept = min(taps, len(decay))
    weights[:kept] = decay[:kept] / decay.sum()
    return weights


def properties_weights(properties: ScanProperties, dwell_s: float, taps: int) -> Floats:
    """Weights of a scan's errors, by its `response_sampling`, shape (taps,); see the two functions above."""
    shape, response_s = properties.response_shape, properties.response_s
    if properties.response_sampling == "dwell" or response_s / dwell_s < INSTANT:
        return response_weights(shape, response_s, dwell_s, taps)
    turns = dwell_s / response_s if shape == "exponential" else 2 * math.pi * response_s / dwell_s
    return sampled_weights(shape, turns, taps)


class DetectorResponse:
    """Smear a signal along each line in read-out order, block by block; one object per signal and scan.

    Each line starts in the steady state of its first position, so that a flat field stays flat; for a noisy signal, of
    the expected value there, since the noise of one position would persist as if it had lasted for ever. The tail of a
    line decays during the flyback and is not recorded; the positions of a list are lines of their own and do not
    smear. The result does not depend on how the scan is cut into blocks.

    Args:
        properties: shape and time of the response.
    """

    def __init__(self, properties: ScanProperties) -> None:
        self._properties = properties
        self._expected = 0

    def respond(
        self, signal: NDArray[np.floating], path: ScanPath, expected: NDArray[np.floating] | None = None
    ) -> Floats:
        """Return the recorded signal of the next block, shape (N,); a block from position 0 starts another scan.

        Args:
            signal: one value per position of the path, (N,).
            path: the block.
            expected: expectation of a noisy signal, (N,); default the signal itself.

        Raises:
            ValueError: the block does not follow the last one, or the signal has another length.
        """
        if path.first not in (0, self._expected):
            raise ValueError(f"this block starts at position {path.first}, position {self._expected} is next")
        level = signal if expected is None else expected
        if np.shape(signal) != (len(path),) or np.shape(level) != (len(path),):
            raise ValueError(f"a signal of shape {np.shape(signal)} does not go with {len(path)} positions")
        properties = self._properties
        recorded = np.array(signal, dtype=np.float64)
        self._expected = path.first + len(path)
        if properties.response_s == 0.0:
            return recorded
        from scipy.signal import lfilter  # slow to import

        if path.first == 0:
            self._line = -1
            self._weights = self._longest_line_weights(path)
        edges = [0, *(np.flatnonzero(np.diff(path.line)) + 1).tolist(), len(path)]
        for begin, end in itertools.pairwise(edges):
            if path.line[begin] != self._line:
                self._line = int(path.line[begin])
                self._held, self._state = float(level[begin]), np.zeros(len(self._weights) - 1)
            fresh = recorded[begin:end] - self._held
            smeared, self._state = lfilter(self._weights, [1.0, 0.0], fresh, zi=self._state)
            recorded[begin:end] = smeared + self._held
        return recorded

    def _longest_line_weights(self, path: ScanPath) -> Floats:
        """Weights for a line across the image without the negligible ones, at least two.

        With two or more, the filter sums sample after sample in the same order for blocks of any size.
        """
        properties, columns = self._properties, max(path.plan.shape[1], 2)
        weights = properties_weights(properties, path.plan.dwell_s, columns)
        kept = np.flatnonzero(weights > NEGLIGIBLE)
        return weights[: max(int(kept[-1]) + 1, 2)]
