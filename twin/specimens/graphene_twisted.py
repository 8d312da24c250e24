"""Twisted bilayer graphene."""

from twin.matter.structure import Structure
from twin.specimens._parts.bilayer import BilayerOptions, bilayer
from twin.specimens._parts.thermal import element_rms_nm

LATTICE_NM = 0.246
SPACING_NM = 0.335
"""Graphite's (Castro Neto et al., Rev. Mod. Phys. 81 (2009) 109)."""

DEBYE_K = 2312.0
"""Of the motion in the plane (Tewary and Yang, Phys. Rev. B 79 (2009) 125416)."""

Options = BilayerOptions


def make(options: Options) -> Structure:
    """Untwisted, the sheets lie atom over atom (AA) in the middle of the field."""
    sheet = [("C", (0.0, 0.0), 0.0), ("C", (1 / 3, 1 / 3), 0.0)]
    return bilayer(
        "twisted bilayer graphene", sheet, LATTICE_NM, SPACING_NM, {"C": element_rms_nm(6, DEBYE_K)}, options
    )
