"""Bayesian optimisation of a network's scalar quality by expected improvement (van Hulst et al., IEEE Access 13, 2025).

The predecessor of VAE-EM: a network trained on simulated random days reads the size of the aberrations from each
Ronchigram, and its negative (rounded at the tip) is maximised over the inputs. Assumes that the network's errors
average out over film regions; does not adapt to the day. First order only, as the network.
"""

from typing import Any

import numpy as np
from botorch.acquisition.analytic import LogExpectedImprovement
from torch import Tensor

from controller import preprocess
from controller.base import Controller
from controller.first_order import first_order_first
from controller.merit import quality_network, surrogate
from controller.merit.bayesian_optimisation import BayesianOptimiser, History, LoopOptions
from controller.merit.quality_network import Quality
from controller.preprocess import check_shape
from twin.arrays import Array
from twin.optics import Optics
from twin.options import checked_options, validated
from twin.state import StateSpace
from twin.types import Frame

ROUNDING_NM = 10.0
"""Radius of the rounded tip of the cone |x|, which a smooth Gaussian process fits badly."""


@validated
class Options:
    """Settings of `bo_scalar`.

    Attributes:
        weights: shipped weights by name, or a path.
        loop: see `bayesian_optimisation.LoopOptions`.
    """

    weights: str = "quality"
    loop: LoopOptions = LoopOptions()


def expected_improvement(history: History) -> Tensor:
    """Return the point of largest expected improvement over the best posterior mean at an observed input.

    The best observation itself is a lucky one, because of its noise.
    """
    _, incumbent = surrogate.best_mean(history.model, history.points)
    return surrogate.ascend(LogExpectedImprovement(history.model, incumbent), history.box)


def make(optics: Optics, space: StateSpace, options: dict[str, Any]) -> Controller:
    """Build the controller; in a second-order task it calibrates the first order; see `controller.load`.

    Example:
        >>> from twin.state import FIRST_ORDER
        >>> make(Optics(), FIRST_ORDER, {}).propose().tolist()  # no input before the first frame
        [0.0, 0.0, 0.0]
    """
    chosen = checked_options(Options, options)

    def build(first: StateSpace) -> Controller:
        trained: Quality = quality_network.load_for(chosen.weights, optics, first)

        def measure(frame: Frame) -> Array:
            check_shape(frame, optics.camera_pixels)
            return -np.hypot(trained.size_nm(preprocess.power_spectrum(frame).values[None]), ROUNDING_NM)

        return BayesianOptimiser(first, measure, expected_improvement, chosen.loop)

    return first_order_first(space, build)


def trained_optics(options: dict[str, Any]) -> Optics:
    """Return the optics of the chosen weights."""
    return quality_network.WEIGHTS.optics(checked_options(Options, options).weights)
