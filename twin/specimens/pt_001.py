"""Platinum along [001]: every column holds one atom per cell."""

from twin.matter.structure import Structure
from twin.specimens._parts.crystal import CrystalOptions, crystal
from twin.specimens._parts.thermal import element_rms_nm
from twin.specimens.pt_on_carbon import METAL

Options = CrystalOptions


def make(options: Options) -> Structure:
    """The conventional cubic cell: four atoms on two planes."""
    basis = [("Pt", (x, y, z + 0.25)) for x, y, z in ((0, 0, 0), (0.5, 0.5, 0), (0, 0.5, 0.5), (0.5, 0, 0.5))]
    rms = {"Pt": element_rms_nm(78, METAL.debye_k)}
    return crystal("Pt [001]", basis, (METAL.lattice_nm,) * 3, rms, options)
