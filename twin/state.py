"""The calibrated state x: its coefficients, their ranges and tolerances."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from twin.aberrations import TERMS, Aberrations, index
from twin.arrays import Array


@dataclass(frozen=True)
class StateSpace:
    """Coefficients under calibration and their half-ranges, all in nm, one entry per name.

    Attributes:
        names: Krivanek names, for example ("C10", "C12a", "C12b").
        start_nm: the initial state lies in +-start_nm; estimates and candidates stay inside.
        input_nm: the cumulative input stays within +-input_nm.
        tolerance_nm: a state is in spec if every |component| is below it.

    Raises:
        ValueError: an unknown or repeated name, a range that is not positive, or inputs that cannot undo every start.

    Example:
        >>> space = StateSpace(names=("C10", "C30"), start_nm=(50, 2e3), input_nm=(80, 3e3), tolerance_nm=(5, 500))
        >>> space.to_aberrations(np.array([12.0, -300.0]))["C30"]
        -300.0
        >>> space.in_spec(np.array([4.0, 100.0])), space.in_spec(np.array([6.0, 100.0]))
        (True, False)
    """

    names: tuple[str, ...] = ("C10", "C12a", "C12b")
    start_nm: tuple[float, ...] = (60.0, 30.0, 30.0)
    input_nm: tuple[float, ...] = (60.0, 30.0, 30.0)
    tolerance_nm: tuple[float, ...] = (10.0, 10.0, 10.0)
    _indices: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_indices", tuple(index(name) for name in self.names))
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"a coefficient is named twice in {self.names}")
        for label in ("start_nm", "input_nm", "tolerance_nm"):
            values = getattr(self, label)
            if len(values) != len(self.names):
                raise ValueError(f"{label} has {len(values)} entries; expected one per name, {len(self.names)}")
            if not all(np.isfinite(v) and v > 0 for v in values):
                raise ValueError(f"{label} must be positive and finite, got {values}")
        if any(i < s for i, s in zip(self.input_nm, self.start_nm, strict=True)):
            raise ValueError(f"input_nm {self.input_nm} cannot undo every start within {self.start_nm}")

    @property
    def dimension(self) -> int:
        """Number of calibrated coefficients, n."""
        return len(self.names)

    @property
    def range_nm(self) -> Array:
        """Half-range of the state itself, |x| <= start + input, shape (n,)."""
        return self.start + self.input

    @property
    def is_first_order(self) -> NDArray[np.bool_]:
        """Mask of defocus and two-fold astigmatism, shape (n,)."""
        return np.array([TERMS[i].n == 1 for i in self._indices])

    def only(self, keep: NDArray[np.bool_]) -> "StateSpace":
        """The space of the coefficients in a mask, (n,)."""
        parts = (self.names, self.start_nm, self.input_nm, self.tolerance_nm)
        return StateSpace(*(tuple(v for v, k in zip(part, keep, strict=True) if k) for part in parts))  # type: ignore[arg-type]

    @property
    def start(self) -> Array:
        """start_nm as an array, shape (n,)."""
        return np.asarray(self.start_nm)

    @property
    def input(self) -> Array:
        """input_nm as an array, shape (n,)."""
        return np.asarray(self.input_nm)

    @property
    def tolerance(self) -> Array:
        """tolerance_nm as an array, shape (n,)."""
        return np.asarray(self.tolerance_nm)

    @property
    def zero(self) -> Array:
        """No input, shape (n,)."""
        return np.zeros(self.dimension)

    def draw_start(self, rng: np.random.Generator, count: int | None = None) -> Array:
        """Initial states, uniform in the start box, shape (n,) or (count, n)."""
        shape = (self.dimension,) if count is None else (count, self.dimension)
        return rng.uniform(-1.0, 1.0, shape) * self.start

    def check_input(self, delta_nm: Array, cumulative_nm: Array) -> Array:
        """Return the cumulative input, shape (n,), after adding `delta_nm`.

        Raises:
            ValueError: wrong shape, not finite, or outside +-input_nm; the message names the coefficient.
        """
        delta = np.asarray(delta_nm, dtype=np.float64)
        if delta.shape != (self.dimension,):
            raise ValueError(f"an input has shape ({self.dimension},) for {', '.join(self.names)}; got {delta.shape}")
        if not np.all(np.isfinite(delta)):
            raise ValueError(f"an input must be finite; got {delta.tolist()}")
        total = np.asarray(cumulative_nm) + delta
        excess = np.abs(total) - self.input
        if np.any(excess > 1e-9):
            worst = int(np.argmax(excess))
            raise ValueError(
                f"input {self.names[worst]} {delta[worst]:+.3g} nm would bring the cumulative input to"
                f" {total[worst]:+.3g} nm; the limit is +-{self.input_nm[worst]:.3g} nm"
            )
        return np.clip(total, -self.input, self.input)

    def to_aberrations(self, state_nm: Array) -> Aberrations:
        """The state as aberrations, every other coefficient zero."""
        return Aberrations.of(dict(zip(self.names, (float(v) for v in state_nm), strict=True)))

    def named(self, values_nm: Array) -> str:
        """A state or an input in words, for messages."""
        return ", ".join(f"{name} {value:+.4g} nm" for name, value in zip(self.names, values_nm, strict=True))

    def in_spec(self, error_nm: Array) -> bool:
        """Whether every component of the error is below its tolerance."""
        return bool(np.all(np.abs(error_nm) < self.tolerance))


FIRST_ORDER = StateSpace()
"""Defocus and two-fold astigmatism: the paper's three parameters."""

SECOND_ORDER = StateSpace(
    names=("C10", "C12a", "C12b", "C21a", "C21b", "C23a", "C23b"),
    start_nm=(60.0, 30.0, 30.0, 150.0, 150.0, 150.0, 150.0),
    input_nm=(60.0, 30.0, 30.0, 150.0, 150.0, 150.0, 150.0),
    tolerance_nm=(10.0, 10.0, 10.0, 23.7, 23.7, 23.7, 23.7),
)
"""First order with axial coma and three-fold astigmatism.

A pair within 33.6 nm = 3 lambda / (8 alpha^3) changes the phase at the edge of a 28 mrad aperture at 300 kV by less
than pi / 4; each component within 33.6 / sqrt(2) nm keeps the pair there in every direction.
"""
