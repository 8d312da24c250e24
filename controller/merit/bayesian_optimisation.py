"""The loop that every Bayesian-optimisation strategy shares: measure a figure of merit, model it, acquire.

The optimisation variable is the cumulative input U: the figure of merit is best where x0 + U = 0, so that the
estimate is x0 = -U*, with U* the maximiser of the posterior mean. Nothing else is assumed about the figure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge
from botorch.models.model_list_gp_regression import ModelListGP
from numpy.typing import NDArray
from torch import Tensor

from controller.base import Estimate, StopsInSpec, uniform_prior
from controller.merit import surrogate
from controller.merit.surrogate import Optimum
from twin.options import Positive, Probability, validated
from twin.state import StateSpace
from twin.types import Frame

Array = NDArray[np.floating]

Measure = Callable[[Frame], Array]
"""Figures of merit of a frame, shape (m,), each larger for a better frame."""


@dataclass(frozen=True)
class History:
    """What an acquisition sees.

    Attributes:
        points: cumulative inputs in the surrogate's coordinates, (N, n).
        box: the input box in them, (2, n).
        values: figures of merit, (N, m).
        model: surrogate fitted to them, outputs standardised.
    """

    points: Tensor
    box: Tensor
    values: Array
    model: ModelListGP


Acquire = Callable[[History], Tensor]
"""The next point of the box, (n,); called with torch's generator seeded."""


@validated
class LoopOptions:
    """Settings of the loop.

    Attributes:
        initial: Sobol points after the first frame; 0 takes 5 for up to three coefficients and 16 for more
            (the counts of the two published studies, BEACON and arXiv 2601.18972).
        draws: posterior draws of the optimum, for the covariance.
        floor_nm: standard deviation that an estimate never goes below.
        stop_probability: done when every component is in spec with this probability.
    """

    initial: Annotated[int, Ge(0)] = 0
    draws: Annotated[int, Ge(32)] = 128
    floor_nm: Positive = 0.3
    stop_probability: Probability = 0.95

    def design_points(self, dimension: int) -> int:
        """Number of Sobol points for a state of that dimension."""
        return self.initial or (5 if dimension <= 3 else 16)


class BayesianOptimiser(StopsInSpec):
    """Ask and tell around a surrogate; `measure` and `acquire` make it one strategy or another."""

    def __init__(self, space: StateSpace, measure: Measure, acquire: Acquire, options: LoopOptions) -> None:
        self.measure, self.acquire, self.options = measure, acquire, options
        self.reset(space, np.random.default_rng(0))

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        """No observation; a fresh Sobol design."""
        self.space, self.rng = space, rng
        self.input_nm: Array = space.zero
        self.inputs_nm: Array = np.empty((0, space.dimension))
        self.values: Array = np.empty((0, 0))
        self.history: History | None = None
        initial = self.options.design_points(space.dimension)
        with surrogate.seeded(rng):
            design = surrogate.sobol(initial, surrogate.box(space.input, space))
        self.design_nm = surrogate.from_unit(design, space)
        self.belief = uniform_prior(space, rng, self.options.draws)

    def propose(self) -> Array:
        """No input before the first frame, then the initial design, then where the acquisition is largest."""
        seen = len(self.inputs_nm)
        if seen == 0:
            return self.space.zero
        if seen <= len(self.design_nm) or self.history is None:
            target = self.design_nm[min(seen, len(self.design_nm)) - 1]
        else:
            with surrogate.seeded(self.rng):
                point = self.acquire(self.history)
            target = np.clip(surrogate.from_unit(point, self.space), -self.space.input, self.space.input)
        return np.asarray(target - self.input_nm)

    def update(self, delta_nm: Array, frame: Frame) -> None:
        """Measure the frame, fit the surrogate, locate its optimum.

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
            found = surrogate.optimum(model, surrogate.box(space.start, space), self.options.draws)
        self.history = History(points, surrogate.box(space.input, space), self.values, model)
        self.belief = to_estimate(found, space, self.options.floor_nm)

    def estimate(self) -> Estimate:
        """Minus the maximiser of the posterior mean, with the spread of the maximisers of posterior draws."""
        return self.belief


def to_estimate(found: Optimum, space: StateSpace, floor_nm: float) -> Estimate:
    """The belief about x0 = -U*; the covariance is the draws' second moment about the estimate itself."""
    mean = np.clip(-surrogate.from_unit(found.point, space), -space.start, space.start)
    samples = np.clip(-surrogate.from_unit(found.draws, space), -space.start, space.start)
    offsets = samples - mean
    covariance = offsets.T @ offsets / len(offsets) + floor_nm**2 * np.eye(space.dimension)
    return Estimate(mean, covariance, 1.0, samples, np.full(len(samples), 1.0 / len(samples)))
