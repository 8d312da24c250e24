"""Twisted bilayer MoS2."""

from twin.matter.structure import Structure
from twin.specimens._parts.bilayer import BilayerOptions, bilayer
from twin.specimens._parts.thermal import debye_rms_nm

LATTICE_NM = 0.316
SULPHUR_HEIGHT_NM = 0.158
SPACING_NM = 0.6147
"""Of 2H-MoS2 (Schönfeld, Huang and Moss, Acta Cryst. B 39 (1983) 404), the first two rounded."""

DEBYE_K = 600.0
"""Dai et al., Surf. Sci. 660 (2017) 16; both elements alike, with the mean mass."""

Options = BilayerOptions


def make(options: Options) -> Structure:
    """Trigonal prisms in both sheets; untwisted, Mo lies over Mo and S over S (AA, as 0 degrees of a 3R-like stack)."""
    sheet = [
        ("Mo", (0.0, 0.0), 0.0),
        ("S", (1 / 3, 1 / 3), SULPHUR_HEIGHT_NM),
        ("S", (1 / 3, 1 / 3), -SULPHUR_HEIGHT_NM),
    ]
    rms = debye_rms_nm((95.95 + 2 * 32.06) / 3, DEBYE_K)
    return bilayer("twisted bilayer MoS2", sheet, LATTICE_NM, SPACING_NM, {"Mo": rms, "S": rms}, options)
