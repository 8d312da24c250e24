"""The amortised posterior, handing over to joint estimation of state and map on an out-of-distribution day.

Own work: `neural_posterior` until its OOD test fires, from then on VAE-EM (van Hulst et al. 2026, Algorithm 1), whose
Gaussian process learns the day within the run. At the hand-over VAE-EM processes all frames so far, so that none is
lost. The hand-over buys coverage and runs that stop, not accuracy (docs/accuracy.md). Assumes exact, known inputs and
an even spectrum.
"""

from dataclasses import replace
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge

from controller.base import Controller, Estimate
from controller.posterior import artefact
from controller.strategies import neural_posterior, vae_em
from controller.strategies.neural_posterior import NeuralPosterior
from controller.strategies.neural_posterior import Options as PosteriorOptions
from controller.strategies.vae_em import Options as EmOptions
from twin.arrays import Array
from twin.optics import Optics
from twin.options import checked_options, validated
from twin.state import StateSpace
from twin.types import Frame


@validated
class Options:
    """Settings of the two parts.

    Attributes:
        posterior: see `neural_posterior`; its `misfit_level` decides the hand-over.
        em: see `vae_em`.
        widening: variance inflation of joint estimation, whose prior map comes from the training days, too; calibrated
            so that its 90 % regions cover the truth on days up to twice as far out (docs/accuracy.md).
    """

    posterior: PosteriorOptions = PosteriorOptions()
    em: EmOptions = EmOptions(candidates=600)
    widening: Annotated[float, Ge(1)] = 2.0


class NeuralPosteriorEm:
    """Two estimators for the same frames; the second takes over when the first finds the day out of distribution.

    Example:
        >>> from twin.state import FIRST_ORDER
        >>> controller = make(Optics(), FIRST_ORDER, {"widening": 1.5})
        >>> controller.handed_over, controller.leader is controller.posterior
        (False, True)
    """

    def __init__(self, posterior: NeuralPosterior, em: Controller, options: Options) -> None:
        self.posterior, self.em, self.options = posterior, em, options
        self._begin(posterior.space)

    def _begin(self, space: StateSpace) -> None:
        self.handed_over = False
        self.pending: list[tuple[Array, Frame]] = []
        """Inputs and frames that the second estimator has not processed."""
        self.refused_nm = space.zero
        """Input applied before frames that were refused."""

    @property
    def leader(self) -> Controller:
        """The estimator whose inputs are applied and whose estimate is reported."""
        return self.em if self.handed_over else self.posterior

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        """Reset both, each with random numbers of its own."""
        of_posterior, of_em = rng.spawn(2)
        self.posterior.reset(space, of_posterior)
        self.em.reset(space, of_em)
        self._begin(space)

    def propose(self) -> Array:
        """The leader's next input."""
        return self.leader.propose()

    def update(self, delta_nm: Array, frame: Frame) -> None:
        """Update the leader by the frame; a fired OOD test hands over for the rest of the run."""
        if self.handed_over:
            self.em.update(delta_nm, frame)
            return
        self.refused_nm = self.refused_nm + delta_nm
        self.posterior.update(delta_nm, frame)
        self.pending.append((self.refused_nm, frame))
        self.refused_nm = np.zeros_like(delta_nm)
        if self.posterior.misfit:
            self._hand_over()

    def _hand_over(self) -> None:
        self.handed_over = True
        for delta_nm, frame in self.pending:
            self.em.update(delta_nm, frame)
        self.pending = []

    def estimate(self) -> Estimate:
        """The leader's estimate, widened for joint estimation; `misfit` stays true after the hand-over."""
        if not self.handed_over:
            return self.posterior.estimate()
        estimate = self.em.estimate()
        return replace(estimate, cov_nm2=self.options.widening * estimate.cov_nm2, misfit=True)

    @property
    def done(self) -> bool:
        """The leader's stop rule; after the hand-over for the widened estimate."""
        if not self.handed_over:
            return self.posterior.done
        return self.estimate().in_spec(self.posterior.space, self.options.em.stop_probability)


def make(optics: Optics, space: StateSpace, options: dict[str, Any]) -> NeuralPosteriorEm:
    """Build the controller; see `controller.load`."""
    chosen = checked_options(Options, options)
    trained = artefact.load_for(chosen.posterior.weights, optics, space)
    posterior = NeuralPosterior(space, trained, chosen.posterior)
    return NeuralPosteriorEm(posterior, vae_em.build(optics, space, chosen.em), chosen)


def suited(options: dict[str, Any], optics: Optics) -> dict[str, Any]:
    """Options with the shipped weights for a beam, unless others are chosen."""
    posterior = options.get("posterior", {})
    if not isinstance(posterior, dict):
        return options
    return {**options, "posterior": neural_posterior.suited(posterior, optics)}


def trained_optics(options: dict[str, Any]) -> Optics:
    """Return the optics of the chosen weights."""
    return artefact.WEIGHTS.optics(checked_options(Options, options).posterior.weights)
