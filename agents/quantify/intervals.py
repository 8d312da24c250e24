"""Confidence intervals of a mean and of a variance (Friedrich 2023, eqs 2.23-2.24)."""

import math

import numpy as np
from scipy import stats

from twin.arrays import Floats


def mean_interval(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """Student's interval of the mean of independent normal values (eq 2.23).

    Args:
        values: at least two.
        level: probability that the interval covers the mean.

    Raises:
        ValueError: fewer than two values.

    Example:
        >>> low, high = mean_interval([9.0, 10.0, 11.0])
        >>> round(low, 2), round(high, 2)
        (7.52, 12.48)
    """
    found = _several(values)
    half = stats.t.ppf(0.5 + level / 2, len(found) - 1) * found.std(ddof=1) / math.sqrt(len(found))
    return float(found.mean() - half), float(found.mean() + half)


def variance_interval(values: Floats, level: float = 0.95) -> tuple[float, float]:
    """Interval of the variance of independent normal values by the chi-squared law (eq 2.24); arguments as above."""
    found = _several(values)
    degrees = len(found) - 1
    scaled = degrees * found.var(ddof=1)
    return (
        float(scaled / stats.chi2.ppf(0.5 + level / 2, degrees)),
        float(scaled / stats.chi2.ppf(0.5 - level / 2, degrees)),
    )


def _several(values: Floats) -> Floats:
    found = np.asarray(values, np.float64)
    if found.ndim != 1 or len(found) < 2:
        raise ValueError(f"an interval needs at least two values, got {found.size}")
    return found
