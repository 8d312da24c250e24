"""Objects in slices and positions: the model against the twin's multislice, steps against finite differences."""

import numpy as np
import pytest
from scipy import ndimage

from agents.epie.depth import Depth, candidates, fewest
from agents.epie.engine import Steps, intensity, misfit, sweep
from agents.epie.estimate import ObjectAndProbe, Places
from agents.epie.positions import pull
from agents.epie.probe import Beam, Geometry, propagator, start_probe
from twin.aberrations import Aberrations
from twin.optics import Optics
from twin.scan.diffraction import ScanRenderer, TransmissionField, aperture_wave

BEAM = Beam(wavelength_nm=0.00197, convergence_mrad=21.0, pixel_mrad=2.4)
SIZE = 32


def waves(rng: np.random.Generator, slices: int, side: int, width: float, strength: float) -> np.ndarray:
    """Random smooth phase objects of `strength` rad rms."""
    phases = ndimage.gaussian_filter(rng.standard_normal((slices, side, side)), (0, width, width), mode="wrap")
    return np.asarray(np.exp(1j * strength * phases / phases.std()))


def filled(estimate: ObjectAndProbe, objects: np.ndarray) -> ObjectAndProbe:
    estimate.slices[:, 0], estimate.slices[:, 1] = objects.real, objects.imag
    return estimate


def thick(seed: int, slices: int, gap_nm: float, modes: int = 1) -> ObjectAndProbe:
    """Random slices under a defocused probe of ten thousand electrons."""
    probe = start_probe(BEAM, SIZE, 1e4, aberrations_nm={"C10": -6.0}, modes=modes).astype(np.complex64)
    estimate = ObjectAndProbe.start((64, 64), probe, slices, propagator(BEAM, SIZE, gap_nm))
    return filled(estimate, waves(np.random.default_rng(seed), slices, 64, 1.2, 0.2))


def test_patterns_are_those_of_the_twins_multislice() -> None:
    """Three slices 7 nm apart: another code, with transforms, band limit, window and crop of its own."""
    optics = Optics(energy_kev=300.0, convergence_mrad=15.0, grid=64, sampling_nm=0.02, camera_pixels=32, binning=1)
    objects = waves(np.random.default_rng(0), 3, 96, 3.0, 0.4).astype(np.complex64)
    renderer = ScanRenderer(optics, TransmissionField(objects[None], optics.sampling_nm, 7.0, (0.0, 0.0)))
    aberrations = Aberrations.of({"C10": 5.0, "C12a": 2.0, "C21b": 30.0})
    aperture = aperture_wave(optics, aberrations)
    spectrum = np.zeros((64, 64), np.complex64)
    first = 32 - len(aperture) // 2
    spectrum[first : first + len(aperture), first : first + len(aperture)] = aperture
    probe = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(spectrum), norm="ortho"))[None].astype(np.complex64)
    beam = Beam(optics.wavelength_nm, optics.convergence_mrad, optics.pixel_mrad)
    estimate = filled(ObjectAndProbe.start((96, 96), probe, 3, propagator(beam, 64, 7.0)), objects)
    for row, column in ((40.0, 41.0), (39.6, 43.3)):
        ours = np.fft.fftshift(intensity(estimate, Places.of(np.array([[row, column]]), 64))[0]).T
        expected = renderer.pattern(renderer.waves(aberrations), np.array([column, row]) * optics.sampling_nm)
        half = renderer.size // 2
        inner = slice(32 - half, 33 + half)
        np.testing.assert_allclose(ours[inner, inner], expected, atol=5e-4 * expected.max())
        assert ours.sum() == pytest.approx(1.0, rel=1e-4)


def test_slices_without_distance_are_one() -> None:
    """Their product: a propagator over no distance changes nothing."""
    estimate = thick(3, 3, 0.0)
    one = ObjectAndProbe.start((64, 64), estimate.probe)
    filled(one, estimate.transmission[None])
    places = Places.of(np.array([[31.3, 32.6], [30.0, 33.9]]), SIZE)
    np.testing.assert_allclose(intensity(estimate, places), intensity(one, places), atol=2e-4)
    apart = thick(3, 3, 5.0)
    assert np.abs(intensity(apart, places) - intensity(one, places)).max() > 1.0


@pytest.mark.parametrize("modes", [1, 2])
def test_each_slice_goes_down_the_gradient_of_the_misfit(modes: int) -> None:
    """All by the same factor of the gradient, 1 / (2 max of the intensity summed over slices and modes)."""
    truth, estimate = thick(1, 3, 4.0, modes), thick(2, 3, 4.0, modes)
    places = Places.of(np.array([[31.3, 32.6]]), SIZE)
    amplitude, after, factors = np.sqrt(intensity(truth, places)), estimate.copy(), []
    sweep(after, amplitude, places, Steps(1.0, 0.0))
    for n in range(3):
        update, ends = after.slices[n] - estimate.slices[n], []
        for sign in (1, -1):
            moved = estimate.copy()
            moved.slices[n] += sign * 0.1 * update
            ends.append(misfit(moved, amplitude, places).difference)
        factors.append((ends[0] - ends[1]) / 0.2 / float(np.sum(update**2)))
    assert factors == pytest.approx([factors[0]] * 3, rel=0.01)
    wave, total = np.stack([ramped(one, (0.3, -0.4)) for one in estimate.probe]), np.zeros((SIZE, SIZE))
    for one in estimate.slices:
        total += np.sum(np.abs(wave) ** 2, axis=0)
        wave = np.fft.ifft2(np.fft.fft2(wave * window(one)) * propagator(BEAM, SIZE, 4.0))
    assert factors[0] == pytest.approx(-2.0 * total.max(), rel=0.02)


def ramped(wave: np.ndarray, shift: tuple[float, float]) -> np.ndarray:
    """A wave moved along rows and columns."""
    k = np.fft.fftfreq(len(wave))
    turn = np.exp(-2j * np.pi * (shift[0] * k[:, None] + shift[1] * k[None, :]))
    return np.asarray(np.fft.ifft2(np.fft.fft2(wave) * turn))


def window(planes: np.ndarray) -> np.ndarray:
    """The object under the probe of (31.3, 32.6)."""
    return np.asarray((planes[0] + 1j * planes[1])[15:47, 17:49])


def test_positions_are_pulled_along_the_gradient_of_the_likelihood() -> None:
    """Of two modes and three slices, with dark pixels and some that the camera lacks; information is its variance."""
    estimate, places = thick(1, 3, 4.0, 2), Places.of(np.array([[31.3, 32.6], [33.1, 31.0]]), SIZE)
    estimate.spectra[:] *= 0.3  # a thousand electrons: some pixels expect less than a twentieth of a count
    measured = np.ones((SIZE, SIZE), np.float32)
    measured[4:6] = 0.0
    rng = np.random.default_rng(4)
    counts = rng.poisson(intensity(estimate, places))
    found = pull(estimate, np.sqrt(counts), places, measured)
    slopes = np.empty((2, 2, SIZE, SIZE))
    for axis in range(2):
        ends = [intensity(estimate, moved(places, axis, sign * 0.02)).astype(float) for sign in (1, -1)]
        slopes[:, axis] = measured * (ends[0] - ends[1]) / 0.04
    model = intensity(estimate, places)
    weight = 1.0 / np.maximum(model, 0.05)
    expected = np.sum((weight * (counts - model))[:, None] * slopes, axis=(2, 3))
    np.testing.assert_allclose(found.gradient, expected, rtol=0.01, atol=0.01 * np.abs(expected).max())
    information = np.einsum("nij,naij,nbij->nab", weight, slopes, slopes)
    np.testing.assert_allclose(found.information, information, rtol=0.01, atol=0.01 * information.max())


def moved(places: Places, axis: int, by: float) -> Places:
    shift = places.shift.copy()
    shift[:, axis] += by
    return Places(places.corner, shift)


def test_one_step_of_scoring_wins_a_small_move_back() -> None:
    estimate = thick(1, 2, 6.0)
    places = Places.of(np.array([[31.3, 32.6]]), SIZE)
    amplitude = np.sqrt(intensity(estimate, places))
    wrong = Places(places.corner, places.shift + np.array([0.06, -0.04]))
    found = pull(estimate, amplitude, wrong, np.ones((SIZE, SIZE), np.float32))
    step = np.linalg.solve(found.information[0], found.gradient[0])
    np.testing.assert_allclose(step, (-0.06, 0.04), atol=0.006)


def test_moves_are_told_along_the_axes_of_the_scan() -> None:
    """A step of the scan along its fast axis is x, one along the slow axis y, whatever the rotation."""
    geometry = Geometry(pixel_nm=0.02, step_px=3.0, rotation_deg=33.0, scan=(4, 5), size=16)
    places = geometry.positions(np.array([(0, 0), (0, 1), (1, 0)]))
    np.testing.assert_allclose(geometry.along_scan_nm(places[1:] - places[0]), [(0.06, 0.0), (0.0, 0.06)], atol=1e-12)


def test_as_many_slices_are_taken_as_frames_call_for() -> None:
    assert candidates(0.0) == (1,)
    assert candidates(1000.0)[-1] == 64
    rng = np.random.default_rng(0)
    frames = rng.normal(100.0, 10.0, 200)
    deviance = {1: frames + 5.0 + rng.normal(0, 1, 200), 2: frames + 0.05, 4: frames + rng.normal(0, 1, 200)}
    assert fewest(deviance) == 2
    assert fewest({1: frames, 2: frames + 1.0}) == 1
    assert Depth(4, 20.0).spacing_nm == 5.0
