"""One particular sensor: its bad pixels and gain variation, fixed for the life of the camera."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twin.cameras.properties import Camera, IntegratingCamera
from twin.cameras.ronchigram_camera import Defects, draw_defects
from twin.day import CameraProperties


@dataclass(frozen=True, eq=False)
class Sensor:
    """Fixed pattern of one camera.

    Attributes:
        defects: hot and dead pixels, (H, W) masks.
        gain: counts per electron of every pixel, (H, W); None if the camera has none.
    """

    defects: Defects
    gain: NDArray[np.float64] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.defects.hot.shape[0], self.defects.hot.shape[1]


def draw_sensor(camera: Camera, shape: tuple[int, int], rng: np.random.Generator) -> Sensor:
    """Draw bad pixels with the camera's fractions and, for an integrating camera, the gain of every pixel, >= 0."""
    fractions = CameraProperties(hot_fraction=camera.hot_fraction, dead_fraction=camera.dead_fraction)
    defects = draw_defects(fractions, shape, rng)
    if not isinstance(camera, IntegratingCamera):
        return Sensor(defects)
    gain = camera.gain * (1.0 + camera.gain_spread * rng.standard_normal(shape))
    return Sensor(defects, np.maximum(gain, 0.0))
