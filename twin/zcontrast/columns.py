"""Atomic columns of a specimen as labels: place, atoms, elements, what is missing."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from twin.arrays import Floats
from twin.matter.structure import Structure

ALIKE_NM = 0.03
"""Distance in the image below which atoms belong to one column."""

Elements = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ColumnLabels:
    """Columns of a specimen, seen along the beam.

    Attributes:
        x_nm, y_nm: places, means over the atoms, (N,).
        elements: atomic numbers of each column from the entrance on.
        depth_nm: depths of these atoms.
        atoms: number of atoms that scatter, with part of one where the last is there in part, (N,).
        defect: "", "vacancy", "empty" or "substitution" of each column, against the perfect specimen.
    """

    x_nm: Floats
    y_nm: Floats
    elements: tuple[Elements, ...]
    depth_nm: tuple[Floats, ...]
    atoms: Floats
    defect: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.x_nm)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Composition of each column in words, as "Pt" or "Ti+O"."""
        from ase.data import chemical_symbols

        return tuple("+".join(chemical_symbols[z] for z in dict.fromkeys(found)) for found in self.elements)


def columns_of(structure: Structure, perfect: Structure | None = None) -> ColumnLabels:
    """Group the atoms of a specimen into columns along the beam.

    Args:
        structure: the specimen.
        perfect: the same without defects, to name them; None names none.
    """
    groups = _groups(structure.positions_nm[:, :2])
    order = [group[np.argsort(structure.positions_nm[group, 2], kind="stable")] for group in groups]
    xy = np.array([structure.positions_nm[group, :2].mean(axis=0) for group in order]).reshape(-1, 2)
    elements = tuple(tuple(structure.numbers[group].tolist()) for group in order)
    depths = tuple(structure.positions_nm[group, 2] for group in order)
    defect: tuple[str, ...] = ("",) * len(order)
    if perfect is not None:
        there = columns_of(perfect)
        xy, elements, depths, defect = _compared(xy, elements, depths, there)
    atoms = np.array([len(found) for found in elements], np.float64)
    return ColumnLabels(xy[:, 0].copy(), xy[:, 1].copy(), elements, depths, atoms, defect)


def _groups(xy: Floats) -> list[NDArray[np.int64]]:
    """Atoms of each column."""
    pairs = cKDTree(xy).query_pairs(ALIKE_NM, output_type="ndarray")
    joined = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(xy), len(xy)))
    number, label = connected_components(joined, directed=False)
    order = np.argsort(label, kind="stable")
    return np.split(order, np.cumsum(np.bincount(label, minlength=number))[:-1])


def _compared(
    xy: Floats, elements: tuple[Elements, ...], depths: tuple[Floats, ...], there: ColumnLabels
) -> tuple[Floats, tuple[Elements, ...], tuple[Floats, ...], tuple[str, ...]]:
    """Name what differs from the perfect specimen, and add its columns that are empty here."""
    places = np.stack([there.x_nm, there.y_nm], axis=1)
    distance, match = cKDTree(places).query(xy)
    names = []
    for found, near, apart in zip(elements, match.tolist(), distance.tolist(), strict=True):
        should = there.elements[near]
        if apart > ALIKE_NM:
            names.append("")
        elif len(found) < len(should):
            names.append("vacancy")
        else:
            names.append("" if found == should else "substitution")
    empty = np.setdiff1d(np.arange(len(there)), match[distance <= ALIKE_NM])
    none: Elements = ()
    return (
        np.concatenate([xy, places[empty]]),
        elements + (none,) * len(empty),
        depths + (np.empty(0),) * len(empty),
        (*names, *("empty",) * len(empty)),
    )
