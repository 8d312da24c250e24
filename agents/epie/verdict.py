"""Verdict on the amplitude error of ePIE: below 5 % of its start is converged, a plateau above 10 % is wrong.

The rule (after Maiden and Rodenburg 2009) is for frames without noise; here the error that counting alone leaves is
taken off.
"""

import math

import numpy as np

from twin.arrays import Floats

CONVERGED, WRONG = 0.05, 0.10
"""Amplitude error over that of an empty object, below and above which the verdict is clear."""


def counting_error(mean: Floats) -> float:
    """Amplitude error that Poisson noise leaves under the right model, for the mean counts of each pixel.

    The root of a Poisson variate of mean m is sqrt(m) with a mean squared error of 1/4; for few counts, zero or one,
    of 2 m (1 - sqrt(m)).

    Example:
        >>> round(counting_error(np.full(10, 25.0)), 3)
        0.1
    """
    total, square = float(mean.sum()), np.where(mean < 0.25, 2 * mean * (1 - np.sqrt(mean)), 0.25)
    return math.sqrt(float(square.sum()) / total) if total > 0 else 0.0


def error_left(error: float, start: float, counting: float) -> float:
    """Part of the amplitude error of an empty object that is left, without the error of counting; 0 to 1."""
    before = start**2 - counting**2
    return math.sqrt(min(1.0, max(0.0, error**2 - counting**2) / before)) if before > 0 else 0.0


def error_verdict(left: float) -> str:
    """One sentence on what is left of the error.

    Example:
        >>> error_verdict(0.02)
        'amplitude error: 2 % of its start is left beyond counting noise: converged'
    """
    if left < CONVERGED:
        judged = "converged"
    elif left <= WRONG:
        judged = f"between {CONVERGED:.0%} and {WRONG:.0%}: more passes may help".replace("%", " %")
    else:
        judged = "above 10 %: too little overlap, too few positions, a saturated camera, or optics that are not as told"
    return f"amplitude error: {100 * left:.2g} % of its start is left beyond counting noise: {judged}"
