"""The atomic film against the equilibrium theory of hard spheres."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import cKDTree

from twin.day import FilmProperties
from twin.matter.carbon_atoms import carbon_film
from twin.matter.carbon_screen import structure_factor

FILM = FilmProperties(thickness_nm=4.0)
SIDE_NM = 6.0


@pytest.fixture(scope="module")
def films():
    """Thirty-two films: about 460,000 atoms."""
    return [carbon_film(FILM, SIDE_NM, np.random.default_rng(seed)) for seed in range(32)]


def periodic_tree(positions):
    return cKDTree(positions, boxsize=[SIDE_NM, SIDE_NM, FILM.thickness_nm])


def test_every_atom_lies_in_the_film_and_their_number_is_density_times_volume(films):
    for positions in films:
        assert positions.shape == (14400, 3)
        assert positions.dtype == np.float64
        assert np.all(positions >= 0)
        assert np.all(positions < [SIDE_NM, SIDE_NM, FILM.thickness_nm])


def test_no_two_cores_overlap_also_across_the_period(films):
    for positions in films:
        distances, _ = periodic_tree(positions).query(positions, k=2)
        nearest = distances[:, 1].min()
        assert FILM.closest_nm <= nearest < FILM.closest_nm * 1.001


def test_atoms_touch_as_often_as_in_equilibrium(films):
    """Contact value g(d) = (1 - eta/2) / (1 - eta)^3 (Carnahan and Starling 1969).

    About 18,500 pairs within 5 % of contact: 0.7 % standard error, and 1.7 % from g's slope; the bound is 5 %.
    """
    core, shell = FILM.closest_nm, 1.05
    pairs = sum(len(periodic_tree(p).query_pairs(core * shell)) for p in films)
    atoms = sum(len(p) for p in films)
    volume = 4 / 3 * math.pi * core**3 * (shell**3 - 1)
    measured = 2 * pairs / atoms / (FILM.atoms_per_nm3 * volume)
    eta = math.pi / 6 * FILM.atoms_per_nm3 * core**3
    slope = -9 / 2 * eta * (1 + eta) / (1 - eta) ** 3  # of d g'(d), Percus-Yevick
    mean_over_shell = (1 - eta / 2) / (1 - eta) ** 3 + slope * (shell - 1) / 2
    assert measured == pytest.approx(mean_over_shell, rel=0.05)


def test_the_structure_factor_is_percus_yevick(films):
    """Rings hold 2000 to 40,000 independent modes: 2.2 % to 0.5 % standard error; 5 sigma and 2 % for PY itself.

    Random sequential addition alone is 15 % too low in the first ring.
    """
    pixels = 512
    kx, ky = np.fft.fftfreq(pixels, SIDE_NM / pixels)[:, None], np.fft.rfftfreq(pixels, SIDE_NM / pixels)[None, :]
    q = np.hypot(kx, ky)
    power = np.zeros(q.shape)
    for positions in films:
        counts, _, _ = np.histogram2d(*positions[:, :2].T, bins=pixels, range=[[0, SIDE_NM]] * 2)
        power += np.abs(np.fft.rfft2(counts)) ** 2 / len(positions) / len(films)
    for low, high in [(0.1, 1.5), (1.5, 3), (3, 4.5), (4.5, 6), (6, 8), (8, 10), (10, 12), (12, 15)]:
        # One column only: its mirror image would count the same modes twice.
        ring = (q >= low) & (q < high) & (ky > 0)
        error = 5 / math.sqrt(ring.sum() * len(films)) + 0.02
        assert power[ring].mean() == pytest.approx(structure_factor(q[ring], FILM).mean(), rel=error), (low, high)


def test_atoms_are_spread_evenly_along_every_axis(films):
    """Every one of 60 slabs holds its share: 5 standard deviations of Poisson, false alarm below 1e-4 in all."""
    everything = np.concatenate(films)
    for axis, length in enumerate([SIDE_NM, SIDE_NM, FILM.thickness_nm]):
        counts, _ = np.histogram(everything[:, axis], bins=20, range=(0, length))
        expected = len(everything) / 20
        assert np.abs(counts - expected).max() < 5 * math.sqrt(expected)


def test_the_generator_decides_the_film():
    one, same, other = (carbon_film(FILM, 2.0, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("core_nm", [0.001, 0.05, 0.178])
def test_any_core_that_a_day_allows(core_nm):
    """From almost points to a packing fraction of 0.295; a day's limit is 0.3."""
    film = replace(FILM, hard_core_nm=core_nm)
    positions = carbon_film(film, 2.0, np.random.default_rng(0))
    distances, _ = cKDTree(positions, boxsize=[2.0, 2.0, film.thickness_nm]).query(positions, k=2)
    assert distances[:, 1].min() >= core_nm


def test_a_film_that_cannot_be_filled_is_refused_with_numbers():
    """Random addition saturates at 0.38 (Widom 1966); this asks for 0.45."""
    film = FilmProperties(thickness_nm=1.0, density_per_nm3=100.0, hard_core_nm=0.205)
    with pytest.raises(ValueError, match=r"of 100 atoms found room: .* fills 0.45"):
        carbon_film(film, 1.0, np.random.default_rng(0))


@pytest.mark.parametrize("side_nm", [0.2, 0.0, -1.0, float("nan"), float("inf")])
def test_a_period_too_short_is_refused(side_nm):
    with pytest.raises(ValueError, match=r"side_nm must be at least twice hard_core_nm, 0.28 nm"):
        carbon_film(FILM, side_nm, np.random.default_rng(0))
