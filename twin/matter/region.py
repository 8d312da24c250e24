"""Where one region of the film departs from an even film: wedge, contamination, a hole; maps over its window.

Maps have rows along y and the axis in the middle of the window.
"""

import math

import numpy as np
from numpy.typing import NDArray

from twin.arrays import Array
from twin.day import FilmProperties

HOLES = 1
"""Key of a region's random numbers for holes: those of the film itself do not depend on whether there is a hole."""
CRYSTALLITES = 2
"""The same for crystallites."""


def region_rng(region_seed: int, key: int) -> np.random.Generator:
    """Random numbers of one region for one purpose."""
    return np.random.default_rng(np.random.SeedSequence(region_seed, spawn_key=(key,)))


def phase_scale(film: FilmProperties, side: int, grown_nm: float = 0.0) -> float | Array | None:
    """Factor of the film's phase, a number or (side, side): root of the thickness over the nominal; None: one.

    The phase of an amorphous film is a sum over independent atoms: its variance follows the thickness.

    Args:
        film: thickness and wedge.
        side: pixels of the window.
        grown_nm: contamination.
    """
    relative = 1.0 + grown_nm / film.thickness_nm
    if film.wedge == 0.0:
        return None if grown_nm == 0.0 else math.sqrt(relative)
    axis = (np.arange(side) - side // 2) / side
    turn = math.radians(film.wedge_deg)
    slope = film.wedge * (math.cos(turn) * axis[None, :] + math.sin(turn) * axis[:, None])
    return np.asarray(np.sqrt(np.maximum(relative + slope, 0.0)))


def vacuum(film: FilmProperties, side: int, sampling_nm: float, region_seed: int) -> NDArray[np.bool_] | None:
    """Where a region has no film, (side, side); None: film everywhere."""
    if film.hole_share == 0.0 and film.edge_nm is None:
        return None
    rng = region_rng(region_seed, HOLES)
    missing, direction = rng.random() < film.hole_share, rng.uniform(0.0, 2 * math.pi)
    if missing:
        return np.ones((side, side), bool)
    if film.edge_nm is None:
        return None
    axis = (np.arange(side) - side // 2) * sampling_nm
    along = math.cos(direction) * axis[None, :] + math.sin(direction) * axis[:, None]
    return np.asarray(along > film.edge_nm)
