"""The mixture Kalman filter: textbook gains, Riccati's fixed point, signs by prediction, honest regions under drift."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom, chi2, multivariate_normal

from controller.base import Controller, Estimate
from controller.dataset import CLOSED_LOOP, StateMixture
from controller.posterior import gaussian_sum as kalman
from controller.posterior.artefact import PosteriorArtefact
from controller.posterior.frames import FramePosteriors
from controller.posterior.gaussian_sum import GaussianSum, Measurement, Motion
from controller.posterior.likelihood import likelihood
from controller.posterior.network import log_densities
from controller.preprocess import Patches, Spectrum
from controller.strategies import neural_posterior
from controller.strategies.kalman import LOST, MARGIN, Kalman, Options
from twin.options import OptionError, checked_options
from twin.state import FIRST_ORDER, SECOND_ORDER, StateSpace
from twin.types import Frame

LINE = StateSpace(("C10",), (60.0,), (60.0,), (10.0,))
FLAT = StateMixture(whole=1.0, near=())
"""Training states that divide nothing out."""
SURE = 1e-12
"""Doubt that leaves the textbook's filter."""


def gaussian(mean: np.ndarray, cov: np.ndarray) -> GaussianSum:
    return GaussianSum(np.zeros(1), np.atleast_2d(mean).astype(float), np.asarray(cov, float)[None])


def seen(mean: np.ndarray, cov: np.ndarray) -> Measurement:
    return Measurement(np.zeros(1), np.atleast_2d(mean).astype(float), np.asarray(cov, float)[None])


def antipodal(mean: np.ndarray, cov: np.ndarray) -> Measurement:
    return Measurement(np.log([0.5, 0.5]), np.array([mean, -np.asarray(mean)]), np.array([cov, cov]))


def scalar(predicted: tuple[float, float], measured: float, noise: float, input_nm: float = 0.0) -> kalman.Step:
    belief = gaussian(np.array([predicted[0]]), np.array([[predicted[1]]]))
    frame = seen(np.array([measured]), np.array([[noise]]))
    return kalman.update(belief, frame, FLAT, LINE, np.array([input_nm]), SURE, 4)


def test_one_scalar_step_is_the_textbook_s():
    # Variance 4 against noise 12: gain 1/4, variance 3; the measurement of x = x0 + 5 speaks of x0 = 7.
    step = scalar((3.0, 4.0), 12.0, 12.0, input_nm=5.0)
    assert step.belief.mean[0, 0] == pytest.approx(3.0 + 0.25 * (12.0 - 5.0 - 3.0))
    assert step.belief.cov[0, 0, 0] == pytest.approx(3.0)
    assert step.innovation2 == pytest.approx(4.0**2 / 16.0)


def test_a_step_in_three_dimensions_adds_information():
    rng = np.random.default_rng(1)
    (a, b), (m, y) = rng.standard_normal((2, 3, 3)), rng.standard_normal((2, 3))
    p, r = a @ a.T + np.eye(3), b @ b.T + np.eye(3)
    step = kalman.update(gaussian(m, p), seen(y, r), FLAT, FIRST_ORDER, np.zeros(3), SURE, 4)
    information = np.linalg.inv(p) + np.linalg.inv(r)
    expected = np.linalg.solve(information, np.linalg.solve(p, m) + np.linalg.solve(r, y))
    np.testing.assert_allclose(step.belief.cov[0], np.linalg.inv(information), rtol=1e-9)
    np.testing.assert_allclose(step.belief.mean[0], expected, rtol=1e-9)


def test_the_variance_of_an_observed_random_walk_settles_at_riccati_s_fixed_point():
    rate, seconds, noise = 0.3, 10.0, 9.0
    motion, belief = Motion(np.array([rate])), gaussian(np.zeros(1), np.array([[1000.0]]))
    for _ in range(60):
        belief = kalman.predict(belief, motion, seconds)
        predicted = belief.cov[0, 0, 0]
        belief = kalman.update(belief, seen(np.zeros(1), [[noise]]), FLAT, LINE, np.zeros(1), SURE, 4).belief
    q = rate**2 * seconds
    assert predicted == pytest.approx((q + math.sqrt(q * q + 4 * q * noise)) / 2, rel=1e-6)
    assert belief.cov[0, 0, 0] == pytest.approx(predicted * noise / (predicted + noise), rel=1e-6)


def test_a_velocity_s_transition_composes_and_ends_where_it_should():
    motion = Motion(np.array([0.2, 0.3]), speed_nm_per_s=0.05, persistence_s=100.0)
    (f1, q1), (f2, q2), (f3, q3) = (motion.transition(t) for t in (7.0, 13.0, 20.0))
    np.testing.assert_allclose(f2 @ f1, f3, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(f2 @ q1 @ f2.T + q2, q3, rtol=1e-9, atol=1e-15)
    late, noise = motion.transition(1e6)
    np.testing.assert_allclose(noise[2:, 2:], 0.05**2 * np.eye(2), rtol=1e-9)  # stationary
    np.testing.assert_allclose(late[:2, 2:], 100.0 * np.eye(2), rtol=1e-9)  # how far a velocity carries


def test_a_steady_drift_is_followed_without_lag_by_velocities_alone():
    errors = {}
    for speed in (0.0, 0.05):
        motion = Motion(np.array([0.05]), speed, 1e4)
        mean, cov = motion.initial(np.zeros(1), np.eye(1))
        belief = gaussian(mean, cov)
        for k in range(1, 80):
            belief = kalman.predict(belief, motion, 10.0)
            frame = seen(np.array([0.5 * k]), np.array([[4.0]]))
            belief = kalman.update(belief, frame, FLAT, LINE, np.zeros(1), SURE, 4).belief
        errors[speed] = abs(belief.mean[0, 0] - 0.5 * 79)
    assert errors[0.05] < 0.1
    assert errors[0.0] > 3.0


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_prediction_tells_the_sign(sign: float):
    measured = np.array([8.0, 3.0, -2.0])
    belief = gaussian(sign * measured + np.array([0.5, -0.5, 0.2]), np.eye(3) * 2.0)
    frame = antipodal(measured, np.eye(3))
    step = kalman.update(belief, frame, FLAT, FIRST_ORDER, np.zeros(3), 1e-3, 8)
    share, mean, _ = kalman.summarise(step.belief)
    assert share > 0.999
    assert np.linalg.norm(mean - sign * measured) < 0.5


def test_two_frames_with_a_known_input_between_them_tell_the_sign():
    truth, inputs = np.array([12.0, -5.0, 3.0]), [np.zeros(3), np.array([-6.0, 4.0, 5.0])]
    belief = gaussian(np.zeros(3), np.diag((FIRST_ORDER.start / math.sqrt(3)) ** 2))
    shares = []
    for u in inputs:
        belief = kalman.update(belief, antipodal(truth + u, np.eye(3)), FLAT, FIRST_ORDER, u, 1e-3, 8).belief
        shares.append(kalman.summarise(belief)[0])
    assert shares[0] == pytest.approx(0.5, abs=0.01)
    assert shares[1] > 0.99
    assert np.linalg.norm(kalman.summarise(belief)[1] - truth) < 0.5


def test_a_frame_that_fits_nothing_is_passed_over():
    belief = gaussian(np.zeros(3), np.eye(3))
    step = kalman.update(belief, seen(np.array([40.0, 0, 0]), np.eye(3)), FLAT, FIRST_ORDER, np.zeros(3), 1e-3, 8)
    assert step.missed > 0.999
    np.testing.assert_allclose(kalman.summarise(step.belief)[1], 0.0, atol=1e-6)


def test_the_training_density_s_expansion_is_its_derivative():
    at, step = np.random.default_rng(2).normal(0, 8, (20, 3)), 1e-3
    value, slope, curvature = kalman.log_density_expansion(CLOSED_LOOP, FIRST_ORDER, at)
    scaled = (at / FIRST_ORDER.range_nm).T
    np.testing.assert_allclose(
        value, CLOSED_LOOP.log_density(FIRST_ORDER, scaled) - np.log(FIRST_ORDER.range_nm).sum(), rtol=1e-12
    )
    for a in range(3):
        moved = np.eye(3)[a] * step
        (up, slope_up, _), (down, slope_down, _) = (
            kalman.log_density_expansion(CLOSED_LOOP, FIRST_ORDER, at + s * moved) for s in (1, -1)
        )
        np.testing.assert_allclose((up - down) / (2 * step), slope[:, a], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose((slope_up - slope_down) / (2 * step), curvature[:, a], rtol=1e-4, atol=1e-6)


def test_dividing_by_one_gaussian_is_exact():
    # The training states one Gaussian: q / p of Gaussians is known in closed form.
    width, unit = 0.2, FIRST_ORDER.range_nm
    states = StateMixture(whole=0.0, start=0.0, near=((1.0, width),))
    rng = np.random.default_rng(3)
    mean, root = rng.normal(0, 5, 3), rng.normal(0, 1.5, (3, 3)) + 3 * np.eye(3)
    cov = root @ root.T
    found = kalman.divide(gaussian(mean, cov), states, FIRST_ORDER, np.zeros(3), 1.0)
    precision = np.linalg.inv(cov) - np.diag(1 / (width * unit) ** 2)
    expected = np.linalg.inv(precision)
    np.testing.assert_allclose(found.cov[0], expected, rtol=1e-8)
    np.testing.assert_allclose(found.mean[0], expected @ np.linalg.solve(cov, mean), rtol=1e-8)
    at = rng.normal(0, 5, 3)
    ratio = multivariate_normal(mean, cov).logpdf(at) - multivariate_normal(np.zeros(3), (width * unit) ** 2).logpdf(at)
    ours = found.log_weight[0] + multivariate_normal(found.mean[0], found.cov[0]).logpdf(at)
    assert ours == pytest.approx(ratio, rel=1e-8)


def test_a_measurement_is_the_network_s_posterior_in_nm(posterior: PosteriorArtefact):
    spectrum = Spectrum(np.random.default_rng(4).standard_normal((64, 32)).astype(np.float32), 1.0)
    patches = Patches(np.zeros((9, 24, 12), np.float32))
    mixture = FramePosteriors.none(posterior, FIRST_ORDER).append(spectrum, patches, np.zeros(3)).mixtures[0]
    read = kalman.measurement(mixture, FIRST_ORDER, 1.0)
    assert np.exp(read.log_weight).sum() == pytest.approx(1.0, abs=1e-5)
    for at in np.random.default_rng(5).uniform(-40, 40, (5, 3)):
        out = np.empty(1)
        log_densities(mixture, np.ascontiguousarray((at / FIRST_ORDER.range_nm)[:, None]), out)
        parts = [
            math.exp(w) * multivariate_normal(m, c).pdf(at)
            for w, m, c in zip(read.log_weight, read.mean_nm, read.cov_nm2, strict=True)
        ]
        assert math.log(sum(parts)) == pytest.approx(out[0] - np.log(FIRST_ORDER.range_nm).sum(), abs=1e-3)
    wider = kalman.measurement(mixture, FIRST_ORDER, 3.0)
    np.testing.assert_allclose(wider.cov_nm2, 3 * read.cov_nm2)
    assert wider.exponent == pytest.approx(1 / 3)


def test_reduction_keeps_the_moments_of_what_it_merges():
    log_weight = np.log([0.5, 0.3, 0.2])
    mean, cov = np.array([[0.0, 0, 0], [0.3, 0, 0], [20.0, 0, 0]]), np.repeat(np.eye(3)[None], 3, 0)
    found = kalman.reduce(GaussianSum(log_weight, mean, cov), 8)
    assert len(found.mean) == 2
    np.testing.assert_allclose(found.probability, [0.8, 0.2])
    np.testing.assert_allclose(found.mean[0], [0.3 * 0.3 / 0.8, 0, 0])
    assert found.cov[0, 0, 0] == pytest.approx(1 + 0.5 * 0.3 / 0.8**2 * 0.3**2)
    assert len(kalman.reduce(GaussianSum(log_weight, mean, cov), 1).mean) == 1


def test_regions_hold_a_drifting_state_as_often_as_they_say():
    # 40 walks of 25 frames; frames of a walk are correlated, so the last of each counts alone: 40 Bernoulli trials.
    rng = np.random.default_rng(6)
    motion, noise = Motion(np.array([0.3, 0.2, 0.2])), np.diag([9.0, 4.0, 4.0])
    walks, inside, innovations = 40, 0, []
    for _ in range(walks):
        truth, belief = rng.normal(0, 2, 3), gaussian(np.zeros(3), 4.0 * np.eye(3))
        for _ in range(25):
            truth = truth + motion.rate_nm_per_sqrt_s * math.sqrt(10) * rng.standard_normal(3)
            belief = kalman.predict(belief, motion, 10.0)
            towards = rng.standard_normal(3)
            u = 8 * towards / np.linalg.norm(towards) - kalman.summarise(belief)[1]
            mean = truth + u + np.sqrt(np.diag(noise)) * rng.standard_normal(3)
            frame = antipodal(mean * rng.choice([-1, 1]), noise)
            step = kalman.update(belief, frame, FLAT, FIRST_ORDER, u, 1e-3, 8)
            belief = step.belief
            innovations.append(step.innovation2)
        _, mean, cov = kalman.summarise(belief)
        offset = truth - mean
        inside += offset @ np.linalg.solve(cov, offset) <= chi2.ppf(0.9, 3)
    low, high = binom.ppf([0.001, 0.999], walks, 0.9)  # false alarm 0.2 %
    assert low <= inside <= high
    # 1000 innovations of 3 degrees, variance 6: standard error 0.08, so 0.4 is five of them.
    assert np.mean(innovations) == pytest.approx(3.0, abs=0.4)


# --- the strategy --------------------------------------------------------------------------------


def frame(clock_s: float, seed: int = 0) -> Frame:
    counts = np.random.default_rng(seed).poisson(90, (64, 64)).astype(np.uint16)
    return Frame(counts, 1e6, 0.5, clock_s, {"dark_level": 0.0})


def locked(posterior: PosteriorArtefact, **changes: object) -> Kalman:
    """A tracker at (6, 2, -1) nm, one frame old."""
    controller = Kalman(FIRST_ORDER, posterior, checked_options(Options, {"candidates": 64, **changes}))
    controller.reset(FIRST_ORDER, np.random.default_rng(1))
    controller.update(FIRST_ORDER.zero, frame(10.0))
    controller.belief = gaussian(np.array([6.0, 2.0, -1.0]), np.eye(3))
    return controller


def test_it_is_a_controller_that_searches_and_then_follows(posterior: PosteriorArtefact):
    controller = Kalman(FIRST_ORDER, posterior, Options(candidates=64, startup=2))
    assert isinstance(controller, Controller)
    controller.reset(FIRST_ORDER, np.random.default_rng(1))
    total = FIRST_ORDER.zero
    for k in range(14):
        delta = controller.propose()
        total = FIRST_ORDER.check_input(delta, total)
        controller.update(delta, frame(10.0 * (k + 1), k))
    assert controller.belief is not None


def test_the_particles_mean_lags_behind_the_walk_by_a_third_of_its_variance(
    posterior: PosteriorArtefact, monkeypatch: pytest.MonkeyPatch
):
    """The filter starts with that much added. 4000 walks know their variance to 2.2 %; five of that are allowed."""
    rng = np.random.default_rng(5)
    walks = np.cumsum(rng.standard_normal((4000, 400)) * math.sqrt(40.0 / 400), axis=1)
    lag = np.var(walks[:, -1] - walks.mean(1))
    exact = gaussian(np.zeros(3), np.zeros((3, 3)))
    monkeypatch.setattr(kalman, "from_particles", lambda *_: exact)
    options = Options(candidates=64, startup=5, rate_nm_per_sqrt_s={"C10": 1.0, "C12a": 1.0, "C12b": 1.0})
    controller = Kalman(FIRST_ORDER, posterior, options)
    controller.reset(FIRST_ORDER, np.random.default_rng(1))
    sure = Estimate(np.zeros(3), np.eye(3) * 1e-6)
    monkeypatch.setattr(type(controller.search), "estimate", lambda _: sure)
    for k in range(5):  # from 10 s to 50 s
        controller.update(FIRST_ORDER.zero, frame(10.0 * (k + 1), k))
    assert controller.belief is not None
    np.testing.assert_allclose(np.diag(controller.belief.cov[0]), lag, rtol=0.11)


def test_waiting_widens_the_estimate_by_the_walk(posterior: PosteriorArtefact, monkeypatch: pytest.MonkeyPatch):
    controller = locked(posterior)
    told_nothing = Measurement(np.zeros(1), np.zeros((1, 3)), np.eye(3)[None] * 1e9)
    monkeypatch.setattr(kalman, "measurement", lambda *_: replace(told_nothing, exponent=0.0))
    controller.update(FIRST_ORDER.zero, frame(10.0 + 100.0))
    expected = np.eye(3) + 100.0 * np.diag([0.3, 0.2, 0.2]) ** 2
    np.testing.assert_allclose(controller.estimate().cov_nm2, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(controller.estimate().mean_nm, [6.0, 2.0, -1.0], atol=1e-4)


def test_inputs_keep_the_state_near_the_null(posterior: PosteriorArtefact):
    controller = locked(posterior, dither_nm=4.0)
    for _ in range(20):
        state = controller.estimate().mean_nm + controller.input_nm + controller.propose()
        assert np.linalg.norm(state) <= 4.0 + 1e-9


def test_inputs_keep_every_component_in_spec_however_wide_the_belief(posterior: PosteriorArtefact):
    controller = locked(posterior)
    controller.belief = gaussian(np.array([6.0, 2.0, -1.0]), np.diag([2.5**2, 0.5**2, 4.0**2]))
    variance = np.diag(controller.belief.cov[0]) + 10.0 * controller.motion.rate_nm_per_sqrt_s**2
    room = np.maximum(10 - MARGIN * np.sqrt(variance), 0)
    assert [room[0] > 1, room[1] > 5, room[2] == 0] == [True] * 3
    for _ in range(20):
        state = controller.estimate().mean_nm + controller.input_nm + controller.propose()
        assert np.all(np.abs(state) <= room + 1e-9)


def test_strangers_in_a_row_start_the_search_again(posterior: PosteriorArtefact, monkeypatch: pytest.MonkeyPatch):
    controller = locked(posterior)
    far = seen(np.array([100.0, 0, 0]), np.eye(3))
    monkeypatch.setattr(kalman, "measurement", lambda *_: far)
    for k in range(LOST):
        assert controller.belief is not None
        controller.update(np.array([1.0, 0.0, 0.0]), frame(20.0 + k, k))
    assert controller.belief is None
    assert np.all(controller.propose() == 0)
    controller.update(FIRST_ORDER.zero, frame(30.0))
    np.testing.assert_allclose(controller.search.frames.inputs_nm, [[LOST, 0.0, 0.0]])  # it knows where it stands


def test_rates_are_checked_and_follow_names_and_orders(posterior: PosteriorArtefact):
    with pytest.raises(OptionError, match="did you mean C12"):
        checked_options(Options, {"rate_nm_per_sqrt_s": {"C12": 0.3}})
    with pytest.raises(OptionError, match="inflation"):
        checked_options(Options, {"inflation": 0.5})
    motion = checked_options(Options, {"rate_nm_per_sqrt_s": {"1": 0.3, "C12b": 0.1}}).motion(FIRST_ORDER)
    np.testing.assert_allclose(motion.rate_nm_per_sqrt_s, [0.3, 0.3, 0.1])
    np.testing.assert_allclose(Options().motion(SECOND_ORDER).rate_nm_per_sqrt_s, [0.3, 0.2, 0.2, 1.8, 1.8, 0.6, 0.6])


# --- the posterior that forgets ------------------------------------------------------------------


def told(posterior: PosteriorArtefact, count: int) -> FramePosteriors:
    frames, rng = FramePosteriors.none(posterior, FIRST_ORDER), np.random.default_rng(7)
    for _ in range(count):
        spectrum = Spectrum(rng.standard_normal((64, 32)).astype(np.float32), 1.0)
        patches = Patches(rng.standard_normal((9, 24, 12)).astype(np.float32))
        frames = frames.append(spectrum, patches, rng.uniform(-9, 9, 3))
    return frames


def test_a_faded_frame_counts_by_its_weight(posterior: PosteriorArtefact):
    frames, states = told(posterior, 3), np.random.default_rng(8).uniform(-30, 30, (9, 3))
    for share in (1.0, 0.25):
        weighed = replace(frames, weights=np.array([share, share, 1.0]))
        found = likelihood(weighed, states)
        parts = likelihood(replace(frames, weights=np.array([1.0, 1.0, 0.0])), states).forget(share)
        expected = parts + likelihood(frames, states, 2)
        of_both = (e.marginal(frames.prior) for e in (found, expected))
        np.testing.assert_allclose(*of_both, rtol=1e-6, atol=1e-6)
    assert weighed.count == pytest.approx(1.5)
    plain, all_in_full = (likelihood(f, states) for f in (frames, replace(frames, weights=np.ones(3))))
    assert np.array_equal(plain.matrix, all_in_full.matrix)
    assert np.array_equal(plain.constant, all_in_full.constant)


def test_frames_beyond_the_memory_are_dropped(posterior: PosteriorArtefact):
    options = checked_options(neural_posterior.Options, {"candidates": 64, "memory_s": 10.0})
    controller = neural_posterior.NeuralPosterior(FIRST_ORDER, posterior, options)
    for k in range(12):
        controller.update(FIRST_ORDER.zero, frame(10.0 * (k + 1), k))
    assert len(controller.frames) == 7  # e^-6 is above a thousandth, e^-7 is not
    assert controller.frames.count == pytest.approx(1 / (1 - math.exp(-1)), rel=1e-2)
