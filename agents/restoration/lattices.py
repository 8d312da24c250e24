"""Random planar lattices of columns: places, what each site holds, and what disturbs them."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twin.arrays import Floats
from twin.specimens.pt_112_dislocation import BURGERS_NM, displacement_nm

CELLS: dict[str, tuple[float, float, tuple[tuple[float, float], ...]]] = {
    "square": (1.0, 90.0, ((0.0, 0.0),)),
    "centred": (2.45, 90.0, ((0.0, 0.0), (0.5, 0.0), (0.0, 1 / 3), (0.5, 1 / 3), (0.0, 2 / 3), (0.5, 2 / 3))),
    "hexagonal": (1.0, 120.0, ((0.0, 0.0),)),
    "honeycomb": (1.0, 120.0, ((0.0, 0.0), (1 / 3, 2 / 3))),
    "perovskite": (1.0, 90.0, ((0.0, 0.0), (0.5, 0.5), (0.5, 0.0), (0.0, 0.5))),
    "rock_salt": (1.0, 90.0, ((0.0, 0.0), (0.5, 0.5))),
    "dumbbell": (1.41, 90.0, ((0.0, 0.0), (0.0, 0.25), (0.5, 0.5), (0.5, 0.75))),
    "oblique": (1.3, 75.0, ((0.0, 0.0),)),
}
"""Ratio of the sides, angle in degrees, and sites in units of the sides."""

SMALLEST_NM, LARGEST_NM = 0.13, 0.36
"""Distance of neighbouring columns."""


@dataclass(frozen=True, eq=False)
class Lattice:
    """Places of a lattice in a field.

    Attributes:
        x_nm, y_nm: places, (N,).
        site: which site of the cell each is, (N,).
        sites: number of sites.
    """

    x_nm: Floats
    y_nm: Floats
    site: NDArray[np.int64]
    sites: int


def random_lattice(side_nm: float, rng: np.random.Generator) -> Lattice:
    """A lattice over a square field, turned and placed at random; sides and angle vary about those of its kind."""
    ratio, angle_deg, sites = CELLS[list(CELLS)[rng.integers(len(CELLS))]]
    spacing = math.exp(rng.uniform(math.log(SMALLEST_NM), math.log(LARGEST_NM)))
    ratio, angle = ratio * rng.uniform(0.93, 1.07), math.radians(angle_deg + rng.normal(0, 1.5))
    cell = np.array([[1.0, 0.0], [ratio * math.cos(angle), ratio * math.sin(angle)]])
    basis = np.array(sites) @ cell
    cell *= spacing / _nearest(basis, cell)
    turn = rng.uniform(0, 2 * math.pi) if rng.random() < 0.5 else rng.normal(0, 0.05) + math.pi / 2 * rng.integers(2)
    rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    cell = cell @ rotation
    reach = math.ceil(1.2 * side_nm / min(np.linalg.norm(cell, axis=1))) + 1
    steps = np.stack(np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1)), -1).reshape(-1, 2)
    corners = steps @ cell
    places = (corners[:, None, :] + (np.array(sites) @ cell)[None, :, :]).reshape(-1, 2)
    site = np.tile(np.arange(len(sites)), len(corners))
    places = places + rng.uniform(0, 1, 2) @ cell
    places = _strained(places, cell[0], side_nm, rng) + side_nm / 2
    inside = np.all((places > -0.3) & (places < side_nm + 0.3), axis=1)
    return Lattice(places[inside, 0], places[inside, 1], site[inside], len(sites))


def _nearest(basis: Floats, cell: Floats) -> float:
    """Distance of neighbouring sites."""
    steps = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]) @ cell
    between = np.linalg.norm(basis[:, None, None] + steps[None, None] - basis[None, :, None], axis=-1)
    return float(between[between > 1e-6].min())


def _strained(places: Floats, burgers: Floats, side_nm: float, rng: np.random.Generator) -> Floats:
    """Places displaced: often by nothing, else by a wave, a dislocation or at random."""
    kind = rng.random()
    if kind < 0.25:  # an edge dislocation: Hirth and Lothe's field, scaled to this lattice
        length = float(np.linalg.norm(burgers))
        along = burgers / length
        axes = np.stack([along, [-along[1], along[0]]])
        local = (places - rng.uniform(-0.4, 0.4, 2) * side_nm) @ axes.T * (BURGERS_NM / length)
        local[np.hypot(*local.T) < 1e-3] += 1e-3
        return np.asarray(places + displacement_nm(local[:, 0], local[:, 1]).T @ axes * (length / BURGERS_NM))
    if kind < 0.4:  # a wave
        wave, phase = rng.normal(0, 2 * math.pi / (1.5 * side_nm), 2), rng.uniform(0, 2 * math.pi)
        return places + np.sin(places @ wave + phase)[:, None] * rng.normal(0, 0.02, 2)
    if kind < 0.5:
        return places + rng.normal(0, 0.01, places.shape)
    return places
