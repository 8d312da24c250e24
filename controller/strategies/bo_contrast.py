"""Bayesian optimisation of image contrast by an upper confidence bound (BEACON: Pattison et al. 2024, 2410.14873).

Needs no training: the figure of merit is the normalised variance, see `merit.contrast`, of a Ronchigram or, with
`contrast: scan`, of scanned images (`scenarios.scans.imaging`), as in BEACON. Assumes that it is best where the
aberrations vanish; residual aberrations and film thickness bias the estimate.
"""

from functools import partial
from typing import Any

import numpy as np
from botorch.acquisition.analytic import UpperConfidenceBound
from torch import Tensor

from controller.merit import contrast as quality
from controller.merit import surrogate
from controller.merit.bayesian_optimisation import BayesianOptimiser, History, LoopOptions
from twin.arrays import Array
from twin.optics import Optics
from twin.options import NonNegative, checked_options, validated
from twin.state import StateSpace
from twin.types import Frame


@validated
class Options:
    """Settings of `bo_contrast`.

    Attributes:
        kappa: distance of the bound above the mean, in standard deviations; 2 as in BEACON.
        contrast: see `merit.contrast.Contrast`.
        loop: see `bayesian_optimisation.LoopOptions`.
    """

    kappa: NonNegative = 2.0
    contrast: quality.Contrast = "gradient"
    loop: LoopOptions = LoopOptions()


def upper_confidence_bound(history: History, kappa: float) -> Tensor:
    """Return the point that maximises mean + kappa standard deviations of the surrogate."""
    return surrogate.ascend(UpperConfidenceBound(history.model, beta=kappa**2), history.box)


def make(optics: Optics, space: StateSpace, options: dict[str, Any]) -> BayesianOptimiser:
    """Build the controller; see `controller.load`.

    Example:
        >>> from twin.state import FIRST_ORDER
        >>> controller = make(Optics(), FIRST_ORDER, {"kappa": 1.0})
        >>> counts = np.random.default_rng(0).poisson(60.0, (128, 128))
        >>> controller.update(controller.propose(), Frame(counts, dose_e=1e6, exposure_s=0.5, clock_s=0.0))
        >>> controller.propose().shape  # the first point of the Sobol design
        (3,)
    """
    chosen = checked_options(Options, options)

    def measure(frame: Frame) -> Array:
        return np.array([quality.contrast(frame, optics, chosen.contrast)])

    return BayesianOptimiser(space, measure, partial(upper_confidence_bound, kappa=chosen.kappa), chosen.loop)


def reads_ronchigrams(options: dict[str, Any]) -> bool:
    """Unless the contrast is that of scanned images."""
    return checked_options(Options, options).contrast != "scan"
