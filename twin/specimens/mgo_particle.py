"""A cube of magnesium oxide in vacuum, as in smoke, seen along [001]."""

import math

from ase.data import atomic_numbers

from twin.matter.structure import Structure
from twin.options import Positive, validated
from twin.specimens._parts.carbon import on_carbon
from twin.specimens._parts.crystal import CrystalOptions
from twin.specimens._parts.options import Side
from twin.specimens.mgo_001 import B_NM2
from twin.specimens.mgo_001 import make as film


@validated
class Options:
    """A cube in the middle of a square field.

    Attributes:
        edge_nm: edge of the cube, rounded to whole cells, at least one.
        side_nm: side of the field.
        thermal: whether the atoms vibrate.
    """

    edge_nm: Positive = 2.5
    side_nm: Side = 4.5
    thermal: bool = True


def make(options: Options) -> Structure:
    """Whole cells of the crystal.

    Raises:
        ValueError: the cube is wider than the field.
        TooManyAtoms: the cube would be too large.
    """
    if options.edge_nm + 0.5 > options.side_nm:
        raise ValueError(f"the cube has {options.edge_nm:g} nm; side_nm must be at least {options.edge_nm + 0.5:g}")
    edge = options.edge_nm
    cube = film(CrystalOptions(width_nm=edge, height_nm=edge, thickness_nm=edge, thermal=False))
    positions = cube.positions_nm.copy()
    middle = (positions.min(axis=0) + positions.max(axis=0)) / 2
    positions[:, :2] += options.side_nm / 2 - middle[:2]
    rms = {atomic_numbers[symbol]: math.sqrt(b / 8) / math.pi for symbol, b in B_NM2.items()}
    moving = rms if options.thermal else {}
    return on_carbon("MgO cube", cube.numbers.copy(), positions, options.side_nm, 0.0, moving, 0)
