"""Silicon along [001], diamond structure."""

from twin.matter.structure import Structure
from twin.specimens._parts.crystal import CrystalOptions, crystal
from twin.specimens._parts.thermal import element_rms_nm

LATTICE_NM = 0.5431
DEBYE_K = 543.0
"""From X-ray intensities (Batterman and Chipman, Phys. Rev. 127 (1962) 690)."""

Options = CrystalOptions


def make(options: Options) -> Structure:
    """The conventional cubic cell: eight atoms on four planes."""
    face = [(0.0, 0.0, 0.0), (0.0, 0.5, 0.5), (0.5, 0.0, 0.5), (0.5, 0.5, 0.0)]
    sites = [*face, *((x + 0.25, y + 0.25, z + 0.25) for x, y, z in face)]
    basis = [("Si", (x, y, z + 0.125)) for x, y, z in sites]
    return crystal("Si [001]", basis, (LATTICE_NM,) * 3, {"Si": element_rms_nm(14, DEBYE_K)}, options)
