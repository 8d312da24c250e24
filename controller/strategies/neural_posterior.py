"""Amortised posterior: a network reads p(x | frame), frames multiply through the known inputs.

Own work; the product of frame posteriors follows factorised neural posterior estimation (Geffner, Papamakarios &
Mnih, ICML 2023), the particles are VAE-EM's candidates. Assumes exact, known inputs, an even spectrum, and a day like
the training days: what differs between those (film, focal spread, source, camera) is estimated along with the state.
"""

import math
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt, Lt
from numpy.typing import NDArray
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from scipy.stats import chi2

from controller import candidates, posterior_artefact, posterior_filter, preprocess, selection
from controller.base import Estimate, checked_options
from controller.candidates import Refinement
from controller.posterior_artefact import PosteriorArtefact
from controller.posterior_filter import FramePosteriors
from twin.optics import Optics
from twin.state import StateSpace
from twin.types import Frame

Array = NDArray[np.floating]

SUPPORT = 64
QUERIES = 48


@dataclass(frozen=True, config=ConfigDict(extra="forbid"), kw_only=True)
class Options:
    """Settings of the amortised posterior.

    Attributes:
        weights: shipped weights by name, or a path.
        candidates: number of candidate initial states.
        selection: "information" (expected fall of the posterior's entropy), or "random".
        refinement: candidate refinement, see `candidates.Refinement`.
        stop_probability: done when every component is in spec with this probability.
        memory_s: frames count by exp(-age / memory): a posterior that forgets, against drift; None: all in full.
        misfit_level: a day is called unlike the training days below this share of them.
    """

    weights: str = "posterior"
    candidates: Annotated[int, Ge(32)] = 600
    selection: Literal["information", "random"] = "information"
    refinement: Refinement = Refinement()
    stop_probability: Annotated[float, Gt(0), Lt(1)] = 0.95
    memory_s: Annotated[float, Gt(0)] | None = None
    misfit_level: Annotated[float, Gt(0), Lt(1)] = 0.005


class NeuralPosterior:
    """Read the frame, multiply its posterior in, refine the candidates, look where most is to be learnt."""

    def __init__(self, space: StateSpace, trained: PosteriorArtefact, options: Options) -> None:
        self.trained, self.options = trained, options
        self.reset(space, np.random.default_rng(0))

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        """Uniform candidates, no frame."""
        self.space, self.rng = space, rng
        self.frames, self.clock_s = FramePosteriors.none(self.trained), 0.0
        self.belief = posterior_filter.start(candidates.initial(space, self.options.candidates, rng))

    def propose(self) -> Array:
        """No input before the first frame, then the one whose frame should narrow the posterior most."""
        if len(self.frames) == 0:
            return self.space.zero
        before = self.frames.inputs_nm[-1]
        if self.options.selection == "random":
            return self.rng.uniform(-1, 1, self.space.dimension) * self.space.input - before
        states, probability = self.belief.candidates.states_nm, self.belief.probability
        inputs = selection.sample_inputs(states, probability, self.space, QUERIES, self.rng)
        drawn = states[self.rng.choice(len(states), SUPPORT, p=probability)]
        scale, precision = self.trained.space.range_nm, self.trained.precision.precision
        gain = posterior_filter.expected_information(drawn / scale, inputs / scale, precision)
        best: Array = inputs[np.argmax(gain)]
        return best - before

    def update(self, delta_nm: Array, frame: Frame) -> None:
        """Multiply the frame's posterior in and refine the candidates.

        Raises:
            ValueError: a frame of another shape than the weights' camera.
        """
        preprocess.check_shape(frame, self.trained.optics.camera_pixels)
        before = self.frames.inputs_nm[-1] if len(self.frames) else self.space.zero
        share, spectrum = self._remembered(frame), preprocess.power_spectrum(frame)
        frames = self.frames if share == 1.0 else self.frames.faded(share)
        self.frames = frames.append(spectrum, before + delta_nm)
        self.belief = posterior_filter.step(
            self.belief, self.frames, self.space, self.options.refinement, self.rng, share
        )
        self.clock_s = frame.clock_s

    def _remembered(self, frame: Frame) -> float:
        """What earlier frames count, of what they counted at the last one."""
        if self.options.memory_s is None:
            return 1.0
        return math.exp(-max(0.0, frame.clock_s - self.clock_s) / self.options.memory_s)

    def estimate(self) -> Estimate:
        """Moments within the more probable sign."""
        return candidates.summarise(self.belief.candidates, self.belief.probability, self.space)

    @property
    def misfit(self) -> bool:
        """Whether the day is unlike the training days: their runs deviate as much in fewer than `misfit_level`."""
        return self.fit < self.options.misfit_level

    @property
    def fit(self) -> float:
        """How common a day like this is among the training days; 1 before any frame.

        The smaller of two tail probabilities, doubled: of the frames' disagreement with the estimate, and of the day's
        hidden parameters as the frames tell them.
        """
        if len(self.frames) == 0:
            return 1.0
        apart = self.trained.fits(len(self.frames), posterior_filter.deviance(self.frames, self.estimate().mean_nm))
        likeliest = self.belief.evidence.nuisances(int(np.argmax(self.belief.probability)))
        return min(1.0, 2 * apart, 2 * float(chi2.sf(likeliest @ likeliest, len(likeliest))))

    @property
    def done(self) -> bool:
        """Every component in spec with the wanted probability, on a day that the network knows."""
        return not self.misfit and bool(
            self.estimate().in_spec_probability(self.space.tolerance) >= self.options.stop_probability
        )


def make(optics: Optics, space: StateSpace, options: dict[str, Any]) -> NeuralPosterior:
    """Build the controller for an instrument and a task.

    Raises:
        OptionError: an unknown option or a bad value.
        WeightsError: weights for other optics, coefficients or ranges.
    """
    chosen = checked_options(Options, options)
    return NeuralPosterior(space, posterior_artefact.load_for(chosen.weights, optics, space), chosen)
