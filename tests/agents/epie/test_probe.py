"""Window, geometry and start probe against the twin's own and against independent definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.epie.probe import Beam, Geometry, Window, intensity_centre, pattern_centre, rim_share, start_probe
from twin.aberrations import Aberrations
from twin.optics import Optics
from twin.scan.diffraction import aperture_wave
from twin.scan.plan import ScanPlan, path


def test_a_square_camera_is_taken_as_it_is() -> None:
    frames = np.arange(2 * 64 * 64, dtype=np.uint16).reshape(2, 64, 64)
    window = Window.of((64, 64))
    expected = np.fft.ifftshift(frames, axes=(1, 2)).swapaxes(1, 2)
    np.testing.assert_array_equal(window.laid(frames).reshape(2, 64, 64), expected)
    np.testing.assert_array_equal(window.laid(frames.astype(">u2")).reshape(2, 64, 64), expected)
    turned = Window.of((64, 64), transposed=True).laid(frames.swapaxes(1, 2))
    np.testing.assert_array_equal(turned.reshape(2, 64, 64), expected)


@given(st.integers(8, 40), st.integers(8, 40), st.integers(1, 2))
def test_no_count_is_lost_and_angles_are_right(height: int, width: int, binning: int) -> None:
    """Any camera, also odd and not square: a count at an angle is found at that angle, once."""
    window = Window.of((height, width), binning)
    assert window.size >= max(height, width) // binning - 1
    frame = np.zeros((1, height, width), np.uint8)
    row, column = height // 2 + binning, width // 2 - binning
    frame[0, row, column] = 7
    laid = window.laid(frame).reshape(window.size, window.size)
    assert laid[-1, 1] == 7
    assert laid.sum() == 7
    full = window.laid(np.ones((1, height, width), np.uint8))[0]
    assert set(np.unique(full)) <= {0, binning**2}
    assert (full > 0).sum() == window.measured.sum()
    if binning == 1:
        assert window.measured.sum() == height * width


def test_a_reach_keeps_the_inner_angles() -> None:
    window = Window.of((64, 64), reach_px=15)
    assert window.size == 32
    frame = np.zeros((1, 64, 64), np.uint8)
    frame[0, 32 + 15, 32 - 15] = 1
    frame[0, 32 + 20, 32] = 1
    assert window.laid(frame).sum() == 1


def test_a_binning_too_large_is_refused() -> None:
    with pytest.raises(ValueError, match="binning 5 leaves less than two pixels of a camera of 8 x 9"):
        Window.of((8, 9), 5)


@given(st.floats(-180, 180), st.integers(2, 9), st.integers(2, 9))
def test_positions_are_the_scan_plan_s(rotation: float, rows: int, columns: int) -> None:
    plan = ScanPlan(rows=rows, columns=columns, step_nm=0.05, rotation_deg=rotation)
    intended = path(plan, 0, plan.count)
    geometry = Geometry(0.02, 2.5, rotation, (rows, columns), 16)
    found = geometry.positions(intended.pixel)
    relative = 0.02 * (found - found[0])[:, ::-1]
    np.testing.assert_allclose(relative, intended.intended_nm - intended.intended_nm[0], atol=1e-9)
    # Every window lies on the object, and the scanned rectangle holds every position.
    corner = np.rint(found).astype(int) - 8
    assert corner.min() >= 0
    assert (corner + 16 <= np.array(geometry.shape)).all()
    for axis, part in enumerate(geometry.scanned):
        assert part.start <= found[:, axis].min() + 1e-9
        assert found[:, axis].max() <= part.stop - 1 + 1e-6 + 1


def test_the_start_probe_is_the_twin_s() -> None:
    optics = Optics(energy_kev=80.0, convergence_mrad=25.0, grid=64, sampling_nm=0.02, camera_pixels=64, binning=1)
    coefficients = {"C10": -8.0, "C12a": 3.0, "C12b": -2.0, "C21b": 60.0}
    wave = aperture_wave(optics, Aberrations.of(coefficients))
    beam = Beam(optics.wavelength_nm, 25.0, optics.camera_pixel_mrad)
    probe = start_probe(beam, 64, 1000.0, aberrations_nm=coefficients)
    spectrum = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(probe[0])))
    reach = len(wave) // 2
    inner = spectrum[32 - reach : 33 + reach, 32 - reach : 33 + reach]
    likeness = abs(np.vdot(inner, wave)) / np.linalg.norm(spectrum) / np.linalg.norm(wave)
    assert likeness > 0.98  # but for the soft edge
    assert np.sum(np.abs(probe) ** 2) == pytest.approx(1000.0)


def test_modes_are_orthogonal_and_share_the_counts() -> None:
    modes = start_probe(Beam(0.004, 25.0, 2.0), 48, 500.0, modes=3)
    gram = np.einsum("ayx,byx->ab", modes.conj(), modes)
    np.testing.assert_allclose(gram, np.diag([480.0, 10.0, 10.0]), atol=1e-6)
    np.testing.assert_allclose(modes[:1] / np.sqrt(0.96), start_probe(Beam(0.004, 25.0, 2.0), 48, 500.0), atol=1e-9)


def test_the_pattern_s_middle_is_found_between_pixels() -> None:
    y, x = np.mgrid[:64, :64]
    disc = 5.0 * np.clip(12.0 - np.hypot(x - 34.6, y - 29.75) + 0.5, 0, 1)
    disc[3, 3] = 1e4
    kx, ky = pattern_centre(np.fft.ifftshift(disc).T)
    assert kx == pytest.approx(2.6, abs=0.15)
    assert ky == pytest.approx(-2.25, abs=0.15)
    moved = start_probe(Beam(0.004, 25.0, 25.0 / 12), 64, 1.0, centre=(2.6, -2.25))
    pattern = np.abs(np.fft.fft2(moved[0])).T
    assert pattern_centre(pattern) == pytest.approx((2.6, -2.25), abs=0.04)


def test_noise_hardly_moves_the_centre() -> None:
    """A disc of 5 pixels in radius with 40 counts in a pixel, 3000 in all; 0.05 pixels is R / 2 over their root."""
    row, column = np.indices((24, 24)) - 12
    disc = 40.0 * np.clip(5.5 - np.hypot(row - 0.2, column + 0.1), 0.0, 1.0)
    rng = np.random.default_rng(0)
    found = np.array([pattern_centre(np.fft.ifftshift(rng.poisson(disc).astype(float))) for _ in range(50)])
    np.testing.assert_allclose(found.mean(axis=0), [0.2, -0.1], atol=0.03)
    assert found.std(axis=0).max() < 0.05


def test_the_centre_of_a_probe_may_lie_beside_its_window_s() -> None:
    y, x = np.mgrid[:32, :32] - 16
    probe = np.exp(-((x - 2.3) ** 2 + (y + 1.2) ** 2) / 18.0)[None].astype(complex)
    np.testing.assert_allclose(intensity_centre(probe), [-1.2, 2.3], atol=0.01)
    assert rim_share(probe) < 1e-3
    assert rim_share(np.ones((1, 32, 32), complex)) == pytest.approx(1 - 28**2 / 32**2)
