"""Magnesium oxide along [001], rock salt."""

import math

from twin.matter.structure import Structure
from twin.specimens._parts.crystal import CrystalOptions, crystal

LATTICE_NM = 0.4212

B_NM2 = {"Mg": 0.31e-2, "O": 0.34e-2}
"""Debye-Waller factors B = 8 pi^2 u^2 at room temperature (Lawrence, Acta Cryst. A 29 (1973) 94), rounded."""

Options = CrystalOptions


def make(options: Options) -> Structure:
    """The conventional cubic cell: four Mg, four O; every column holds both."""
    face = [(0.0, 0.0, 0.25), (0.0, 0.5, 0.75), (0.5, 0.0, 0.75), (0.5, 0.5, 0.25)]
    basis = [("Mg", site) for site in face] + [("O", ((x + 0.5) % 1.0, y, z)) for x, y, z in face]
    rms = {symbol: math.sqrt(b / 8) / math.pi for symbol, b in B_NM2.items()}
    return crystal("MgO [001]", basis, (LATTICE_NM,) * 3, rms, options)
