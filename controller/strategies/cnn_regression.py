"""Regression baseline: a network reads the state up to sign from each frame; known inputs decide the sign.

The usual deep-learning approach: least squares on simulated Ronchigrams, then a fitted error model. Frames are averaged
with their calibrated errors over weighted candidates, which allow for both signs of every frame and for outliers.
Assumes exact, known inputs, an even spectrum and a day within the training distribution.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from controller import candidates as sets
from controller import preprocess
from controller.base import Estimate, StopOptions, StopsInSpec
from controller.candidates import Candidates, Refinement
from controller.posterior.network import log_densities
from controller.regression import network as regression_network
from controller.regression.network import DOUBT, Reading, Regression
from twin.arrays import Array
from twin.optics import Optics
from twin.options import NonNegative, checked_options, validated
from twin.state import StateSpace
from twin.types import Frame


@validated
class Options(StopOptions):
    """Settings of the regression baseline.

    Attributes:
        weights: shipped weights by name, or a path.
        candidates: number of candidate initial states.
        offset_nm: distance of the frames from the estimated null, in a random direction.
        refinement: candidate refinement, see `candidates.Refinement`.
    """

    weights: str = "regression"
    candidates: Annotated[int, Ge(32)] = 600
    offset_nm: NonNegative = 6.0
    refinement: Refinement = Refinement()


def packed(reading: Reading) -> NDArray[np.float32]:
    """Pack two antipodal pairs of Gaussians for `posterior.network.log_densities`, (2, 1 + n + n n)."""
    n = len(reading.mean_nm)
    rows = []
    for weight, widening in ((1 - reading.loose, 1.0), (reading.loose, reading.widening)):
        white = np.linalg.inv(np.linalg.cholesky(reading.cov_nm2)) / widening
        constant = math.log(weight / 2) + float(np.log(np.diag(white)).sum()) - 0.5 * n * math.log(2 * math.pi)
        rows.append(np.concatenate([[constant], reading.mean_nm, white.ravel()]))
    return np.array(rows, np.float32)


def log_likelihood(readings: list[Reading], inputs_nm: list[Array], states_nm: Array, volume_nm: float) -> Array:
    """Log-likelihood (M,) of initial states (M, n): either sign of each reading, or a uniformly distributed outlier."""
    total, log_density = np.zeros(len(states_nm)), np.empty(len(states_nm))
    for reading, input_nm in zip(readings, inputs_nm, strict=True):
        log_densities(packed(reading), np.ascontiguousarray((states_nm + input_nm).T), log_density)
        total += np.logaddexp(math.log1p(-DOUBT) + log_density, math.log(DOUBT / volume_nm))
    return total


@dataclass(frozen=True)
class Weighted:
    """Candidates and their weights, (M,)."""

    candidates: Candidates
    probability: Array


class CnnRegression(StopsInSpec):
    """Read each frame, weigh the candidates by all readings, take the next frame close to the null."""

    def __init__(self, space: StateSpace, trained: Regression, options: Options) -> None:
        self.trained, self.options = trained, options
        self.reset(space, np.random.default_rng(0))

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        """Forget all frames and draw uniform candidates."""
        self.space, self.rng = space, rng
        self.volume_nm = float(np.prod(2 * space.range_nm))
        self.readings: list[Reading] = []
        self.input_nm: Array = space.zero
        self.inputs_nm: list[Array] = []
        first = sets.initial(space, self.options.candidates, rng)
        self.posterior = Weighted(first, sets.weigh(first, np.zeros(self.options.candidates)))

    def propose(self) -> Array:
        """Return no input before the first frame, then the input to `offset_nm` from the estimated null.

        This input also decides an open sign: with the wrong sign the state ends up twice as far off.
        """
        if not self.readings:
            return self.space.zero
        direction = self.rng.standard_normal(self.space.dimension)
        direction *= self.options.offset_nm / np.linalg.norm(direction)
        target = np.clip(direction - self.estimate().mean_nm, -self.space.input, self.space.input)
        return target - self.input_nm

    def update(self, delta_nm: Array, frame: Frame) -> None:
        """Read the frame and refine the candidates."""
        self.input_nm = self.input_nm + delta_nm
        preprocess.check_shape(frame, self.trained.optics.camera_pixels)
        self.learn(self.trained.read(preprocess.power_spectrum(frame)))

    def learn(self, reading: Reading) -> None:
        """Add a reading at the cumulative input, weigh the candidates and refine them."""
        self.readings.append(reading)
        self.inputs_nm.append(self.input_nm)
        weighed = self._weighed(self.posterior.candidates)
        self.posterior = sets.until_enough(weighed, self._refined, self.options.refinement.rounds)

    def _refined(self, weighted: Weighted) -> Weighted:
        refinement = self.options.refinement
        return self._weighed(sets.refine(weighted.candidates, weighted.probability, self.space, refinement, self.rng))

    def _weighed(self, candidates: Candidates) -> Weighted:
        """Weigh candidates by all readings; the design effect allows for errors common to a run (power posterior)."""
        log_weight = log_likelihood(self.readings, self.inputs_nm, candidates.states_nm, self.volume_nm)
        design_effect = 1.0 + (len(self.readings) - 1) * self.trained.correlation
        return Weighted(candidates, sets.weigh(candidates, log_weight / design_effect))

    def estimate(self) -> Estimate:
        """Return the moments within the more probable sign."""
        return sets.summarise(self.posterior.candidates, self.posterior.probability, self.space)


def make(optics: Optics, space: StateSpace, options: dict[str, Any]) -> CnnRegression:
    """Build the controller; see `controller.load`.

    Example:
        >>> from twin.state import FIRST_ORDER
        >>> controller = make(Optics(), FIRST_ORDER, {"candidates": 64})
        >>> controller.propose().tolist()  # no input before the first frame
        [0.0, 0.0, 0.0]
    """
    chosen = checked_options(Options, options)
    return CnnRegression(space, regression_network.load_for(chosen.weights, optics, space), chosen)


def trained_optics(options: dict[str, Any]) -> Optics:
    """Return the optics of the chosen weights."""
    return regression_network.WEIGHTS.optics(checked_options(Options, options).weights)
