"""Wavelength and interaction parameter against abTEM; the grid's angles; aliasing refused with numbers."""

from dataclasses import replace

import numpy as np
import pytest

from twin.aberrations import NAMES, Aberrations, aberration_phase
from twin.optics import AliasingError, Optics, check_window, probe_extent_nm

OPTICS = Optics()


@pytest.mark.parametrize("energy_kev", [30.0, 60.0, 80.0, 200.0, 300.0])
def test_wavelength_and_interaction_parameter_are_abtems(energy_kev):
    from abtem.core.energy import energy2sigma, energy2wavelength  # takes seconds

    optics = Optics(energy_kev=energy_kev, convergence_mrad=15.0)
    assert optics.wavelength_nm == pytest.approx(energy2wavelength(energy_kev * 1e3) / 10, rel=1e-6)
    assert optics.interaction_rad_per_v_nm == pytest.approx(energy2sigma(energy_kev * 1e3) * 10, rel=1e-6)


def test_textbook_values_at_300_kev():
    """Kirkland, Advanced Computing in Electron Microscopy (2010), table of wavelengths: 1.969 pm at 300 kV."""
    assert pytest.approx(1.9687e-3, rel=1e-4) == OPTICS.wavelength_nm
    assert pytest.approx(6.526e-3, rel=1e-3) == OPTICS.interaction_rad_per_v_nm


def test_reciprocal_pixels_follow_from_the_window():
    assert pytest.approx(12.8) == OPTICS.window_nm
    assert pytest.approx(1e3 * OPTICS.wavelength_nm / 12.8) == OPTICS.pixel_mrad
    assert pytest.approx(3 * OPTICS.pixel_mrad) == OPTICS.camera_pixel_mrad
    assert pytest.approx(256 * OPTICS.pixel_mrad) == OPTICS.max_angle_mrad


@pytest.mark.parametrize("pixels", [6, 7])
def test_angles_are_centred_on_pixel_half(pixels):
    angles = OPTICS.angles_mrad(pixels)
    assert angles.shape == (pixels,)
    assert angles[pixels // 2] == 0.0
    np.testing.assert_allclose(np.diff(angles), OPTICS.pixel_mrad)


@pytest.mark.parametrize("label", ["energy_kev", "convergence_mrad", "grid", "sampling_nm", "camera_pixels", "binning"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_every_number_must_be_positive(label, value):
    with pytest.raises(ValueError, match=rf"optics\.{label} must be positive, got"):
        replace(OPTICS, **{label: value})


def test_the_camera_must_fit_the_grid():
    with pytest.raises(ValueError, match="the camera spans 128 x 5 grid pixels; the grid has 512"):
        Optics(binning=5)


def test_the_aperture_must_fit_the_grid_and_the_error_gives_a_sampling_that_does():
    with pytest.raises(AliasingError, match=r"convergence_mrad 40.0 exceeds the grid's 39.4 mrad") as caught:
        Optics(convergence_mrad=40.0)
    advised = float(str(caught.value).split("<= ")[1])
    Optics(convergence_mrad=40.0, sampling_nm=advised * 0.99)


@pytest.mark.parametrize(
    ("coefficients", "extent_nm"),
    [
        # Rays at the rim: C10 moves them by alpha C10, so the disc is 2 alpha C10 wide.
        ({"C10": 100.0}, 2 * 0.028 * 100.0),
        ({"C10": -100.0}, 2 * 0.028 * 100.0),
        ({"C12a": 50.0}, 2 * 0.028 * 50.0),
        ({"C10": 60.0, "C12a": -40.0}, 2 * 0.028 * 100.0),
        ({"C30": 1e5}, 2 * 0.028**3 * 1e5),
        # Coma: the ring of angle theta becomes a circle of diameter 2/3 C21 theta^2 centred 2/3 C21 theta^2 off axis.
        ({"C21a": 3e3}, 3e3 * 0.028**2),
    ],
)
def test_probe_extent_is_the_spread_of_the_rays(coefficients, extent_nm):
    assert probe_extent_nm(OPTICS, Aberrations.of(coefficients)) == pytest.approx(extent_nm, rel=0.03)


def test_no_aberrations_fit_any_window():
    assert probe_extent_nm(OPTICS, Aberrations()) == 0.0
    check_window(Optics(grid=400), Aberrations())


def test_a_window_too_small_is_refused_with_the_numbers():
    with pytest.raises(AliasingError) as caught:
        check_window(OPTICS, Aberrations.of({"C10": 400.0}))
    message = str(caught.value)
    assert "C10 of 400 nm" in message
    assert "a window of 24.6 nm" in message
    assert "the grid spans 12.8 nm" in message
    assert "optics.grid=1024" in message
    check_window(replace(OPTICS, grid=1024), Aberrations.of({"C10": 400.0}))


def test_the_boundary_of_the_window_rule():
    """L > 2.2 alpha |C10|: 207.8 nm at 12.8 nm and 28 mrad."""
    limit = 12.8 / (2.2 * 0.028)
    check_window(OPTICS, Aberrations.of({"C10": limit * 0.995}))
    with pytest.raises(AliasingError):
        check_window(OPTICS, Aberrations.of({"C10": limit * 1.005}))


@pytest.mark.parametrize(
    "coefficients",
    [
        {"C10": 120.0, "C12a": 60.0},
        {"C10": -120.0, "C12a": 42.0, "C12b": -42.0},
        {"C10": 120.0, "C12a": -60.0, "C21a": 300.0, "C23b": 300.0},
    ],
)
def test_a_probe_that_passes_lies_inside_the_window(coefficients):
    """Extremes of the default ranges, computed on a window twice as wide: under 2e-3 falls outside the window."""
    aberrations = Aberrations.of(coefficients)
    check_window(OPTICS, aberrations)
    wide = replace(OPTICS, grid=2 * OPTICS.grid)
    x, y = np.meshgrid(wide.angles_mrad(wide.grid), wide.angles_mrad(wide.grid))
    chi = aberration_phase(aberrations, x, y, wide.wavelength_nm)
    field = np.where(np.hypot(x, y) <= wide.convergence_mrad, np.exp(-1j * chi), 0.0)
    probe = np.abs(np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(field)))) ** 2
    half = OPTICS.grid // 2
    inside = probe[half:-half, half:-half].sum() / probe.sum()
    assert 1 - inside < 2e-3


@pytest.mark.parametrize("name", NAMES)
def test_extent_grows_in_proportion_to_each_coefficient(name):
    one, two = (probe_extent_nm(OPTICS, Aberrations.of({name: size})) for size in (1.0, 2.0))
    assert one > 0
    assert two == pytest.approx(2 * one, rel=1e-6)
