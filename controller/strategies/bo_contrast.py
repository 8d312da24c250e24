"""Bayesian optimisation of image contrast by an upper confidence bound (BEACON: Pattison et al. 2024, 2410.14873).

Needs no training: the figure of merit is the normalised variance, see `merit.contrast`, of a Ronchigram or, with
`contrast: scan`, of a microscope's scanned images (`scenarios.scans.imaging`), as BEACON does it. Assumes that it is
largest where the aberrations vanish; what breaks that (residual aberrations, film thickness) biases the estimate.
"""

from functools import partial
from typing import Any

import numpy as np
from botorch.acquisition.analytic import UpperConfidenceBound
from numpy.typing import NDArray
from torch import Tensor

from controller.merit import contrast as quality
from controller.merit import surrogate
from controller.merit.bayesian_optimisation import BayesianOptimiser, History, LoopOptions
from twin.optics import Optics
from twin.options import NonNegative, checked_options, validated
from twin.state import StateSpace
from twin.types import Frame

Array = NDArray[np.floating]


@validated
class Options:
    """Settings of `bo_contrast`.

    Attributes:
        kappa: standard deviations above the mean that the bound lies; BEACON's 2.
        contrast: see `merit.contrast.Contrast`.
        loop: see `bayesian_optimisation.LoopOptions`.
    """

    kappa: NonNegative = 2.0
    contrast: quality.Contrast = "gradient"
    loop: LoopOptions = LoopOptions()


def upper_confidence_bound(history: History, kappa: float) -> Tensor:
    """Where mean + kappa standard deviations of the surrogate is largest."""
    return surrogate.ascend(UpperConfidenceBound(history.model, beta=kappa**2), history.box)


def make(optics: Optics, space: StateSpace, options: dict[str, Any]) -> BayesianOptimiser:
    """Build the controller for an instrument and a task.

    Raises:
        OptionError: an unknown option or a bad value.
    """
    chosen = checked_options(Options, options)

    def measure(frame: Frame) -> Array:
        return np.array([quality.contrast(frame, optics, chosen.contrast)])

    return BayesianOptimiser(space, measure, partial(upper_confidence_bound, kappa=chosen.kappa), chosen.loop)
