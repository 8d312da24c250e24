"""Numbers for JSON and in words: rounded for the eye, and None for what JSON cannot hold."""

import math
from collections.abc import Iterable

from twin.state import StateSpace

DIGITS = 6
"""Significant digits."""


def rounded(values: Iterable[float]) -> list[float | None]:
    """Return numbers with `DIGITS` significant digits; None for NaN and infinities.

    Example:
        >>> rounded([1.23456789, float("nan"), -2])
        [1.23457, None, -2.0]
    """
    return [float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None for value in map(float, values)]


def changes_in_words(space: StateSpace, values_nm: Iterable[float]) -> str:
    """Return coefficients with sign and two decimals, as everywhere on the page.

    Example:
        >>> changes_in_words(StateSpace(), [46.688, -12.28, 0])
        'C10 +46.69, C12a -12.28, C12b +0.00 nm'
    """
    return ", ".join(f"{name} {value:+.2f}" for name, value in zip(space.names, values_nm, strict=True)) + " nm"


def dose_in_words(dose_e: float) -> str:
    """Return a number of electrons as everywhere on the page.

    Example:
        >>> dose_in_words(1e6), dose_in_words(800)
        ('1.0e6 electrons', '800 electrons')
    """
    mantissa, _, exponent = f"{dose_e:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)} electrons" if dose_e >= 1e4 else f"{dose_e:.3g} electrons"
