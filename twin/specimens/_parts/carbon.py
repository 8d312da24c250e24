"""An object on a support film of amorphous carbon, both in one periodic field."""

import numpy as np
from numpy.typing import NDArray

from twin.arrays import Floats
from twin.day import FilmProperties
from twin.matter.carbon_atoms import carbon_film
from twin.matter.structure import Structure, check_count

CARBON = 6
GAP_NM = 0.2
"""Gap between the lowest atoms of an object and the face of the film, and above the highest; about a bond length."""


def on_carbon(
    name: str,
    numbers: NDArray[np.int64],
    positions_nm: Floats,
    side_nm: float,
    carbon_nm: float,
    thermal_rms_nm: dict[int, float],
    seed: int,
) -> Structure:
    """Put atoms on the beam entrance side of a carbon film; without a film, vacuum surrounds the field.

    Args:
        name: name of the specimen.
        numbers: atomic numbers of the object, (N,).
        positions_nm: positions of the object's atoms, (N, 3); only differences along z matter.
        side_nm: side of the square field.
        carbon_nm: thickness of the film, or zero.
        thermal_rms_nm: rms displacement of the object's elements; the film adds its own. Empty: no vibration at all.
        seed: seed of the film.

    Raises:
        TooManyAtoms: the film would be too large.
    """
    positions = positions_nm + np.array([0.0, 0.0, GAP_NM - positions_nm[:, 2].min()])
    bottom = float(positions[:, 2].max()) + GAP_NM
    if carbon_nm == 0:
        return Structure(name, numbers, positions, (side_nm, side_nm, bottom), False, thermal_rms_nm)
    film = FilmProperties(thickness_nm=carbon_nm)
    check_count(name, len(numbers) + film.atoms_per_nm3 * side_nm**2 * carbon_nm)
    carbon = carbon_film(film, side_nm, np.random.default_rng(seed)) + np.array([0.0, 0.0, bottom])
    moving = {CARBON: film.thermal_rms_nm, **thermal_rms_nm} if thermal_rms_nm else {}
    return Structure(
        name,
        np.concatenate([numbers, np.full(len(carbon), CARBON)]),
        np.concatenate([positions, carbon]),
        (side_nm, side_nm, bottom + carbon_nm),
        True,
        moving,
    )
