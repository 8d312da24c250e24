"""Platinum along [112] with an edge dislocation of Burgers vector 1/2 [110] in the middle, its line along the beam."""

import math
from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from twin.arrays import Floats
from twin.matter.structure import Structure, check_count, tiled
from twin.options import validated
from twin.specimens._parts.options import Side
from twin.specimens._parts.thermal import element_rms_nm
from twin.specimens.pt_on_carbon import METAL

POISSON = 0.38
"""Poisson's ratio of platinum (Kaye and Laby, Tables of Physical and Chemical Constants, 16th edition, 2.2.2)."""

BURGERS_NM = METAL.lattice_nm / math.sqrt(2)
CELL_NM = (BURGERS_NM, METAL.lattice_nm * math.sqrt(3), METAL.lattice_nm * math.sqrt(6) / 2)
"""Sides of the upright cell along 1/2 [1 -1 0], [1 1 1] and 1/2 [1 1 -2]: six atoms, three glide planes."""


@validated
class Options:
    """Field cut from a large crystal and surrounded by vacuum.

    Attributes:
        width_nm, height_nm: extent along the Burgers vector and across the glide plane.
        cells: thickness in cells of 1/2 [112].
        dislocation: whether there is one.
        thermal: whether the atoms vibrate.
    """

    width_nm: Side = 5.0
    height_nm: Side = 5.0
    cells: Annotated[int, Ge(1), Le(500)] = 6
    dislocation: bool = True
    thermal: bool = True


def displacement_nm(x_nm: Floats, y_nm: Floats) -> Floats:
    """Displacement field of an edge dislocation in an isotropic solid, x and y, (2, N).

    Hirth and Lothe, Theory of Dislocations, 2nd edition, eqs 3-45 and 3-46; the cut lies at negative x, y = 0.

    Args:
        x_nm, y_nm: place from the line, along the Burgers vector and across the glide plane.
    """
    square = x_nm**2 + y_nm**2
    scale, stiff = BURGERS_NM / (2 * math.pi), 4 * (1 - POISSON)
    along = np.arctan2(y_nm, x_nm) + 2 * x_nm * y_nm / (stiff * square)
    across = -(2 * (1 - 2 * POISSON) * np.log(square / BURGERS_NM**2) / 2 + (x_nm**2 - y_nm**2) / square) / stiff
    return scale * np.stack([along, across])


def make(options: Options) -> Structure:
    """Atoms of a perfect crystal, each displaced by the elastic field at its place."""
    width, height = options.width_nm, options.height_nm
    extra = 4
    repeats = (math.ceil(width / CELL_NM[0]) + 2 * extra, math.ceil(height / CELL_NM[1]) + 2 * extra, options.cells)
    check_count("Pt [112]", 6.0 * math.prod(repeats))
    third = 1 / 3
    layers = [(0.0, 0.0, 0.0), (0.0, third, 2 * third), (0.0, 2 * third, third)]
    fractions = np.array([p for x, y, z in layers for p in ((x, y, z), (x + 0.5, y, (z + 0.5) % 1.0))])
    fractions[:, 2] = (fractions[:, 2] + 1 / 12) % 1.0  # no atom on a face
    positions = tiled(fractions, CELL_NM, repeats)
    # The line passes between two columns, halfway between two glide planes.
    core = np.array([CELL_NM[0] * (repeats[0] // 2 + 0.25), CELL_NM[1] * (repeats[1] // 2 + 1 / 6)])
    place = positions[:, :2] - core
    if options.dislocation:
        place = place + displacement_nm(place[:, 0], place[:, 1]).T
    positions[:, :2] = place + np.array([width, height]) / 2
    inside = np.all((positions[:, :2] >= 0) & (positions[:, :2] < np.array([width, height])), axis=1)
    moving = {78: element_rms_nm(78, METAL.debye_k)} if options.thermal else {}
    kept = positions[inside]
    name = "Pt [112] with an edge dislocation" if options.dislocation else "Pt [112]"
    return Structure(name, np.full(len(kept), 78), kept, (width, height, options.cells * CELL_NM[2]), False, moving)
