"""One particular sensor: which of its pixels are bad and how its gain varies, fixed for the life of the camera."""

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
        gain: counts per electron of every pixel, (H, W); None where the camera has no gain.
    """

    defects: Defects
    gain: NDArray[np.float64] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        return self.defects.hot.shape[0], self.defects.hot.shape[1]


def draw_sensor(camera: Camera, shape: tuple[int, int], rng: np.random.Generator) -> Sensor:
    """Bad pixels in the camera's fractions and, where it integrates, a gain of every pixel; never negative."""
    scattered = CameraProperties(hot_fraction=camera.hot_fraction, dead_fraction=camera.dead_fraction)
    defects = draw_defects(scattered, shape, rng)
    if not isinstance(camera, IntegratingCamera):
        return Sensor(defects)
    gain = camera.gain * (1.0 + camera.gain_spread * rng.standard_normal(shape))
    return Sensor(defects, np.maximum(gain, 0.0))
