"""The loop of all Bayesian-optimisation strategies: measure a figure of merit, model it, acquire the next input.

The optimisation variable is the cumulative input U. The figure of merit is assumed to be best where x0 + U = 0, so the
estimate is x0 = -U*, where U* maximises the posterior mean.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge
from botorch.models.model_list_gp_regression import ModelListGP
from torch import Tensor

from controller.base import Estimate, StopsInSpec, uniform_prior
from controller.merit import surrogate
from controller.merit.surrogate import Optimum
from twin.arrays import Array
from twin.options import Positive, Probability, validated
from twin.state import StateSpace
from twin.types import Frame

Measure = Callable[[Frame], Array]
"""Return the figures of merit of a frame, shape (m,), each larger for a better frame."""


@dataclass(frozen=True)
class History:
    """Observations and surrogate, as input of an acquisition.

    Attributes:
        points: cumulative inputs in the surrogate's coordinates, (N, n).
        box: the input box in the same coordinates, (2, n).
        values: figures of merit, (N, m).
        model: surrogate of the figures of merit, outputs standardised.
    """

    points: Tensor
    box: Tensor
    values: Array
    model: ModelListGP


Acquire = Callable[[History], Tensor]
"""Return the next point of the box, (n,); called with torch's generator seeded."""


@validated
class LoopOptions:
    """Settings of the loop.

    Attributes:
        initial: number of Sobol points after the first frame; 0 takes 5 for up to three coefficients and 16 for more,
            as in the two published studies (BEACON and arXiv 2601.18972).
        draws: number of posterior draws of the optimum, for the covariance.
        floor_nm: least standard deviation of an estimate.
        stop_probability: done when every component is in spec with this probability.
    """

    initial: Annotated[int, Ge(0)] = 0
    draws: Annotated[int, Ge(32)] = 128
    floor_nm: Positive = 0.3
    stop_probability: Probability = 0.95

    def design_points(self, dimension: int) -> int:
        """Return the number of Sobol points for a state of that dimension."""
        return self.initial or (5 if dimension <= 3 else 16)


class BayesianOptimiser(StopsInSpec):
    """Bayesian optimisation over the cumulative input; `measure` and `acquire` define the strategy."""

    def __init__(self, space: StateSpace, measure: Measure, acquire: Acquire, options: LoopOptions) -> None:
        self.measure, self.acquire, self.options = measure, acquire, options
        self.reset(space, np.random.default_rng(0))

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        """Forget all observations and draw a new Sobol design."""
        self.space, self.rng = space, rng
        self.input_nm: Array = space.zero
        self.inputs_nm: Array = np.empty((0, space.dimension))
        self.values: Array = np.empty((0, 0))
        self.history: History | None = None
        initial = self.options.design_points(space.dimension)
        with surrogate.seeded(rng):
            design = surrogate.sobol(initial, surrogate.box(space.input, space))
        self.design_nm = surrogate.from_unit(design, space)
        self.posterior = uniform_prior(space, rng, self.options.draws)

    def propose(self) -> Array:
        """Return no input before the first frame, then the initial design, then the maximiser of the acquisition."""
        count = len(self.inputs_nm)
        if count == 0:
            return self.space.zero
        if count <= len(self.design_nm) or self.history is None:
            target = self.design_nm[min(count, len(self.design_nm)) - 1]
        else:
            with surrogate.seeded(self.rng):
                point = self.acquire(self.history)
            target = np.clip(surrogate.from_unit(point, self.space), -self.space.input, self.space.input)
        return np.asarray(target - self.input_nm)

    def update(self, delta_nm: Array, frame: Frame) -> None:
        """Measure the frame, fit the surrogate and locate its optimum.

        Raises:
            ValueError: a frame that the figure of merit cannot read.
        """
        self.input_nm = self.input_nm + delta_nm
        value = self.measure(frame)
        self.inputs_nm = np.vstack([self.inputs_nm, self.input_nm])
        self.values = np.vstack([self.values.reshape(-1, len(value)), value])
        if len(self.values) < 2:  # nothing to standardise with
            return
        space = self.space
        points = surrogate.to_unit(self.inputs_nm, space)
        with surrogate.seeded(self.rng):
            model = surrogate.fit(points, self.values, surrogate.orders(space))
            # The state starts within +-start, so its correction lies there too.
            optimum = surrogate.optimum(model, surrogate.box(space.start, space), self.options.draws)
        self.history = History(points, surrogate.box(space.input, space), self.values, model)
        self.posterior = to_estimate(optimum, space, self.options.floor_nm)

    def estimate(self) -> Estimate:
        """Return minus the maximiser of the posterior mean; its covariance is that of posterior draws' maximisers."""
        return self.posterior


def to_estimate(optimum: Optimum, space: StateSpace, floor_nm: float) -> Estimate:
    """Return the estimate of x0 = -U*; the covariance is the draws' second moment about it."""
    mean = np.clip(-surrogate.from_unit(optimum.point, space), -space.start, space.start)
    samples = np.clip(-surrogate.from_unit(optimum.draws, space), -space.start, space.start)
    offsets = samples - mean
    covariance = offsets.T @ offsets / len(offsets) + floor_nm**2 * np.eye(space.dimension)
    return Estimate(mean, covariance, 1.0, samples, np.full(len(samples), 1.0 / len(samples)))
