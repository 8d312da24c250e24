"""A monolayer of WSe2 with selenium vacancies, single and double, and molybdenum for tungsten."""

from typing import Annotated

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from twin.arrays import Floats
from twin.matter.structure import Structure
from twin.options import Seed, validated
from twin.specimens._parts.bilayer import sheet_positions
from twin.specimens._parts.options import Side
from twin.specimens._parts.thermal import debye_rms_nm

LATTICE_NM = 0.3282
SELENIUM_HEIGHT_NM = 0.1675
"""Of 2H-WSe2 (Schutte, De Boer and Jellinek, J. Solid State Chem. 70 (1987) 207), rounded."""

DEBYE_K = 280.0
"""A round value; both elements alike, with the mean mass."""

TUNGSTEN, SELENIUM, MOLYBDENUM = 74, 34, 42
Number = Annotated[int, Ge(0), Le(100_000)]


@validated
class Options:
    """A field cut from an infinite sheet and surrounded by vacuum, with defects at random sites.

    Attributes:
        rotation_deg: of the sheet about the beam.
        width_nm, height_nm: size of the field.
        single_vacancies: selenium columns that lack one atom of two.
        double_vacancies: selenium columns that lack both.
        substitutions: tungsten atoms replaced by molybdenum.
        seed: seed of the sites.
        thermal: whether the atoms vibrate.
    """

    rotation_deg: float = 0.0
    width_nm: Side = 4.0
    height_nm: Side = 4.0
    single_vacancies: Number = 0
    double_vacancies: Number = 0
    substitutions: Number = 0
    seed: Seed = 0
    thermal: bool = True


def make(options: Options) -> Structure:
    """Trigonal prisms; the same options without defects give the perfect sheet.

    Raises:
        ValueError: more defects than sites.
    """
    sheet = [
        ("W", (0.0, 0.0), 0.0),
        ("Se", (1 / 3, 1 / 3), -SELENIUM_HEIGHT_NM),
        ("Se", (1 / 3, 1 / 3), SELENIUM_HEIGHT_NM),
    ]
    atoms = sheet_positions(sheet, LATTICE_NM, options.rotation_deg, options.width_nm, options.height_nm)
    numbers, positions = atoms[:, 3].astype(np.int64), atoms[:, :3].copy()
    numbers, positions = _defective(numbers, positions, options)
    positions[:, 2] += 2 * SELENIUM_HEIGHT_NM
    rms = debye_rms_nm((183.84 + 2 * 78.97) / 3, DEBYE_K)
    moving = {int(z): rms for z in np.unique(numbers)} if options.thermal else {}
    cell = (options.width_nm, options.height_nm, 4 * SELENIUM_HEIGHT_NM)
    return Structure("WSe2", numbers, positions, cell, False, moving)


def _defective(numbers: NDArray[np.int64], positions: Floats, options: Options) -> tuple[NDArray[np.int64], Floats]:
    """Atoms that are left, with the substitutes; draws the sites."""
    rng = np.random.default_rng(options.seed)
    upper = np.flatnonzero((numbers == SELENIUM) & (positions[:, 2] < 0))
    lower = np.flatnonzero((numbers == SELENIUM) & (positions[:, 2] > 0))
    metal = np.flatnonzero(numbers == TUNGSTEN)
    lacking = options.single_vacancies + options.double_vacancies
    if lacking > len(upper) or options.substitutions > len(metal):
        raise ValueError(
            f"{lacking} vacancies and {options.substitutions} substitutions do not fit {len(upper)} selenium columns"
            f" and {len(metal)} tungsten atoms"
        )
    pairs = rng.permutation(len(upper))[:lacking]
    numbers = numbers.copy()
    numbers[rng.permutation(metal)[: options.substitutions]] = MOLYBDENUM
    both = pairs[options.single_vacancies :]
    gone = np.concatenate([lower[pairs], upper[both]])  # the one at the far face goes first
    kept = np.setdiff1d(np.arange(len(numbers)), gone)
    return numbers[kept], positions[kept]
