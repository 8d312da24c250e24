"""Amortised posterior: a network reads p(x | frame), frames multiply through the known inputs.

Own work; the product of frame posteriors follows factorised neural posterior estimation (Geffner, Papamakarios & Mnih,
ICML 2023), the particles are refined as VAE-EM's candidates (van Hulst et al. 2026, IV-C2). Assumes known inputs (exact
ones unless `input_error` is set), an even spectrum and a day like the training days: film, focal spread, source and
camera vary between those and are estimated along with the state. Other days are detected (`posterior/misfit.py`).
"""

import math
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge
from scipy.linalg import block_diag

from controller import candidates, preprocess
from controller.base import Controller, Estimate, StopOptions
from controller.candidates import Refinement
from controller.canonical import units
from controller.posterior import artefact, misfit
from controller.posterior.artefact import PosteriorArtefact
from controller.posterior.frames import FramePosteriors, deviance
from controller.posterior.inexact_inputs import with_inexact_inputs
from controller.posterior.information import most_informative
from controller.posterior.particle_filter import ParticleFilter, likely_nuisances, reweigh, with_second_order
from controller.posterior.scatter import dispersion
from controller.posterior.second_order import SecondOrderFit, film_and_camera
from controller.spectrum.whittle_polish import WhittlePolished
from controller.strategies import joint_fit
from controller.vae_em import selection
from twin.arrays import Array
from twin.optics import Optics
from twin.options import Fraction, Positive, Probability, checked_options, validated
from twin.state import StateSpace
from twin.types import Frame

SUPPORT, QUERIES = 64, 48
"""Particles and inputs between which the expected information is evaluated."""
TRIED_AGAIN = 1.5
"""After a restart that did not explain the day, try again only when the run is longer by this factor."""
SEARCHED = 2.0
"""Largest dispersion with which particles are weighted. More lets a second mode survive, and the mean moves between the
two, where the frames scatter most; beyond it only the reported covariance is widened (decision 15)."""
UNAMBIGUOUS = 3
"""Frames from which on the sign is determined. With fewer the OOD test is not run and the run does not stop: the most
probable particle may be the mirror image, which explains the first frame only."""


@validated
class Options(StopOptions):
    """Settings of the amortised posterior.

    Attributes:
        weights: shipped weights by name, or a path; by default `posterior`, for other beams than 300 kV and 28 mrad
            `posterior_wide` (`posterior.artefact.weights_for`).
        candidates: number of particles; fewer in long runs, see `ParticleFilter.count`.
        selection: "information" (largest expected decrease of the posterior's entropy), or "random".
        refinement: of the particles, see `candidates.Refinement`.
        memory_s: forgetting time, against drift: a frame of age t has the weight exp(-t / memory_s); None keeps all.
        polish: "whittle" maximises the likelihood of the parametric spectrum from the estimate (`whittle_polish`),
            "same_region" fits film and state jointly to frames of one region (`joint_fit`), "none" does neither.
        second_order: with seven coefficients the last four come from the "spectrum" of sub-areas, or from the
            "network" alone, which is faster and less accurate.
        misfit_level: level of the OOD test, its rate of false alarms on training days.
        input_error: relative error of the corrector, the standard deviation of its gains and couplings (see
            `inexact_inputs`); 0: inputs are exact.
    """

    weights: str = "posterior"
    candidates: Annotated[int, Ge(32)] = 600
    selection: Literal["information", "random"] = "information"
    refinement: Refinement = Refinement()
    memory_s: Positive | None = None
    polish: Literal["none", "whittle", "same_region"] = "none"
    second_order: Literal["spectrum", "network"] = "spectrum"
    misfit_level: Probability = 0.002
    input_error: Fraction = 0.0

    def __post_init__(self) -> None:
        if self.input_error and self.polish != "none":
            raise ValueError(f"input_error needs polish=none, got polish={self.polish}")


class NeuralPosterior:
    """Read the frame, weight the particles, refine them, choose the most informative input.

    Attributes:
        frames: the frames' posteriors.
        particles: weighted states of the first order.
        misfit: the OOD test has fired in this run.

    Example:
        >>> from twin.day import Day
        >>> from twin.simulated import SimulatedMicroscope
        >>> from twin.state import FIRST_ORDER
        >>> microscope = SimulatedMicroscope(Optics(), FIRST_ORDER, Day(dose_e=1e6), "fast")
        >>> microscope.reset(np.random.default_rng(1))
        >>> truth_nm = microscope.truth().state_nm
        >>> controller = make(Optics(), FIRST_ORDER, {"candidates": 300})
        >>> controller.reset(FIRST_ORDER, np.random.default_rng(2))
        >>> for _ in range(4):
        ...     delta_nm = controller.propose()
        ...     microscope.apply(delta_nm)
        ...     controller.update(delta_nm, microscope.acquire())
        >>> bool(np.all(np.abs(controller.estimate().mean_nm - truth_nm) < FIRST_ORDER.tolerance))
        True
    """

    def __init__(self, space: StateSpace, trained: PosteriorArtefact, options: Options) -> None:
        self.trained, self.options = trained, options
        self.reset(space, np.random.default_rng(0))

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        """Start with uniform particles and no frame."""
        self.space, self.rng = space, rng
        self.first = space.only(space.is_first_order)
        self.filter = ParticleFilter(self.first, self.options.refinement, rng, self.options.candidates)
        self.frames, self.clock_s = FramePosteriors.none(self.trained, space), 0.0
        self.input_nm = space.zero
        self.particles = self.filter.start()
        self.second = self._second_order_fit()
        self.misfit, self._restart_from, self.widening = False, 0, 1.0

    def _second_order_fit(self) -> SecondOrderFit | None:
        """The fit of the second order, if asked for. It cannot forget frames, so it is not used against drift."""
        options, n = self.options, self.first.dimension
        if n == self.space.dimension or options.second_order == "network" or options.memory_s is not None:
            return None
        return SecondOrderFit(self.trained.optics, self.space.start[n:])

    def propose(self) -> Array:
        """No input before the first frame, then the one whose frame is expected to narrow the posterior most."""
        if len(self.frames) == 0:
            return self.space.zero
        if self.options.selection == "random":
            return self.rng.uniform(-1, 1, self.space.dimension) * self.space.input - self.input_nm
        states, probability = self.particles.candidates.states_nm, self.particles.probability
        inputs = selection.sample_inputs(states, probability, self.first, QUERIES, self.rng)
        drawn = states[self.rng.choice(len(states), SUPPORT, p=probability)]
        n = self.first.dimension
        if n == self.space.dimension:
            return most_informative(drawn, inputs, self.trained) - self.input_nm
        estimate = self._with_second_order()
        best = most_informative(drawn, inputs, self.trained, estimate.cov_nm2[n:, n:])
        # The smaller the second order, the more the next frame shows of it: correct what is known.
        higher = np.clip(-estimate.mean_nm[n:], -self.space.input[n:], self.space.input[n:])
        return np.concatenate([best, higher]) - self.input_nm

    def update(self, delta_nm: Array, frame: Frame) -> None:
        """Weight the particles by the frame's posterior and refine them."""
        self.input_nm = self.input_nm + delta_nm
        preprocess.check_shape(frame, self.trained.optics.camera_pixels)
        forgetting = self._forgetting_factor(frame)
        spectra, beam = preprocess.whole_and_patches(frame), units.beam_of(frame, self.trained.optics)
        self.frames = self.frames.forget(forgetting).append(*spectra, self.input_nm, beam)
        self.particles = self.filter.step(self.particles, self.frames, forgetting)
        self.clock_s = frame.clock_s
        if len(self.frames) >= UNAMBIGUOUS:
            self._test_distribution()
            self._follow_scatter()
        if self.second is not None:
            self._fit_second_order(self.second, frame)

    def _forgetting_factor(self, frame: Frame) -> float:
        """Forgetting factor exp(-dt / memory_s) for the frames before this one."""
        if self.options.memory_s is None:
            return 1.0
        return math.exp(-max(0.0, frame.clock_s - self.clock_s) / self.options.memory_s)

    def _test_distribution(self) -> None:
        """Run the OOD test. A run that fails it may have lost the true mode: restart the particles and test again."""
        if len(self.frames) < self._restart_from or self.p_value() >= self.options.misfit_level:
            return
        self.particles = self.filter.restart(self.particles, self.frames)
        self._restart_from = math.ceil(TRIED_AGAIN * len(self.frames))
        self.misfit = self.misfit or self.p_value() < self.options.misfit_level

    def p_value(self) -> float:
        """Probability that a run on a training day stands out as much as this one (`posterior.misfit`)."""
        return misfit.p_value(self.measures(), self.trained.usual, len(self.frames))

    def measures(self) -> dict[str, float]:
        """The measures of the OOD test, by name."""
        return misfit.measure(self.frames, self.particles, self._first_order().mean_nm)

    def _follow_scatter(self) -> None:
        """Inflate the posterior variance if the frames scatter more than those of training days, or the opposite."""
        usual, count = self.trained.usual, self.frames.count
        if not usual:
            return
        # The mean of two modes lies in neither, and would make any run look scattered.
        states = (self._first_order().mean_nm, self.particles.candidates.states_nm[self.particles.best][0])
        scatter = min(deviance(self.frames, state) for state in states)
        factor = dispersion(scatter, usual, count, self.first.dimension)
        self.widening = max(1.0, factor / SEARCHED)
        self.frames = replace(self.frames, dispersion=min(factor, SEARCHED))
        self.particles = reweigh(self.particles, self.frames)

    def _fit_second_order(self, second: SecondOrderFit, frame: Frame) -> None:
        """Add the frame to the fit; expand it about the first order once the sign is known."""
        second.add(frame, self.input_nm)
        first = self._first_order()
        if first.sign_decided:
            second.renew(first.mean_nm, film_and_camera(likely_nuisances(self.frames, self.particles)))

    def estimate(self) -> Estimate:
        """Posterior moments within the more probable sign."""
        estimate = replace(self._with_second_order(), misfit=self.misfit)
        if self.widening > 1.0:
            estimate = replace(estimate, cov_nm2=self.widening * estimate.cov_nm2)
        if not self.options.input_error or len(self.frames) == 0:
            return estimate
        return with_inexact_inputs(estimate, self.frames, self.options.input_error)

    def _first_order(self) -> Estimate:
        return candidates.summarise(self.particles.candidates, self.particles.probability, self.first)

    def _with_second_order(self) -> Estimate:
        """The estimate of all coefficients for exact inputs."""
        first, n = self._first_order(), self.first.dimension
        if n == self.space.dimension:
            return first
        fitted = None if self.second is None else self.second.estimate()
        if fitted is None:
            return with_second_order(first, self.particles, self.frames, self.space.start[n:])
        mean, covariance = fitted
        joined = np.concatenate([first.mean_nm, mean])
        return Estimate(joined, block_diag(first.cov_nm2, covariance), first.sign_probability)

    @property
    def done(self) -> bool:
        """Every component in spec with `stop_probability`, the sign determined and the day not out of distribution."""
        if len(self.frames) < UNAMBIGUOUS:
            return False
        estimate = self.estimate()
        return estimate.in_spec(self.space, self.options.stop_probability) and not estimate.misfit


def make(optics: Optics, space: StateSpace, options: dict[str, Any]) -> Controller:
    """Build the controller; see `controller.load`."""
    chosen = checked_options(Options, options)
    plain = NeuralPosterior(space, artefact.load_for(chosen.weights, optics, space), chosen)
    if chosen.polish == "whittle":
        return WhittlePolished(optics, space, plain, chosen.stop_probability)
    if chosen.polish == "same_region":
        settings = joint_fit.Options(start="neural_posterior", stop_probability=chosen.stop_probability)
        return joint_fit.JointFit(optics, space, settings, plain)
    return plain


def suited(options: dict[str, Any], optics: Optics) -> dict[str, Any]:
    """Options with the shipped weights for a beam, unless others are chosen."""
    return {"weights": artefact.weights_for(optics), **options}


def trained_optics(options: dict[str, Any]) -> Optics:
    """Return the optics of the chosen weights."""
    return artefact.WEIGHTS.optics(checked_options(Options, options).weights)
