"""The film as a statistical object: scattering factor against abTEM, spectrum and variance against closed forms."""

import numpy as np
import pytest

from twin.day import FilmProperties
from twin.matter.carbon_screen import (
    grid_frequencies,
    phase_psd_rad2_nm2,
    scattering_factor_nm,
    screen_filter,
    structure_factor,
    unit_noise,
)
from twin.optics import Optics

OPTICS = Optics()
FILM = FilmProperties()


def test_the_scattering_factor_is_abtems() -> None:
    from abtem.parametrizations import LobatoParametrization

    q_per_nm = np.linspace(0.0, 60.0, 200)
    theirs = LobatoParametrization().scattering_factor("C")((q_per_nm / 10) ** 2) / 10
    # abTEM keeps the parameters in single precision, which its large terms of either sign turn into 3e-6.
    assert scattering_factor_nm(q_per_nm) == pytest.approx(theirs, rel=1e-5)


def test_the_structure_factor_has_its_closed_limits() -> None:
    eta = np.pi / 6 * FILM.atoms_per_nm3 * FILM.closest_nm**3
    compressibility = (1 - eta) ** 4 / (1 + 2 * eta) ** 2
    assert structure_factor(np.array([0.0]), FILM)[0] == pytest.approx(compressibility, rel=2e-3)
    assert structure_factor(np.array([400.0]), FILM)[0] == pytest.approx(1.0, abs=1e-2)
    dilute = FilmProperties(density_per_nm3=1e-3)
    assert structure_factor(np.linspace(0, 20, 50), dilute) == pytest.approx(np.ones(50), abs=1e-4)


def test_noise_is_white_and_hermitian() -> None:
    """Mean power of 3.3e4 exponential values: 5 standard errors are 2.8 %; false alarms 6e-7."""
    noise = unit_noise(256, np.random.default_rng(0))
    assert np.mean(np.abs(noise) ** 2) == pytest.approx(1.0, abs=0.028)
    for column in (0, 128):
        assert noise[:, column] == pytest.approx(np.conj(np.roll(noise[::-1, column], 1)), abs=1e-6)


def test_a_screens_variance_is_the_integral_of_its_spectrum() -> None:
    """24 screens: the standard error of the mean variance is measured among them; false alarms below 1e-4."""
    rng = np.random.default_rng(1)
    kernel = screen_filter(FILM, OPTICS, 4.0)
    grid = OPTICS.grid
    variances = [np.fft.irfft2(unit_noise(grid, rng) * kernel, s=(grid, grid)).var() for _ in range(24)]
    q = np.hypot(*np.meshgrid(*[np.fft.fftfreq(grid, OPTICS.sampling_nm)] * 2))
    psd = phase_psd_rad2_nm2(q, FILM, OPTICS, 4.0)
    psd[0, 0] = 0.0
    expected = psd.sum() / OPTICS.window_nm**2
    error = np.std(variances) / np.sqrt(len(variances))
    assert abs(np.mean(variances) - expected) < 4.5 * error
    assert error < 0.05 * expected


def test_a_part_of_the_window_has_the_variance_of_the_whole() -> None:
    whole, half = (screen_filter(FILM, OPTICS, 4.0, side=side) for side in (None, OPTICS.grid // 2))
    assert half.shape == (OPTICS.grid // 2, OPTICS.grid // 4 + 1)
    # A transform back divides by the pixels, squared here; the coarser sum and the missing constant make a hundredth.
    assert 16 * (half**2).sum() / (whole**2).sum() == pytest.approx(1.0, rel=0.02)


def test_variance_is_proportional_to_thickness_and_the_source_blurs() -> None:
    thin, thick = (screen_filter(FILM, OPTICS, t) for t in (2.0, 8.0))
    assert thick[3, 5] == pytest.approx(2 * thin[3, 5], rel=1e-5)
    q = grid_frequencies(OPTICS.grid, OPTICS.sampling_nm)
    blurred = screen_filter(FILM, OPTICS, 2.0, source_size_nm=0.05)
    damping = blurred[q > 0] / thin[q > 0]
    assert damping == pytest.approx(np.exp(-2 * (np.pi * 0.05 * q[q > 0]) ** 2), rel=1e-3, abs=1e-7)
