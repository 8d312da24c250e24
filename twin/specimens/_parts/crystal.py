"""Perfect crystals along a zone axis, cut to whole cells."""

from collections.abc import Mapping, Sequence

import numpy as np
from ase.data import atomic_numbers

from twin.matter.structure import Structure, check_count, tiled
from twin.options import validated
from twin.specimens._parts.options import Side, Thickness

Basis = Sequence[tuple[str, tuple[float, float, float]]]


@validated
class CrystalOptions:
    """Extent of a crystal, rounded to whole cells, at least one.

    Attributes:
        width_nm, height_nm: extent along x and y.
        thickness_nm: extent along the beam.
        thermal: whether the atoms vibrate.
    """

    width_nm: Side = 4.0
    height_nm: Side = 4.0
    thickness_nm: Thickness = 4.0
    thermal: bool = True


def crystal(
    name: str, basis: Basis, cell_nm: tuple[float, float, float], rms_nm: Mapping[str, float], options: CrystalOptions
) -> Structure:
    """Whole cells of a crystal whose axes are those of the microscope.

    Args:
        name: name of the specimen.
        basis: element and position in units of the cell's sides; no atom on the lower or upper face, where a slice
            boundary may lie.
        cell_nm: sides of one cell.
        rms_nm: rms displacement along one axis, by element.
        options: extent.

    Raises:
        TooManyAtoms: the crystal would be too large.
    """
    extent_nm = (options.width_nm, options.height_nm, options.thickness_nm)
    across, up, deep = (max(1, round(length / side)) for length, side in zip(extent_nm, cell_nm, strict=True))
    check_count(name, across * up * deep * len(basis))
    fractions = np.array([position for _, position in basis])
    positions = tiled(fractions, cell_nm, (across, up, deep))
    numbers = np.tile([atomic_numbers[symbol] for symbol, _ in basis], across * up * deep)
    moving = {atomic_numbers[symbol]: rms for symbol, rms in rms_nm.items()} if options.thermal else {}
    extent = (across * cell_nm[0], up * cell_nm[1], deep * cell_nm[2])
    return Structure(name, numbers, positions, extent, True, moving)
