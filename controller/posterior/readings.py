"""Readings: each frame's posterior linearised about an estimate, for robust least squares over a run."""

from dataclasses import dataclass

import numpy as np

from controller.posterior.frames import FramePosteriors
from twin.arrays import Array

OUTLIER2 = 9.0
"""Squared residual, in a frame's own standard deviations, at which its weight is one half (Cauchy weights)."""
PASSES = 6
"""Iterations of reweighted least squares."""


def nearest_component(mixture: Array, state: Array) -> tuple[Array, Array]:
    """The component of a frame's antipodal mixture that dominates at a state.

    Args:
        mixture: (K, 1 + n + n n), see `posterior.network.packed`.
        state: scaled, (n,).

    Returns:
        Mean (n,), of the sign nearer to the state, and whitening matrix W (n, n); the precision is W' W.
    """
    n = len(state)
    constant, means, whitening = mixture[:, 0], mixture[:, 1 : 1 + n], mixture[:, 1 + n :].reshape(-1, n, n)
    signed = np.concatenate([means, -means])
    white = np.einsum("kij,kj->ki", np.concatenate([whitening, whitening]), state - signed)
    best = int(np.argmax(np.tile(constant, 2) - 0.5 * np.square(white).sum(1)))
    return signed[best], whitening[best % len(means)]


@dataclass(frozen=True)
class Readings:
    """Readings of T frames about an estimate of the initial state, first order.

    Attributes:
        state_nm: state at which each frame was taken if the estimate is right, (T, n).
        whitening: scales an error to unit variance, per nm, (T, n, n).
        residual: reading minus state, whitened, (T, n).
    """

    state_nm: Array
    whitening: Array
    residual: Array

    @classmethod
    def of(cls, frames: FramePosteriors, state_nm: Array) -> "Readings":
        """Read at least one frame about an estimate (n,) of the initial state."""
        unit, whitening, residual = frames.trained.first.range_nm, [], []
        for mixture, input_nm in zip(frames.mixtures, frames.inputs_nm, strict=True):
            state = (state_nm + input_nm) / unit
            mean, white = nearest_component(mixture.astype(float), state)
            whitening.append(white / unit)
            residual.append(white @ (mean - state))
        return cls(state_nm + frames.inputs_nm, np.array(whitening), np.array(residual))

    def design(self, effects_nm: Array) -> Array:
        """Whitened design matrix (T, n, n + p): an offset common to all frames, then further effects (T, n, p)."""
        offset = np.broadcast_to(np.eye(self.residual.shape[1]), self.whitening.shape)
        return self.whitening @ np.concatenate([offset, effects_nm], axis=2)


@dataclass(frozen=True)
class LeastSquares:
    """Solution: parameters (p,), covariance (p, p), weight of each frame (T,)."""

    parameters: Array
    covariance: Array
    weight: Array


def solve(design: Array, residual: Array, precision: Array, weight: Array) -> LeastSquares:
    """Weighted least squares of residual (T, n) = design (T, n, p) @ parameters, with prior precision (p,)."""
    weighted = design * weight[:, None, None]
    covariance = np.linalg.inv(np.einsum("tia,tib->ab", weighted, design) + np.diag(precision))
    return LeastSquares(covariance @ np.einsum("tia,ti->a", weighted, residual), covariance, weight)


def solve_robustly(design: Array, residual: Array, precision: Array) -> LeastSquares:
    """The same with Cauchy weights, iterated: frames with large residuals count little."""
    parameters: Array = np.zeros(design.shape[2])
    for _ in range(PASSES):
        weight = 1.0 / (1.0 + np.square(residual - design @ parameters).sum(1) / OUTLIER2)
        solution = solve(design, residual, precision, weight)
        parameters = solution.parameters
    return solution
