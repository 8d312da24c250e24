"""Input selection: each rule picks what it says, inside the box."""

from collections.abc import Callable

import numpy as np
import pytest

from controller import candidates
from controller.candidates import Candidates
from controller.vae_em import em, selection
from controller.vae_em.em import Ensemble, Observations
from controller.vae_em.latent_map import LatentMap, known
from twin.arrays import Array
from twin.state import FIRST_ORDER, StateSpace

MakeMap = Callable[..., LatentMap]

LINE = StateSpace(names=("C10",), start_nm=(60.0,), input_nm=(60.0,), tolerance_nm=(10.0,))


def belief_of(prior: LatentMap, states_nm: Array, inputs_nm: Array, seed: int = 0) -> tuple[Ensemble, Observations]:
    """Candidates that have seen one noisy observation per input, from the first of them."""
    rng = np.random.default_rng(seed)
    data = Observations.none(states_nm.shape[1], len(prior.axes))
    for total in inputs_nm:
        mean, noise, _ = prior.moments((states_nm[0] + total)[None], np.ones(1))
        data = data.append(total, mean[:, 0] + np.sqrt(noise[:, 0]) * rng.standard_normal(len(mean)), 1.0)
    found = Candidates(states_nm, np.zeros(len(states_nm)), np.zeros(0, np.int64))
    return em.observe(em.start(prior, found), data), data


def with_probability(belief: Ensemble, probability: Array) -> Ensemble:
    return Ensemble(
        belief.prior, belief.kernel, belief.candidates, belief.factors, belief.residuals, np.asarray(probability, float)
    )


@pytest.fixture
def belief(make_map: MakeMap) -> tuple[Ensemble, Observations]:
    rng = np.random.default_rng(1)
    states = candidates.initial(FIRST_ORDER, 200, rng).states_nm
    inputs = np.vstack([np.zeros(3), rng.uniform(-1, 1, (3, 3)) * FIRST_ORDER.input])
    return belief_of(make_map(noise_std=0.3), states, inputs)


# --- every rule ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", selection.RULES)
def test_every_choice_lies_inside_the_box_and_follows_from_the_seed(belief: tuple[Ensemble, Observations], rule: str):
    choices = []
    for seed in range(15):
        chosen, again = (
            selection.select(rule, *belief, FIRST_ORDER, np.random.default_rng(seed), 32) for _ in range(2)
        )
        assert chosen.shape == (3,)
        assert np.all(np.abs(chosen) <= FIRST_ORDER.input)
        np.testing.assert_array_equal(chosen, again)
        choices.append(chosen)
    assert len(np.unique(choices, axis=0)) > 10


@pytest.mark.parametrize(("wrong", "nearest"), [("varience", "variance"), ("informaton", "information")])
def test_an_unknown_rule_suggests_the_nearest(belief: tuple[Ensemble, Observations], wrong: str, nearest: str):
    with pytest.raises(ValueError, match=rf"'{wrong}' is not an input selection \(did you mean {nearest}\?\)"):
        selection.select(wrong, *belief, FIRST_ORDER, np.random.default_rng(0))


def test_random_inputs_fill_the_box(belief: tuple[Ensemble, Observations]):
    rng = np.random.default_rng(2)
    chosen = np.array([selection.select("random", *belief, FIRST_ORDER, rng) for _ in range(600)])
    # Uniform: standard deviation range / sqrt(3), known to 2 % from 600 (4.5 sigma below).
    np.testing.assert_allclose(chosen.std(0), FIRST_ORDER.input / np.sqrt(3), rtol=0.08)


def test_half_of_the_inputs_to_choose_from_bring_the_state_near_the_null(belief: tuple[Ensemble, Observations]):
    ensemble, _ = belief
    at = with_probability(ensemble, np.eye(200)[0])
    inputs = selection.sample_inputs(
        at.candidates.states_nm, at.probability, FIRST_ORDER, 400, np.random.default_rng(3)
    )
    assert np.all(np.abs(inputs) <= FIRST_ORDER.input)
    distance = np.linalg.norm((inputs + ensemble.candidates.states_nm[0]) / FIRST_ORDER.tolerance, axis=1)
    assert np.all(distance[200:] <= 4.0 + 1e-9)
    assert np.median(distance[200:]) == pytest.approx(np.sqrt(0.2 * 4.0), rel=0.25)
    assert np.median(distance[:200]) > 3.0


# --- variance rules --------------------------------------------------------------------------------


def gaussian_process_variance(prior: LatentMap, x0: Array, inputs: Array, queries: Array) -> Array:
    """Eq 24 written out for one candidate and one axis, squared exponential, (Q,)."""
    h = prior.hyperparameters
    scale = h.lengthscale * prior.range_nm

    def k(a: Array, b: Array) -> Array:
        near = np.sum(((a[:, None] - b[None]) / scale) ** 2, -1)
        far = np.sum(((a[:, None] + b[None]) / scale) ** 2, -1)
        return h.signal_variance[0] * (np.exp(-near / 2) + np.exp(-far / 2)) / 2 + h.offset_variance[0]

    seen, wanted = x0 + inputs, x0 + queries
    inverse = np.linalg.inv(k(seen, seen) + np.exp(h.log_noise[0, 0]) * np.eye(len(seen)))
    return np.diag(k(wanted, wanted) - k(wanted, seen) @ inverse @ k(seen, wanted))


def test_the_variance_rule_takes_the_sampled_input_of_largest_variance(belief: tuple[Ensemble, Observations]):
    ensemble, data = belief
    x0 = ensemble.candidates.states_nm[np.argmax(ensemble.probability)]
    for seed in range(5):
        sampled = np.random.default_rng(seed).uniform(-1, 1, (64, 3)) * FIRST_ORDER.input
        expected = gaussian_process_variance(ensemble.prior, x0, data.inputs_nm, sampled)
        score = selection.posterior_variance(ensemble, data, sampled)
        np.testing.assert_allclose(score / score.max(), expected / expected.max(), rtol=1e-6)
        chosen = selection.select("variance", ensemble, data, FIRST_ORDER, np.random.default_rng(seed))
        np.testing.assert_array_equal(chosen, sampled[np.argmax(expected)])


def test_the_variance_rule_avoids_where_it_has_been_and_the_mirror_image(make_map: MakeMap):
    prior = make_map(LINE, lambda x: np.abs(x / 60.0), offset_variance=0.0, lengthscale=0.15, noise_std=0.02)
    ensemble, data = belief_of(prior, np.array([[10.0]]), np.array([[0.0], [25.0]]))
    score = selection.posterior_variance(ensemble, data, np.array([[25.0], [-45.0], [-20.0], [60.0]]))
    # States 35 and -35 (seen, and its mirror), -10 (mirror of 10), 70 (far from all).
    assert score[:3].max() < 0.3 * score[3]


def test_the_mixture_adds_the_spread_of_the_means(make_map: MakeMap):
    # Two equally probable candidates on a known map: no variance of f in either, all of it between them.
    prior = known(make_map(LINE, lambda x: np.column_stack([np.abs(x[:, 0]) / 60.0, np.ones(len(x))]), nodes=41))
    states = np.array([[40.0], [-10.0]])
    ensemble, data = belief_of(prior, states, np.array([[0.0]]))
    even = with_probability(ensemble, [0.5, 0.5])
    inputs = np.array([[-15.0], [10.0]])  # states 25 and -25 (alike), 50 and 0 (not)
    score = selection.mixture_variance(even, data, inputs, np.random.default_rng(4), support=400)
    values = prior.moments(states[:, 0][:, None] + 10.0, np.ones(2))[0][0]
    noise = np.exp(prior.hyperparameters.log_noise[0, 0])
    assert score[0] < 1e-6 * score[1]
    assert score[1] == pytest.approx((values[0] - values[1]) ** 2 / 4 / noise, rel=0.02)


# --- expected information --------------------------------------------------------------------------


def test_information_is_never_negative_and_never_more_than_the_support_holds(belief: tuple[Ensemble, Observations]):
    inputs = np.random.default_rng(5).uniform(-1, 1, (40, 3)) * FIRST_ORDER.input
    for support in (2, 16, 96):
        gain = selection.information_gain(*belief, inputs, np.random.default_rng(6), support)
        assert np.all(gain >= -1e-12)
        assert np.all(gain <= np.log(support) + 1e-12)
    assert gain.max() > 0.1


def test_nothing_is_learnt_where_all_candidates_expect_the_same(make_map: MakeMap):
    prior = known(make_map(FIRST_ORDER, lambda x: np.ones((len(x), 3))))
    states = candidates.initial(FIRST_ORDER, 50, np.random.default_rng(7)).states_nm
    ensemble, data = belief_of(prior, states, np.zeros((1, 3)))
    gain = selection.information_gain(ensemble, data, np.array([[0.0, 0, 0], [30.0, 10, 0]]), np.random.default_rng(8))
    np.testing.assert_allclose(gain, 0.0, atol=1e-12)


def two_signs(make_map: MakeMap, noise_std: float) -> tuple[Ensemble, Observations]:
    """Equal belief in +20 and -20 nm on a known even map."""
    prior = known(make_map(LINE, lambda x: np.abs(x) / 60.0, noise_std=noise_std, nodes=41))
    states = np.array([[20.0], [-20.0]])
    ensemble, data = belief_of(prior, states, np.array([[0.0]]))
    np.testing.assert_allclose(ensemble.probability, 0.5)
    return ensemble, data


def test_only_an_input_tells_the_signs_apart(make_map: MakeMap):
    ensemble, data = two_signs(make_map, 0.1)
    inputs = np.array([[0.0], [1.0], [5.0], [20.0]])
    gain = selection.information_gain(ensemble, data, inputs, np.random.default_rng(9), support=200)
    assert gain[0] == pytest.approx(0.0, abs=1e-12)
    assert np.all(np.diff(gain) > 0)
    sharp, data = two_signs(make_map, 1e-3)
    gain = selection.information_gain(sharp, data, np.array([[20.0]]), np.random.default_rng(9), support=200)
    # One bit; the support of 200 draws is split evenly to 3.5 %, which costs 0.2 %.
    assert gain[0] == pytest.approx(np.log(2), rel=0.01)


@pytest.mark.parametrize("noise_std", [0.05, 0.2, 0.5])
def test_it_bounds_the_mutual_information_from_below(make_map: MakeMap, noise_std: float):
    ensemble, data = two_signs(make_map, noise_std)
    mean, variance = (
        part[0, 0] for part in selection._predictive(ensemble, data, np.array([[15.0]]), np.arange(2))[::2]
    )
    z = np.linspace(mean.min() - 9 * noise_std, mean.max() + 9 * noise_std, 20_001)
    law = np.exp(-0.5 * (z - mean[:, None]) ** 2 / variance[:, None]) / np.sqrt(2 * np.pi * variance[:, None])
    mixed = law.mean(0)
    integrand = np.where(law > 0, law * np.log(np.maximum(law, 1e-300) / np.maximum(mixed, 1e-300)), 0.0)
    exact = integrand.mean(0).sum() * (z[1] - z[0])
    gain = selection.information_gain(ensemble, data, np.array([[15.0]]), np.random.default_rng(10), support=400)[0]
    assert 0.4 * exact < gain < 1.02 * exact


def test_unequal_variances_alone_are_information(make_map: MakeMap):
    # Same means, variances 1 and 100: the Bhattacharyya distance is log(50.5 / 10) / 2.
    gain = selection._pairwise_information(np.zeros((1, 1, 2)), np.array([[[1.0, 100.0]]]))[0]
    assert gain == pytest.approx(-np.log(0.5 * (1 + np.sqrt(10.0 / 50.5))), rel=1e-9)


def test_distances_add_over_latent_axes():
    # exp(-sum of distances): means 2 sigma apart on each of two axes give exp(-2 * 4 / 8).
    mean = np.array([[[0.0, 2.0]], [[0.0, -2.0]]])
    gain = selection._pairwise_information(mean, np.ones((2, 1, 2)))[0]
    assert gain == pytest.approx(-np.log(0.5 * (1 + np.exp(-1.0))), rel=1e-9)


def test_the_information_rule_takes_the_best_of_its_samples(belief: tuple[Ensemble, Observations]):
    ensemble, data = belief
    for seed in range(3):
        rng = np.random.default_rng(seed)
        sampled = selection.sample_inputs(ensemble.candidates.states_nm, ensemble.probability, FIRST_ORDER, 64, rng)
        gain = selection.information_gain(ensemble, data, sampled, rng)
        chosen = selection.select("information", ensemble, data, FIRST_ORDER, np.random.default_rng(seed))
        np.testing.assert_array_equal(chosen, sampled[np.argmax(gain)])
