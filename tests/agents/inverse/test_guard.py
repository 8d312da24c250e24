"""Invented and true features of weak-phase images: how often the verdicts are right, at a stated false-alarm rate."""

import numpy as np
import pytest
import scipy.fft

from agents.inverse.data import PhaseData
from agents.inverse.guard import FALSE_ALARM, judge, patch
from agents.inverse.priors import STEPS, patch_denoiser, smooth, tikhonov, total_variation, with_spectrum
from agents.inverse.solve import solve
from twin.arrays import Floats

SIDE = 32
COLUMNS = ((8, 8), (8, 24), (24, 8), (24, 24))
FIFTH = (16, 16)
SCANS = 200


def columns(places: tuple[tuple[int, int], ...]) -> Floats:
    y, x = np.indices((SIDE, SIDE))
    return np.asarray(sum(np.exp(-((y - r) ** 2 + (x - c) ** 2) / (2 * 1.8**2)) for r, c in places))


def measured(phase: Floats, noise: float, rng: np.random.Generator) -> PhaseData:
    """Coefficients of an aperture that transfers middle frequencies best, with noise as of a low dose."""
    k = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE))
    gain = np.where((k > 0) & (k < 0.35), np.sin(np.pi * np.clip(k / 0.35, 0, 1)), 0.0)
    known = gain > 0.05
    level = noise * SIDE / np.where(known, gain, 1.0)
    white = scipy.fft.rfft2(rng.standard_normal((SIDE, SIDE))) / SIDE
    spectrum = np.where(known, scipy.fft.rfft2(phase) + level * white, 0.0)
    return PhaseData(spectrum, np.where(known, 1 / level**2, 0.0), (SIDE, SIDE))


@pytest.fixture(scope="module")
def words() -> dict[str, list[str]]:
    """Verdicts on an image of five columns of a specimen that has four, and on a specimen with a vacancy."""
    rng, found = np.random.default_rng(5), dict[str, list[str]]()
    image = columns((*COLUMNS, FIFTH))
    for _ in range(SCANS):
        data = measured(columns(COLUMNS), 0.4, rng)
        for name, place in (("invented", FIFTH), *(("true", place) for place in COLUMNS)):
            found.setdefault(name, []).append(judge(data, image, patch(image, *place, 6.0)).word)
        filled = columns(COLUMNS)
        vacant = measured(columns(COLUMNS[1:]), 0.4, rng)
        found.setdefault("filled", []).append(judge(vacant, filled, patch(filled, *COLUMNS[0], 6.0)).word)
    return found


def test_an_invented_column_is_flagged(words: dict[str, list[str]]) -> None:
    assert np.mean([word != "supported" for word in words["invented"]]) >= 0.95


def test_true_columns_are_not_flagged(words: dict[str, list[str]]) -> None:
    assert np.mean([word != "supported" for word in words["true"]]) <= 0.05


def test_a_filled_vacancy_is_flagged(words: dict[str, list[str]]) -> None:
    assert np.mean([word != "supported" for word in words["filled"]]) >= 0.8


def test_the_false_alarm_rate_is_as_stated() -> None:
    rng, image = np.random.default_rng(6), columns(COLUMNS)
    feature = patch(image, *COLUMNS[0], 6.0)
    alarms = [judge(measured(image, 3.0, rng), image, feature, 0.1).word == "contradicted" for _ in range(1000)]
    assert np.mean(alarms) == pytest.approx(0.1, abs=0.03)
    supported = [judge(measured(image - feature, 3.0, rng), image, feature, 0.1).amplitude for _ in range(1000)]
    assert np.mean(supported) == pytest.approx(0.0, abs=0.2)


def test_few_electrons_say_that_a_feature_is_not_needed() -> None:
    image = columns(COLUMNS)
    verdicts = [
        judge(measured(image, 30.0, np.random.default_rng(i)), image, patch(image, *COLUMNS[0], 6.0)).word
        for i in range(40)
    ]
    assert verdicts.count("not needed") >= 36
    assert 0 < FALSE_ALARM < 0.05


def test_the_residual_map_is_white_for_the_truth_and_shows_what_is_missing() -> None:
    phase = columns((*COLUMNS, FIFTH))
    data = measured(phase, 0.05, np.random.default_rng(1))
    assert data.residual_map(phase).var() == pytest.approx(1.0, abs=0.1)
    assert data.residual_variance(phase) == pytest.approx(1.0, abs=0.1)
    missing = data.residual_map(columns(COLUMNS))
    assert np.unravel_index(np.argmax(missing), missing.shape) == FIFTH


@pytest.mark.parametrize("name", STEPS)
def test_the_strength_leaves_residuals_of_variance_one(name: str) -> None:
    phase = columns(COLUMNS)
    data = measured(phase, 0.5, np.random.default_rng(2))
    found = solve(data, STEPS[name])
    assert 0.95 <= found.residual_variance <= 1.05
    raw = data.image(data.spectrum)
    assert np.corrcoef(found.phase.ravel(), phase.ravel())[0, 1] > np.corrcoef(raw.ravel(), phase.ravel())[0, 1]


def test_any_denoiser_is_a_prior() -> None:
    data = measured(columns(COLUMNS), 0.5, np.random.default_rng(3))
    found = solve(data, lambda image, strength: np.maximum(image - 0.1 * strength, 0.0), strength=0.3)
    assert found.phase.min() > -0.5


def test_steps_do_nothing_without_strength_and_flatten_with_much() -> None:
    image = columns(COLUMNS) + 0.05 * np.random.default_rng(4).standard_normal((SIDE, SIDE))
    np.testing.assert_allclose(total_variation(image, 1e-9), image, atol=1e-6)
    assert np.ptp(total_variation(image, 50.0, steps=400)) < 0.2 * np.ptp(image)
    np.testing.assert_allclose(patch_denoiser(image, 0.0), image, atol=1e-9)
    assert patch_denoiser(image, 0.05).shape == image.shape
    np.testing.assert_allclose(tikhonov(image, 1.0), image / 2)


def test_the_smooth_prior_minimises_the_squared_slopes() -> None:
    noisy = columns(COLUMNS)[:, :-3] + 0.1 * np.random.default_rng(7).standard_normal((SIDE, SIDE - 3))

    def objective(image: np.ndarray) -> float:
        slopes = [np.roll(image, -1, axis) - image for axis in (0, 1)]
        return float(((image - noisy) ** 2).sum() + 1.5**2 * sum((slope**2).sum() for slope in slopes)) / 2

    found, rng = smooth(noisy, 1.5), np.random.default_rng(8)
    assert found.mean() == pytest.approx(noisy.mean())
    for _ in range(20):
        assert objective(found) < objective(found + 0.01 * rng.standard_normal(found.shape))


def test_a_known_spectrum_leaves_the_least_error_that_is_possible() -> None:
    rng, side = np.random.default_rng(10), 64
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    power = 4.0 * np.exp(-((frequency / 0.15) ** 2))  # of an amorphous film, through the aperture
    film = np.fft.ifft2(np.fft.fft2(rng.standard_normal((side, side))) * np.sqrt(power)).real
    noisy = film + 0.5 * rng.standard_normal(film.shape)
    error = np.mean((with_spectrum(power)(noisy, 0.5) - film) ** 2)
    assert error == pytest.approx(np.mean(power * 0.25 / (power + 0.25)), rel=0.1)
    wrong = np.mean((with_spectrum(power.mean() * np.ones_like(power))(noisy, 0.5) - film) ** 2)
    assert error < 0.5 * wrong


def test_total_variation_keeps_a_step_and_removes_noise() -> None:
    clean = np.zeros((24, 20))
    clean[8:16] = 1.0
    noisy = clean + 0.1 * np.random.default_rng(5).standard_normal(clean.shape)
    smooth = total_variation(noisy, 0.15, steps=100)
    assert np.abs(smooth - clean).mean() < 0.5 * np.abs(noisy - clean).mean()
