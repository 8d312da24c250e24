"""Regression baseline: a network reads the state up to sign from each frame, known inputs tell the sign.

The usual deep-learning way: least squares on simulated Ronchigrams, an error model fitted afterwards. Frames are
averaged by their calibrated errors; both signs of every frame, and that it was misread, stay possible (candidates
weighed by the residuals). Assumes exact, known inputs, an even spectrum and a day like the training days.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from controller import candidates as sets
from controller import preprocess
from controller.base import Estimate, StopsInSpec
from controller.candidates import Candidates, Refinement
from controller.posterior.network import log_densities
from controller.regression import network as regression_network
from controller.regression.network import DOUBT, Reading, Regression
from twin.optics import Optics
from twin.options import NonNegative, Probability, checked_options, validated
from twin.state import StateSpace
from twin.types import Frame

Array = NDArray[np.floating]


@validated
class Options:
    """Settings of the regression baseline.

    Attributes:
        weights: shipped weights by name, or a path.
        candidates: number of candidate initial states.
        offset_nm: distance from the estimated null at which frames are taken, in a random direction.
        refinement: candidate refinement, see `candidates.Refinement`.
        stop_probability: done when every component is in spec with this probability.
    """

    weights: str = "regression"
    candidates: Annotated[int, Ge(32)] = 600
    offset_nm: NonNegative = 6.0
    refinement: Refinement = Refinement()
    stop_probability: Probability = 0.95


def packed(reading: Reading) -> NDArray[np.float32]:
    """Two antipodal pairs of Gaussians as `posterior.network.log_densities` takes them, (2, 1 + n + n n)."""
    n = len(reading.mean_nm)
    rows = []
    for share, widening in ((1 - reading.loose, 1.0), (reading.loose, reading.widening)):
        white = np.linalg.inv(np.linalg.cholesky(reading.cov_nm2)) / widening
        constant = math.log(share / 2) + float(np.log(np.diag(white)).sum()) - 0.5 * n * math.log(2 * math.pi)
        rows.append(np.concatenate([[constant], reading.mean_nm, white.ravel()]))
    return np.array(rows, np.float32)


def log_likelihood(readings: list[Reading], inputs_nm: list[Array], states_nm: Array, volume_nm: float) -> Array:
    """What frames at cumulative inputs say of initial states (M, n), either sign of each, or nothing, (M,)."""
    total, one = np.zeros(len(states_nm)), np.empty(len(states_nm))
    for reading, input_nm in zip(readings, inputs_nm, strict=True):
        log_densities(packed(reading), np.ascontiguousarray((states_nm + input_nm).T), one)
        total += np.logaddexp(math.log1p(-DOUBT) + one, math.log(DOUBT / volume_nm))
    return total


@dataclass(frozen=True)
class Belief:
    """Candidates and their probabilities, (M,)."""

    candidates: Candidates
    probability: Array


class CnnRegression(StopsInSpec):
    """Read, weigh both signs, average, look close to the null."""

    def __init__(self, space: StateSpace, trained: Regression, options: Options) -> None:
        self.trained, self.options = trained, options
        self.reset(space, np.random.default_rng(0))

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        """Uniform candidates, no frame."""
        self.space, self.rng = space, rng
        self.volume_nm = float(np.prod(2 * space.range_nm))
        self.readings: list[Reading] = []
        self.input_nm: Array = space.zero
        self.inputs_nm: list[Array] = []
        first = sets.initial(space, self.options.candidates, rng)
        self.belief = Belief(first, sets.weigh(first, np.zeros(self.options.candidates)))

    def propose(self) -> Array:
        """No input before the first frame; then to `offset_nm` from where the null should be.

        With the sign undecided this is also the step that decides it: the wrong sign ends up twice as far off.
        """
        if not self.readings:
            return self.space.zero
        direction = self.rng.standard_normal(self.space.dimension)
        direction *= self.options.offset_nm / np.linalg.norm(direction)
        target = np.clip(direction - self.estimate().mean_nm, -self.space.input, self.space.input)
        return target - self.input_nm

    def update(self, delta_nm: Array, frame: Frame) -> None:
        """Read the frame and refine the candidates.

        Raises:
            ValueError: a frame of another shape than the weights' camera, or without signal.
        """
        self.input_nm = self.input_nm + delta_nm
        preprocess.check_shape(frame, self.trained.optics.camera_pixels)
        self.learn(self.trained.read(preprocess.power_spectrum(frame)))

    def learn(self, reading: Reading) -> None:
        """Weigh the candidates by one more reading, taken at the cumulative input, and refine them."""
        self.readings.append(reading)
        self.inputs_nm.append(self.input_nm)
        self.belief = sets.until_enough(self._weighed(self.belief.candidates), self._refined)

    def _refined(self, belief: Belief) -> Belief:
        refinement = self.options.refinement
        return self._weighed(sets.refine(belief.candidates, belief.probability, self.space, refinement, self.rng))

    def _weighed(self, candidates: Candidates) -> Belief:
        """By all readings, with errors that the frames of a run share allowed for (power posterior)."""
        found = log_likelihood(self.readings, self.inputs_nm, candidates.states_nm, self.volume_nm)
        effect = 1.0 + (len(self.readings) - 1) * self.trained.correlation
        return Belief(candidates, sets.weigh(candidates, found / effect))

    def estimate(self) -> Estimate:
        """Moments within the more probable sign."""
        return sets.summarise(self.belief.candidates, self.belief.probability, self.space)


def make(optics: Optics, space: StateSpace, options: dict[str, Any]) -> CnnRegression:
    """Build the controller for an instrument and a task.

    Raises:
        OptionError: an unknown option or a bad value.
        WeightsError: weights for other optics, coefficients or ranges.
    """
    chosen = checked_options(Options, options)
    return CnnRegression(space, regression_network.load_for(chosen.weights, optics, space), chosen)
