"""Amorphous carbon as atoms: an equilibrium fluid of hard cores in a laterally periodic film.

Its structure factor is that of the phase screens in `carbon_screen.py`.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from twin.day import FilmProperties

Array = NDArray[np.float64]
Cells = NDArray[np.int64]

MAX_ROUNDS = 200
"""Candidates per atom before a film is refused as too dense."""

SWEEPS = 4
"""Moves tried per atom after filling. Random addition alone leaves S(q) 15 % below equilibrium at low q."""


def carbon_film(film: FilmProperties, side_nm: float, rng: np.random.Generator) -> Array:
    """Atoms of an amorphous film: random sequential addition, then equilibration by Monte Carlo.

    Filling: a candidate, uniform in the film, is accepted if it overlaps no atom. Equilibration: each atom in turn
    moves to a position uniform in the film if that is free; this is the Metropolis rule for hard spheres (Metropolis
    et al. 1953), and the long jumps relax all wavelengths at the same rate.

    Args:
        film: thickness, density and closest approach.
        side_nm: period along x and y. Cores are periodic along z, too, so that the faces are like the bulk.
        rng: the same state gives the same atoms.

    Returns:
        Positions (x, y, z), nm, shape (N, 3), with 0 <= x, y < side_nm and 0 <= z < thickness;
        N is density times volume, rounded.

    Raises:
        ValueError: the period is not finite or below twice the closest approach, or the film cannot
            be filled to its density at random.
    """
    core = film.closest_nm
    if not (math.isfinite(side_nm) and side_nm >= 2 * core):
        raise ValueError(f"side_nm must be at least twice hard_core_nm, {2 * core:g} nm; got {side_nm!r}")
    box = np.array([side_nm, side_nm, film.thickness_nm])
    count = round(film.atoms_per_nm3 * float(np.prod(box)))
    positions = np.empty((count, 3))
    # Cells no smaller than the core, so that the 27 around a candidate hold every atom it could touch,
    # and no smaller than the volume per atom, so that few are empty.
    edge = max(core, film.atoms_per_nm3 ** (-1 / 3))
    cells = np.maximum(1, np.floor(box / edge)).astype(np.int64)
    first = np.full(int(np.prod(cells)), -1, dtype=np.int64)
    following = np.full(count, -1, dtype=np.int64)
    placed = 0
    for _ in range(MAX_ROUNDS):
        if placed == count:
            break
        placed = _add(rng.random((count, 3)) * box, positions, placed, first, following, cells, box, core**2)
    if placed < count:
        packing = math.pi / 6 * film.atoms_per_nm3 * core**3
        raise ValueError(
            f"only {placed} of {count} atoms found room: hard_core_nm {core:g} at {film.atoms_per_nm3:g} per nm3"
            f" fills {packing:.2f} of the film; random addition needs less than about 0.35"
        )
    for _ in range(SWEEPS):
        _move(rng.random((count, 3)) * box, positions, first, following, cells, box, core**2)
    return positions


@njit(cache=True)
def _cell(x: float, y: float, z: float, cells: Cells, box: Array) -> int:
    """Flat index of the cell of a point."""
    ix = min(int(x / box[0] * cells[0]), cells[0] - 1)
    iy = min(int(y / box[1] * cells[1]), cells[1] - 1)
    iz = min(int(z / box[2] * cells[2]), cells[2] - 1)
    return (ix * cells[1] + iy) * cells[2] + iz


@njit(cache=True)
def _is_free(
    point: Array, positions: Array, first: Cells, following: Cells, cells: Cells, box: Array, core2: float
) -> bool:
    """Whether no atom is closer to `point` than the core."""
    cell = _cell(point[0], point[1], point[2], cells, box)
    iz = cell % cells[2]
    iy = cell // cells[2] % cells[1]
    ix = cell // (cells[2] * cells[1])
    for jx in range(ix - 1, ix + 2):
        for jy in range(iy - 1, iy + 2):
            for jz in range(iz - 1, iz + 2):
                atom = first[((jx % cells[0]) * cells[1] + jy % cells[1]) * cells[2] + jz % cells[2]]
                while atom >= 0:
                    distance2 = 0.0
                    for axis in range(3):
                        offset = abs(point[axis] - positions[atom, axis])
                        distance2 += min(offset, box[axis] - offset) ** 2
                    if distance2 < core2:
                        return False
                    atom = following[atom]
    return True


@njit(cache=True)
def _add(
    candidates: Array,
    positions: Array,
    placed: int,
    first: Cells,
    following: Cells,
    cells: Cells,
    box: Array,
    core2: float,
) -> int:
    """Add candidates that overlap no atom until all are placed; return the number placed.

    `first` and `following` are linked lists of the atoms of each cell.
    """
    for point in candidates:
        if placed == len(positions):
            break
        if _is_free(point, positions, first, following, cells, box, core2):
            cell = _cell(point[0], point[1], point[2], cells, box)
            for axis in range(3):  # assigning the whole row takes seconds longer to compile
                positions[placed, axis] = point[axis]
            following[placed] = first[cell]
            first[cell] = placed
            placed += 1
    return placed


@njit(cache=True)
def _move(
    candidates: Array, positions: Array, first: Cells, following: Cells, cells: Cells, box: Array, core2: float
) -> None:
    """Try to move each atom to its candidate, one after the other.

    An atom also blocks itself: no move is shorter than the core. The rule is symmetric, hence detailed balance holds.
    """
    for atom in range(len(positions)):
        point = candidates[atom]
        if not _is_free(point, positions, first, following, cells, box, core2):
            continue
        old = _cell(positions[atom, 0], positions[atom, 1], positions[atom, 2], cells, box)
        if first[old] == atom:
            first[old] = following[atom]
        else:
            before = first[old]
            while following[before] != atom:
                before = following[before]
            following[before] = following[atom]
        new = _cell(point[0], point[1], point[2], cells, box)
        for axis in range(3):
            positions[atom, axis] = point[axis]
        following[atom] = first[new]
        first[new] = atom
