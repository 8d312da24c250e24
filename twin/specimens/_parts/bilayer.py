"""Two sheets of a hexagonal lattice, twisted against each other about the middle of the field."""

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le
from ase.data import atomic_numbers

from twin.arrays import Floats
from twin.matter.structure import Structure
from twin.options import validated
from twin.specimens._parts.options import Side

Sheet = Sequence[tuple[str, tuple[float, float], float]]
"""Element, position in units of the two lattice vectors, and height over the sheet's middle in nm."""


@validated
class BilayerOptions:
    """A field of twisted bilayer surrounded by vacuum.

    Attributes:
        angle_deg: twist; the sheets rotate by half of it in opposite directions.
        width_nm, height_nm: size of the field, cut from infinite sheets, so that the angle need not be commensurate.
        thermal: whether the atoms vibrate.
    """

    angle_deg: Annotated[float, Ge(-60), Le(60)] = 5.0
    width_nm: Side = 12.0
    height_nm: Side = 12.0
    thermal: bool = True


def sheet_positions(sheet: Sheet, lattice_nm: float, turn_deg: float, width_nm: float, height_nm: float) -> Floats:
    """Atoms (x, y, height, atomic number) of one infinite sheet within a field, (M, 4).

    A lattice point lies in the middle of the field; without rotation, one lattice vector is along x.
    """
    reach = math.ceil(math.hypot(width_nm, height_nm) / lattice_nm) + 2
    i, j = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
    turn = math.radians(turn_deg)
    axes = lattice_nm * np.array([[math.cos(turn + a), math.sin(turn + a)] for a in (0.0, math.pi / 3)])
    rows = []
    for symbol, (u, v), height in sheet:
        xy = np.stack([(i + u).ravel(), (j + v).ravel()], axis=1) @ axes + np.array([width_nm, height_nm]) / 2
        rows.append(np.column_stack([xy, np.full(len(xy), height), np.full(len(xy), atomic_numbers[symbol])]))
    atoms = np.concatenate(rows)
    x, y = atoms[:, 0], atoms[:, 1]
    return atoms[(x >= 0) & (x < width_nm) & (y >= 0) & (y < height_nm)]


def bilayer(
    name: str, sheet: Sheet, lattice_nm: float, spacing_nm: float, rms_nm: dict[str, float], options: BilayerOptions
) -> Structure:
    """The two sheets, `spacing_nm` apart, each in the middle of its half of the thickness."""
    width, height = options.width_nm, options.height_nm
    layers = [sheet_positions(sheet, lattice_nm, t * options.angle_deg / 2, width, height) for t in (1, -1)]
    for i, layer in enumerate(layers):
        layer[:, 2] += spacing_nm * (i + 0.5)
    atoms = np.concatenate(layers)
    moving = {atomic_numbers[symbol]: rms for symbol, rms in rms_nm.items()} if options.thermal else {}
    cell = (width, height, 2 * spacing_nm)
    return Structure(name, atoms[:, 3].astype(np.int64), atoms[:, :3].copy(), cell, False, moving)
