"""Selection of the next input (section IV-C1): the paper's rule, its variants, and expected information gain."""

import numba
import numpy as np
from numpy.typing import NDArray

from controller.vae_em import latent_gp
from controller.vae_em.em import Ensemble, Observations
from twin.arrays import Array
from twin.errors import check_known
from twin.state import StateSpace

RULES = ("information", "variance", "mixture_variance", "random")


def sample_inputs(
    states_nm: Array, probability: Array, space: StateSpace, count: int, rng: np.random.Generator
) -> Array:
    """Draw cumulative inputs to choose from, (count, n): half over the whole box, half that lead close to the null.

    The second half cancels a probable candidate and adds an offset of a few tolerances, log-uniform in size: a frame
    is most informative at a small, nonzero distance from the null.
    """
    whole = rng.uniform(-1, 1, (count - count // 2, space.dimension)) * space.input
    picks = rng.choice(len(probability), count // 2, p=probability)
    direction = rng.standard_normal((count // 2, space.dimension))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    size = np.exp(rng.uniform(np.log(0.2), np.log(4.0), (count // 2, 1)))
    near = -states_nm[picks] + direction * size * space.tolerance
    return np.clip(np.concatenate([whole, near]), -space.input, space.input)


def _predictive(
    ensemble: Ensemble, data: Observations, inputs_nm: Array, keep: NDArray[np.int64]
) -> tuple[Array, Array, Array]:
    """Predict mean and variance of f and the noise variance at x0 + input for the candidates `keep`; each (d, Q, K)."""
    candidates_nm = ensemble.candidates.states_nm[keep]
    states = candidates_nm[None, :, :] + inputs_nm[:, None, :]
    floors = np.full(states[..., 0].size, data.floors[-1])
    moments = ensemble.prior.moments(states.reshape(-1, states.shape[-1]), floors)
    prior_mean, noise, modes = (a.reshape(*a.shape[:-1], *states.shape[:2]) for a in moments)
    factors = latent_gp.chosen(ensemble.factors, keep)
    mean, variance = latent_gp.predict(factors, ensemble.kernel, candidates_nm, data.inputs_nm, inputs_nm, modes)
    day = latent_gp.scale(factors, ensemble.kernel)
    return mean + prior_mean, day * variance, day * noise


def posterior_variance(ensemble: Ensemble, data: Observations, inputs_nm: Array) -> Array:
    """Variance of f at the most likely candidate, in units of the noise, summed over latent axes, (Q,) (eq 24)."""
    best = np.array([np.argmax(ensemble.probability)])
    _, variance, _ = _predictive(ensemble, data, inputs_nm, best)
    return np.sum(variance[:, :, 0] / _noise_unit(ensemble)[:, None], axis=0)


def _noise_unit(ensemble: Ensemble) -> Array:
    """Typical noise variance of each latent axis, (d,): the unit in which axes can be added."""
    return np.median(ensemble.residuals.noise, axis=(1, 2))


def mixture_variance(
    ensemble: Ensemble, data: Observations, inputs_nm: Array, rng: np.random.Generator, support: int = 64
) -> Array:
    """Variance of f mixed over candidates, summed over latent axes, (Q,) (eq 22)."""
    keep = rng.choice(len(ensemble.probability), support, p=ensemble.probability)
    mean, variance, _ = _predictive(ensemble, data, inputs_nm, keep)
    _, total = latent_gp.mixture(mean, variance, np.full(support, 1.0 / support))
    return np.sum(total / _noise_unit(ensemble)[:, None], axis=0)


@numba.njit(cache=True, fastmath=True)
def _pairwise_information(mean, variance):  # type: ignore[no-untyped-def]
    latents, queries, count = mean.shape
    out = np.empty(queries)
    for q in range(queries):
        total = 0.0
        for i in range(count):
            overlap = 0.0
            for k in range(count):
                exponent = 0.0
                for j in range(latents):
                    pooled = 0.5 * (variance[j, q, i] + variance[j, q, k])
                    exponent += 0.125 * (mean[j, q, i] - mean[j, q, k]) ** 2 / pooled
                    exponent += 0.5 * np.log(pooled / np.sqrt(variance[j, q, i] * variance[j, q, k]))
                overlap += np.exp(-exponent)
            total -= np.log(overlap / count)
        out[q] = total / count
    return out


def information_gain(
    ensemble: Ensemble, data: Observations, inputs_nm: Array, rng: np.random.Generator, support: int = 96
) -> Array:
    """Expected information gain about x0 from the next latent observation, nats, (Q,).

    Lower bound of the mutual information between the candidate and its Gaussian prediction, from pairwise Bhattacharyya
    distances (Kolchinsky & Tracey, Entropy 19 (2017) 361).
    """
    keep = rng.choice(len(ensemble.probability), support, p=ensemble.probability)
    mean, variance, noise = _predictive(ensemble, data, inputs_nm, keep)
    gain: Array = _pairwise_information(mean, variance + noise)
    return gain


def select(
    rule: str, ensemble: Ensemble, data: Observations, space: StateSpace, rng: np.random.Generator, count: int = 64
) -> Array:
    """Select the next cumulative input, shape (n,): the best of `count` random ones by the rule (eq 25).

    Raises:
        ValueError: unknown rule; names the nearest.
    """
    check_known(rule, RULES, "an input selection")
    if rule == "random":
        return rng.uniform(-1, 1, space.dimension) * space.input
    if rule == "information":
        inputs = sample_inputs(ensemble.candidates.states_nm, ensemble.probability, space, count, rng)
        return inputs[np.argmax(information_gain(ensemble, data, inputs, rng))]
    inputs = rng.uniform(-1, 1, (count, space.dimension)) * space.input
    if rule == "variance":
        return inputs[np.argmax(posterior_variance(ensemble, data, inputs))]
    return inputs[np.argmax(mixture_variance(ensemble, data, inputs, rng))]
