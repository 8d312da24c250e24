"""The integrating camera: blurred, amplified electrons on a dark level, with read-out noise."""

import math

import numpy as np
from numpy.typing import NDArray

from twin.cameras.arrivals import as_stack, draw_counts
from twin.cameras.loops import Counters
from twin.cameras.properties import IntegratingCamera
from twin.cameras.ronchigram_camera import blur
from twin.cameras.sensor import Sensor

Counts = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32]


def expose(
    expected_e: NDArray[np.floating],
    camera: IntegratingCamera,
    sensor: Sensor,
    exposure_s: float,
    rng: np.random.Generator,
) -> Counts:
    """Counts of a stack of exposures.

    The signal of the electrons that arrived spreads (neighbouring pixels share their noise), each pixel amplifies it,
    dark level and read-out noise are added. The generator is consumed frame by frame.

    Args:
        expected_e: mean number of electrons per pixel, (N, H, W).
        camera: its settings.
        sensor: its bad pixels and gains.
        exposure_s: exposure time of each frame; used for the dark current only.
        rng: source of the noise.

    Returns:
        (N, H, W), the smallest of uint8, uint16 and uint32 that holds the bit depth.

    Raises:
        ValueError: shapes that do not match, a mean that is negative or not finite, a sensor without gains, an
            exposure that is not positive.
    """
    if not (math.isfinite(exposure_s) and exposure_s > 0):
        raise ValueError(f"exposure_s must be positive, got {exposure_s!r}")
    if sensor.gain is None:
        raise ValueError("an integrating camera needs a sensor with gains: draw_sensor(IntegratingCamera(...), ...)")
    stack = as_stack(expected_e, sensor.shape)
    dark = camera.dark_level + camera.dark_per_s * exposure_s
    electrons = np.empty((1, stack.shape[1]), np.int64)
    counts = np.empty(expected_e.shape, _dtype(camera.bit_depth))
    every = Counters(0.0, False, np.iinfo(np.int64).max)
    for n in range(len(stack)):
        draw_counts(stack[n : n + 1], every, electrons, rng)
        signal = blur(electrons.reshape(sensor.shape).astype(np.float64), camera.mtf_nyquist) * sensor.gain
        signal[sensor.defects.dead] = 0.0
        signal += dark
        if camera.readout_rms > 0.0:
            signal += camera.readout_rms * rng.standard_normal(sensor.shape)
        signal[sensor.defects.hot] = camera.largest_count
        counts[n] = np.clip(np.rint(signal), 0, camera.largest_count)
    return counts


def _dtype(bit_depth: int) -> type[np.unsignedinteger]:
    return np.uint8 if bit_depth <= 8 else np.uint16 if bit_depth <= 16 else np.uint32
