"""Aberration coefficients in Krivanek's Cartesian notation, and the phase they make.

Conversion to abTEM's polar names and to the CEOS names happens here, at the boundary only.
Conventions: docs/conventions.md.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twin.arrays import Array
from twin.errors import nearest, printable


@dataclass(frozen=True)
class Term:
    """One coefficient: radial order n, azimuthal multiplicity m, component '', 'a' (cos) or 'b' (sin)."""

    n: int
    m: int
    component: str

    @property
    def name(self) -> str:
        """Krivanek name, for example C12a."""
        return f"C{self.n}{self.m}{self.component}"


def _all_terms(highest_order: int) -> tuple[Term, ...]:
    terms = []
    for n in range(1, highest_order + 1):
        for m in range((n + 1) % 2, n + 2, 2):
            terms += [Term(n, m, c) for c in (("",) if m == 0 else ("a", "b"))]
    return tuple(terms)


TERMS = _all_terms(5)
"""Every coefficient from first to fifth order, in the one fixed order of this project."""

NAMES = tuple(term.name for term in TERMS)
_INDEX = {name: i for i, name in enumerate(NAMES)}
_NM_TO_ANGSTROM = 10.0

# CEOS names and the factor CEOS = factor * Krivanek (axial comas and star aberrations are
# defined there without the 1/(n+1) bookkeeping of the Krivanek series).
CEOS_FACTORS: Mapping[tuple[int, int], tuple[str, float]] = {
    (1, 0): ("C1", 1.0),
    (1, 2): ("A1", 1.0),
    (2, 1): ("B2", 1.0 / 3.0),
    (2, 3): ("A2", 1.0),
    (3, 0): ("C3", 1.0),
    (3, 2): ("S3", 1.0 / 4.0),
    (3, 4): ("A3", 1.0),
    (4, 1): ("B4", 1.0 / 5.0),
    (4, 3): ("D4", 1.0 / 5.0),
    (4, 5): ("A4", 1.0),
    (5, 0): ("C5", 1.0),
    (5, 2): ("S5", 1.0 / 6.0),
    (5, 4): ("R5", 1.0 / 6.0),
    (5, 6): ("A5", 1.0),
}


def index(name: str) -> int:
    """Position of a coefficient in `NAMES`.

    Raises:
        ValueError: no such coefficient; names the nearest.
    """
    if name not in _INDEX:
        raise ValueError(f"{name!r} is not an aberration coefficient{nearest(name, NAMES)}; known: {', '.join(NAMES)}")
    return _INDEX[name]


@dataclass(frozen=True)
class Aberrations:
    """Coefficients C_nm to fifth order, Cartesian, in nm, in the order of `NAMES`.

    Example:
        >>> state = Aberrations.of({"C10": -20.0, "C12a": 5.0}) + Aberrations.of({"C12a": 1.0})
        >>> state["C12a"], state.nonzero()
        (6.0, {'C10': -20.0, 'C12a': 6.0})
        >>> Aberrations.of({"C12": 5.0})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: 'C12' is not an aberration coefficient (did you mean C12b?); known: C10, C12a, ...
    """

    values_nm: tuple[float, ...] = (0.0,) * len(TERMS)

    def __post_init__(self) -> None:
        if len(self.values_nm) != len(TERMS):
            raise ValueError(f"expected {len(TERMS)} coefficients, got {len(self.values_nm)}")
        if not all(math.isfinite(v) for v in self.values_nm):
            raise ValueError("aberration coefficients must be finite")

    @classmethod
    def of(cls, coefficients_nm: Mapping[str, float]) -> "Aberrations":
        """From named coefficients in nm; the missing ones are zero.

        Raises:
            ValueError: an unknown name (the nearest is suggested) or a value that is not finite.
        """
        values = [0.0] * len(TERMS)
        for name, value in coefficients_nm.items():
            values[index(name)] = float(value)
        return cls(tuple(values))

    @classmethod
    def from_array(cls, values_nm: Array) -> "Aberrations":
        """From an array of shape (25,), nm, in the order of `NAMES`."""
        return cls(tuple(float(v) for v in values_nm))

    def __getitem__(self, name: str) -> float:
        return self.values_nm[index(name)]

    def __add__(self, other: "Aberrations") -> "Aberrations":
        return Aberrations(tuple(a + b for a, b in zip(self.values_nm, other.values_nm, strict=True)))

    def __neg__(self) -> "Aberrations":
        return Aberrations(tuple(-v for v in self.values_nm))

    def array(self) -> NDArray[np.float64]:
        """Shape (25,), nm."""
        return np.asarray(self.values_nm, dtype=np.float64)

    def nonzero(self) -> dict[str, float]:
        """The coefficients that are not zero, by name, nm."""
        return {name: value for name, value in zip(NAMES, self.values_nm, strict=True) if value != 0.0}


def aberration_basis(names: tuple[str, ...], theta_x_mrad: Array, theta_y_mrad: Array, wavelength_nm: float) -> Array:
    """Phase per nm of each coefficient: `chi = basis . coefficients`.

    Krivanek's expansion: `2 pi / lambda * theta^(n+1) / (n+1) * cos|sin(m phi)` (docs/conventions.md).

    Args:
        names: k coefficient names.
        theta_x_mrad, theta_y_mrad: angles, any equal shape (...,).
        wavelength_nm: relativistic electron wavelength.

    Returns:
        rad/nm, shape (k, ...), float64.

    Raises:
        ValueError: the two angle arrays differ in shape, or a name is unknown.
    """
    if np.shape(theta_x_mrad) != np.shape(theta_y_mrad):
        raise ValueError(f"angle arrays differ in shape: {np.shape(theta_x_mrad)} and {np.shape(theta_y_mrad)}")
    omega = (np.asarray(theta_x_mrad, np.float64) + 1j * np.asarray(theta_y_mrad, np.float64)) * 1e-3
    radius2 = np.abs(omega) ** 2
    out = np.empty((len(names), *omega.shape))
    for i, name in enumerate(names):
        term = TERMS[index(name)]
        # theta^(n+1) e^(i m phi) = |omega|^(n+1-m) omega^m; n+1-m is even by construction.
        field = radius2 ** ((term.n + 1 - term.m) // 2) * omega**term.m
        part = field.imag if term.component == "b" else field.real
        out[i] = 2.0 * np.pi / wavelength_nm / (term.n + 1) * part
    return out


def aberration_phase(aberrations: Aberrations, theta_x_mrad: Array, theta_y_mrad: Array, wavelength_nm: float) -> Array:
    """Aberration phase chi in radians; the probe is `F^-1[A exp(-i chi)]`.

    Args:
        aberrations: coefficients in nm, Cartesian; the missing ones are zero.
        theta_x_mrad, theta_y_mrad: angles, any equal shape (...,).
        wavelength_nm: relativistic electron wavelength.

    Returns:
        chi, shape (...,), float64.

    Raises:
        ValueError: the two angle arrays differ in shape.
    """
    present = aberrations.nonzero()
    basis = aberration_basis(tuple(present), theta_x_mrad, theta_y_mrad, wavelength_nm)
    return np.tensordot(np.asarray(list(present.values()), np.float64), basis, axes=1)


def _polar(aberrations: Aberrations) -> dict[tuple[int, int], complex]:
    """a + i b per (n, m), nm."""
    polar: dict[tuple[int, int], complex] = {}
    for term, value in zip(TERMS, aberrations.values_nm, strict=True):
        polar[term.n, term.m] = polar.get((term.n, term.m), 0j) + (1j if term.component == "b" else 1.0) * value
    return polar


def _from_polar(polar: Mapping[tuple[int, int], complex]) -> Aberrations:
    values = [z.imag if t.component == "b" else z.real for t in TERMS for z in [complex(polar.get((t.n, t.m), 0.0))]]
    return Aberrations(tuple(values))


_ABTEM_ANGLED = {
    "astigmatism": "12",
    "astigmatism3": "32",
    "astigmatism5": "52",
    "coma": "21",
    "coma4": "41",
    "trefoil": "23",
    "trefoil4": "43",
    "quadrafoil": "34",
    "quadrafoil5": "54",
    "pentafoil": "45",
    "hexafoil": "56",
}
ABTEM_NAMES = (
    {"defocus": "C10", "Cs": "C30", "C5": "C50"}
    | {name: f"C{order}" for name, order in _ABTEM_ANGLED.items()}
    | {f"{name}_angle": f"phi{order}" for name, order in _ABTEM_ANGLED.items()}
)
"""abTEM's own names (its `polar_aliases`) and their symbols; defocus is -C10."""


def to_abtem(aberrations: Aberrations) -> dict[str, float]:
    """abTEM's polar coefficients: magnitudes `C12` in angstrom and angles `phi12` in rad.

    abTEM's term is `C cos(m (phi - phi_nm))`, so `C_a = C cos(m phi_nm)`, `C_b = C sin(m phi_nm)`.
    abTEM's own `polar2cartesian` uses other signs and is not used.
    """
    out: dict[str, float] = {}
    for (n, m), z in _polar(aberrations).items():
        if m == 0:
            out[f"C{n}{m}"] = z.real * _NM_TO_ANGSTROM
        else:
            out[f"C{n}{m}"] = abs(z) * _NM_TO_ANGSTROM
            out[f"phi{n}{m}"] = float(np.angle(z)) / m
    return out


def _nearest_of_abtem(key: str, known: set[str]) -> str:
    """' (did you mean X?)' with abTEM's own spelling, also of a Cartesian name and one in other case."""
    names = sorted(known | set(ABTEM_NAMES))
    meant = next((name for name in names if name.lower() in (key.lower(), key.lower().rstrip("ab"))), None)
    return f" (did you mean {meant}?)" if meant else nearest(key, names)


def _abtem_number(key: str, value: Any) -> float:
    """Return a coefficient or an angle.

    Raises:
        ValueError: not one finite number.
    """
    if isinstance(value, str) and value.lower() == "scherzer":
        raise ValueError(
            f"{key}='scherzer' depends on Cs and the energy: give the number that abTEM has,"
            " abtem.transfer.scherzer_defocus(Cs, energy) for defocus"
        )
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        unit = "rad" if key.startswith("phi") or key.endswith("_angle") else "angstrom"
        raise ValueError(f"{key} is one finite number in {unit}, not {printable(repr(value), 60)}")
    return number


def from_abtem(parameters: Mapping[str, Any]) -> Aberrations:
    """From abTEM's polar coefficients (angstrom, rad), by symbol or by name; the inverse of `to_abtem`.

    Raises:
        ValueError: a key that abTEM does not have (abTEM itself silently accepts it), one coefficient twice, or a value
            that is no finite number; abTEM also takes "scherzer" for the defocus, which depends on the energy.

    Example:
        >>> from_abtem({"defocus": 50.0, "Cs": 1e7}).nonzero()  # defocus is -C10
        {'C10': -5.0, 'C30': 1000000.0}
    """
    pairs = {(t.n, t.m) for t in TERMS}
    known = {f"C{n}{m}" for n, m in pairs} | {f"phi{n}{m}" for n, m in pairs if m > 0}
    by_symbol: dict[str, float] = {}
    for key, value in parameters.items():
        symbol = ABTEM_NAMES.get(key, key)
        if symbol not in known:
            names = ", ".join(sorted(known | set(ABTEM_NAMES)))
            raise ValueError(f"{key!r} is not an abTEM aberration{_nearest_of_abtem(str(key), known)}; known: {names}")
        if symbol in by_symbol:
            raise ValueError(f"{key!r} is abTEM's {symbol}, which is given twice")
        number = _abtem_number(key, value)
        by_symbol[symbol] = -number if key == "defocus" else number
    polar = {}
    for n, m in pairs:
        angle = m * by_symbol.get(f"phi{n}{m}", 0.0)
        polar[n, m] = by_symbol.get(f"C{n}{m}", 0.0) / _NM_TO_ANGSTROM * np.exp(1j * angle)
    return _from_polar(polar)


def to_ceos(aberrations: Aberrations) -> dict[str, tuple[float, float]]:
    """CEOS coefficients (C1 A1 B2 A2 C3 S3 A3 B4 D4 A4 C5 S5 R5 A5), Cartesian (x, y), nm.

    Equal phase: axial coma and the star-like terms carry the factor 1/(n+1) that the CEOS series
    does not (Krivanek C21 = 3 B2, C32 = 4 S3, C41 = 5 B4, C43 = 5 D4, C52 = 6 S5, C54 = 6 R5).
    """
    polar = _polar(aberrations)
    return {name: (factor * polar[nm].real, factor * polar[nm].imag) for nm, (name, factor) in CEOS_FACTORS.items()}


def from_ceos(coefficients_nm: Mapping[str, tuple[float, float]]) -> Aberrations:
    """From CEOS names to Krivanek; the inverse of `to_ceos`.

    Raises:
        ValueError: an unknown CEOS name.
    """
    by_name = {name: (nm, factor) for nm, (name, factor) in CEOS_FACTORS.items()}
    polar = {}
    for name, (x, y) in coefficients_nm.items():
        if name not in by_name:
            raise ValueError(f"{name!r} is not a CEOS aberration; known: {', '.join(by_name)}")
        nm, factor = by_name[name]
        polar[nm] = complex(x, y) / factor
    return _from_polar(polar)


def rotated(aberrations: Aberrations, angle_rad: float) -> Aberrations:
    """The same aberrations in axes rotated by `angle_rad`: C_nm -> C_nm exp(-i m angle)."""
    return _from_polar({(n, m): z * np.exp(-1j * m * angle_rad) for (n, m), z in _polar(aberrations).items()})
