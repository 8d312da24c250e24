"""A spherical platinum particle along [100] in vacuum."""

from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from twin.matter.structure import Structure, check_count
from twin.options import validated
from twin.specimens._parts.carbon import on_carbon
from twin.specimens._parts.options import Side
from twin.specimens._parts.thermal import element_rms_nm
from twin.specimens.pt_on_carbon import METAL

BEYOND_CELLS = 0.125
"""Distance from the outermost atom of the axis to the surface; with 11 cells there are 333 columns."""


@validated
class Options:
    """A sphere about an atom.

    Attributes:
        cells: atoms along the axis, one per cell.
        side_nm: side of the square field.
        thermal: whether the atoms vibrate.
    """

    cells: Annotated[int, Ge(2), Le(60)] = 11
    side_nm: Side = 5.5
    thermal: bool = True


def make(options: Options) -> Structure:
    """All atoms of the lattice within the radius.

    Raises:
        ValueError: the particle is wider than the field.
    """
    radius = (options.cells - 1) / 2 + BEYOND_CELLS
    check_count("Pt sphere", 17.0 * radius**3)
    width = 2 * radius * METAL.lattice_nm
    if width > options.side_nm:
        raise ValueError(f"the particle is {width:.2f} nm wide; side_nm must be at least {width:.2f}")
    reach = np.arange(-2 * options.cells, 2 * options.cells + 1)
    x, y, z = (axis.ravel() for axis in np.meshgrid(reach, reach, reach, indexing="ij"))
    # An even number of atoms on the axis has its middle between two of them.
    middle = 0.0 if options.cells % 2 else 1.0
    inside = ((x + y + z) % 2 == 0) & (x**2 + y**2 + (z - middle) ** 2 <= 4 * radius**2)
    positions = np.stack([x, y, z], axis=1)[inside] * (METAL.lattice_nm / 2)
    positions[:, :2] += options.side_nm / 2
    moving = {78: element_rms_nm(78, METAL.debye_k)} if options.thermal else {}
    return on_carbon("Pt sphere", np.full(len(positions), 78), positions, options.side_nm, 0.0, moving, 0)
