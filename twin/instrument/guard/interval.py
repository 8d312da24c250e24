"""The interval in which a corrector may stand, coefficient by coefficient. No instrument here."""

from dataclasses import dataclass

import numpy as np

from twin.arrays import Array


@dataclass(frozen=True, eq=False)
class Interval:
    """From low to high, for each coefficient, nm of cumulative input. Immutable.

    Attributes:
        low_nm, high_nm: shape (n,).

    Example:
        >>> here = Interval.at(np.array([10.0, 0.0]))
        >>> sent = here.moved(np.array([-20.0, 5.0]))
        >>> here.hull(sent).low_nm.tolist(), here.hull(sent).high_nm.tolist()
        ([-10.0, 0.0], [10.0, 5.0])
    """

    low_nm: Array
    high_nm: Array

    def __post_init__(self) -> None:
        for label in ("low_nm", "high_nm"):
            object.__setattr__(self, label, read_only(getattr(self, label)))

    @classmethod
    def at(cls, position_nm: Array) -> "Interval":
        """The interval of a known position."""
        return cls(position_nm, position_nm)

    def moved(self, delta_nm: Array) -> "Interval":
        """The interval after a command that was carried out."""
        return Interval(self.low_nm + delta_nm, self.high_nm + delta_nm)

    def hull(self, other: "Interval") -> "Interval":
        """The interval that holds both, and what lies between."""
        return Interval(np.minimum(self.low_nm, other.low_nm), np.maximum(self.high_nm, other.high_nm))

    def holds(self, position_nm: Array, tolerance_nm: float) -> bool:
        """Whether a position lies in the interval, or outside by no more than the tolerance."""
        return bool(np.all(np.abs(position_nm - self.nearest(position_nm)) <= tolerance_nm))

    def nearest(self, position_nm: Array) -> Array:
        """The point of the interval that is nearest to a position, shape (n,)."""
        return np.clip(position_nm, self.low_nm, self.high_nm)

    def lies_at(self, position_nm: Array, tolerance_nm: float) -> bool:
        """Whether the whole interval is within the tolerance of a position."""
        ends = np.abs(np.stack([self.low_nm, self.high_nm]) - position_nm)
        return bool(np.all(ends <= tolerance_nm))

    @property
    def is_point(self) -> bool:
        """Whether the position is known."""
        return np.array_equal(self.low_nm, self.high_nm)

    def named(self, names: tuple[str, ...]) -> str:
        """The interval in words, for messages."""
        parts = zip(names, self.low_nm, self.high_nm, strict=True)
        return ", ".join(
            f"{name} {low:+.4g} nm" if low == high else f"{name} {low:+.4g} to {high:+.4g} nm"
            for name, low, high in parts
        )


def read_only(values: Array) -> Array:
    """Return a read-only copy, float64: nobody else holds it, nobody can change it."""
    copy = np.array(values, dtype=np.float64)
    copy.flags.writeable = False
    return copy
