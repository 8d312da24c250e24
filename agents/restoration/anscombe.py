"""Anscombe's transform, which gives Poisson counts a variance of one, and its unbiased inverse.

Anscombe, Biometrika 35 (1948) 246; Makitalo and Foi, IEEE Trans. Image Process. 20 (2011) 99 for the inverse.
"""

import math
from functools import lru_cache

import numpy as np

from twin.arrays import Floats

EXACT_TO = 60.0
"""Mean counts up to which the inverse is tabulated; beyond, its expansion is as good."""
POINTS = 1200


def stabilised(counts: Floats) -> Floats:
    """2 sqrt(x + 3/8), the same shape; negative counts are taken for none."""
    return np.asarray(2.0 * np.sqrt(np.maximum(counts, 0.0) + 0.375))


def expected(values: Floats) -> Floats:
    """Mean counts whose stabilised counts have these means: the exact unbiased inverse, the same shape.

    Example:
        >>> import numpy as np
        >>> counts = np.random.default_rng(0).poisson(0.3, 100_000)
        >>> mean = stabilised(counts).mean()
        >>> round(float(expected(mean)), 2), round(float((mean / 2) ** 2 - 3 / 8), 2)  # the plain inverse is biased
        (0.3, 0.22)
    """
    table, mean = _table()
    far = np.maximum(values, table[-1])
    # Makitalo and Foi's closed form, eq 6, for large means.
    beyond = far**2 / 4 + math.sqrt(1.5) / (4 * far) - 11 / (8 * far**2) + 5 * math.sqrt(1.5) / (8 * far**3) - 0.125
    return np.where(values > table[-1], beyond, np.interp(values, table, mean))


@lru_cache
def _table() -> tuple[Floats, Floats]:
    """Mean of the stabilised counts, rising, for means of the counts, each (P,)."""
    from scipy.stats import poisson

    mean = np.linspace(0.0, math.sqrt(EXACT_TO), POINTS) ** 2
    counts = np.arange(int(EXACT_TO + 12 * math.sqrt(EXACT_TO)))
    return poisson.pmf(counts, mean[:, None]) @ stabilised(counts.astype(np.float64)), mean
