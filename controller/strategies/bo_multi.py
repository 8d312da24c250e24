"""Multi-objective Bayesian optimisation of contrast and a spectrum score (arXiv 2601.18972).

The next input has the largest expected hypervolume improvement (Daulton et al. 2020, in its logarithmic form, Ament
et al. 2023) over the Pareto front of the surrogate's means. The estimate maximises the average of the two standardised
posterior means: the published work leaves the choice on the front to the operator. Assumes that both figures of merit
are best near zero aberration, and that their biases differ.
"""

from typing import Any

import botorch.acquisition.multi_objective.logei as log_improvement
import numpy as np
import torch
from botorch.acquisition.multi_objective.logei import qLogExpectedHypervolumeImprovement
from botorch.sampling.normal import SobolQMCNormalSampler
from botorch.utils.multi_objective.box_decompositions.non_dominated import NondominatedPartitioning
from botorch.utils.multi_objective.hypervolume import infer_reference_point
from botorch.utils.multi_objective.pareto import is_non_dominated
from torch import Tensor

from controller.merit import contrast as quality
from controller.merit import surrogate
from controller.merit.bayesian_optimisation import BayesianOptimiser, History, LoopOptions
from controller.preprocess import check_shape
from twin.arrays import Array
from twin.optics import Optics
from twin.options import checked_options, validated
from twin.state import StateSpace
from twin.types import Frame

SAMPLES = 64
"""Number of quasi-random draws of the expectation."""

# botorch would compile a faster kernel here, with the user's compiler, into a folder of the user's; a process stopped
# meanwhile leaves a lock there for which every later run waits without end. Marked as tried, its Python code serves.
log_improvement._load_attempted = True


@validated
class Options:
    """Settings of `bo_multi`.

    Attributes:
        loop: see `bayesian_optimisation.LoopOptions`.
    """

    loop: LoopOptions = LoopOptions()


def hypervolume_improvement(history: History) -> Tensor:
    """Return the point of largest expected improvement over the front of posterior means at the observed inputs.

    A front of the observations themselves would be inflated by their noise.
    """
    with torch.no_grad():
        means = history.model.posterior(history.points).mean
    reference = infer_reference_point(means[is_non_dominated(means)])
    acquisition = qLogExpectedHypervolumeImprovement(
        history.model,
        reference,
        NondominatedPartitioning(reference, means),
        SobolQMCNormalSampler(torch.Size([SAMPLES]), seed=int(torch.randint(2**31, ()).item())),
    )
    return surrogate.ascend(acquisition, history.box)


def make(optics: Optics, space: StateSpace, options: dict[str, Any]) -> BayesianOptimiser:
    """Build the controller; see `controller.load`.

    Example:
        >>> from twin.state import FIRST_ORDER
        >>> make(Optics(), FIRST_ORDER, {"loop": {"initial": 8}}).propose().tolist()  # no input before the first frame
        [0.0, 0.0, 0.0]
    """
    chosen = checked_options(Options, options)

    def measure(frame: Frame) -> Array:
        check_shape(frame, optics.camera_pixels)
        return np.array([quality.contrast(frame, optics), quality.spectrum_score(frame)])

    return BayesianOptimiser(space, measure, hypervolume_improvement, chosen.loop)
