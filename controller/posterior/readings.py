"""What a run's frames read of the state, as one robust least-squares problem about an estimate."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controller.posterior.particle_filter import FramePosteriors

Array = NDArray[np.floating]

OUTLIER2 = 9.0
"""Squared distance, in a frame's own standard deviations, at which it counts half."""
PASSES = 6
"""Each weighs the frames by what the last left over."""


def local_reading(mixture: Array, state: Array) -> tuple[Array, Array]:
    """The component of a frame's mixture that speaks about a state, and its whitening matrix.

    Args:
        mixture: (K, 1 + n + n n), see `posterior.network.packed`.
        state: scaled, (n,).

    Returns:
        Mean (n,), of the sign nearer to the state, and W (n, n) with W' W the precision.
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
        state_nm: where each frame should have been taken, (T, n).
        whitening: to unit errors, per nm, (T, n, n).
        left: reading less state, whitened, (T, n).
    """

    state_nm: Array
    whitening: Array
    left: Array

    @classmethod
    def of(cls, frames: FramePosteriors, state_nm: Array) -> "Readings":
        """Of at least one frame; `state_nm` (n,) is the estimate of the initial state."""
        unit, whitening, left = frames.trained.first.range_nm, [], []
        for mixture, input_nm in zip(frames.mixtures, frames.inputs_nm, strict=True):
            state = (state_nm + input_nm) / unit
            mean, white = local_reading(mixture.astype(float), state)
            whitening.append(white / unit)
            left.append(white @ (mean - state))
        return cls(state_nm + frames.inputs_nm, np.array(whitening), np.array(left))

    def design(self, effects_nm: Array) -> Array:
        """Whitened effects (T, n, p) of an offset common to all frames, n columns, and of further unknowns."""
        offset = np.broadcast_to(np.eye(self.left.shape[1]), self.whitening.shape)
        return self.whitening @ np.concatenate([offset, effects_nm], axis=2)


@dataclass(frozen=True)
class Fit:
    """Unknowns (p,), their covariance for errors of one standard deviation (p, p), what each frame counted (T,)."""

    found: Array
    covariance: Array
    weight: Array


def solved(design: Array, left: Array, precision: Array, weight: Array) -> Fit:
    """Least squares of left (T, n) = design (T, n, p) @ unknowns, their prior precision (p,), frames weighted (T,)."""
    weighted = design * weight[:, None, None]
    covariance = np.linalg.inv(np.einsum("tia,tib->ab", weighted, design) + np.diag(precision))
    return Fit(covariance @ np.einsum("tia,ti->a", weighted, left), covariance, weight)


def fitted(design: Array, left: Array, precision: Array) -> Fit:
    """The same, where readings that disagree wildly count little."""
    found: Array = np.zeros(design.shape[2])
    for _ in range(PASSES):
        weight = 1.0 / (1.0 + np.square(left - design @ found).sum(1) / OUTLIER2)
        fit = solved(design, left, precision, weight)
        found = fit.found
    return fit
