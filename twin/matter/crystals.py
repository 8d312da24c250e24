"""Crystals among amorphous films: a film cut from a crystal, and small gold particles."""

import math

import numpy as np
from numpy.typing import NDArray

from twin.arrays import Array, Floats
from twin.day import Day, FilmProperties
from twin.matter.carbon_screen import grid_frequencies, potential_v_nm3
from twin.optics import Optics

_FCC = np.array([(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)], np.float64)

CRYSTALS: dict[str, tuple[str, float, Array]] = {
    "si_001": ("Si", 0.5431, np.concatenate([_FCC, _FCC + 0.25])),
    "au_001": ("Au", 0.4078, _FCC),
}
"""Element, lattice constant in nm and atoms of the cubic cell by name of a film's crystal; the beam is along [001]."""


def crystal_film(film: FilmProperties, side_nm: float) -> tuple[str, Floats]:
    """Element and positions (x, y, z) of a crystalline film that repeats with `side_nm` along x and y, nm, (N, 3).

    The lattice is strained along x and y, by at most half a cell over the side, so that a whole number of cells fits.
    """
    element, constant_nm, basis = CRYSTALS[film.crystal]
    across = max(1, round(side_nm / constant_nm))
    deep = math.ceil(film.thickness_nm / constant_nm)
    cells = np.stack(np.meshgrid(np.arange(across), np.arange(across), np.arange(deep), indexing="ij"), -1)
    positions = (cells.reshape(-1, 1, 3) + basis).reshape(-1, 3)
    positions *= (side_nm / across, side_nm / across, constant_nm)
    return element, positions[positions[:, 2] < film.thickness_nm]


def crystal_phases(day: Day, optics: Optics, side: int, slices: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Phase of one region of a crystalline film, slice by slice, rad, (slices, side, side); its place is random."""
    film, window_nm = day.film, side * optics.sampling_nm
    element, positions = crystal_film(film, window_nm)
    positions[:, :2] = (positions[:, :2] + rng.random(2) * window_nm) % window_nm
    layer = np.minimum((positions[:, 2] * slices / film.thickness_nm).astype(np.int64), slices - 1)
    blur_nm = math.hypot(film.thermal_rms_nm, day.source_size_nm)
    return np.stack(
        [
            projected_phase(element, positions[layer == i], optics, side, optics.sampling_nm, blur_nm)
            for i in range(slices)
        ]
    )


def particle(diameter_nm: float, rng: np.random.Generator) -> Array:
    """Positions of the atoms of a gold ball about the origin, in a random orientation, nm, (N, 3)."""
    _, constant_nm, basis = CRYSTALS["au_001"]
    cells = math.ceil(diameter_nm / 2 / constant_nm) + 1
    axis = np.arange(-cells, cells)
    corners = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 1, 3)
    positions = (corners + basis).reshape(-1, 3) * constant_nm
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    inside = np.linalg.norm(positions, axis=1) <= diameter_nm / 2
    return np.asarray(positions[inside] @ turn)


def projected_phase(
    element: str, positions_nm: Array, optics: Optics, side: int, sampling_nm: float, blur_nm: float = 0.0
) -> NDArray[np.float64]:
    """Phase of atoms projected along the beam, rad, (side, side), rows along y; the window repeats.

    Each atom is spread linearly over four pixels, whose damping is divided out.

    Args:
        element: of all atoms.
        positions_nm: (x, y) and more, (N, 2 or more), from the window's corner.
        optics: beam energy.
        side: pixels of the window.
        sampling_nm: pixel.
        blur_nm: rms of a Gaussian along each axis: thermal motion and source.
    """
    place = positions_nm[:, :2] / sampling_nm
    first = np.floor(place).astype(np.int64)
    rest = place - first
    sites = np.zeros((side, side))
    for dx in (0, 1):
        for dy in (0, 1):
            weight = np.abs(1 - dx - rest[:, 0]) * np.abs(1 - dy - rest[:, 1])
            np.add.at(sites, ((first[:, 1] + dy) % side, (first[:, 0] + dx) % side), weight)
    q = grid_frequencies(side, sampling_nm)
    damping = (np.sinc(np.fft.fftfreq(side))[:, None] * np.sinc(np.fft.rfftfreq(side))[None, :]) ** 2
    potential = potential_v_nm3(q, element) * np.exp(-2 * (np.pi * blur_nm * q) ** 2) / damping
    projected = np.fft.irfft2(np.fft.rfft2(sites) * potential, s=(side, side)) / sampling_nm**2
    return np.asarray(optics.interaction_rad_per_v_nm * projected)


def crystallites_phase(
    film: FilmProperties, optics: Optics, side: int, sampling_nm: float, blur_nm: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Phase of the gold particles of one region, rad, (side, side): Poisson in number, uniform in place."""
    window_nm = side * sampling_nm
    number = int(rng.poisson(film.crystallites_per_um2 * 1e-6 * window_nm**2))
    atoms = [particle(film.crystallite_nm, rng)[:, :2] + rng.random(2) * window_nm for _ in range(number)]
    if not atoms:
        return np.zeros((side, side))
    return projected_phase("Au", np.concatenate(atoms), optics, side, sampling_nm, blur_nm)
