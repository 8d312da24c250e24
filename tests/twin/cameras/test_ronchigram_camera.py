"""The camera against Poisson statistics, conservation of electrons, and its own data sheet."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2, norm

from twin.cameras.ronchigram_camera import Defects, blur, draw_defects, expose, gain_map
from twin.day import CameraProperties

SHAPE = (128, 128)
NONE = Defects(np.zeros(SHAPE, bool), np.zeros(SHAPE, bool))
FALSE_ALARM = 1e-4
"""Probability that a statistical test here fails with correct code (the seeds are fixed: it does not)."""

SIGMAS = float(norm.isf(FALSE_ALARM / 2))


def uniform(mean_per_pixel: float) -> tuple[np.ndarray, float]:
    """Probability and dose of an evenly lit camera."""
    pixels = SHAPE[0] * SHAPE[1]
    return np.full(SHAPE, 1.0 / pixels, np.float32), mean_per_pixel * pixels


def test_poisson_noise_has_variance_equal_to_its_mean() -> None:
    probability, dose = uniform(50.0)
    counts = expose(probability, dose, CameraProperties(), NONE, np.random.default_rng(1)).astype(float)
    # Index of dispersion: sum (n - mean)^2 / mean is chi-squared; 16384 pixels resolve 4 %.
    dispersion = np.sum((counts - counts.mean()) ** 2) / counts.mean()
    low, high = chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], counts.size - 1)
    assert low < dispersion < high
    assert abs(counts.mean() - 50.0) < SIGMAS * np.sqrt(50.0 / counts.size)


def test_a_perfect_camera_keeps_every_electron_in_its_pixel() -> None:
    probability = np.zeros(SHAPE)
    probability[30, 90] = 1.0
    counts = expose(probability, 1000.0, CameraProperties(), NONE, np.random.default_rng(12))
    assert counts.sum() == counts[30, 90]
    assert abs(int(counts[30, 90]) - 1000) < SIGMAS * np.sqrt(1000)


def test_gain_scales_mean_and_variance_as_an_amplifier_does() -> None:
    probability, dose = uniform(200.0)
    counts = expose(probability, dose, CameraProperties(gain=4.0), NONE, np.random.default_rng(2)).astype(float)
    assert abs(counts.mean() - 800.0) < SIGMAS * 4.0 * np.sqrt(200.0 / counts.size)
    assert counts.var() / counts.mean() == pytest.approx(4.0, rel=SIGMAS * np.sqrt(2.0 / counts.size))


def test_electrons_are_conserved_through_gain_shading_and_blur() -> None:
    rng = np.random.default_rng(3)
    probability = rng.random(SHAPE)
    probability *= 0.9 / probability.sum()
    camera = CameraProperties(gain=1.3, shading=-0.2, mtf_nyquist=0.5, dark_level=50.0, readout_rms=2.0)
    gain = gain_map(camera, SHAPE)
    dose, frames = 1e6, 20
    total = sum(float(np.sum(expose(probability, dose, camera, NONE, rng) - 50.0)) for _ in range(frames))
    expected = frames * dose * np.sum(probability * gain)
    pixels = probability.size
    variance = frames * (dose * np.sum(probability * gain**2) + pixels * (2.0**2 + 1 / 12))
    assert abs(total - expected) < SIGMAS * np.sqrt(variance)


@pytest.mark.parametrize("mtf", [0.3, 0.7])
def test_noise_power_follows_the_square_of_the_gaussian_mtf(mtf: float) -> None:
    # White Poisson noise behind a scintillator: its power at f is MTF(f)^2. Were the blur applied to the
    # expectation instead of the electrons, the noise would stay white.
    probability, dose = uniform(400.0)
    rng = np.random.default_rng(4)
    camera = CameraProperties(mtf_nyquist=mtf)
    power = np.zeros(SHAPE)
    frames = 150
    window = np.outer(np.hanning(129)[:-1], np.hanning(129)[:-1])  # low frequencies must not leak into high ones
    for _ in range(frames):
        power += np.abs(np.fft.fft2(window * (expose(probability, dose, camera, NONE, rng) - 400.0))) ** 2
    power /= frames * 400.0 * np.sum(window**2)
    share = np.abs(np.fft.fftfreq(128)) / 0.5
    expected = mtf ** (2 * (share[:, None] ** 2 + share[None, :] ** 2)) + 1 / 12 / 400.0  # and the noise of rounding
    for axis in (0, 1):  # the window mixes each frequency with its neighbours
        expected = (4 * expected + np.roll(expected, 1, axis) + np.roll(expected, -1, axis)) / 6
    rows = np.r_[0:9, -8:0]
    # Relative, of a mean of exponential variables; a Hann window correlates neighbouring rows: 1.94 times the variance.
    spread = SIGMAS * np.sqrt(1.94 / (frames * len(rows)))
    for column in (60, 32):  # 15/16 and a half of Nyquist's frequency
        assert np.mean(power[rows, column]) == pytest.approx(np.mean(expected[rows, column]), rel=spread)
        assert np.mean(power[column, rows]) == pytest.approx(np.mean(expected[column, rows]), rel=spread)


def test_blur_of_a_point_has_unit_sum_and_the_stated_transfer() -> None:
    point = np.zeros(SHAPE)
    point[64, 40] = 1.0
    spread = blur(point, 0.6)
    transfer = np.abs(np.fft.fft2(spread))
    assert spread.sum() == pytest.approx(1.0, abs=1e-12)
    assert transfer[0, 64] == pytest.approx(0.6, rel=1e-2)
    assert transfer[0, 32] == pytest.approx(0.6**0.25, rel=1e-2)
    assert transfer[64, 64] == pytest.approx(0.36, rel=2e-2)
    assert blur(point, 1.0) is point


def test_blur_does_not_wrap_round_the_edges() -> None:
    edge = np.zeros((64, 96))
    edge[:, 0] = 1.0
    spread = blur(edge, 0.2)
    assert spread.sum() == pytest.approx(64.0)
    assert np.abs(spread[:, 48:]).max() < 1e-3


def test_shading_falls_from_centre_to_corner_by_its_own_value() -> None:
    gain = gain_map(CameraProperties(gain=2.0, shading=-0.3), (65, 65))
    assert gain[32, 32] == pytest.approx(2.0)
    assert [gain[0, 0], gain[0, -1], gain[-1, 0], gain[-1, -1]] == pytest.approx([1.4] * 4)
    assert gain[0, 32] == pytest.approx(2.0 * (1 - 0.3 / 2))


def test_saturation_clips() -> None:
    probability, dose = uniform(500.0)
    counts = expose(probability, dose, CameraProperties(saturation=500), NONE, np.random.default_rng(5))
    assert counts.max() == 500
    assert 0.45 < np.mean(counts == 500) < 0.55


def test_hot_pixels_are_stuck_high_and_dead_ones_see_nothing() -> None:
    camera = CameraProperties(hot_fraction=0.01, dead_fraction=0.02, dark_level=7.0, saturation=4095)
    defects = draw_defects(camera, SHAPE, np.random.default_rng(6))
    probability, dose = uniform(100.0)
    counts = expose(probability, dose, camera, defects, np.random.default_rng(7))
    assert np.all(counts[defects.hot] == 4095)
    assert np.all(counts[defects.dead] == 7)
    assert counts[~defects.hot & ~defects.dead].min() > 50


def test_defects_come_in_the_stated_numbers_and_never_twice_in_one_pixel() -> None:
    camera = CameraProperties(hot_fraction=0.3, dead_fraction=0.4)
    shape = (200, 300)
    defects = draw_defects(camera, shape, np.random.default_rng(8))
    assert defects.hot.shape == defects.dead.shape == shape
    assert not np.any(defects.hot & defects.dead)
    for mask, share in ((defects.hot, 0.3), (defects.dead, 0.4 * 0.7)):
        assert abs(mask.mean() - share) < SIGMAS * np.sqrt(share * (1 - share) / mask.size)


def test_dark_frame_is_dark_level_plus_readout_noise() -> None:
    camera = CameraProperties(dark_level=100.0, readout_rms=5.0)
    counts = expose(np.zeros(SHAPE), 1e6, camera, NONE, np.random.default_rng(9)).astype(float)
    variance = 25.0 + 1 / 12
    assert abs(counts.mean() - 100.0) < SIGMAS * np.sqrt(variance / counts.size)
    low, high = chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], counts.size - 1)
    assert low < np.sum((counts - counts.mean()) ** 2) / variance < high


def test_counts_are_rounded_not_cut() -> None:
    for dark, read in ((20.4, 20), (20.6, 21)):
        counts = expose(np.zeros((8, 9)), 1.0, CameraProperties(dark_level=dark), _none((8, 9)), _rng())
        assert counts.dtype == np.uint16
        assert counts.shape == (8, 9)
        assert np.all(counts == read)


@given(
    st.floats(0.0, 1e4), st.floats(0.05, 1.0), st.floats(0.0, 20.0), st.integers(1, 65535), st.integers(0, 2**32 - 1)
)
def test_counts_always_stay_on_the_scale(mean: float, mtf: float, readout: float, saturation: int, seed: int) -> None:
    shape = (12, 16)
    camera = CameraProperties(
        mtf_nyquist=mtf, readout_rms=readout, saturation=saturation, hot_fraction=0.1, dead_fraction=0.1
    )
    rng = np.random.default_rng(seed)
    counts = expose(rng.random(shape), mean, camera, draw_defects(camera, shape, rng), rng)
    assert counts.dtype == np.uint16
    assert counts.max() <= saturation


def test_same_generator_state_same_bytes() -> None:
    probability, dose = uniform(30.0)
    camera = CameraProperties(mtf_nyquist=0.6, readout_rms=1.0, dark_level=10.0)
    first, second = (expose(probability, dose, camera, NONE, np.random.default_rng(11)) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def _none(shape: tuple[int, int]) -> Defects:
    return Defects(np.zeros(shape, bool), np.zeros(shape, bool))


def _rng() -> np.random.Generator:
    return np.random.default_rng(10)
