"""An estimate that allows for a corrector which does not do exactly what it is told.

The corrector is taken for linear: an input u moves the state by (I + E) u, the entries of E unknown, normal and
independent. Then what there is to know is the state as it is now, after all inputs; earlier frames tell of it through
what was moved since. As a linear model about the estimate it is Bayesian linear regression in closed form.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from controller.base import Estimate
from controller.posterior.particle_filter import FramePosteriors
from controller.posterior.readings import Readings, fitted, solved

Array = NDArray[np.floating]


def allowed_for(estimate: Estimate, frames: FramePosteriors, share: float) -> Estimate:
    """The estimate, moved and widened by what inexact inputs change.

    Two fits to the same readings, weighed alike, one with E and one without: what they differ by is added to mean and
    covariance of the first order. The covariance can but grow.

    Args:
        estimate: for exact inputs, of the state less the cumulative input; its first n entries are the first order.
        frames: that it rests on, at least one.
        share: standard deviation of the entries of E.
    """
    n = frames.trained.first.dimension
    readings = Readings.of(frames, estimate.mean_nm[:n])
    moved_since = frames.inputs_nm - frames.inputs_nm[-1]
    # E u, row by row of E: the identity times u'.
    of_errors = np.einsum("ij,tk->tijk", np.eye(n), moved_since).reshape(-1, n, n * n)
    telling = np.sqrt(frames.shares / frames.effect)
    design, left = readings.design(of_errors) * telling[:, None, None], readings.left * telling[:, None]
    exact = fitted(design[..., :n], left, np.zeros(n))
    inexact = solved(design, left, np.repeat([0.0, share**-2], [n, n * n]), exact.weight)
    mean, cov = estimate.mean_nm.copy(), estimate.cov_nm2.copy()
    mean[:n] += inexact.found[:n] - exact.found
    cov[:n, :n] += inexact.covariance[:n, :n] - exact.covariance
    return replace(estimate, mean_nm=mean, cov_nm2=cov, samples_nm=None, weights=None)
