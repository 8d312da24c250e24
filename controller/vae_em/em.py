"""Expectation maximisation over candidate initial states, one observation at a time (section IV-B3).

`Ensemble` holds what grows with the observations; the mathematics is in `latent_gp` and `candidates`.
"""

from dataclasses import dataclass, replace

import numpy as np

from controller import candidates as sets
from controller.candidates import Candidates, Refinement
from controller.vae_em import latent_gp
from controller.vae_em.latent_gp import Factors, Kernel, Residuals
from controller.vae_em.latent_map import LatentMap
from twin.arrays import Array
from twin.state import StateSpace


@dataclass(frozen=True)
class Observations:
    """The data set D of T observations.

    Attributes:
        inputs_nm: cumulative inputs, (T, n).
        latents: latent observations on independent axes, (T, d).
        floors: shot-noise floor of each frame, (T,).
    """

    inputs_nm: Array
    latents: Array
    floors: Array

    @classmethod
    def none(cls, axes: int, latents: int) -> "Observations":
        """Return an empty data set."""
        return cls(np.zeros((0, axes)), np.zeros((0, latents)), np.zeros(0))

    def append(self, input_nm: Array, latent: Array, floor: float) -> "Observations":
        """Return the data set with one more observation."""
        return Observations(
            np.vstack([self.inputs_nm, input_nm]), np.vstack([self.latents, latent]), np.append(self.floors, floor)
        )

    def __len__(self) -> int:
        return len(self.inputs_nm)


@dataclass(frozen=True)
class Ensemble:
    """Candidates with factors and weights; each step returns a new one.

    Attributes:
        prior: simulated prior of the map.
        kernel: kernel of the map's deviation from the prior.
        candidates: the candidate initial states.
        factors: Cholesky factors of all observations, per candidate.
        residuals: data relative to the prior mean at their states.
        probability: posterior of the candidates, (M,).
    """

    prior: LatentMap
    kernel: Kernel
    candidates: Candidates
    factors: Factors
    residuals: Residuals
    probability: Array

    @property
    def elbo_nats(self) -> float:
        """Evidence lower bound (eq 20) at the E-step's posterior, against a uniform prior in the box."""
        log_prior = -self.candidates.log_density - np.log(len(self.probability))
        log_likelihood = latent_gp.log_likelihood(self.factors, self.kernel)
        return latent_gp.evidence_lower_bound(log_likelihood, log_prior, self.probability)


def _residuals(prior: LatentMap, states_nm: Array, data: Observations, first: int) -> Residuals:
    """Subtract the prior mean at the states that candidates (M, n) have visited, from observation `first` on."""
    visited = states_nm[None, :, :] + data.inputs_nm[first:, None, :]
    moments = prior.moments(visited.reshape(-1, visited.shape[-1]), np.repeat(data.floors[first:], len(states_nm)))
    mean, noise, modes = (a.reshape(*a.shape[:-1], *visited.shape[:2]) for a in moments)
    residual = data.latents[first:].T[:, :, None] - mean
    return Residuals(residual, noise, modes)


def start(prior: LatentMap, candidates: Candidates) -> Ensemble:
    """Begin without observations, with uniform probabilities."""
    count, axes = candidates.states_nm.shape
    none = _residuals(prior, candidates.states_nm, Observations.none(axes, len(prior.axes)), 0)
    factors = Factors.empty(len(prior.axes), prior.rank, count)
    return Ensemble(prior, prior.kernel(), candidates, factors, none, sets.weigh(candidates, np.zeros(count)))


def observe(ensemble: Ensemble, data: Observations) -> Ensemble:
    """E-step: append the new observations to the factors and weigh the candidates."""
    states = ensemble.candidates.states_nm
    latest = _residuals(ensemble.prior, states, data, ensemble.factors.observations)
    residuals = ensemble.residuals.joined(latest, axis=-2)
    factors = latent_gp.absorb(ensemble.factors, ensemble.kernel, states, data.inputs_nm, residuals)
    probability = sets.weigh(ensemble.candidates, latent_gp.log_likelihood(factors, ensemble.kernel))
    return replace(ensemble, factors=factors, residuals=residuals, probability=probability)


def refine(
    ensemble: Ensemble, data: Observations, space: StateSpace, refinement: Refinement, rng: np.random.Generator
) -> Ensemble:
    """Refine the candidates (IV-C2) and weigh them on the same data; kept candidates keep their factors."""
    refined = sets.refine(ensemble.candidates, ensemble.probability, space, refinement, rng)
    new = refined.states_nm[len(refined.kept) :]
    fresh = _residuals(ensemble.prior, new, data, 0)
    empty = Factors.empty(len(fresh.residual), ensemble.prior.rank, len(new))
    added = latent_gp.absorb(empty, ensemble.kernel, new, data.inputs_nm, fresh)
    factors = latent_gp.joined(latent_gp.chosen(ensemble.factors, refined.kept), added)
    residuals = ensemble.residuals.chosen(refined.kept).joined(fresh, axis=-1)
    probability = sets.weigh(refined, latent_gp.log_likelihood(factors, ensemble.kernel))
    return replace(ensemble, candidates=refined, factors=factors, residuals=residuals, probability=probability)


def step(
    ensemble: Ensemble, data: Observations, space: StateSpace, refinement: Refinement, rng: np.random.Generator
) -> Ensemble:
    """Run one online iteration: E-step, then refinement until the effective sample size suffices."""

    def refined(weighed: Ensemble) -> Ensemble:
        return refine(weighed, data, space, refinement, rng)

    return sets.until_enough(observe(ensemble, data), refined, refinement.rounds)


@dataclass(frozen=True)
class LearnedMap:
    """The latent map after a number of observations, at some states; each (d, Q), on the independent latent axes.

    Attributes:
        prior_mean: simulated map.
        mean: of the mixture of all candidates' posteriors (eq 22).
        std: standard deviation of the same.
    """

    prior_mean: Array
    mean: Array
    std: Array

    @property
    def deviation(self) -> Array:
        """What was learned: the difference from the prior mean."""
        return self.mean - self.prior_mean


def learned_map(
    ensemble: Ensemble, data: Observations, states_nm: Array, rng: np.random.Generator, support: int = 32
) -> LearnedMap:
    """Posterior of the map f at given states (Q, n), mixed over `support` candidates drawn by their weights (eq 22).

    Args:
        ensemble: after `step` on `data`.
        data: at least one observation; the shot noise of the last one is taken.
        states_nm: where.
        rng: draws the candidates.
        support: number of candidates.
    """
    moments = ensemble.prior.moments(states_nm, np.full(len(states_nm), data.floors[-1]))
    prior_mean, _, modes = moments
    parts = []
    for chosen in rng.choice(len(ensemble.probability), support, p=ensemble.probability):
        one = np.array([chosen])
        start = ensemble.candidates.states_nm[one]
        factors = latent_gp.chosen(ensemble.factors, one)
        inputs = states_nm - start
        mean, variance = latent_gp.predict(factors, ensemble.kernel, start, data.inputs_nm, inputs, modes[..., None])
        parts.append((mean[..., 0], variance[..., 0] * latent_gp.scale(factors, ensemble.kernel)))
    means, variances = (np.stack(part, axis=-1) for part in zip(*parts, strict=True))
    mean, variance = latent_gp.mixture(means, variances, np.full(support, 1.0 / support))
    return LearnedMap(prior_mean, prior_mean + mean, np.sqrt(variance))


def harden(ensemble: Ensemble) -> Ensemble:
    """Put all probability on the most likely candidate (hard EM)."""
    probability = np.zeros_like(ensemble.probability)
    probability[np.argmax(latent_gp.log_likelihood(ensemble.factors, ensemble.kernel))] = 1.0
    return replace(ensemble, probability=probability)
