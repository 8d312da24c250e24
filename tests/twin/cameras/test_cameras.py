"""Counting and integrating cameras against Poisson's law, dead-time theory and the closed forms of charge sharing."""

import math
from types import ModuleType

import numpy as np
import pytest
from fakes import camera_theory
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.special import ndtr, ndtri
from scipy.stats import chi2, chisquare, norm, poisson

from twin.cameras import counting, integrating, sharing
from twin.cameras.properties import CountingCamera, EventCamera, IntegratingCamera
from twin.cameras.sensor import Sensor, draw_sensor

SHAPE = (24, 32)
FALSE_ALARM = 1e-4
"""Probability that a statistical test here fails with correct code (the seeds are fixed: it does not)."""

SIGMAS = float(norm.isf(FALSE_ALARM / 2))


def sensor(camera: CountingCamera | IntegratingCamera, shape: tuple[int, int] = SHAPE, seed: int = 0) -> Sensor:
    return draw_sensor(camera, shape, np.random.default_rng(seed))


def count(expected_e: np.ndarray, camera: CountingCamera, seed: int, exposure_s: float = 1e-3) -> np.ndarray:
    shape = (expected_e.shape[1], expected_e.shape[2])
    return counting.expose(expected_e, camera, sensor(camera, shape), exposure_s, np.random.default_rng(seed))


def is_poisson(counts: np.ndarray, mean: float) -> bool:
    """Chi-squared test of the histogram; bins of at least five expected counts."""
    low, high = (int(poisson.ppf(p, mean)) for p in (5 / counts.size, 1 - 5 / counts.size))
    k = np.arange(low, high + 1)
    observed = np.r_[np.sum(counts < low), [np.sum(counts == i) for i in k], np.sum(counts > high)]
    expected = counts.size * np.r_[poisson.cdf(low - 1, mean), poisson.pmf(k, mean), poisson.sf(high, mean)]
    keep = expected > 1
    observed, expected = np.r_[observed[keep], observed[~keep].sum()], np.r_[expected[keep], expected[~keep].sum()]
    if expected[-1] < 1:
        observed, expected = observed[:-1], expected[:-1]
    return bool(chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > FALSE_ALARM)


def test_counts_are_poisson_at_every_mean_in_one_frame() -> None:
    # 11.9 and 12.1 lie on either side of where single electrons give way to one draw per pixel.
    means = np.array([0.0, 0.003, 0.3, 2.0, 11.9, 12.1, 90.0, 0.0])
    counts = count(np.tile(means, (40_000, 1, 1)), CountingCamera(), 1)[:, 0]
    assert not counts[:, [0, 7]].any()
    for i in range(1, 7):
        assert is_poisson(counts[:, i], means[i]), means[i]


def test_pixels_and_frames_are_independent() -> None:
    # The electrons of a frame lie on one line, pixel after pixel: nothing of that may show between neighbours.
    rng = np.random.default_rng(2)
    means = rng.choice([0.1, 0.7, 3.0, 15.0], (1, 1, 200))
    counts = count(np.tile(means, (20_000, 1, 1)), CountingCamera(), 3)[:, 0].astype(float)
    z = (counts - means[0]) / np.sqrt(means[0])
    neighbours = np.mean(z[:, 1:] * z[:, :-1])
    frames = np.mean(z[1:] * z[:-1])
    assert abs(neighbours) < SIGMAS / math.sqrt(z.size)
    assert abs(frames) < SIGMAS / math.sqrt(z.size)
    total = counts.sum(1)  # Poisson too: its dispersion is chi-squared
    low, high = chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], len(total) - 1)
    assert low < np.sum((total - total.mean()) ** 2) / total.mean() < high


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_expectation_is_where_the_electrons_are(dtype: type) -> None:
    expected = np.zeros((3, *SHAPE), dtype)
    expected[0, 5, 17], expected[1, 23, 0], expected[2, 0, 31] = 40.0, 3.0, 3000.0
    counts = count(expected, CountingCamera(), 4)
    assert counts.sum((1, 2)).tolist() == [counts[0, 5, 17], counts[1, 23, 0], counts[2, 0, 31]]
    assert abs(int(counts[2, 0, 31]) - 3000) < SIGMAS * math.sqrt(3000)


def test_single_electrons_fall_where_they_are_expected() -> None:
    # With charge sharing electrons are placed one by one; so slight a cloud never leaves its pixel.
    means = np.random.default_rng(15).choice([0.0, 0.02, 0.6, 5.0], (1, *SHAPE))
    counts = count(np.tile(means, (2000, 1, 1)), CountingCamera(charge_spread_px=1e-9), 16)
    total, expected = counts.sum(0), 2000 * means[0]
    assert not total[expected == 0].any()
    lit = expected > 0
    dispersion = np.sum((total[lit] - expected[lit]) ** 2 / expected[lit])
    low, high = chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], lit.sum())
    assert low < dispersion < high


CAMERAS: list[tuple[ModuleType, CountingCamera | IntegratingCamera]] = [
    (counting, CountingCamera(hot_fraction=0.1, dead_fraction=0.1)),
    (counting, CountingCamera(dead_time_s=1e-4, paralyzable=True)),
    (counting, camera_theory.MEDIPIX3),
    (integrating, IntegratingCamera(mtf_nyquist=0.6, readout_rms=2.0, dark_level=20.0, gain=3.0, gain_spread=0.05)),
]


@pytest.mark.parametrize(("module", "camera"), CAMERAS)
def test_a_stack_in_pieces_is_the_stack_in_one(module: ModuleType, camera: CountingCamera | IntegratingCamera) -> None:
    expected = np.random.default_rng(5).gamma(0.5, 8.0, (11, *SHAPE))
    one = module.expose(expected, camera, sensor(camera), 1e-3, np.random.default_rng(6))
    rng = np.random.default_rng(6)
    pieces = [module.expose(part, camera, sensor(camera), 1e-3, rng) for part in np.split(expected, [1, 2, 7])]
    assert np.concatenate(pieces).tobytes() == one.tobytes()
    assert one.std() > 0


@given(st.sampled_from([1, 6, 12, 24]), st.floats(0.0, 3e4), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_counters_stop_at_their_largest_count(bits: int, mean: float, seed: int) -> None:
    camera = CountingCamera(bit_depth=bits, hot_fraction=0.2, dead_fraction=0.2)
    chip = sensor(camera, (6, 7), seed)
    counts = counting.expose(np.full((2, 6, 7), mean), camera, chip, 1.0, np.random.default_rng(seed))
    assert counts.dtype == {1: np.uint8, 6: np.uint8, 12: np.uint16, 24: np.uint32}[bits]
    assert counts.max() <= 2**bits - 1
    assert np.all(counts[:, chip.defects.hot] == 2**bits - 1)
    assert not counts[:, chip.defects.dead].any()
    good = counts[:, ~chip.defects.hot & ~chip.defects.dead]
    if mean > 2 * (2**bits - 1) + 100:
        assert np.all(good == 2**bits - 1)


def test_counters_stop_with_charge_sharing_too() -> None:
    camera = CountingCamera(bit_depth=6, charge_spread_px=0.1, hot_fraction=0.1, dead_fraction=0.1)
    chip = sensor(camera)
    counts = counting.expose(np.full((2, *SHAPE), 400.0), camera, chip, 1.0, np.random.default_rng(18))
    assert np.all(counts[:, ~chip.defects.dead] == 63)
    assert not counts[:, chip.defects.dead].any()


def arrivals_by_hand(mean: float, dead_share: float, paralyzable: bool, rng: np.random.Generator) -> int:
    """One pixel's count, from sorted arrival times."""
    recorded, last = 0, -math.inf
    for time in np.sort(rng.random(rng.poisson(mean))):
        awake = time - last >= dead_share
        recorded += awake
        last = time if awake or paralyzable else last
    return recorded


@pytest.mark.parametrize("paralyzable", [False, True])
@pytest.mark.parametrize(("mean", "dead_share"), [(0.8, 0.3), (6.0, 0.05), (40.0, 0.02), (5.0, 0.7), (3.0, 2.0)])
def test_coincidence_loss_is_the_closed_form(mean: float, dead_share: float, paralyzable: bool) -> None:
    exact = float(camera_theory.recorded_mean(mean, dead_share, paralyzable))
    rng = np.random.default_rng(7)
    slow = np.array([arrivals_by_hand(mean, dead_share, paralyzable, rng) for _ in range(4000)])
    assert abs(slow.mean() - exact) < SIGMAS * slow.std() / math.sqrt(slow.size)
    camera = CountingCamera(dead_time_s=dead_share * 2e-3, paralyzable=paralyzable)
    # The same through charge sharing too slight to divide anything, which takes electrons one by one.
    for chip in (camera, CountingCamera(dead_time_s=dead_share * 2e-3, paralyzable=paralyzable, charge_spread_px=1e-9)):
        counts = count(np.full((40, *SHAPE), mean), chip, 8, exposure_s=2e-3)
        assert abs(counts.mean() - exact) < SIGMAS * counts.std() / math.sqrt(counts.size)
        assert counts.max() >= min(slow.max(), 2)


def test_dead_time_theory_has_its_textbook_limits() -> None:
    # Many electrons, short dead time: Knoll's lambda / (1 + x) and lambda exp(-x), x = lambda tau / T.
    mean, dead_share = 5e3, 1e-4
    assert camera_theory.recorded_mean(mean, dead_share, False) == pytest.approx(mean / 1.5, rel=1e-3)
    assert camera_theory.recorded_mean(mean, dead_share, True) == pytest.approx(mean * math.exp(-0.5), rel=1e-3)
    means = np.array([0.0, 1.0, 30.0])
    assert camera_theory.recorded_mean(means, 0.0, True) == pytest.approx(means)
    # A dead time beyond the exposure leaves whether anything arrived at all.
    for paralyzable in (False, True):
        assert camera_theory.recorded_mean(means, 3.0, paralyzable) == pytest.approx(1 - np.exp(-means))


def test_charge_on_edges_and_corners_counts_by_the_threshold() -> None:
    def places(x: float, y: float, threshold: float) -> list[list[int]]:
        camera = CountingCamera(charge_spread_px=0.2, threshold=threshold)
        counts = counting.count_positions(np.array([x]), np.array([y]), camera, (8, 9))
        assert counts.max() <= 1
        return np.argwhere(counts).tolist()

    assert places(5.5, 3.5, 0.9) == [[3, 5]]
    assert places(5.0, 3.5, 0.4) == [[3, 4], [3, 5]]  # x is the column
    assert places(5.5, 3.0, 0.4) == [[2, 5], [3, 5]]
    assert places(5.0, 3.5, 0.6) == []
    assert places(5.0, 3.0, 0.24) == [[2, 4], [2, 5], [3, 4], [3, 5]]
    assert places(5.0, 3.0, 0.26) == []
    assert places(0.0, 3.5, 0.4) == [[3, 0]]  # the other half leaves the sensor
    assert places(8.9999, 7.5, 0.4) == [[7, 8]]


CLOUDS = [(0.3, 0.5), (0.2, 0.15), (0.5, 0.3), (0.25, 0.75), (1.2, 0.05)]


@pytest.mark.parametrize(("spread", "threshold"), CLOUDS)
def test_count_kernel_is_what_an_evenly_lit_pixel_gives(spread: float, threshold: float) -> None:
    kernel = camera_theory.count_kernel(spread, threshold)
    r = sharing.reach_px(spread, threshold)
    assert kernel == pytest.approx(kernel.T, abs=1e-4)
    # By hand: shares of many random electrons.
    rng = np.random.default_rng(9)
    place = rng.random((2, 60_000))
    edges = np.arange(-r, r + 2)
    y, x = np.diff(ndtr((edges - place[..., None]) / spread))
    hits = y[:, :, None] * x[:, None, :] >= threshold
    deviation = SIGMAS * np.sqrt(kernel * np.maximum(1 - kernel, 1e-3) / 60_000) + 1e-3
    assert np.all(np.abs(hits.mean(0) - kernel) < deviation)
    # Through the camera, with its noise.
    expected = np.zeros((200, 15, 15))
    expected[:, 7, 7] = 100.0
    camera = CountingCamera(charge_spread_px=spread, threshold=threshold)
    counts = count(expected, camera, 10)
    mean = np.zeros((15, 15))
    mean[7 - r : 8 + r, 7 - r : 8 + r] = kernel
    assert np.all(np.abs(counts.mean(0) / 100 - mean) < SIGMAS * np.sqrt(mean / 20_000) + 1e-4)


def test_reach_holds_every_pixel_that_can_count() -> None:
    for spread, threshold in CLOUDS:
        r = sharing.reach_px(spread, threshold)
        places = np.linspace(0.0, 1.0, 201)
        for k in (r + 1, r + 2):
            assert camera_theory.axis_share(k + 0.5 - places, spread).max() < threshold
        assert camera_theory.count_kernel(spread, threshold)[r, [0, -1]].sum() >= 0.0
    assert sharing.reach_px(0.0, 0.5) == 0
    assert sharing.reach_px(0.4, 0.5) == 1


def test_a_slight_cloud_moves_the_pixel_edge_by_the_normal_quantile() -> None:
    # Far from corners the share is Phi((1/2 - d) / s): it reaches t at d = 1/2 - s Phi^-1(t).
    for threshold in (0.2, 0.5, 0.8):
        width = camera_theory.half_width_px(np.zeros(1), 0.05, threshold)[0]
        assert width == pytest.approx(0.5 - 0.05 * float(ndtri(threshold)), abs=1e-9)
    assert camera_theory.count_kernel(0.0, 0.5) == pytest.approx(np.ones((1, 1)))
    assert camera_theory.count_kernel(0.3, 0.5).sum() < 1 < camera_theory.count_kernel(0.3, 0.2).sum()


@pytest.mark.parametrize(("spread", "threshold"), CLOUDS)
def test_mtf_is_measured_with_a_narrow_line(spread: float, threshold: float) -> None:
    # A line along y at 60 sub-pixel places gives the response before sampling; its transform is the MTF.
    steps, size = 60, 24
    camera = CountingCamera(charge_spread_px=spread, threshold=threshold)
    y = (np.arange(3000) + 0.5) / 3000 * 4 + 10
    response = np.empty((size, steps))
    for i in range(steps):
        x = np.full(y.shape, 12 + (i + 0.5) / steps)
        response[:, i] = counting.count_positions(x, y, camera, (size, size)).sum(0) / len(y)
    distance = (np.arange(size)[:, None] + 0.5) - (12 + (np.arange(steps) + 0.5) / steps)
    frequency = np.array([0.0, 0.15, 0.3, 0.5, 0.8])
    measured = np.array([np.sum(response * np.cos(2 * np.pi * f * distance)) for f in frequency]) / response.sum()
    closed = camera_theory.modulation_transfer(frequency, spread, threshold)
    assert measured == pytest.approx(closed, abs=2e-3)
    assert response.sum() / steps == pytest.approx(camera_theory.count_kernel(spread, threshold).sum(), rel=3e-3)


def test_mtf_without_sharing_is_a_sinc_and_the_threshold_raises_or_lowers_it() -> None:
    nyquist = [0.5]
    assert camera_theory.modulation_transfer(nyquist, 0.0, 0.5)[0] == pytest.approx(2 / math.pi, rel=1e-6)
    high, low = (camera_theory.modulation_transfer(nyquist, 0.3, t)[0] for t in (0.7, 0.15))
    assert high > 2 / math.pi > low


def test_mtf_and_kernel_are_two_views_of_one_response() -> None:
    # Even light within a pixel is a box; its response at whole pixels has the aliased product as its transform.
    spread, threshold = 0.4, 0.35
    kernel = camera_theory.count_kernel(spread, threshold)
    across = kernel.sum(0)
    offsets = np.arange(len(across)) - len(across) // 2
    orders = np.arange(-400, 401)
    for f in (0.1, 0.37):
        folded = np.sum(camera_theory.modulation_transfer(f + orders, spread, threshold) * np.sinc(f + orders))
        sampled = np.sum(across * np.cos(2 * np.pi * f * offsets)) / across.sum()
        assert sampled == pytest.approx(folded, abs=1e-3)


def test_integrating_camera_has_the_mean_and_variance_of_its_data_sheet() -> None:
    camera = IntegratingCamera(gain=20.0, gain_spread=0.1, dark_level=50.0, dark_per_s=1e4, readout_rms=6.0)
    chip = sensor(camera)
    counts = integrating.expose(np.full((4000, *SHAPE), 9.0), camera, chip, 2e-3, np.random.default_rng(11))
    assert counts.dtype == np.uint16
    assert chip.gain is not None
    assert chip.gain.std() / 20.0 == pytest.approx(0.1, rel=0.2)
    dark, variance = 50.0 + 20.0, chip.gain**2 * 9.0 + 36.0 + 1 / 12
    worst = float(norm.isf(FALSE_ALARM / 2 / counts[0].size))  # of all pixels
    assert np.all(np.abs(counts.mean(0) - dark - 9 * chip.gain) < worst * np.sqrt(variance / 4000))
    ratio = counts.var(0) / variance  # a relative spread of sqrt(2 / 4000), a little more for Poisson's kurtosis
    assert np.all(np.abs(ratio - 1) < worst * math.sqrt((2 + 1 / 9) / 4000))


def test_integrating_camera_blurs_electrons_and_keeps_them() -> None:
    camera = IntegratingCamera(gain=100.0, mtf_nyquist=0.3, dark_level=1000.0)
    expected = np.zeros((300, *SHAPE))
    expected[:, 8:16, 8:24] = 30.0
    counts = integrating.expose(expected, camera, sensor(camera), 1.0, np.random.default_rng(12)).astype(float) - 1000
    total = counts.sum((1, 2)) / 100
    mean = 30.0 * 8 * 16
    assert abs(total.mean() - mean) < SIGMAS * math.sqrt(mean / 300)
    low, high = chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], 299)
    assert low < np.sum((total - total.mean()) ** 2) / mean < high
    # The noise of neighbours is shared: well inside, one pixel has less than Poisson's.
    assert counts[:, 12, 16].var() / 100**2 < 0.7 * 30.0


def test_integrating_camera_saturates_and_its_defects_show() -> None:
    camera = IntegratingCamera(gain=10.0, dark_level=7.0, bit_depth=8, hot_fraction=0.1, dead_fraction=0.1)
    chip = sensor(camera)
    counts = integrating.expose(np.full((2, *SHAPE), 100.0), camera, chip, 1.0, np.random.default_rng(13))
    assert counts.dtype == np.uint8
    assert np.all(counts[:, chip.defects.dead] == 7)
    assert np.all(counts[:, ~chip.defects.dead] == 255)
    dark = integrating.expose(np.zeros((2, *SHAPE)), camera, chip, 1.0, np.random.default_rng(13))
    assert np.all(dark[:, chip.defects.hot] == 255)
    assert np.all(dark[:, ~chip.defects.hot] == 7)


@pytest.mark.parametrize("camera", [CountingCamera(), CountingCamera(charge_spread_px=0.2), IntegratingCamera()])
def test_bad_input_is_refused_with_its_value(camera: CountingCamera | IntegratingCamera) -> None:
    module = integrating if isinstance(camera, IntegratingCamera) else counting
    rng = np.random.default_rng(14)
    for wrong in (-0.5, math.nan, math.inf):
        expected = np.ones((3, *SHAPE))
        expected[2, 3, 4] = wrong
        with pytest.raises(ValueError, match=f"between 0 and 1e\\+15, got {wrong}"):
            module.expose(expected, camera, sensor(camera), 1.0, rng)
    with pytest.raises(ValueError, match=r"must be \(N, 24, 32\) as the sensor, got \(2, 32, 24\)"):
        module.expose(np.ones((2, 32, 24)), camera, sensor(camera), 1.0, rng)
    with pytest.raises(ValueError, match=r"exposure_s must be positive, got 0\.0"):
        module.expose(np.ones((2, *SHAPE)), camera, sensor(camera), 0.0, rng)


def test_more_electrons_than_one_can_follow_are_refused() -> None:
    crowd = np.full((2, *SHAPE), 1e7)
    for camera in (CountingCamera(charge_spread_px=0.2), CountingCamera(dead_time_s=1e-6)):
        with pytest.raises(ValueError, match=r"a frame of 7\.68e\+09 electrons: .* up to 1e\+09"):
            count(crowd, camera, 17)
    assert count(crowd, CountingCamera(bit_depth=24), 17).mean() == pytest.approx(1e7, rel=1e-4)


def test_bad_cameras_are_refused() -> None:
    with pytest.raises(ValidationError, match="bit_depth"):
        CountingCamera(bit_depth=8)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="Unexpected keyword"):
        CountingCamera(treshold=0.5)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match=r"threshold_kev 250.0 < deposit_kev 200.0"):
        EventCamera(threshold_kev=250.0)
    with pytest.raises(ValueError, match="needs a sensor with gains"):
        integrating.expose(
            np.ones((1, *SHAPE)), IntegratingCamera(), sensor(CountingCamera()), 1.0, np.random.default_rng(0)
        )
