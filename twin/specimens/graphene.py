"""A monolayer of graphene."""

import numpy as np

from twin.matter.structure import Structure
from twin.options import validated
from twin.specimens._parts.bilayer import sheet_positions
from twin.specimens._parts.options import Side
from twin.specimens._parts.thermal import element_rms_nm
from twin.specimens.graphene_twisted import DEBYE_K, LATTICE_NM, SPACING_NM


@validated
class Options:
    """A field cut from an infinite sheet and surrounded by vacuum.

    Attributes:
        rotation_deg: of the sheet about the beam.
        width_nm, height_nm: size of the field.
        thermal: whether the atoms vibrate.
    """

    rotation_deg: float = 0.0
    width_nm: Side = 4.0
    height_nm: Side = 4.0
    thermal: bool = True


def make(options: Options) -> Structure:
    """A hexagon's corner lies in the middle of the field."""
    sheet = [("C", (0.0, 0.0), 0.0), ("C", (1 / 3, 1 / 3), 0.0)]
    atoms = sheet_positions(sheet, LATTICE_NM, options.rotation_deg, options.width_nm, options.height_nm)
    atoms[:, 2] += SPACING_NM / 2
    moving = {6: element_rms_nm(6, DEBYE_K)} if options.thermal else {}
    cell = (options.width_nm, options.height_nm, SPACING_NM)
    return Structure("graphene", atoms[:, 3].astype(np.int64), atoms[:, :3].copy(), cell, False, moving)
