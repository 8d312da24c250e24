"""The residual test calls a right model wrong as rarely as it says and finds wrong ones; the spread is the noise's."""

import math
import re

import numpy as np
import pytest
from scipy.stats import binom

from agents.base import Trust, load
from agents.com import trust as com_trust
from agents.com.trust import complete_rows, gradient_trust
from agents.trust import (
    LEAST_RESIDUALS,
    frame_signal,
    linear_spread,
    misfit_notes,
    misfit_words,
    poisson_residual,
    whiteness,
)

TRIALS = 1000


def alarms(make, trials=TRIALS, **options):
    """How many of the verdicts on white residuals are alarms."""
    rng = np.random.default_rng(7)
    return sum(not whiteness(*make(rng), **options).fits for _ in range(trials))


def acceptable(trials, rate=0.01):
    """Alarms that a test of this rate gives but once in 10,000 times outside of; the tests here fail that often."""
    return binom.ppf(5e-5, trials, rate), binom.ppf(1 - 5e-5, trials, rate)


def test_white_normal_residuals_raise_one_alarm_in_a_hundred():
    low, high = acceptable(TRIALS)
    assert low <= alarms(lambda rng: (rng.standard_normal((40, 50)), "white")) <= high


@pytest.mark.parametrize("mean_counts", [0.15, 0.5, 3.0, 200.0])
def test_poisson_residuals_raise_one_alarm_in_a_hundred_at_any_dose(mean_counts):
    shape = (70, 80)

    def alarm(rng):
        expected = mean_counts * rng.uniform(0.7, 1.3, shape)
        return not whiteness(poisson_residual(rng.poisson(expected), expected), "right", expected=expected).fits

    rng = np.random.default_rng(3)
    count = sum(alarm(rng) for _ in range(TRIALS))
    low, high = acceptable(TRIALS)
    # At 0.15 counts the tails are still heavier than normal ones: up to twice the rate.
    assert low <= count <= (acceptable(TRIALS, 0.02)[1] if mean_counts < 0.3 else high)


def test_a_mean_a_variance_and_neighbours_that_are_wrong_are_each_found():
    # Each is four standard errors beyond what passes: 3.0 sigma at the level of 1 % for four scores.
    rng = np.random.default_rng(11)
    r = rng.standard_normal((100, 100))
    assert whiteness(r, "white").fits
    assert not whiteness(r + 0.08, "shifted").fits
    assert not whiteness(r * 1.06, "too wide").fits
    assert not whiteness(r * 0.94, "too narrow").fits
    for axis in (0, 1):
        smooth = (r + 0.08 * np.roll(r, 1, axis)) / math.hypot(1, 0.08)
        assert not whiteness(smooth, "smooth").fits
        # Along the other axis alone there is nothing to see.
        assert whiteness(smooth, "smooth", axes=(1 - axis,)).fits


def test_the_figures_are_those_of_the_residuals():
    r = np.random.default_rng(1).standard_normal((60, 70)) * 1.3 + 0.2
    r[10:20, 5:9] = np.nan
    known = r[np.isfinite(r)]
    found = whiteness(r, "any")
    assert found.mean == pytest.approx(known.mean())
    assert found.variance == pytest.approx(known.var())
    along = [np.nanmean(r[1:] * r[:-1]), np.nanmean(r[:, 1:] * r[:, :-1])]
    assert found.correlation == pytest.approx(max(along, key=abs) / np.mean(known**2))
    assert found.model == "any"


def sidak(score, tests):
    return 1 - (1 - math.erfc(abs(score) / math.sqrt(2))) ** tests


def test_the_probability_is_that_of_the_largest_score():
    # Mean 0 and variance 1, so that only one score is not zero.
    triples = np.tile([1.0, 1.0, 1.0, -1.0, -1.0, -1.0], 20)
    product = (triples[1:] * triples[:-1]).sum()
    assert whiteness(triples, "triples").probability == pytest.approx(sidak(product / math.sqrt(119), 3), rel=1e-6)
    assert whiteness(triples, "triples", axes=()).probability == 1.0
    constant = whiteness(np.full(400, 0.95), "constant", axes=())
    assert constant.probability == pytest.approx(sidak(0.95 * 20, 2), abs=1e-15)
    wide = np.tile([1.1, -1.1], 100)
    score = (1.1**2 - 1) / math.sqrt(2 / 200)
    assert whiteness(wide, "wide", axes=()).probability == pytest.approx(sidak(score, 2), rel=1e-6)
    known = math.sqrt(2 / 200 + 0.1**2)
    uncertain = whiteness(wide, "wide", axes=(), noise_uncertainty=0.1).probability
    assert uncertain == pytest.approx(sidak((1.1**2 - 1) / known, 2), rel=1e-6)


def test_fitted_parameters_take_their_share_of_the_variance():
    # Straight lines through 20 points each, least squares: 2 of 20 residuals' worth of variance is gone.
    rng = np.random.default_rng(4)
    t = np.linspace(-1, 1, 20)
    basis = np.linalg.qr(np.stack([np.ones(20), t], axis=1))[0]
    noise = rng.standard_normal((20, 4000))
    residual = noise - basis @ (basis.T @ noise)
    assert not whiteness(residual, "lines", axes=(1,)).fits
    assert whiteness(residual, "lines", axes=(1,), fitted=8000).fits
    # Along the lines, a fit leaves neighbours that are correlated, here by 10 % of the variance.
    assert whiteness(residual, "lines", fitted=8000).fits
    assert whiteness(residual, "lines", fitted=8000).correlation < -0.05
    smooth = (noise + 0.5 * np.roll(noise, 1, axis=0)) / math.hypot(1.0, 0.5)
    assert not whiteness(smooth - basis @ (basis.T @ smooth), "lines", fitted=8000).fits


def test_a_noise_level_known_to_a_few_per_cent_is_no_misfit():
    r = np.random.default_rng(6).standard_normal((200, 200)) * 1.03
    assert not whiteness(r, "known").fits
    assert whiteness(r, "about known", noise_uncertainty=0.05).fits


def test_too_few_residuals_are_no_test():
    r = np.full((20, 20), np.nan)
    assert whiteness(r, "none") is None
    r.flat[: LEAST_RESIDUALS - 1] = 0.5
    assert whiteness(r, "too few") is None
    r.flat[:LEAST_RESIDUALS] = 0.5
    assert whiteness(r, "enough") is not None
    assert whiteness(r, "all fitted", fitted=1) is None


def test_residuals_of_counts_are_those_of_poisson():
    counts, expected = np.array([0.0, 3.0, 7.0, np.nan, 1.0]), np.array([0.05, 1.0, 9.0, 1.0, np.nan])
    np.testing.assert_allclose(poisson_residual(counts, expected), [np.nan, 2.0, -2 / 3, np.nan, np.nan])


def specimen(mean_counts, strength, seed=5):
    """Expected counts of 100 frames of 12 x 12 pixels that differ by a specimen, and what it does to each pixel."""
    rng = np.random.default_rng(seed)
    level = mean_counts * rng.uniform(0.5, 1.5, (12, 12))
    change = strength * rng.uniform(-1, 1, (100, 12, 12))
    return level * (1 + change - change.mean(axis=0)), level


@pytest.mark.parametrize("mean_counts", [3.0, 50.0, 2000.0])
@pytest.mark.parametrize("share", [1.0, 0.8, 0.0])
def test_what_a_model_misses_is_told_as_a_share_of_the_signal(mean_counts, share):
    """A model that has `share` of each deflection misses (1 - share)^2 of their squares. Four standard errors."""
    truth, level = specimen(mean_counts, 0.5)
    model = level + share * (truth - level)
    counts = np.random.default_rng(2).poisson(truth)
    signal = frame_signal(counts, model)
    found = whiteness(poisson_residual(counts, model), "weak", expected=model, axes=(1, 2), signal=signal)
    # Where the model varies, its own variance is the unit: all but equal to that of the mean for shares below one.
    assert found.unexplained == pytest.approx((1 - share) ** 2, abs=4 * found.unexplained_sigma + 0.03 * (1 - share))
    if share:
        assert found.contrast == pytest.approx(1 / share, rel=0.1 if mean_counts < 10 else 0.03)
    else:
        assert found.contrast is None
    assert found.fits == (share == 1.0)


def test_the_error_of_the_missed_share_is_what_it_says():
    """Of a right model over 200 draws: known to 1 / sqrt(400) = 5 %; four of them."""
    truth, _ = specimen(20.0, 0.3)
    rng = np.random.default_rng(4)

    def verdict():
        counts = rng.poisson(truth)
        signal = frame_signal(counts, truth)
        return whiteness(poisson_residual(counts, truth), "right", expected=truth, axes=(1, 2), signal=signal)

    found = [verdict() for _ in range(200)]
    scores = [trust.unexplained / trust.unexplained_sigma for trust in found]
    assert np.std(scores) == pytest.approx(1.0, abs=0.2)
    assert abs(np.mean(scores)) < 4 / math.sqrt(200)


def test_frames_without_a_specimen_have_no_signal():
    level = np.full((50, 8, 8), 20.0)
    assert frame_signal(np.random.default_rng(0).poisson(level), level) is None
    assert frame_signal(level[:1], level[:1]) is None


def test_a_misfit_is_told_in_words_and_figures():
    truth, level = specimen(2000.0, 0.5)
    counts = np.random.default_rng(2).poisson(truth)

    def words(model):
        signal = frame_signal(counts, model)
        residual = poisson_residual(counts, model)
        return misfit_words(whiteness(residual, "any", expected=model, axes=(1, 2), signal=signal))

    weak, strong = words(level + 0.8 * (truth - level)), words(level + 1.25 * (truth - level))
    assert "25% more than the model: the phase is too weak" in weak
    assert "20% less than the model: the phase is too strong" in strong
    share, sigma = map(float, re.findall(r"does not fit: ([0-9.]+) \+- ([0-9.]+) % of the frames' signal", weak)[0])
    assert share == pytest.approx(4.0, abs=0.5)
    assert 0.0 < sigma < 0.2
    assert "correlate" in misfit_words(whiteness(np.ones((30, 30)), "constant"))
    spread = whiteness(
        poisson_residual(truth, truth), "means", expected=truth, axes=(1, 2), signal=frame_signal(counts, truth)
    )
    assert "less than that of counted electrons" in misfit_words(spread)
    wide = whiteness(1.3 * np.random.default_rng(1).standard_normal((300, 300)), "wide")
    assert misfit_words(wide) == f"does not fit: residuals of variance {wide.variance:.2f} instead of 1"


def test_the_spread_of_a_sum_is_the_root_of_the_summed_variances():
    deviation = np.array([[3.0, 4.0, np.nan]])
    found = linear_spread(lambda data: data.sum(axis=1), deviation, members=4000, seed=1)
    # Known to 1 / sqrt(8000) = 1.1 %; four of them.
    assert found[0] == pytest.approx(5.0, rel=0.045)
    np.testing.assert_array_equal(found, linear_spread(lambda data: data.sum(axis=1), deviation, members=4000, seed=1))


def test_the_longest_run_of_complete_rows_is_found():
    known = np.ones((9, 4), bool)
    known[2, 1] = known[8] = False
    assert complete_rows(known) == slice(3, 8)
    assert complete_rows(np.zeros((3, 4), bool)) == slice(0, 0)
    assert complete_rows(np.ones((3, 4), bool)) == slice(0, 3)


def test_a_large_map_is_tested_in_parts_and_every_part_counts(monkeypatch):
    monkeypatch.setattr(com_trust, "LARGEST_PART", 40)
    rng = np.random.default_rng(8)
    noise, one = rng.standard_normal((70, 100, 2)), np.ones((70, 100))
    assert gradient_trust(noise, one).fits
    for row, column in ((10, 10), (10, 80), (50, 50)):
        twisted = noise.copy()
        twisted[row : row + 12, column : column + 12, 0] += np.linspace(-6, 6, 12)[:, None]
        assert not gradient_trust(twisted, one).fits


def test_noise_of_another_strength_than_it_should_have_does_not_fit():
    noise, one = np.random.default_rng(8).standard_normal((70, 100, 2)), np.ones((70, 100))
    assert gradient_trust(noise * 1.01, one).fits
    assert not gradient_trust(noise * 1.15, one).fits
    assert not gradient_trust(noise * 0.85, one).fits


SHAPE = (48, 50)


@pytest.mark.parametrize("name", ["ricom", "icom"])
@pytest.mark.parametrize(("rotation_deg", "transposed"), [(0.0, False), (25.0, False), (-70.0, True)])
def test_a_right_rotation_fits_and_a_wrong_one_does_not(beam, name, rotation_deg, transposed):
    _, gradient = beam.waves([(5.0, 3.0), (-9.0, 2.0), (1.5, 8.0)], SHAPE)
    frames = beam.deflected(gradient, rotation_deg, transposed, dose_e=400.0)

    def verdict(**options):
        agent = load(name, options)
        agent.start(beam.meta(SHAPE))
        return beam.feed(agent, frames, SHAPE).result().trust

    assert verdict(rotation_deg=rotation_deg, transposed=transposed).fits
    assert verdict(rotation_deg=rotation_deg + 180, transposed=transposed).fits  # the phase of opposite sign
    assert not verdict(rotation_deg=rotation_deg + 15, transposed=transposed).fits
    assert not verdict(rotation_deg=rotation_deg - 15, transposed=transposed).fits
    assert not verdict(rotation_deg=rotation_deg, transposed=not transposed).fits


@pytest.mark.parametrize("dose_e", [15.0, 3000.0])
def test_a_scan_of_a_phase_is_called_wrong_once_in_a_hundred_times(beam, dose_e):
    # 80 scans of a rate of at most 1 %: more than 5 alarms come less than once in 5,000 times.
    _, gradient = beam.waves([(5.0, 3.0), (-9.0, 2.0)], SHAPE, amplitude=0.15)
    expected = beam.deflected(gradient, camera=(12, 12)) * (dose_e / 1e6)
    rng, alarms = np.random.default_rng(9), 0
    for _ in range(80):
        agent = load("icom", {"reference": "mean"})
        agent.start(beam.meta(SHAPE, (12, 12)))
        beam.feed(agent, rng.poisson(expected).astype(np.uint16), SHAPE, block=2400)
        alarms += not gradient_trust(agent.map.shift_px(), agent.map.variance_px2()).fits
    assert alarms <= 5


def test_a_scan_half_done_is_tested_on_the_rows_that_are_complete(beam):
    _, gradient = beam.waves([(5.0, 3.0), (-9.0, 2.0)], SHAPE)
    frames = beam.deflected(gradient, dose_e=400.0)
    agent = load("ricom", {"rotation_deg": 20.0})
    agent.start(beam.meta(SHAPE))
    beam.feed(agent, frames, SHAPE, np.arange(20 * 50))
    assert agent.result().trust is None
    beam.feed(agent, frames, SHAPE, np.arange(20 * 50, 35 * 50 + 7))
    assert not agent.result().trust.fits
    agent.configure(rotation_deg=0.0)
    assert agent.result().trust.fits


@pytest.mark.parametrize("name", ["ricom", "icom", "dpc"])
@pytest.mark.parametrize("off_deg", [15.0, -40.0])
def test_a_misfit_of_a_map_names_the_rotation_to_add(beam, name, off_deg):
    _, gradient = beam.waves([(5.0, 3.0), (-9.0, 2.0), (1.5, 8.0)], SHAPE)
    frames = beam.deflected(gradient, 25.0, False, dose_e=400.0)

    def notes(**options):
        agent = load(name, options)
        agent.start(beam.meta(SHAPE))
        return " ".join(beam.feed(agent, frames, SHAPE).result().notes)

    assert "does not fit" not in notes(rotation_deg=25.0, transposed=False)
    wrong = notes(rotation_deg=25.0 + off_deg, transposed=False)
    assert "the rotation between camera and scan is not as told" in wrong
    found = float(re.search(r"add ([+-]\d+) deg", wrong)[1])
    assert abs((found + off_deg + 90) % 180 - 90) < 4
    assert "rows and columns of the camera are exchanged" in notes(rotation_deg=25.0, transposed=True)


def test_a_map_that_no_rotation_makes_a_gradient_is_put_down_to_specimen_and_scan(beam):
    _, gradient = beam.waves([(5.0, 3.0), (-9.0, 2.0), (1.5, 8.0)], SHAPE)
    frames = beam.deflected(gradient * (1 + 0.5 * np.sin(np.arange(SHAPE[1]))[:, None]), dose_e=400.0)
    agent = load("icom", {"rotation_deg": 0.0})
    agent.start(beam.meta(SHAPE))
    notes = beam.feed(agent, frames, SHAPE).result().notes
    assert [note.split(":")[0] for note in notes[:3]] == ["does not fit", "likely cause", "what to do"]
    assert "too thick for one projection" in notes[1]


def verdict(**fields) -> Trust:
    return Trust(
        **{"mean": 0.0, "variance": 3.0, "correlation": 0.0, "probability": 0.0, "fits": False, "model": "m"} | fields
    )


def test_an_absurd_share_is_told_in_words_with_cause_and_remedy():
    """An interrupted scan once said 13,000 % of the signal at a good image."""
    absurd = verdict(unexplained=130.0, unexplained_sigma=0.05)
    for share, cause in ((0.4, "only 40% of the scan was measured"), (1.0, "the optics are not as told")):
        size, why, remedy = misfit_notes(absurd, share)
        assert "%" not in size
        assert "by more than the specimen changes them" in size
        assert cause in why
        assert remedy.startswith("what to do: ")


def test_a_weak_contrast_and_a_small_misfit_have_causes_of_their_own():
    weak = misfit_notes(verdict(unexplained=0.2, unexplained_sigma=0.01, contrast=0.6))
    assert "finite source" in weak[1]
    small = misfit_notes(verdict(unexplained=0.05, unexplained_sigma=0.01, contrast=1.01))
    assert "5 +- 1 %" in small[0]
    assert "qualitative" in small[2]
    assert misfit_notes(verdict(fits=True)) == misfit_notes(None) == ()
