"""What an exposure may cost and what it cost: the figures of instrument and operator, and when they cannot be right."""

import math

from twin.instrument.faults import DoseExhausted, WrongDose

FACTOR = 2.0
"""Largest ratio between the dose planned for an exposure and the dose told after it. Beam currents drift by a few per
cent in an hour and are known to some tens; a wrong unit or a wrong exposure time is off by far more."""
LARGEST_E = 1e15
"""Largest dose of one exposure: 1 uA for 160 s."""


def planned_e(told_next_e: float | None, figure_e: float | None, largest_e: float, budgeted: bool) -> float:
    """Return the electrons to expect of the next exposure; 0 if nothing is known and no budget needs it.

    Args:
        told_next_e: as the instrument tells; None if it does not.
        figure_e: the operator's own figure, `safety.exposure_e`; None without one.
        largest_e: largest exposure of the session so far, 0 before the first.
        budgeted: a dose limit is set.

    Raises:
        WrongDose: the instrument tells a dose that cannot be.
        DoseExhausted: nobody knows the cost of the first exposure, and a limit is set.

    Example:
        >>> planned_e(1e6, 2e6, 0.0, budgeted=True), planned_e(None, None, 3e5, budgeted=True)
        (2000000.0, 300000.0)
        >>> planned_e(None, None, 0.0, budgeted=True)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        twin.instrument.faults.DoseExhausted: the cost of the first exposure is not known: ...
    """
    if told_next_e is not None:
        if not _is_dose(told_next_e):
            raise WrongDose(f"the reported dose of the next exposure is {told_next_e!r} e: no budget can check that")
        return max(float(told_next_e), figure_e or 0.0)
    expected = max(figure_e or 0.0, largest_e)
    if budgeted and expected == 0.0:
        raise DoseExhausted(
            "the cost of the first exposure is not known: the instrument does not tell it; give safety.exposure_e,"
            " the electrons of one exposure, beside the dose limit"
        )
    return expected


def booked_e(planned_e: float, told_e: float) -> float:
    """Return the electrons to book for an exposure: the larger of planned and told.

    Example:
        >>> booked_e(1e6, 0.0), booked_e(1e6, 3e6), booked_e(1e6, float("nan"))
        (1000000.0, 3000000.0, 1000000.0)
    """
    return max(planned_e, float(told_e)) if _is_dose(told_e) else planned_e


def check_told(planned_e: float, told_e: float) -> None:
    """Refuse a dose that was told for an exposure and cannot be right.

    Args:
        planned_e: what was expected; 0: nothing was known.
        told_e: as the instrument tells after the exposure.

    Raises:
        WrongDose: not positive, not finite, beyond any exposure, or off by more than `FACTOR`.

    Example:
        >>> check_told(1e6, 1.2e6)
        >>> check_told(1e6, 0.0)
        Traceback (most recent call last):
        twin.instrument.faults.WrongDose: the instrument tells 0.0 e for an exposure: a dose lies in 0 to 1e+15 e
    """
    if not _is_dose(told_e):
        raise WrongDose(f"the instrument tells {told_e!r} e for an exposure: a dose lies in 0 to {LARGEST_E:g} e")
    if planned_e > 0 and not planned_e / FACTOR <= told_e <= planned_e * FACTOR:
        raise WrongDose(
            f"the instrument tells {told_e:g} e for an exposure planned with {planned_e:g} e: more than a factor of"
            f" {FACTOR:g} apart"
        )


def _is_dose(value_e: float) -> bool:
    try:
        return math.isfinite(value_e) and 0 < value_e <= LARGEST_E
    except (TypeError, OverflowError):  # a driver may return anything
        return False
