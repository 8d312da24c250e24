"""Estimate for a corrector with inexact inputs (decision 13).

The corrector is linear: an input u moves the state by (I + E) u, the entries of E unknown, normal and independent. Then
only the current state is identifiable; earlier frames constrain it through the inputs applied since. Linearised about
the estimate this is Bayesian linear regression in closed form.
"""

from dataclasses import replace

import numpy as np

from controller.base import Estimate
from controller.posterior.frames import FramePosteriors
from controller.posterior.readings import Readings, solve, solve_robustly


def with_inexact_inputs(estimate: Estimate, frames: FramePosteriors, error: float) -> Estimate:
    """Shift and widen an estimate made for exact inputs.

    Two fits to the same readings with the same weights, one with E and one without: their differences in mean and
    covariance are added to the first order. The covariance can only grow.

    Args:
        estimate: of the state minus the cumulative input; its first n entries are the first order.
        frames: at least one.
        error: standard deviation of the entries of E.
    """
    n = frames.trained.first.dimension
    readings = Readings.of(frames, estimate.mean_nm[:n])
    moved_since = frames.inputs_nm - frames.inputs_nm[-1]
    # Effect of E on E u, row by row of E: the identity times u'.
    effects = np.einsum("ij,tk->tijk", np.eye(n), moved_since).reshape(-1, n, n * n)
    scale = np.sqrt(frames.weights / frames.variance_inflation)
    design, residual = readings.design(effects) * scale[:, None, None], readings.residual * scale[:, None]
    exact = solve_robustly(design[..., :n], residual, np.zeros(n))
    inexact = solve(design, residual, np.repeat([0.0, error**-2], [n, n * n]), exact.weight)
    mean, covariance = estimate.mean_nm.copy(), estimate.cov_nm2.copy()
    mean[:n] += inexact.parameters[:n] - exact.parameters
    covariance[:n, :n] += inexact.covariance[:n, :n] - exact.covariance
    return replace(estimate, mean_nm=mean, cov_nm2=covariance, samples_nm=None, weights=None)
