"""The atoms of a film, amorphous or crystalline, in a box that repeats along x and y."""

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from twin.arrays import Floats
from twin.day import FilmProperties
from twin.matter.carbon_atoms import carbon_film
from twin.matter.crystals import crystal_film


def film_atoms(film: FilmProperties, side_nm: float, rng: np.random.Generator) -> tuple[NDArray[np.int64], Floats]:
    """Atomic numbers (N,) and positions (x, y, z), nm, (N, 3).

    The elements of a compound are distributed over the hard cores at random; disorder displaces every atom from them
    by an independent Gaussian.

    Raises:
        ValueError: the film cannot be filled to its density, see `carbon_film`.
    """
    if film.crystal != "none":
        element, positions_nm = crystal_film(film, side_nm)
        return np.full(len(positions_nm), atomic_numbers[element]), positions_nm
    positions_nm = carbon_film(film, side_nm, rng)
    if film.disorder_nm > 0.0:
        moved = positions_nm + rng.normal(0.0, film.disorder_nm, positions_nm.shape)
        positions_nm = np.asarray(moved % (side_nm, side_nm, film.thickness_nm), np.float64)
    elements, shares = zip(*film.composition, strict=True)
    numbers = np.array([atomic_numbers[element] for element in elements])
    if len(numbers) == 1:
        return np.full(len(positions_nm), numbers[0]), positions_nm
    return rng.choice(numbers, len(positions_nm), p=shares), positions_nm
