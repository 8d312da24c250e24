"""VAE-EM: joint estimation of state and latent map (van Hulst et al. 2026, Algorithm 1).

Assumes exact, known inputs (eq 1) and an even latent map; learns during the run how the map deviates from its
simulated prior.
"""

import logging
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge

from controller import candidates, preprocess
from controller.base import Controller, Estimate, StopOptions, StopsInSpec
from controller.candidates import Refinement
from controller.first_order import first_order_first
from controller.vae_em import artefact, em, model, selection
from controller.vae_em.artefact import Artefact
from controller.vae_em.em import LearnedMap, Observations
from controller.vae_em.model import Model
from controller.vae_em.network import encode_mean
from twin.arrays import Array
from twin.optics import Optics
from twin.options import checked_options, validated
from twin.state import StateSpace
from twin.types import Frame

LOG = logging.getLogger(__name__)


@validated
class Options(Model, StopOptions):
    """Settings of VAE-EM, with those of `controller.vae_em.model.Model`.

    Attributes:
        weights: shipped weights by name, or a path.
        candidates: number of candidate initial states.
        selection: "information" (expected information gain), or the paper's "variance" (eqs 24 and 25),
            "mixture_variance", "random".
        hard: hard EM, all weight on the most likely candidate.
        refinement: candidate refinement, see `candidates.Refinement`.
    """

    weights: str = "vae_random_days"
    candidates: Annotated[int, Ge(32)] = 1000
    selection: Literal["information", "variance", "mixture_variance", "random"] = "information"
    hard: bool = False
    refinement: Refinement = Refinement()


class VaeEm(StopsInSpec):
    """Algorithm 1: encode, weigh candidates, learn the map, refine, select the next input."""

    def __init__(self, space: StateSpace, trained: Artefact, options: Options) -> None:
        self.trained, self.options = trained, options
        self.reset(space, np.random.default_rng(0))

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        """Forget all observations and draw uniform candidates."""
        prior = model.chosen(self.trained.prior, self.options, space)
        self.space, self.rng, self.input_nm = space, rng, space.zero
        self.data = Observations.none(space.dimension, len(prior.axes))
        candidate_set = candidates.initial(space, self.options.candidates, rng)
        self.ensemble = em.start(prior, candidate_set)
        self.elbo_nats: list[float] = []

    def propose(self) -> Array:
        """Return no input before the first frame, then the most informative one (eqs 24-25)."""
        if len(self.data) == 0:
            return self.space.zero
        target = selection.select(self.options.selection, self.ensemble, self.data, self.space, self.rng)
        return target - self.input_nm

    def update(self, delta_nm: Array, frame: Frame) -> None:
        """Encode the frame (eq 8) and run one EM iteration on the grown data set."""
        self.input_nm = self.input_nm + delta_nm
        preprocess.check_shape(frame, self.trained.optics.camera_pixels)
        spectrum = preprocess.READINGS[self.trained.vae.config.preprocessing](frame)
        latent = self.trained.prior.observe(encode_mean(self.trained.vae, spectrum.values[None]))
        self.data = self.data.append(self.input_nm, latent, spectrum.floor)
        self.ensemble = em.step(self.ensemble, self.data, self.space, self.options.refinement, self.rng)
        posterior = em.harden(self.ensemble) if self.options.hard else self.ensemble
        self.elbo_nats.append(posterior.elbo_nats)
        LOG.info("observation %d: ELBO %.2f nats", len(self.data), posterior.elbo_nats)

    def estimate(self) -> Estimate:
        """Return the moments within the more probable sign; for hard EM about the most likely candidate."""
        soft = candidates.summarise(self.ensemble.candidates, self.ensemble.probability, self.space)
        if not self.options.hard or len(self.data) == 0:
            return soft
        best = self.ensemble.candidates.states_nm[np.argmax(em.harden(self.ensemble).probability)]
        return replace(soft, mean_nm=best, cov_nm2=soft.cov_nm2 + np.outer(best - soft.mean_nm, best - soft.mean_nm))

    def learned_map(self, states_nm: Array) -> LearnedMap:
        """Return the latent map as learned so far at states (Q, n), beside its simulated prior mean (eq 22).

        Raises:
            ValueError: before the first observation.
        """
        if len(self.data) == 0:
            raise ValueError("a latent map is learned from at least one frame; update with one first")
        return em.learned_map(self.ensemble, self.data, states_nm, np.random.default_rng(0))


def make(optics: Optics, space: StateSpace, options: dict[str, Any]) -> Controller:
    """Build the controller; in a second-order task it calibrates the first order; see `controller.load`.

    Example:
        >>> from twin.state import FIRST_ORDER
        >>> controller = make(Optics(), FIRST_ORDER, {"candidates": 64})
        >>> controller.propose().tolist()  # no input before the first frame
        [0.0, 0.0, 0.0]
        >>> bool(controller.estimate().std_nm[0] > 15)  # the uniform prior: 30 nm / sqrt(3) in defocus
        True
    """
    return build(optics, space, checked_options(Options, options))


def build(optics: Optics, space: StateSpace, options: Options) -> Controller:
    """Build the controller from validated options."""
    return first_order_first(
        space, lambda first: VaeEm(first, artefact.load_for(options.weights, optics, first), options)
    )


def trained_optics(options: dict[str, Any]) -> Optics:
    """Return the optics of the chosen weights."""
    return artefact.WEIGHTS.optics(checked_options(Options, options).weights)
