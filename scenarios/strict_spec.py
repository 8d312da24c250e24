"""The strict verdicts beside a scenario's own tolerance (10 nm in the paper): what an image of atoms needs."""

import numpy as np

from twin.aberrations import TERMS, index
from twin.arrays import Array
from twin.optics import Optics
from twin.probe import quarter_pi_limit_nm
from twin.state import StateSpace

STRICT_NM = 2.0
"""Limit of defocus and of each component of two-fold astigmatism: three times pi / 4 at 28 mrad and 300 kV."""


def pair_lengths_nm(error_nm: Array, space: StateSpace) -> dict[str, float]:
    """Length of each coefficient of an error (n,), its components a and b together, by its name without them.

    Example:
        >>> pair_lengths_nm(np.array([-1.0, 3.0, 4.0]), StateSpace())
        {'C10': 1.0, 'C12': 5.0}
    """
    names = np.array([f"C{TERMS[index(name)].n}{TERMS[index(name)].m}" for name in space.names])
    return {str(name): float(np.linalg.norm(error_nm[names == name])) for name in dict.fromkeys(names)}


def within_quarter_pi(error_nm: Array, space: StateSpace, optics: Optics) -> bool:
    """Whether every coefficient of an error (n,) changes the phase at the aperture's edge by less than pi / 4.

    Example:
        >>> space, optics = StateSpace(), Optics(energy_kev=300.0, convergence_mrad=28.0)
        >>> [within_quarter_pi(np.array([c10, 0.0, 0.0]), space, optics) for c10 in (0.6, 0.7)]
        [True, False]
    """
    lengths = pair_lengths_nm(error_nm, space)
    return all(length < quarter_pi_limit_nm(component(name), optics) for name, length in lengths.items())


def within_strict_nm(error_nm: Array, space: StateSpace, optics: Optics) -> bool:
    """Whether the first order of an error (n,) is within `STRICT_NM`, and every higher coefficient within pi / 4.

    Example:
        >>> [within_strict_nm(np.array([c10, 0.0, 0.0]), StateSpace(), Optics()) for c10 in (1.9, 2.1)]
        [True, False]
    """
    first = space.is_first_order
    higher = bool(first.all()) or within_quarter_pi(error_nm[~first], space.only(~first), optics)
    return bool(np.all(np.abs(error_nm[first]) < STRICT_NM) and higher)


def component(pair: str) -> str:
    """A coefficient of the pair: C21a for C21, C30 for C30."""
    return pair if pair.endswith("0") else f"{pair}a"
