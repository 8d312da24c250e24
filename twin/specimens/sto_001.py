"""SrTiO3 along [001], cubic: columns of Sr, of Ti and O, and of O alone."""

import math

from twin.matter.structure import Structure
from twin.specimens._parts.crystal import CrystalOptions, crystal

LATTICE_NM = 0.3905

B_NM2 = {"Sr": 0.6214e-2, "Ti": 0.4398e-2, "O": 0.7323e-2}
"""Debye-Waller factors B = 8 pi^2 u^2 at room temperature (Abramov et al., Acta Cryst. B 51 (1995) 942)."""

Options = CrystalOptions


def make(options: Options) -> Structure:
    """The SrO plane of each cell comes first; Sr sits at the corner of the field."""
    basis = [
        ("Sr", (0.0, 0.0, 0.25)),
        ("O", (0.5, 0.5, 0.25)),
        ("Ti", (0.5, 0.5, 0.75)),
        ("O", (0.5, 0.0, 0.75)),
        ("O", (0.0, 0.5, 0.75)),
    ]
    rms = {symbol: math.sqrt(b / 8) / math.pi for symbol, b in B_NM2.items()}
    return crystal("SrTiO3 [001]", basis, (LATTICE_NM,) * 3, rms, options)
