"""Numbers for JSON: rounded for the eye, and None for what JSON cannot hold."""

import math
from collections.abc import Iterable

DIGITS = 6
"""Significant digits."""


def rounded(values: Iterable[float]) -> list[float | None]:
    """Return numbers with `DIGITS` significant digits; None for NaN and infinities.

    Example:
        >>> rounded([1.23456789, float("nan"), -2])
        [1.23457, None, -2.0]
    """
    return [float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None for value in map(float, values)]
