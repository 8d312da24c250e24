"""Expectation maximisation over candidate initial states, one observation at a time (section IV-B3).

`Ensemble` holds what grows with the observations; the mathematics is in `latent_gp` and `candidates`.
"""

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from controller import candidates as sets
from controller.candidates import Candidates, Refinement
from controller.vae_em import latent_gp
from controller.vae_em.latent_gp import Evidence, Factors, Kernel
from controller.vae_em.latent_map import LatentMap
from twin.state import StateSpace

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Observations:
    """The data set D.

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
        """No data yet."""
        return cls(np.zeros((0, axes)), np.zeros((0, latents)), np.zeros(0))

    def append(self, input_nm: Array, latent: Array, floor: float) -> "Observations":
        """With one more observation."""
        return Observations(
            np.vstack([self.inputs_nm, input_nm]), np.vstack([self.latents, latent]), np.append(self.floors, floor)
        )

    def __len__(self) -> int:
        return len(self.inputs_nm)


@dataclass(frozen=True)
class Ensemble:
    """Candidates with their factors; replaced, never changed, by each step.

    Attributes:
        prior: simulated prior of the map.
        kernel: kernel of its deviation.
        candidates: the set.
        factors: their Cholesky factors, up to date with the data.
        evidence: the data as they see it.
        probability: posterior of the candidates, (M,).
    """

    prior: LatentMap
    kernel: Kernel
    candidates: Candidates
    factors: Factors
    evidence: Evidence
    probability: Array

    @property
    def elbo_nats(self) -> float:
        """Evidence lower bound (eq 20) at the E-step's posterior, against a uniform prior in the box."""
        log_prior = -self.candidates.log_density - np.log(len(self.probability))
        log_likelihood = latent_gp.log_likelihood(self.factors, self.kernel)
        return latent_gp.evidence_lower_bound(log_likelihood, log_prior, self.probability)


def _evidence(prior: LatentMap, states_nm: Array, data: Observations, first: int) -> Evidence:
    """The observations from `first` on, as candidates (M, n) see them."""
    visited = states_nm[None, :, :] + data.inputs_nm[first:, None, :]
    moments = prior.moments(visited.reshape(-1, visited.shape[-1]), np.repeat(data.floors[first:], len(states_nm)))
    mean, noise, modes = (a.reshape(*a.shape[:-1], *visited.shape[:2]) for a in moments)
    residual = data.latents[first:].T[:, :, None] - mean
    # The compiled E-step runs along candidates: contiguous, or it is built again and slower.
    return Evidence(*(np.ascontiguousarray(a) for a in (residual, noise, modes)))


def _along(axis: int, one: Evidence, other: Evidence) -> Evidence:
    """Two pieces of evidence as one, over observations (-2) or candidates (-1)."""
    pairs = ((getattr(one, f.name), getattr(other, f.name)) for f in fields(Evidence))
    return Evidence(*(np.concatenate(pair, axis=axis) for pair in pairs))


def start(prior: LatentMap, candidates: Candidates) -> Ensemble:
    """No observation: uniform probabilities."""
    count, axes = candidates.states_nm.shape
    nothing = _evidence(prior, candidates.states_nm, Observations.none(axes, len(prior.axes)), 0)
    factors = Factors.empty(len(prior.axes), prior.rank, count)
    return Ensemble(prior, prior.kernel(), candidates, factors, nothing, sets.weigh(candidates, np.zeros(count)))


def observe(ensemble: Ensemble, data: Observations) -> Ensemble:
    """E-step on the data with its new last observations: append to the factors, weigh the candidates."""
    states = ensemble.candidates.states_nm
    evidence = _along(-2, ensemble.evidence, _evidence(ensemble.prior, states, data, ensemble.factors.count))
    factors = latent_gp.absorb(ensemble.factors, ensemble.kernel, states, data.inputs_nm, evidence)
    probability = sets.weigh(ensemble.candidates, latent_gp.log_likelihood(factors, ensemble.kernel))
    return replace(ensemble, factors=factors, evidence=evidence, probability=probability)


def refine(
    ensemble: Ensemble, data: Observations, space: StateSpace, refinement: Refinement, rng: np.random.Generator
) -> Ensemble:
    """Refined candidates (IV-C2) with weights from the same data; kept candidates keep their factors."""
    refined = sets.refine(ensemble.candidates, ensemble.probability, space, refinement, rng)
    new = refined.states_nm[len(refined.kept) :]
    evidence = _evidence(ensemble.prior, new, data, 0)
    empty = Factors.empty(len(evidence.residual), ensemble.prior.rank, len(new))
    fresh = latent_gp.absorb(empty, ensemble.kernel, new, data.inputs_nm, evidence)
    factors = latent_gp.joined(latent_gp.chosen(ensemble.factors, refined.kept), fresh)
    old = Evidence(*(getattr(ensemble.evidence, f.name)[..., refined.kept] for f in fields(Evidence)))
    probability = sets.weigh(refined, latent_gp.log_likelihood(factors, ensemble.kernel))
    return replace(
        ensemble, candidates=refined, factors=factors, evidence=_along(-1, old, evidence), probability=probability
    )


def step(
    ensemble: Ensemble, data: Observations, space: StateSpace, refinement: Refinement, rng: np.random.Generator
) -> Ensemble:
    """One online iteration: E-step, then refinement until enough candidates carry weight."""
    return sets.until_enough(observe(ensemble, data), lambda e: refine(e, data, space, refinement, rng))


def harden(ensemble: Ensemble) -> Ensemble:
    """Hard EM: all probability on the most likely candidate."""
    probability = np.zeros_like(ensemble.probability)
    probability[np.argmax(latent_gp.log_likelihood(ensemble.factors, ensemble.kernel))] = 1.0
    return replace(ensemble, probability=probability)
