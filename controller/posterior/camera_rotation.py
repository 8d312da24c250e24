"""Rotation of the camera against the corrector, estimated from frames and known inputs.

A rotated camera sees astigmatism rotated by twice the angle. A single frame cannot show it; over a run the readings
rotate against the known inputs. Nothing else that varies between training days has this effect.
"""

import numpy as np

from controller.posterior.frames import FramePosteriors
from controller.posterior.readings import Readings, solve_robustly
from twin.arrays import Array

PRIOR_STD_RAD = np.deg2rad(20.0)
"""Prior standard deviation of the angle."""


def camera_rotation_rad(frames: FramePosteriors, state_nm: Array) -> tuple[float, float]:
    """Angle of the camera's axes against the corrector's, positive as in `CameraProperties.rotation_deg`.

    Robust least squares over frames of `reading = state + offset + angle d(state)/d(angle)`; the free offset absorbs
    the error of the estimate.

    Args:
        frames: at least one.
        state_nm: estimate of the initial state, first order, (3,).

    Returns:
        The angle and its standard deviation, rad; errors common to the frames are not included.
    """
    space = frames.trained.first
    readings = Readings.of(frames, state_nm)
    rotated = readings.state_nm @ _generator(space.names).T
    precision = np.array([0.0] * space.dimension + [PRIOR_STD_RAD**-2])
    fit = solve_robustly(readings.design(rotated[:, :, None]), readings.residual, precision)
    return float(fit.parameters[-1]), float(np.sqrt(fit.covariance[-1, -1]))


def _generator(names: tuple[str, ...]) -> Array:
    """Derivative of a state with respect to the camera's angle, (n, n): twofold astigmatism rotates by twice it."""
    generator = np.zeros((len(names), len(names)))
    a, b = names.index("C12a"), names.index("C12b")
    generator[a, b], generator[b, a] = 2.0, -2.0
    return generator
