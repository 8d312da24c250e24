"""How far the camera is turned against the corrector, from frames and inputs alone.

A turned camera sees astigmatism turned by twice the angle. In one frame nothing tells; over a run the readings turn
against the known inputs. Nothing else of a training day does that, so that the angle makes a test of the day by itself.
"""

import numpy as np
from numpy.typing import NDArray

from controller.posterior_filter import FramePosteriors

Array = NDArray[np.floating]

WEAK_RAD = np.deg2rad(20.0)
"""Standard deviation of the angle before any frame."""
OUTLIER2 = 9.0
"""Squared distance, in a frame's own standard deviations, at which it counts half."""
PASSES = 6
"""Each weighs the frames by what the last left over."""


def local_reading(mixture: Array, state: Array) -> tuple[Array, Array]:
    """The component of a frame's mixture that speaks about a state, and its whitening matrix.

    Args:
        mixture: (K, 1 + n + n n), see `posterior_network.packed`.
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


def turned_rad(frames: FramePosteriors, state_nm: Array) -> tuple[float, float]:
    """Angle of the camera's axes against the corrector's, positive as in `CameraProperties.rotation_deg`.

    Least squares over frames of `reading = state + offset + angle d(state)/d(angle)`, the offset free: what the
    estimate may still be off by. Readings that disagree wildly count little.

    Args:
        frames: at least one.
        state_nm: estimate of the initial state, first order, (3,).

    Returns:
        The angle and its standard deviation, rad, without the frames' common errors.
    """
    space = frames.trained.first
    n, generator = space.dimension, _generator(space.names)
    designs, lefts = [], []
    for mixture, input_nm in zip(frames.mixtures, frames.inputs_nm, strict=True):
        state = (state_nm + input_nm) / space.range_nm
        mean, whitening = local_reading(mixture.astype(float), state)
        moved = generator @ (state_nm + input_nm) / space.range_nm
        designs.append(whitening @ np.column_stack([np.eye(n), moved]))
        lefts.append(whitening @ (mean - state))
    design, left = np.array(designs), np.array(lefts)
    prior = np.diag([0.0] * n + [WEAK_RAD**-2])
    found = np.zeros(n + 1)
    for _ in range(PASSES):
        weight = 1.0 / (1.0 + np.square(left - design @ found).sum(1) / OUTLIER2)
        weighted = design * weight[:, None, None]
        covariance = np.linalg.inv(np.einsum("tia,tib->ab", weighted, design) + prior)
        found = covariance @ np.einsum("tia,ti->a", weighted, left)
    return float(found[n]), float(np.sqrt(covariance[n, n]))


def _generator(names: tuple[str, ...]) -> Array:
    """Derivative of a state with respect to the camera's angle, (n, n): twofold astigmatism turns by twice it."""
    generator = np.zeros((len(names), len(names)))
    a, b = names.index("C12a"), names.index("C12b")
    generator[a, b], generator[b, a] = 2.0, -2.0
    return generator
