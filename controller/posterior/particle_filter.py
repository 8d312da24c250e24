"""Rao-Blackwellised particle filter over the initial state (Doucet et al., UAI 2000).

Each particle is a candidate initial state of the first order, weighted by the frames' likelihood through the known
inputs; nuisance parameters and the second order are integrated out inside every particle (`likelihood.py`). The
particles are refined as VAE-EM refines its candidates (`controller/candidates.py`, van Hulst et al. 2026, IV-C2).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller import candidates as sets
from controller.base import Estimate
from controller.candidates import Candidates, Refinement
from controller.posterior.frames import SECOND_ORDER, FramePosteriors
from controller.posterior.likelihood import Likelihood, likelihood
from controller.posterior.network import NUISANCES
from twin.arrays import Array
from twin.state import StateSpace

EVALUATIONS = 4800
"""Particles times frames up to which all particles are kept, see `ParticleFilter.count`."""
FEWEST = 240
"""Particles kept in the longest run: by then the posterior is one mode in three dimensions."""
NEGLIGIBLE = 1e-4
"""Particles below this fraction of the largest weight are left out of the second order's mixture."""


@dataclass(frozen=True)
class Particles:
    """Particles, the likelihood of all frames so far and the posterior weights. Replaced, never changed.

    Attributes:
        candidates: the states and the density they were drawn from, M of them.
        likelihood: of all frames so far.
        probability: posterior weights, (M,), adding up to one.
    """

    candidates: Candidates
    likelihood: Likelihood
    probability: Array

    @property
    def best(self) -> NDArray[np.int64]:
        """Index of the most probable particle, (1,)."""
        return np.array([np.argmax(self.probability)])


def weigh(candidates: Candidates, total: Likelihood, frames: FramePosteriors) -> Particles:
    """Weight candidates by the power posterior of the frames."""
    log_likelihood = total.marginal(frames.prior) / frames.variance_inflation
    return Particles(candidates, total, sets.weigh(candidates, log_likelihood))


def reweigh(particles: Particles, frames: FramePosteriors) -> Particles:
    """Weight the same particles by the variance inflation that the frames have now."""
    return weigh(particles.candidates, particles.likelihood, frames)


@dataclass(frozen=True)
class ParticleFilter:
    """How the particles of a run are drawn and refined.

    Attributes:
        space: the first order of the task.
        refinement: see `candidates.Refinement`.
        rng: random numbers of the run.
        maximum: number of particles at the start of a run.
    """

    space: StateSpace
    refinement: Refinement
    rng: np.random.Generator
    maximum: int

    def start(self) -> Particles:
        """Particles of equal weight all over the start box."""
        candidates = sets.initial(self.space, self.maximum, self.rng)
        count = len(candidates.states_nm)
        return Particles(candidates, Likelihood.flat(count), sets.weigh(candidates, np.zeros(count)))

    def count(self, frames: int) -> int:
        """Number of particles after this number of frames: fewer in long runs, so that a frame's cost is bounded."""
        return min(self.maximum, max(FEWEST, EVALUATIONS // max(1, frames)))

    def step(self, particles: Particles, frames: FramePosteriors, forgetting: float = 1.0) -> Particles:
        """Add the last frame's likelihood, then refine until enough particles carry weight.

        Args:
            particles: before the frame.
            frames: of the run, the new one last.
            forgetting: factor on the likelihood of the earlier frames; 1 keeps them in full.
        """
        latest = likelihood(frames, particles.candidates.states_nm, len(frames) - 1)
        total = particles.likelihood.forget(forgetting) + latest
        return self._refine(weigh(particles.candidates, total, frames), frames)

    def restart(self, particles: Particles, frames: FramePosteriors) -> Particles:
        """The particles, or a new set from all over the start box if that explains the frames better.

        A narrow posterior can lie between the first particles, and a false mode be refined in its place.
        """
        candidates = sets.initial(self.space, self.maximum, self.rng)
        fresh = self._refine(weigh(candidates, likelihood(frames, candidates.states_nm), frames), frames)
        old, new = (float(each.likelihood.marginal(frames.prior).max()) for each in (particles, fresh))
        return fresh if new > old else particles

    def _refine(self, particles: Particles, frames: FramePosteriors) -> Particles:
        count = self.count(len(frames))

        def once(particles: Particles) -> Particles:
            new = sets.refine(particles.candidates, particles.probability, self.space, self.refinement, self.rng, count)
            added = likelihood(frames, new.states_nm[len(new.kept) :])
            return weigh(new, particles.likelihood.select(new.kept).concatenate(added), frames)

        return sets.until_enough(particles, once, self.refinement.rounds)


def likely_nuisances(frames: FramePosteriors, particles: Particles) -> Array:
    """Posterior mean of the nuisance parameters given the most probable particle, (len(NUISANCES),)."""
    mean: Array = particles.likelihood.conditional(particles.best, frames.prior)[0][0, : len(NUISANCES)]
    return mean


def with_second_order(first: Estimate, particles: Particles, frames: FramePosteriors, start_nm: Array) -> Estimate:
    """Join the estimate of the first order with that of the second, within the same sign.

    A mixture over the particles of the second order's Gaussian given each; the mean is clipped to +-start_nm, (m,).
    """
    states, probability = particles.candidates.states_nm, particles.probability
    keep = probability > NEGLIGIBLE * probability.max()
    if first.sign_probability < 1.0:
        scale = frames.trained.first.range_nm**2
        keep &= states @ (first.mean_nm / scale) >= 0
    chosen = np.flatnonzero(keep)
    weight = probability[chosen] / probability[chosen].sum()
    means, covariances = particles.likelihood.conditional(chosen, frames.prior, frames.variance_inflation)
    unit = frames.trained.higher_nm
    means, covariances = means[:, SECOND_ORDER] * unit, covariances[:, SECOND_ORDER, SECOND_ORDER] * unit**2
    mean = weight @ means
    apart, offset = means - mean, states[chosen] - first.mean_nm
    cross = (offset * weight[:, None]).T @ apart
    own = np.einsum("n,nij->ij", weight, covariances) + (apart * weight[:, None]).T @ apart
    covariance = np.block([[first.cov_nm2, cross], [cross.T, own]])
    inside = np.clip(mean, -start_nm, start_nm)
    return Estimate(np.concatenate([first.mean_nm, inside]), covariance, first.sign_probability)
