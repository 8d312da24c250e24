"""What an episode is about: the day of its microscope, from the environment or from `reset(options=...)`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from twin.day import Day
from twin.errors import StemtwinError, check_known
from twin.options import checked_options

OPTIONS = ("day", "severity")


class ResetError(StemtwinError, ValueError):
    """An option of `reset` that is unknown, or that this environment cannot honour."""


@dataclass(frozen=True)
class Days:
    """The days of an environment's episodes.

    Attributes:
        day: of every episode, unless a severity is given.
        severity: draw the day of every episode by `Day.random`; None: do not.
    """

    day: Day
    severity: float | None = None

    def __post_init__(self) -> None:
        if self.severity is not None:
            _severity(self.severity)

    def of_episode(self, options: Mapping[str, Any] | None, rng: np.random.Generator) -> Day:
        """Return the day of the next episode.

        A day is drawn from a generator of its own: the same seed gives the same initial state with every severity.

        Args:
            options: of `reset`: `day`, a `Day` or a mapping of its fields, or `severity`, for this episode alone.
            rng: of the environment.

        Raises:
            ResetError: an unknown option (names the nearest), both, or a value that is no day or severity.
        """
        given = checked(options)
        if "day" in given:
            return _day(given["day"])
        severity = _severity(given["severity"]) if "severity" in given else self.severity
        return self.day if severity is None else Day.random(rng.spawn(1)[0], severity)


def checked(options: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the options of `reset` by name.

    Raises:
        ResetError: an unknown option (names the nearest), or both.
    """
    given = options or {}
    for name in given:
        check_known(name, OPTIONS, "an option of reset", ResetError)
    if len(given) > 1:
        raise ResetError("reset takes a day or a severity, which draws one; not both")
    return given


def refuse_options(options: Mapping[str, Any] | None, why: str) -> None:
    """Refuse options of `reset` that cannot be honoured.

    Raises:
        ResetError: there are some.
    """
    if given := checked(options):
        raise ResetError(f"reset(options={{{next(iter(given))!r}: ...}}): {why}")


def _day(value: Any) -> Day:
    if isinstance(value, Day):
        return value
    if not isinstance(value, Mapping):
        known = ", ".join(field.name for field in fields(Day))
        raise ResetError(f"a day is a twin.Day or a mapping of its fields ({known}), not {value!r:.60}")
    try:
        return checked_options(Day, {str(key): part for key, part in value.items()})
    except ValueError as error:
        raise ResetError(f"day: {error}") from error


def _severity(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 <= value < math.inf:
        raise ResetError(f"severity is a number, 0 (the nominal day) or more; got {value!r:.60}")
    return float(value)
