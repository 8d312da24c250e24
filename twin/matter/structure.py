"""A specimen as atoms: built by `twin/specimens/`, taken by the renderers.

Plain data and a few operations on it; no potentials, no waves.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from twin.arrays import Floats
from twin.errors import StemtwinError

Integers = NDArray[np.int64]

MOST_ATOMS = 5_000_000
"""Atoms of the largest specimen: some hundred MB, and minutes to project the potentials."""


class TooManyAtoms(StemtwinError, ValueError):
    """A specimen of more atoms than the limit."""


@dataclass(frozen=True, eq=False)
class Structure:
    """Atoms in an upright box; the beam travels along +z and enters at z = 0.

    Attributes:
        name: name of the specimen.
        numbers: atomic numbers, shape (N,).
        positions_nm: (x, y, z), shape (N, 3), within the box.
        cell_nm: sides of the box along x, y and z.
        periodic: whether the box repeats along x and y; otherwise vacuum surrounds it.
        thermal_rms_nm: rms displacement along one axis by atomic number; elements not listed do not vibrate.
    """

    name: str
    numbers: Integers
    positions_nm: Floats
    cell_nm: tuple[float, float, float]
    periodic: bool
    thermal_rms_nm: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.positions_nm.shape != (len(self.numbers), 3):
            raise ValueError(
                f"{len(self.numbers)} atoms need positions ({len(self.numbers)}, 3), not {self.positions_nm.shape}"
            )
        if not all(math.isfinite(side) and side > 0 for side in self.cell_nm):
            raise ValueError(f"the sides of a cell must be positive, got {self.cell_nm}")
        for array in (self.numbers, self.positions_nm):
            array.flags.writeable = False

    @property
    def width_nm(self) -> float:
        """Extent along x."""
        return self.cell_nm[0]

    @property
    def height_nm(self) -> float:
        """Extent along y."""
        return self.cell_nm[1]

    @property
    def thickness_nm(self) -> float:
        """Extent along the beam."""
        return self.cell_nm[2]

    @property
    def composition(self) -> dict[int, int]:
        """Number of atoms by atomic number."""
        numbers, counts = np.unique(self.numbers, return_counts=True)
        return dict(zip(numbers.tolist(), counts.tolist(), strict=True))


def check_count(name: str, atoms: float) -> None:
    """Refuse a specimen of too many atoms before it is built.

    Raises:
        TooManyAtoms: naming their number.
    """
    if atoms > MOST_ATOMS:
        raise TooManyAtoms(f"{name}: {atoms:.3g} atoms; the limit is {MOST_ATOMS:.0e}: use a smaller or thinner field")


def tiled(fractions: Floats, cell_nm: tuple[float, float, float], repeats: tuple[int, int, int]) -> Floats:
    """Positions of `repeats` cells along (x, y, z), nm, shape (atoms * cells, 3); the atoms of a cell stay together.

    Args:
        fractions: positions in one cell in units of its sides, shape (atoms, 3).
        cell_nm: its sides.
        repeats: cells along x, y and z.
    """
    corners = np.stack(np.meshgrid(*(np.arange(n) for n in repeats), indexing="ij"), axis=-1).reshape(-1, 1, 3)
    positions: Floats = ((corners + fractions) * np.array(cell_nm)).reshape(-1, 3)
    return positions


def within(structure: Structure, left_nm: float, top_nm: float, width_nm: float, height_nm: float) -> Structure:
    """Atoms in a window over the specimen, relative to the window's corner; periodic specimens are continued.

    Atoms on the left and top edges are inside, those on the right and bottom edges outside.
    """
    positions, numbers = structure.positions_nm, structure.numbers
    if structure.periodic:
        columns = np.arange(
            math.floor(left_nm / structure.width_nm), math.ceil((left_nm + width_nm) / structure.width_nm)
        )
        rows = np.arange(
            math.floor(top_nm / structure.height_nm), math.ceil((top_nm + height_nm) / structure.height_nm)
        )
        shifts = np.array([(c * structure.width_nm, r * structure.height_nm, 0.0) for r in rows for c in columns])
        positions = (positions[None] + shifts[:, None]).reshape(-1, 3)
        numbers = np.tile(numbers, len(shifts))
    moved = positions - np.array([left_nm, top_nm, 0.0])
    inside = (moved[:, 0] >= 0) & (moved[:, 0] < width_nm) & (moved[:, 1] >= 0) & (moved[:, 1] < height_nm)
    return Structure(
        structure.name,
        numbers[inside],
        moved[inside],
        (width_nm, height_nm, structure.thickness_nm),
        structure.periodic,
        structure.thermal_rms_nm,
    )


def displaced(structure: Structure, rng: np.random.Generator) -> Floats:
    """One thermal configuration (frozen phonon, Einstein model): positions, nm, shape (N, 3).

    Each atom moves along x and y by independent normals of its element's rms; a displacement along the beam does not
    change the projection of a slice.
    """
    rms_nm = np.array([structure.thermal_rms_nm.get(int(z), 0.0) for z in structure.numbers])
    moved = structure.positions_nm.copy()
    moved[:, :2] += rms_nm[:, None] * rng.standard_normal((len(moved), 2))
    return moved
