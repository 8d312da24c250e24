"""Single atoms of one element, at random or given positions, on carbon or in vacuum."""

from typing import Annotated

import numpy as np
from annotated_types import Ge, Le
from ase.data import atomic_numbers, chemical_symbols
from pydantic import field_validator

from twin.errors import nearest
from twin.matter.structure import Structure
from twin.options import NonNegative, Seed, validated
from twin.specimens._parts.carbon import on_carbon
from twin.specimens._parts.options import Side

HEAVIEST = 103
"""Largest atomic number of Lobato and Van Dyck's potentials."""

RMS_NM = 0.01
"""Rms displacement of an adatom along one axis; a round value."""

TRIES = 20_000
"""Positions tried for one atom before the field counts as full."""


@validated
class Options:
    """Element and positions.

    Attributes:
        element: symbol or atomic number, 1 to 103.
        count: number of atoms at random positions.
        spacing_nm: closest approach of two of them.
        positions_nm: (x, y) of each, instead of random ones.
        side_nm: side of the square field.
        carbon_nm: thickness of the film under them; zero for none.
        seed: seed of positions and film.
        thermal: whether the atoms vibrate.
    """

    element: str | int = "Au"
    count: Annotated[int, Ge(1), Le(100_000)] = 20
    spacing_nm: NonNegative = 0.5
    positions_nm: tuple[tuple[float, float], ...] = ()
    side_nm: Side = 6.0
    carbon_nm: Annotated[float, Ge(0), Le(50)] = 0.0
    seed: Seed = 0
    thermal: bool = True

    @field_validator("element")
    @classmethod
    def _known(cls, element: str | int) -> str | int:
        known = chemical_symbols[1 : HEAVIEST + 1]
        if isinstance(element, int) and not 1 <= element <= HEAVIEST:
            raise ValueError(f"atomic numbers go from 1 to {HEAVIEST}, got {element}")
        if isinstance(element, str) and element not in known:
            raise ValueError(f"{element!r} is not the symbol of an element{nearest(element.capitalize(), known)}")
        return element


def make(options: Options) -> Structure:
    """One plane of atoms.

    Raises:
        ValueError: no room for all atoms, or a position outside the field.
    """
    film_rng, rng = np.random.default_rng(options.seed).spawn(2)
    xy = np.array(options.positions_nm) if options.positions_nm else _scattered(options, rng)
    outside = np.any((xy < 0) | (xy >= options.side_nm), axis=1)
    if outside.any():
        raise ValueError(f"position {tuple(xy[outside][0].tolist())} lies outside the field of {options.side_nm:g} nm")
    element = options.element
    number = atomic_numbers[element] if isinstance(element, str) else element
    positions = np.column_stack([xy, np.zeros(len(xy))])
    moving = {number: RMS_NM} if options.thermal else {}
    name = f"single atoms of {chemical_symbols[number]}"
    film_seed = int(film_rng.integers(2**32))
    return on_carbon(name, np.full(len(xy), number), positions, options.side_nm, options.carbon_nm, moving, film_seed)


def _scattered(options: Options, rng: np.random.Generator) -> np.ndarray:
    placed, tries = np.empty((0, 2)), 0
    while len(placed) < options.count and tries < TRIES:
        tries += 1
        xy = rng.random((1, 2)) * options.side_nm
        apart = np.abs(placed - xy)
        apart = np.minimum(apart, options.side_nm - apart)
        if not len(placed) or np.hypot(*apart.T).min() >= options.spacing_nm:
            placed, tries = np.concatenate([placed, xy]), 0
    if len(placed) == options.count:
        return placed
    raise ValueError(
        f"only {len(placed)} of {options.count} atoms found room {options.spacing_nm:g} nm apart in"
        f" {options.side_nm:g} nm; use fewer, or a smaller spacing_nm"
    )
