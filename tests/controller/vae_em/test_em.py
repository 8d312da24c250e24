"""Expectation maximisation over candidates: it finds x0 although the map is not the one it expected."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from controller import candidates
from controller.candidates import Refinement
from controller.vae_em import em, latent_gp, latent_map
from controller.vae_em.em import Ensemble, Observations
from controller.vae_em.latent_map import LatentMap
from twin.arrays import Array
from twin.state import FIRST_ORDER, StateSpace

MakeMap = Callable[..., LatentMap]

TRUTH = np.array([23.0, -9.0, 14.0])
LINE = StateSpace(names=("C10",), start_nm=(60.0,), input_nm=(60.0,), tolerance_nm=(10.0,))


def nothing(states_nm: Array) -> Array:
    return np.zeros((len(states_nm), 2))


def unexpected(states_nm: Array) -> Array:
    """A smooth, even deviation of the day's map, (N, 6): several times the noise."""
    q = states_nm / 60.0
    bumps = np.exp(-0.5 * np.sum(q**2, 1))[:, None] * np.array([0.3, -0.2, 0.2, 0.1, -0.3, 0.2])
    return bumps + np.array([0.2, 0.25, -0.3, 0.2, 0.1, -0.2]) + 0.15 * np.cos(2 * q[:, :1] * q[:, 1:2])


def observed(
    prior: LatentMap,
    space: StateSpace,
    truth_nm: Array,
    count: int,
    seed: int,
    deviation: Callable[[Array], Array] | None = None,
    noise_std: float = 0.05,
) -> Observations:
    """`count` observations at random inputs, the first at none."""
    rng = np.random.default_rng([seed, 1])
    data = Observations.none(space.dimension, len(prior.axes))
    for k in range(count):
        total = rng.uniform(-1, 1, space.dimension) * space.input if k else space.zero
        state = (truth_nm + total)[None]
        latent = prior.moments(state, np.ones(1))[0][:, 0] + noise_std * rng.standard_normal(len(prior.axes))
        data = data.append(total, latent + (0.0 if deviation is None else deviation(state)[0]), 1.0)
    return data


def first(data: Observations, count: int) -> Observations:
    return Observations(data.inputs_nm[:count], data.latents[:count], data.floors[:count])


def run(prior: LatentMap, space: StateSpace, data: Observations, seed: int, count: int = 400) -> Ensemble:
    """Algorithm 1 on given observations."""
    rng = np.random.default_rng(seed)
    ensemble = em.start(prior, candidates.initial(space, count, rng))
    for k in range(len(data)):
        ensemble = em.step(ensemble, first(data, k + 1), space, Refinement(), rng)
    return ensemble


def estimate(ensemble: Ensemble, space: StateSpace) -> candidates.Estimate:
    return candidates.summarise(ensemble.candidates, ensemble.probability, space)


# --- bookkeeping -----------------------------------------------------------------------------------


def test_no_observation_leaves_the_candidates_equal(make_map: MakeMap):
    ensemble = em.start(make_map(), candidates.initial(FIRST_ORDER, 64, np.random.default_rng(1)))
    np.testing.assert_allclose(ensemble.probability, 1 / 64)
    assert ensemble.factors.observations == 0
    assert ensemble.elbo_nats == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("freedom", [np.inf, 6.0])
def test_one_by_one_or_all_at_once_makes_no_difference(make_map: MakeMap, freedom: float):
    prior = make_map(freedom=freedom, modes=(unexpected,))
    data = observed(prior, FIRST_ORDER, TRUTH, 5, 2)
    ensemble = em.start(prior, candidates.initial(FIRST_ORDER, 64, np.random.default_rng(2)))
    whole = em.observe(ensemble, data)
    for k in range(5):
        ensemble = em.observe(ensemble, first(data, k + 1))
    np.testing.assert_allclose(ensemble.probability, whole.probability, rtol=1e-8, atol=1e-300)
    np.testing.assert_allclose(ensemble.residuals.residual, whole.residuals.residual)


def test_refined_candidates_weigh_as_if_they_had_been_there_from_the_start(make_map: MakeMap):
    prior = make_map(modes=(unexpected,))
    data = observed(prior, FIRST_ORDER, TRUTH, 4, 3)
    rng = np.random.default_rng(3)
    ensemble = em.observe(em.start(prior, candidates.initial(FIRST_ORDER, 128, rng)), data)
    refined = em.refine(ensemble, data, FIRST_ORDER, Refinement(), rng)
    fresh = em.observe(em.start(prior, refined.candidates), data)
    np.testing.assert_allclose(refined.probability, fresh.probability, rtol=1e-7, atol=1e-300)
    for name in latent_gp.Residuals._fields:
        np.testing.assert_allclose(getattr(refined.residuals, name), getattr(fresh.residuals, name), err_msg=name)
    assert np.any(refined.candidates.states_nm != ensemble.candidates.states_nm)
    # ... and they take the next observation just as well.
    more = observed(prior, FIRST_ORDER, TRUTH, 5, 3)
    np.testing.assert_allclose(
        em.observe(refined, more).probability, em.observe(fresh, more).probability, rtol=1e-7, atol=1e-300
    )


def test_evidence_is_that_of_the_states_visited_at_their_own_floors(make_map: MakeMap):
    prior = make_map(modes=(unexpected,))
    h = prior.hyperparameters
    prior = replace(prior, hyperparameters=replace(h, noise_slope=np.full_like(h.noise_slope, 0.7)))
    data = replace(observed(prior, FIRST_ORDER, TRUTH, 3, 4), floors=np.array([0.5, 1.0, 4.0]))
    ensemble = em.observe(em.start(prior, candidates.initial(FIRST_ORDER, 32, np.random.default_rng(4))), data)
    for t in range(3):
        for i in (0, 17):
            state = ensemble.candidates.states_nm[i] + data.inputs_nm[t]
            mean, noise, modes = prior.moments(state[None], data.floors[t : t + 1])
            np.testing.assert_allclose(ensemble.residuals.residual[:, t, i], data.latents[t] - mean[:, 0])
            np.testing.assert_allclose(ensemble.residuals.noise[:, t, i], noise[:, 0])
            np.testing.assert_allclose(ensemble.residuals.modes[:, :, t, i], modes[:, :, 0])


def test_the_same_seed_gives_the_same_bytes(make_map: MakeMap):
    prior = make_map()
    data = observed(prior, FIRST_ORDER, TRUTH, 3, 5)
    one, other = (run(prior, FIRST_ORDER, data, 6, 128) for _ in range(2))
    assert one.candidates.states_nm.tobytes() == other.candidates.states_nm.tobytes()
    assert one.probability.tobytes() == other.probability.tobytes()
    assert np.any(run(prior, FIRST_ORDER, data, 7, 128).candidates.states_nm != one.candidates.states_nm)


# --- what it finds ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["rbf", "matern52", "matern32", "rational_quadratic"])
def test_a_map_as_expected_gives_x0_within_its_credible_region(make_map: MakeMap, kernel: str):
    prior = make_map(kernel=kernel, signal_variance=0.001, offset_variance=0.001)
    errors, covered = [], 0
    for seed in range(6):
        truth = FIRST_ORDER.draw_start(np.random.default_rng([seed, 9]))
        found = estimate(run(prior, FIRST_ORDER, observed(prior, FIRST_ORDER, truth, 8, seed), seed), FIRST_ORDER)
        errors.append(np.abs(found.mean_nm - truth).max())
        covered += found.covers(truth, 0.99)
    # Six 99 % regions: all but one or more hold the truth with probability 0.9985.
    assert covered >= 5
    assert np.median(errors) < 1.5
    assert max(errors) < 5.0


def test_joint_estimation_survives_a_map_that_a_fixed_map_does_not(make_map: MakeMap):
    # The paper's point. The deviation is six times the noise; the kernel expects deviations of that size.
    prior = make_map(signal_variance=0.06, offset_variance=0.06, lengthscale=0.8)
    joint, fixed, covered_joint, covered_fixed = [], [], 0, 0
    for seed in range(6):
        truth = FIRST_ORDER.draw_start(np.random.default_rng([seed, 10]))
        data = observed(prior, FIRST_ORDER, truth, 12, seed, unexpected)
        with_model = estimate(run(prior, FIRST_ORDER, data, seed), FIRST_ORDER)
        without = estimate(run(latent_map.known(prior), FIRST_ORDER, data, seed), FIRST_ORDER)
        joint.append(np.linalg.norm(with_model.mean_nm - truth))
        fixed.append(np.linalg.norm(without.mean_nm - truth))
        covered_joint += with_model.covers(truth, 0.99)
        covered_fixed += without.covers(truth, 0.99)
    assert np.median(joint) < 2.0
    assert np.median(fixed) > 2 * np.median(joint)
    assert covered_joint >= 5
    assert covered_fixed <= 1


def test_the_weight_of_a_day_mode_is_found_with_the_state(make_map: MakeMap):
    prior = make_map(modes=(unexpected,), signal_variance=1e-4, offset_variance=1e-4)
    data = observed(prior, FIRST_ORDER, TRUTH, 8, 11, lambda x: -1.7 * unexpected(x))
    ensemble = run(prior, FIRST_ORDER, data, 11)
    assert np.abs(estimate(ensemble, FIRST_ORDER).mean_nm - TRUTH).max() < 1.5
    mean, covariance = latent_gp.mode_posterior(ensemble.factors)
    best = np.argmax(ensemble.probability)
    assert mean[best, 0] == pytest.approx(-1.7, abs=4 * np.sqrt(covariance[best, 0, 0]))
    assert covariance[best, 0, 0] < 0.01


def test_evenness_alone_identifies_x0(make_map: MakeMap):
    # Theorem 2: nothing is known of the map but that it is even and smooth; only x0 makes the data symmetric.
    prior = make_map(LINE, nothing, noise_std=0.03, signal_variance=1.0, offset_variance=0.2, lengthscale=0.2)

    def hidden(states_nm: Array) -> Array:
        x = states_nm[:, 0]
        return np.column_stack([np.exp(-((x / 25.0) ** 2)), np.abs(x / 50.0) ** 1.5 * np.cos(x / 22.0)])

    for seed, truth in enumerate((-31.0, 12.5, 44.0)):
        data = observed(prior, LINE, np.array([truth]), 25, seed, hidden, noise_std=0.03)
        found = estimate(run(prior, LINE, data, seed, 300), LINE)
        assert found.mean_nm[0] == pytest.approx(truth, abs=1.5)
        assert abs(found.mean_nm[0] - truth) < 4 * found.std_nm[0]


def test_one_frame_of_an_even_map_leaves_both_signs(make_map: MakeMap):
    # 1000 candidates share the two modes evenly within their sampling error.
    prior = make_map()
    ensemble = run(prior, FIRST_ORDER, observed(prior, FIRST_ORDER, TRUTH, 1, 12), 12, 1000)
    side = ensemble.candidates.states_nm @ TRUTH > 0
    assert ensemble.probability[side].sum() == pytest.approx(0.5, abs=0.15)


def test_after_an_input_the_sign_is_known(make_map: MakeMap):
    prior = make_map(signal_variance=1e-4, offset_variance=1e-4)
    found = estimate(run(prior, FIRST_ORDER, observed(prior, FIRST_ORDER, TRUTH, 4, 13), 13), FIRST_ORDER)
    assert found.sign_probability > 0.999
    assert found.mean_nm @ TRUTH > 0


def test_outliers_of_a_day_widen_a_students_posterior(make_map: MakeMap):
    # Residuals four times as large as the prior expects: a Gaussian stays as sure as ever.
    data = None
    widths = {}
    for freedom in (np.inf, 4.0):
        prior = make_map(freedom=freedom, signal_variance=1e-3, offset_variance=1e-3)
        data = data or observed(prior, FIRST_ORDER, TRUTH, 8, 14, noise_std=0.2)
        widths[freedom] = np.linalg.norm(estimate(run(prior, FIRST_ORDER, data, 14), FIRST_ORDER).std_nm)
    assert widths[4.0] > 1.7 * widths[np.inf]


# --- evidence and hard EM --------------------------------------------------------------------------


def test_the_bound_is_the_evidence_in_the_whole_box_however_refined(make_map: MakeMap):
    def wave(states_nm: Array) -> Array:
        return np.column_stack([np.cos(states_nm[:, 0] / 20.0), np.exp(-((states_nm[:, 0] / 30.0) ** 2))])

    prior = make_map(LINE, wave, noise_std=0.1, nodes=41)
    data = observed(prior, LINE, np.array([17.0]), 5, 15, noise_std=0.1)
    line = ((np.arange(20_000) + 0.5) / 10_000 - 1.0)[:, None] * 60.0
    everywhere = candidates.Candidates(line, np.zeros(len(line)), np.zeros(0, np.int64))
    dense = em.observe(em.start(prior, everywhere), data)
    log_likelihood = latent_gp.log_likelihood(dense.factors, dense.kernel)
    evidence = np.logaddexp.reduce(log_likelihood) - np.log(len(line))
    assert dense.elbo_nats == pytest.approx(evidence, abs=1e-9)
    # 2000 refined candidates know the integral to about 3 %.
    assert run(prior, LINE, data, 15, 2000).elbo_nats == pytest.approx(evidence, abs=0.15)


def test_hard_em_puts_everything_on_the_most_likely_candidate(make_map: MakeMap):
    prior = make_map()
    soft = run(prior, FIRST_ORDER, observed(prior, FIRST_ORDER, TRUTH, 5, 16), 16)
    hard = em.harden(soft)
    best = np.argmax(latent_gp.log_likelihood(soft.factors, soft.kernel))
    assert hard.probability[best] == 1.0
    assert hard.probability.sum() == 1.0
    assert hard.candidates is soft.candidates
    assert hard.elbo_nats <= soft.elbo_nats
    # The next step starts from the likelihoods again, not from the hard weights.
    data = observed(prior, FIRST_ORDER, TRUTH, 6, 16)
    np.testing.assert_array_equal(em.observe(hard, data).probability, em.observe(soft, data).probability)


def test_an_ensemble_is_never_changed(make_map: MakeMap):
    prior = make_map()
    data = observed(prior, FIRST_ORDER, TRUTH, 2, 17)
    rng = np.random.default_rng(17)
    ensemble = em.observe(em.start(prior, candidates.initial(FIRST_ORDER, 64, rng)), first(data, 1))
    before = replace(ensemble, probability=ensemble.probability.copy())
    likelihood = latent_gp.log_likelihood(ensemble.factors, ensemble.kernel)
    em.step(ensemble, data, FIRST_ORDER, Refinement(), rng)
    np.testing.assert_array_equal(ensemble.probability, before.probability)
    np.testing.assert_array_equal(latent_gp.log_likelihood(ensemble.factors, ensemble.kernel), likelihood)


# --- the learned map -------------------------------------------------------------------------------


def test_the_learned_map_is_the_mixture_of_eq_22_over_the_candidates(make_map: MakeMap):
    # Few candidates and many draws: the mixture over draws is that over the weights.
    prior = make_map(modes=(unexpected,))
    data = observed(prior, FIRST_ORDER, TRUTH, 3, 5)
    ensemble = em.observe(em.start(prior, candidates.initial(FIRST_ORDER, 32, np.random.default_rng(5))), data)
    ensemble = replace(ensemble, probability=np.eye(32)[7])
    states = np.random.default_rng(6).uniform(-40, 40, (9, 3))
    found = em.learned_map(ensemble, data, states, np.random.default_rng(7), support=2)
    mean, _, modes = prior.moments(states, np.ones(9))
    start = ensemble.candidates.states_nm[7:8]
    factors = latent_gp.chosen(ensemble.factors, np.array([7]))
    more, variance = latent_gp.predict(
        factors, ensemble.kernel, start, data.inputs_nm, states - start, modes[..., None]
    )
    np.testing.assert_allclose(found.prior_mean, mean)
    np.testing.assert_allclose(found.deviation, more[..., 0], atol=1e-12)
    np.testing.assert_allclose(found.std**2, variance[..., 0], rtol=1e-6)


def test_the_reality_gap_is_learned_where_it_was_seen(make_map: MakeMap):
    prior = make_map(signal_variance=0.1, offset_variance=0.1)
    data = observed(prior, FIRST_ORDER, TRUTH, 16, 8, unexpected)
    ensemble = run(prior, FIRST_ORDER, data, 8)
    visited = TRUTH + data.inputs_nm
    found = em.learned_map(ensemble, data, np.concatenate([visited, -visited]), np.random.default_rng(9))
    gap = unexpected(np.concatenate([visited, -visited])).T
    assert np.sqrt(np.mean((found.deviation - gap) ** 2)) < 0.25 * np.sqrt(np.mean(gap**2))
    assert np.mean(np.abs(found.deviation - gap) < 2 * found.std) > 0.85
    far = em.learned_map(ensemble, data, np.array([[110.0, 55.0, -55.0]]), np.random.default_rng(9))
    assert far.std.mean() > 2 * found.std.mean()
