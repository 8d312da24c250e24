"""Amortised posterior: a network reads p(x | frame), frames multiply through the known inputs.

Own work; the product of frame posteriors follows factorised neural posterior estimation (Geffner, Papamakarios &
Mnih, ICML 2023), the particles are VAE-EM's candidates. Assumes known inputs, exact ones unless `input_error` says
otherwise, an even spectrum, and a day like the training days: what differs between those (film, focal spread, source,
camera) is estimated along with the state.
"""

import math
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from scipy.linalg import block_diag

from controller import candidates, preprocess
from controller.base import Controller, Estimate
from controller.candidates import Refinement
from controller.posterior import artefact as posterior_artefact
from controller.posterior import inexact_inputs, scatter
from controller.posterior import information as posterior_information
from controller.posterior import misfit as posterior_misfit
from controller.posterior import particle_filter as posterior_filter
from controller.posterior import second_order as second_order_fit
from controller.posterior.artefact import PosteriorArtefact
from controller.posterior.particle_filter import FramePosteriors
from controller.posterior.second_order import SecondOrderFit
from controller.spectrum.whittle_polish import WhittlePolished
from controller.strategies import joint_fit
from controller.vae_em import selection
from twin.optics import Optics
from twin.options import Fraction, Positive, Probability, checked_options, validated
from twin.state import StateSpace
from twin.types import Frame

Array = NDArray[np.floating]

DECIDED = 0.99
"""Probability of the sign from which on the second order is fitted about the first."""
SUPPORT = 64
QUERIES = 48
LOOK_AGAIN = 1.5
"""By how much a run must have grown before a day that stayed unlike the training days is looked at anew."""
TELLING = 3
"""Frames before which the likeliest candidate may be the mirror image, which explains no frame but the first."""


@validated
class Options:
    """Settings of the amortised posterior.

    Attributes:
        weights: shipped weights by name, or a path.
        candidates: number of candidate initial states; fewer in long runs, see `posterior.particle_filter.wanted`.
        selection: "information" (expected fall of the posterior's entropy), or "random".
        refinement: candidate refinement, see `candidates.Refinement`.
        stop_probability: done when every component is in spec with this probability.
        memory_s: frames count by exp(-age / memory): a posterior that forgets, against drift; None: all in full.
        polish: "whittle" climbs the likelihood of the parametric spectrum from the estimate (`whittle_polish`),
            "same_region" fits film and state together to frames of one region (`joint_fit`), "none" does neither.
        second_order: of seven coefficients the last four come from the "spectrum" of sub-areas, or
            from the "network" alone, which is quicker and knows less.
        misfit_level: a day is called unlike the training days below this share of them.
        input_error: how far the corrector may be off what it is told, as a share (standard deviation of its gains and
            couplings, see `inexact_inputs`); 0: inputs are exact.
    """

    weights: str = "posterior"
    candidates: Annotated[int, Ge(32)] = 600
    selection: Literal["information", "random"] = "information"
    refinement: Refinement = Refinement()
    stop_probability: Probability = 0.95
    memory_s: Positive | None = None
    polish: Literal["none", "whittle", "same_region"] = "none"
    second_order: Literal["spectrum", "network"] = "spectrum"
    misfit_level: Probability = 0.002
    input_error: Fraction = 0.0

    def __post_init__(self) -> None:
        if self.input_error and self.polish != "none":
            raise ValueError(f"input_error is for the estimate without polish; got polish={self.polish!r}")


class NeuralPosterior:
    """Read the frame, multiply its posterior in, refine the candidates, look where most is to be learnt."""

    def __init__(self, space: StateSpace, trained: PosteriorArtefact, options: Options) -> None:
        self.trained, self.options = trained, options
        self.reset(space, np.random.default_rng(0))

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        """Uniform candidates, no frame."""
        self.space, self.rng = space, rng
        self.first = space.only(space.is_first_order)
        self.frames, self.clock_s = FramePosteriors.none(self.trained, space), 0.0
        self.input_nm = space.zero
        self.belief = posterior_filter.start(candidates.initial(self.first, self.options.candidates, rng))
        self.second = self._second_order()
        self.look_again_at = 0
        self.misfit = False
        """Whether the day was ever unlike the training days: as much in fewer than `misfit_level` of them."""

    def _second_order(self) -> SecondOrderFit | None:
        """A fit of the second order, where it is wanted; it forgets nothing, so not against drift."""
        options, n = self.options, self.first.dimension
        if n == self.space.dimension or options.second_order == "network" or options.memory_s is not None:
            return None
        return SecondOrderFit(self.trained.optics, self.space.start[n:])

    def propose(self) -> Array:
        """No input before the first frame, then the one whose frame should narrow the posterior most."""
        if len(self.frames) == 0:
            return self.space.zero
        if self.options.selection == "random":
            return self.rng.uniform(-1, 1, self.space.dimension) * self.space.input - self.input_nm
        states, probability = self.belief.candidates.states_nm, self.belief.probability
        inputs = selection.sample_inputs(states, probability, self.first, QUERIES, self.rng)
        drawn = states[self.rng.choice(len(states), SUPPORT, p=probability)]
        scale = self.trained.first.range_nm
        visited = drawn / scale, inputs / scale
        gain = posterior_information.expected_information(*visited, self.trained.precision.precision)
        if self.first.dimension == self.space.dimension:
            best: Array = inputs[np.argmax(gain)]
            return best - self.input_nm
        estimate = self._estimate()
        n = self.first.dimension
        gain += posterior_information.second_order_information(*visited, estimate.cov_nm2[n:, n:], self.trained)
        # Nulled as far as it is known: the less of it, the better a frame tells the rest.
        higher = np.clip(-estimate.mean_nm[n:], -self.space.input[n:], self.space.input[n:])
        return np.concatenate([inputs[np.argmax(gain)], higher]) - self.input_nm

    def update(self, delta_nm: Array, frame: Frame) -> None:
        """Multiply the frame's posterior in and refine the candidates.

        Raises:
            ValueError: a frame of another shape than the weights' camera, or without signal.
        """
        self.input_nm = self.input_nm + delta_nm
        preprocess.check_shape(frame, self.trained.optics.camera_pixels)
        share, seen = self._remembered(frame), preprocess.whole_and_patches(frame)
        frames = self.frames if share == 1.0 else self.frames.faded(share)
        self.frames = frames.append(*seen, self.input_nm)
        self.belief = posterior_filter.step(
            self.belief, self.frames, self.first, self.options.refinement, self.rng, self.options.candidates, share
        )
        self._look_twice()
        self._follow_scatter()
        self.clock_s = frame.clock_s
        if self.second is not None:
            self._learn_second_order(self.second, frame)

    def _look_twice(self) -> None:
        """A belief that explains the frames badly is one that lost the truth, or a day unlike the training days."""
        if len(self.frames) < self.look_again_at or self.fit >= self.options.misfit_level:
            return
        self.belief = posterior_filter.second_look(
            self.belief, self.frames, self.first, self.options.refinement, self.rng, self.options.candidates
        )
        self.look_again_at = math.ceil(LOOK_AGAIN * len(self.frames))
        self.misfit = self.misfit or self.fit < self.options.misfit_level

    def _follow_scatter(self) -> None:
        """Frames that disagree more than those of training days tell less than they say, and the other way round."""
        usual, count = self.trained.usual, self.frames.count
        if len(self.frames) < TELLING or not usual:
            return
        deviance = posterior_filter.deviance(self.frames, self._of_first_order().mean_nm)
        dispersion = scatter.dispersion(deviance, usual, count, self.first.dimension)
        self.frames = replace(self.frames, dispersion=dispersion)
        self.belief = posterior_filter.reweighed(self.belief, self.frames)

    def _learn_second_order(self, second: SecondOrderFit, frame: Frame) -> None:
        """One frame more; expanded about the first order once its sign is known."""
        second.add(frame, self.input_nm)
        first = self._of_first_order()
        if first.sign_probability >= DECIDED:
            day = posterior_filter.likely_nuisances(self.frames, self.belief)
            second.renew(first.mean_nm, second_order_fit.film_and_camera(day))

    def _remembered(self, frame: Frame) -> float:
        """What earlier frames count, of what they counted at the last one."""
        if self.options.memory_s is None:
            return 1.0
        return math.exp(-max(0.0, frame.clock_s - self.clock_s) / self.options.memory_s)

    def _of_first_order(self) -> Estimate:
        return candidates.summarise(self.belief.candidates, self.belief.probability, self.first)

    def estimate(self) -> Estimate:
        """Moments within the more probable sign."""
        found = replace(self._estimate(), misfit=self.misfit)
        if not self.options.input_error or len(self.frames) == 0:
            return found
        return inexact_inputs.allowed_for(found, self.frames, self.options.input_error)

    def _estimate(self) -> Estimate:
        first = self._of_first_order()
        if self.first.dimension == self.space.dimension:
            return first
        found = None if self.second is None else self.second.estimate()
        if found is not None:
            mean, cov = np.concatenate([first.mean_nm, found[0]]), block_diag(first.cov_nm2, found[1])
            return Estimate(mean, cov, first.sign_probability)
        return posterior_filter.with_second_order(
            first, self.belief, self.frames, self.space.start[len(first.mean_nm) :]
        )

    @property
    def fit(self) -> float:
        """How common a day like this is among the training days (`posterior.misfit`); 1 before `TELLING` frames."""
        if len(self.frames) < TELLING:
            return 1.0
        found = posterior_misfit.measured(self.frames, self.belief, self._of_first_order().mean_nm)
        return posterior_misfit.fit(found, self.trained.usual, len(self.frames))

    @property
    def done(self) -> bool:
        """Every component in spec with the wanted probability, on a day that the network knows; after `TELLING`."""
        if len(self.frames) < TELLING:
            return False
        estimate = self.estimate()
        declared = estimate.in_spec_probability(self.space.tolerance) >= self.options.stop_probability
        return bool(declared and not estimate.misfit)


def make(optics: Optics, space: StateSpace, options: dict[str, Any]) -> Controller:
    """Build the controller for an instrument and a task.

    Raises:
        OptionError: an unknown option or a bad value.
        WeightsError: weights for other optics, coefficients or ranges.
    """
    chosen = checked_options(Options, options)
    plain = NeuralPosterior(space, posterior_artefact.load_for(chosen.weights, optics, space), chosen)
    if chosen.polish == "whittle":
        return WhittlePolished(optics, space, plain, chosen.stop_probability)
    if chosen.polish == "same_region":
        settings = joint_fit.Options(start="neural_posterior", stop_probability=chosen.stop_probability)
        return joint_fit.JointFit(optics, space, settings, plain)
    return plain
