"""Compounds and disorder: the atoms against the spectrum of the phase screens."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from twin.day import MATERIALS, FilmProperties
from twin.matter.carbon_screen import scattering_factor_nm, structure_factor
from twin.matter.film_atoms import film_atoms

SIDE_NM = 8.0


def measured_structure(film, rings):
    """S on rings of the plane of spatial frequencies, from four films."""
    rows = []
    for seed in range(4):
        _, positions = film_atoms(film, SIDE_NM, np.random.default_rng(seed))
        bins = np.histogram2d(positions[:, 0], positions[:, 1], bins=320, range=[[0, SIDE_NM]] * 2)[0]
        rows.append(np.abs(np.fft.fft2(bins)) ** 2 / len(positions))
    power = np.mean(rows, axis=0)
    axis = np.fft.fftfreq(320, SIDE_NM / 320)
    q = np.hypot(axis[:, None], axis[None, :])
    return np.array([power[(q >= low) & (q < high)].mean() for low, high in rings])


@pytest.mark.parametrize("disorder_nm", [0.0, 0.05, 0.3])
def test_disorder_takes_the_structure_factor_to_one(disorder_nm):
    """Rings hold 1000 modes and more, times four: a standard error of 2 %; the bound also holds the closed form."""
    film = FilmProperties(thickness_nm=4.0, disorder_nm=disorder_nm)
    rings = [(1.0, 2.0), (2.0, 3.0), (3.0, 4.0)]
    expected = [structure_factor(np.linspace(a, b, 20), film).mean() for a, b in rings]
    assert measured_structure(film, rings) == pytest.approx(expected, rel=0.06)
    if disorder_nm == 0.3:
        assert expected == pytest.approx([1.0, 1.0, 1.0], abs=0.02)


@pytest.mark.parametrize("material", sorted(MATERIALS))
def test_a_material_has_its_density_and_composition(material):
    film = FilmProperties(thickness_nm=3.0, material=material)
    numbers, positions = film_atoms(film, SIDE_NM, np.random.default_rng(0))
    assert len(positions) == pytest.approx(MATERIALS[material].density_per_nm3 * SIDE_NM**2 * 3.0, rel=1e-3)
    shares = sorted(count / len(numbers) for count in Counter(numbers.tolist()).values())
    # Four standard errors of a share at 8000 atoms and more.
    assert shares == pytest.approx(sorted(share for _, share in MATERIALS[material].composition), abs=0.025)


def test_a_heavier_element_scatters_more():
    q = np.array([0.0, 4.0, 8.0])
    carbon, silicon, germanium = (scattering_factor_nm(q, element) for element in ("C", "Si", "Ge"))
    # Doyle and Turner (1968): f(0) of Si 5.83 and Ge 7.38 angstrom.
    assert silicon[0] == pytest.approx(0.583, rel=0.05)
    assert germanium[0] == pytest.approx(0.738, rel=0.05)
    assert np.all(germanium > carbon)


def test_own_density_and_core_replace_the_materials():
    film = FilmProperties(material="Ge", density_per_nm3=40.0, hard_core_nm=0.2)
    assert (film.atoms_per_nm3, film.closest_nm) == (40.0, 0.2)
    assert replace(film, density_per_nm3=None).atoms_per_nm3 == 44.0
