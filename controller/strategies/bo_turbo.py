"""Bayesian optimisation of image contrast in a trust region (TuRBO-1: Eriksson et al., NeurIPS 2019).

The surrogate is used only in a box (trust region) around the best input, which grows with successes and shrinks with
failures; the next input maximises a Thompson draw inside. Figure of merit and assumptions are those of `bo_contrast`.
"""

from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
from annotated_types import Gt, Le
from torch import Tensor

from controller.merit import contrast as quality
from controller.merit import surrogate
from controller.merit.bayesian_optimisation import BayesianOptimiser, History, LoopOptions
from twin.arrays import Array
from twin.optics import Optics
from twin.options import Count, Positive, checked_options, validated
from twin.state import StateSpace
from twin.types import Frame


@validated
class Options:
    """Settings of `bo_turbo`; the defaults are the paper's, for one evaluation at a time.

    Attributes:
        length: side of the first trust region, as a fraction of the unit cube.
        shortest, longest: bounds of the side.
        successes: number of improvements in a row after which the side doubles.
        contrast: see `merit.contrast.Contrast`.
        loop: see `bayesian_optimisation.LoopOptions`.
    """

    length: Annotated[float, Gt(0), Le(1.6)] = 0.8
    shortest: Positive = 0.5**7
    longest: Positive = 1.6
    successes: Count = 3
    contrast: quality.Contrast = "gradient"
    loop: LoopOptions = LoopOptions()


THOMPSON_CANDIDATES = 512
"""Number of points on which a posterior draw is maximised."""
IMPROVEMENT = 1e-3
"""Relative improvement that counts as a success."""


def side(values: Array, dimension: int, options: Options) -> float:
    """Side of the trust region after observations (N,), in their order.

    max(4, n) failures in a row halve it, as in the paper for single evaluations. At the shortest side, which a run of
    tens of frames does not reach, it stays instead of restarting.
    """
    length, successes, failures = options.length, 0, 0
    for k in range(1, len(values)):
        best = float(values[:k].max())
        better = values[k] > best + IMPROVEMENT * abs(best)
        successes, failures = (successes + 1, 0) if better else (0, failures + 1)
        if successes == options.successes:
            length, successes = min(2 * length, options.longest), 0
        elif failures == max(4, dimension):
            length, failures = length / 2, 0
    return max(length, options.shortest)


def trust_region(centre: Tensor, lengthscales: Tensor, length: float, box: Tensor) -> Tensor:
    """Bounds (2, n) around a centre (n,) in a box: sides proportional to `lengthscales`, of geometric mean `length`."""
    weights = lengthscales / lengthscales.log().mean().exp()
    half = weights * length / 2
    return torch.clamp(torch.stack([centre - half, centre + half]), box[0], box[1])


def thompson(history: History, initial: int, options: Options) -> Tensor:
    """Maximise one posterior draw over Sobol points of the trust region, with few coordinates changed at a time."""
    dimension = history.points.shape[1]
    after_design = history.values[initial:, 0]
    best_of_design = history.values[:initial, 0].max(keepdims=True)
    length = side(np.concatenate([best_of_design, after_design]), dimension, options)
    centre, _ = surrogate.best_mean(history.model, history.points)
    region = trust_region(centre, surrogate.lengthscales(history.model, dimension), length, history.box)
    candidates = surrogate.sobol(THOMPSON_CANDIDATES, region)
    changed = torch.rand(candidates.shape) < min(20 / dimension, 1.0)
    candidates = torch.where(changed, candidates, centre)
    return surrogate.argmax_draws(history.model, candidates, 1)[0]


def make(optics: Optics, space: StateSpace, options: dict[str, Any]) -> BayesianOptimiser:
    """Build the controller; see `controller.load`.

    Example:
        >>> from twin.state import FIRST_ORDER
        >>> make(Optics(), FIRST_ORDER, {"successes": 2}).propose().tolist()  # no input before the first frame
        [0.0, 0.0, 0.0]
    """
    chosen = checked_options(Options, options)

    def measure(frame: Frame) -> Array:
        return np.array([quality.contrast(frame, optics, chosen.contrast)])

    initial = 1 + chosen.loop.design_points(space.dimension)
    return BayesianOptimiser(space, measure, partial(thompson, initial=initial, options=chosen), chosen.loop)


def reads_ronchigrams(options: dict[str, Any]) -> bool:
    """Unless the contrast is that of scanned images."""
    return checked_options(Options, options).contrast != "scan"
