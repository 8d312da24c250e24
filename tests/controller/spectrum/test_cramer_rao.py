import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2

from controller.preprocess import hann_window
from controller.spectrum import cramer_rao as bound
from controller.spectrum.cramer_rao import (
    Design,
    bound_nm,
    design_states,
    frame_information,
    informative_bins,
    whittle_information,
)
from twin.arrays import Array
from twin.cameras.ronchigram_camera import Defects, expose
from twin.day import CameraProperties, Day, FilmProperties
from twin.optics import Optics
from twin.state import FIRST_ORDER, StateSpace

SMALL = Optics(grid=256, sampling_nm=0.03, camera_pixels=64, binning=3)
NARROW = StateSpace(start_nm=(30.0, 15.0, 15.0), input_nm=(30.0, 15.0, 15.0))
SIDE = 32


def smooth_slopes() -> Array:
    """d log S / dx of two parameters, (2, SIDE, SIDE): smooth, even in k, as of a real image."""
    axis = np.arange(SIDE) - SIDE // 2
    ky, kx = np.meshgrid(axis, axis, indexing="ij")
    radius2 = kx**2 + ky**2
    return np.stack([np.exp(-radius2 / 120.0), (kx**2 - ky**2) / 256.0 * np.exp(-radius2 / 200.0)])


def test_the_information_of_known_slopes_is_recovered_despite_speckle() -> None:
    # P = S(x) e with exponential e: dP/dx = (d log S / dx) P in each region.
    rng, slopes = np.random.default_rng(0), smooth_slopes()
    regions, power = 400, 3.0 * np.ones((SIDE, SIDE))
    speckle = rng.exponential(size=(regions, 1, SIDE, SIDE))
    found = whittle_information(power * slopes * speckle, power, np.ones((SIDE, SIDE), bool))
    expected = np.einsum("ihw,jhw->ij", slopes, slopes) / (2 * bound.HANN_CORRELATION)
    # The standard error of the diagonal is 2 %.
    np.testing.assert_allclose(np.diag(found), np.diag(expected), rtol=0.08)
    assert abs(found[0, 1] - expected[0, 1]) < 0.05 * np.sqrt(expected[0, 0] * expected[1, 1])


def test_slopes_of_pure_speckle_carry_no_information() -> None:
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((30, 2, SIDE, SIDE))
    found = whittle_information(noise, np.ones((SIDE, SIDE)), np.ones((SIDE, SIDE), bool))
    naive = np.sum(noise.mean(0) ** 2, (1, 2)) / (2 * bound.HANN_CORRELATION)
    # Zero within 4 standard errors, where the plain square of the mean is far from it.
    assert np.all(np.abs(np.diag(found)) < 4 * naive * np.sqrt(2.0) / SIDE)


def test_whittles_estimator_reaches_the_bound_on_coloured_noise() -> None:
    # Real Gaussian images of spectrum S(k; x) behind a Hann window; one scoring step from the truth.
    rng, slopes = np.random.default_rng(2), smooth_slopes()
    window, flat = hann_window(SIDE), np.ones((SIDE, SIDE), bool)
    images = rng.standard_normal((3000, SIDE, SIDE))
    power = np.fft.fftshift(np.abs(np.fft.fft2(window * images)) ** 2, axes=(1, 2)) / np.sum(window**2)
    information = np.einsum("ihw,jhw->ij", slopes, slopes) / 2
    estimates = np.einsum("ihw,rhw->ri", slopes, power - 1) / 2 @ np.linalg.inv(information)
    exact = np.repeat(slopes[None], 2, 0)
    bound_cov = np.linalg.inv(whittle_information(exact, np.ones((SIDE, SIDE)), flat))
    # Variances of 3000 draws have a standard error of 2.6 %.
    np.testing.assert_allclose(np.var(estimates, axis=0), np.diag(bound_cov), rtol=0.12)


def test_the_bound_falls_as_one_over_the_root_of_the_frames() -> None:
    information = np.diag([4.0, 1.0, 0.25])
    assert bound_nm(information, 1) == pytest.approx(np.sqrt(0.25 + 1 + 4))
    assert bound_nm(information, 16) == pytest.approx(bound_nm(information, 1) / 4)


def test_the_median_of_an_efficient_estimate() -> None:
    for n in (1, 3):
        expected = np.sqrt(chi2.median(n) / n)
        assert bound.median_over_rms(5.0 * np.eye(n)) == pytest.approx(expected, rel=0.01)


def test_a_direction_lost_in_speckle_has_no_bound() -> None:
    assert bound_nm(np.diag([4.0, -1e-6]), 10) == np.inf


def test_one_region_is_not_enough() -> None:
    with pytest.raises(ValueError, match="needs 2 regions or more"):
        whittle_information(np.ones((1, 2, 4, 4)), np.ones((4, 4)), np.ones((4, 4), bool))


def test_states_differ_and_lie_where_the_design_says() -> None:
    states = design_states(FIRST_ORDER, Design(tolerances=2.0, states=4), np.random.default_rng(0))
    assert np.all(np.abs(states) == 20.0)
    assert len(np.unique(states, axis=0)) == 4


@pytest.mark.parametrize("camera", [CameraProperties(), CameraProperties(gain=1.3, shading=-0.3, mtf_nyquist=0.5)])
def test_shot_noise_is_that_of_the_camera(camera: CameraProperties) -> None:
    day, side = Day(dose_e=64**2 * 50.0, camera=camera), 64
    probability = np.full((side, side), 1 / side**2)
    rng, defects = np.random.default_rng(3), Defects(*np.zeros((2, side, side), bool))
    frames = [expose(probability, day.dose_e, camera, defects, rng).astype(float) for _ in range(60)]
    centred = np.asarray(frames) - np.mean(frames, 0)
    power = np.fft.fftshift(np.abs(np.fft.fft2(hann_window(side) * centred)) ** 2, axes=(1, 2)).mean(0) * 60 / 59
    bins = informative_bins(side)
    ring = bins & ~informative_bins_beyond(side, 12)
    outer = informative_bins_beyond(side, 24)
    expected = bound.shot_noise(probability, day)
    for band in (ring, outer):
        # At least 400 bins of 60 frames, a half of them independent, four to one: a standard error under 2 %.
        assert power[band].mean() == pytest.approx(expected[band].mean(), rel=0.06)


def informative_bins_beyond(pixels: int, radius: float) -> NDArray[np.bool_]:
    axis = np.arange(pixels) - pixels // 2
    return np.hypot(axis[:, None], axis[None, :]) >= radius


def informative(day: Day, tolerances: float = 1.5, regions: int = 8, seed: int = 0) -> Array:
    return frame_information(SMALL, NARROW, day, Design(tolerances, 2, regions, seed=seed))


def test_the_information_is_reproducible_and_converges() -> None:
    day = Day(film=FilmProperties(thickness_nm=2.0), focal_spread_nm=0.0)
    few, again = informative(day), informative(day)
    np.testing.assert_array_equal(few, again)
    many = informative(day, regions=24, seed=1)
    assert bound_nm(few, 1) == pytest.approx(bound_nm(many, 1), rel=0.2)


def test_a_frame_in_focus_says_least_and_electrons_help() -> None:
    day = Day(film=FilmProperties(thickness_nm=2.0), focal_spread_nm=0.0)
    dim = Day(film=FilmProperties(thickness_nm=2.0), focal_spread_nm=0.0, dose_e=1e5)
    reference = bound_nm(informative(day), 1)
    assert bound_nm(informative(dim), 1) > 1.5 * reference
    assert np.trace(informative(day, tolerances=0.02)) < 0.1 * np.trace(informative(day))


def test_the_digest_tells_days_apart() -> None:
    assert bound.digest(SMALL, NARROW, Day()) == bound.digest(SMALL, NARROW, Day())
    assert bound.digest(SMALL, NARROW, Day()) != bound.digest(SMALL, NARROW, Day(dose_e=2e5))
