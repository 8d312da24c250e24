"""Atoms projected one by one against abTEM's potential; crystals and particles by their lattices."""

import abtem
import ase
import numpy as np
import pytest

from twin.day import Day, FilmProperties
from twin.matter.crystals import crystal_film, crystal_phases, crystallites_phase, particle, projected_phase
from twin.matter.region import region_rng
from twin.optics import Optics

OPTICS = Optics(grid=128, camera_pixels=16, binning=4)


@pytest.mark.parametrize("element", ["C", "Si", "Au"])
def test_projected_atoms_are_those_of_abtem(element):
    side, sampling_nm = 128, 0.02
    positions = np.random.default_rng(3).random((12, 2)) * side * sampling_nm
    ours = projected_phase(element, positions, OPTICS, side, sampling_nm, blur_nm=0.02)
    box = side * sampling_nm * 10
    atoms = ase.Atoms([element] * 12, [(10 * x, 10 * y, 5.0) for x, y in positions], cell=[box, box, 10.0])
    potential = abtem.Potential(atoms, gpts=side, slice_thickness=10.0, projection="infinite").build(lazy=False)
    volts_nm = potential.array.sum(0).T * 0.1  # (x, y), V angstrom
    q = np.hypot(np.fft.fftfreq(side, sampling_nm)[:, None], np.fft.fftfreq(side, sampling_nm)[None, :])
    theirs = OPTICS.interaction_rad_per_v_nm * volts_nm
    blurred = np.fft.ifft2(np.fft.fft2(theirs) * np.exp(-2 * (np.pi * 0.02 * q) ** 2)).real
    difference = (ours - ours.mean()) - (blurred - blurred.mean())
    # abTEM's own projection is right to a few per cent (`multislice.projection_filter`).
    assert np.linalg.norm(difference) < 0.06 * np.linalg.norm(blurred - blurred.mean())


@pytest.mark.parametrize(("crystal", "per_nm3"), [("si_001", 8 / 0.5431**3), ("au_001", 4 / 0.4078**3)])
def test_a_crystal_has_the_density_of_its_lattice(crystal, per_nm3):
    _, positions = crystal_film(FilmProperties(crystal=crystal, thickness_nm=4.0), 12.0)
    assert len(positions) / (12.0**2 * 4.0) == pytest.approx(per_nm3, rel=0.06)
    assert positions.min() >= 0.0
    assert np.all(positions.max(0) < (12.0, 12.0, 4.0))


def test_a_crystal_scatters_into_reflections_alone():
    day = Day(film=FilmProperties(crystal="si_001", thickness_nm=2.0))
    phase = crystal_phases(day, OPTICS, OPTICS.grid, 2, np.random.default_rng(0)).sum(0)
    power = np.abs(np.fft.fft2(phase)) ** 2
    cells = round(OPTICS.window_nm / 0.5431)
    power[0, 0] = 0.0
    reflections = np.rint(np.fft.fftfreq(OPTICS.grid) * OPTICS.grid) % cells == 0
    allowed = power[np.ix_(reflections, reflections)].sum()
    assert allowed > 0.999 * power.sum()


def test_a_particle_is_a_ball_of_gold():
    atoms = particle(3.0, np.random.default_rng(1))
    assert np.linalg.norm(atoms, axis=1).max() <= 1.5
    assert len(atoms) == pytest.approx(4 / 0.4078**3 * np.pi / 6 * 27, rel=0.1)
    nearest = np.sort(np.linalg.norm(atoms - atoms[len(atoms) // 2], axis=1))[1]
    assert nearest == pytest.approx(0.4078 / np.sqrt(2))


def test_the_number_of_particles_follows_the_area():
    """300 regions of one particle on average; the bound is four standard errors."""
    film = FilmProperties(crystallites_per_um2=1e6 / OPTICS.window_nm**2, crystallite_nm=0.8)
    one = projected_phase("Au", particle(0.8, np.random.default_rng(0)), OPTICS, 128, OPTICS.sampling_nm).sum()
    phases = (
        crystallites_phase(film, OPTICS, 128, OPTICS.sampling_nm, 0.02, region_rng(seed, 2)) for seed in range(300)
    )
    sums = [phase.sum() for phase in phases]
    assert np.mean(sums) / one == pytest.approx(1.0, abs=4 * 1.1 / np.sqrt(300))
