"""How far the camera is turned against the corrector, from frames and inputs alone.

A turned camera sees astigmatism turned by twice the angle. In one frame nothing tells; over a run the readings turn
against the known inputs. Nothing else of a training day does that, so that the angle makes a test of the day by itself.
"""

import numpy as np
from numpy.typing import NDArray

from controller.posterior.particle_filter import FramePosteriors
from controller.posterior.readings import Readings, fitted

Array = NDArray[np.floating]

WEAK_RAD = np.deg2rad(20.0)
"""Standard deviation of the angle before any frame."""


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
    readings = Readings.of(frames, state_nm)
    turning = readings.state_nm @ _generator(space.names).T
    precision = np.array([0.0] * space.dimension + [WEAK_RAD**-2])
    fit = fitted(readings.design(turning[:, :, None]), readings.left, precision)
    return float(fit.found[-1]), float(np.sqrt(fit.covariance[-1, -1]))


def _generator(names: tuple[str, ...]) -> Array:
    """Derivative of a state with respect to the camera's angle, (n, n): twofold astigmatism turns by twice it."""
    generator = np.zeros((len(names), len(names)))
    a, b = names.index("C12a"), names.index("C12b")
    generator[a, b], generator[b, a] = 2.0, -2.0
    return generator
