"""Silicalite, the zeolite MFI of pure silica, along the straight channels [010]."""

import math
import warnings
from typing import Any

import numpy as np

from twin.matter.structure import Structure, check_count, tiled
from twin.specimens._parts.crystal import CrystalOptions

CELL_NM = (2.0022, 1.9899, 1.3383)
"""Sides a, b, c, and places of the atoms of space group Pnma: van Koningsveld, van Bekkum and Jansen, Acta Cryst. B 43
(1987) 127, of the framework without its template."""
SILICON = (
    (0.42238, 0.0565, -0.33598), (0.30716, 0.0277, -0.1893), (0.27911, 0.06127, 0.0312),
    (0.12215, 0.0630, 0.0267), (0.07128, 0.02722, -0.18551), (0.18641, 0.05896, -0.32818),
    (0.42265, -0.1725, -0.32718), (0.30778, -0.13016, -0.18548), (0.27554, -0.17279, 0.03109),
    (0.12058, -0.1731, 0.0298), (0.07044, -0.13037, -0.18200), (0.18706, -0.17327, -0.31933),
)  # fmt: skip
OXYGEN = (
    (0.3726, 0.0534, -0.2442), (0.3084, 0.0587, -0.0789), (0.2007, 0.0592, 0.0289), (0.0969, 0.0611, -0.0856),
    (0.1149, 0.0541, -0.2763), (0.2435, 0.0553, -0.2460), (0.3742, -0.1561, -0.2372), (0.3085, -0.1552, -0.0728),
    (0.1980, -0.1554, 0.0288), (0.0910, -0.1614, -0.0777), (0.1169, -0.1578, -0.2694), (0.2448, -0.1594, -0.2422),
    (0.3047, -0.0510, -0.1866), (0.0768, -0.0519, -0.1769), (0.4161, 0.1276, -0.3896), (0.4086, -0.0017, -0.4136),
    (0.4020, -0.1314, -0.4239), (0.1886, 0.1298, -0.3836), (0.1940, 0.0007, -0.4082), (0.1951, -0.1291, -0.4190),
    (-0.0037, 0.0502, -0.2080), (-0.0040, -0.1528, -0.2078), (0.4192, -0.2500, -0.3540), (0.1884, -0.2500, -0.3538),
    (0.2883, -0.2500, 0.0579), (0.1085, -0.2500, 0.0611),
)  # fmt: skip

RMS_NM = 0.01
"""Rms displacement of both elements along one axis; a round value."""

Options = CrystalOptions


def make(options: Options) -> Structure:
    """Whole cells, with a along x, c along y and b along the beam.

    Raises:
        TooManyAtoms: the crystal would be too large.
    """
    from ase.spacegroup import crystal

    make_crystal: Any = crystal  # without annotations
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cell = make_crystal(
            ["Si"] * len(SILICON) + ["O"] * len(OXYGEN),
            basis=[*SILICON, *OXYGEN],
            spacegroup=62,
            cellpar=[*(10 * side for side in CELL_NM), 90, 90, 90],
        )
    fractions = cell.get_scaled_positions()[:, [0, 2, 1]]
    sides = (CELL_NM[0], CELL_NM[2], CELL_NM[1])
    extent_nm = (options.width_nm, options.height_nm, options.thickness_nm)
    repeats = tuple(max(1, round(length / side)) for length, side in zip(extent_nm, sides, strict=True))
    check_count("silicalite", len(fractions) * math.prod(repeats))
    positions = tiled(fractions, sides, (repeats[0], repeats[1], repeats[2]))
    numbers = np.tile(np.asarray(cell.numbers, np.int64), math.prod(repeats))
    moving = {14: RMS_NM, 8: RMS_NM} if options.thermal else {}
    extent = (repeats[0] * sides[0], repeats[1] * sides[1], repeats[2] * sides[2])
    return Structure("silicalite [010]", numbers, positions, extent, True, moving)
