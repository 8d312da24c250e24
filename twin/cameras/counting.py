"""The counting camera: electrons above a threshold, with charge sharing and coincidence loss."""

import math

import numpy as np
from numpy.typing import NDArray

from twin.cameras import sharing
from twin.cameras.arrivals import as_stack, check_followed, draw_counts, refuse
from twin.cameras.loops import Counters, count_places, count_shared
from twin.cameras.properties import CountingCamera
from twin.cameras.sensor import Sensor

Counts = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32]

_DTYPES: dict[int, type[np.unsignedinteger]] = {1: np.uint8, 6: np.uint8, 12: np.uint16, 24: np.uint32}


def expose(
    expected_e: NDArray[np.floating],
    camera: CountingCamera,
    sensor: Sensor,
    exposure_s: float,
    rng: np.random.Generator,
) -> Counts:
    """Counts of a stack of exposures.

    No pixel is dead at the start of an exposure. The generator is consumed frame by frame: a stack gives the same
    counts in one piece and in several.

    Args:
        expected_e: mean number of electrons per pixel, (N, H, W).
        camera: its settings.
        sensor: its bad pixels.
        exposure_s: exposure time of each frame; used for the dead time only.
        rng: source of the noise.

    Returns:
        (N, H, W), uint8 for 1 and 6 bits, uint16 for 12, uint32 for 24.

    Raises:
        ValueError: shapes that do not match, a mean that is negative or not finite, an exposure that is not positive.
    """
    if not (math.isfinite(exposure_s) and exposure_s > 0):
        raise ValueError(f"exposure_s must be positive, got {exposure_s!r}")
    stack = as_stack(expected_e, sensor.shape)
    counts = np.empty(stack.shape, _DTYPES[camera.bit_depth])
    counters = Counters(camera.dead_time_s / exposure_s, camera.paralyzable, camera.largest_count)
    if camera.charge_spread_px == 0.0:
        draw_counts(stack, counters, counts, rng)
    else:
        check_followed(stack)
        reach = sharing.reach_px(camera.charge_spread_px, camera.threshold)
        cloud = (camera.charge_spread_px, reach, camera.threshold)
        refuse(stack, count_shared(stack, sensor.shape, cloud, counters, counts, rng))
    counts[:, sensor.defects.dead.ravel()] = 0
    counts[:, sensor.defects.hot.ravel()] = camera.largest_count
    return counts.reshape(expected_e.shape)


def count_positions(
    x_px: NDArray[np.float64], y_px: NDArray[np.float64], camera: CountingCamera, shape: tuple[int, int]
) -> NDArray[np.int64]:
    """Counts of electrons at known positions, (H, W), without noise, dead time or saturation.

    Args:
        x_px, y_px: positions on the sensor, (n,); pixel i spans i to i + 1.
        camera: its charge sharing and threshold.
        shape: (H, W).
    """
    counts = np.zeros(shape[0] * shape[1], np.int64)
    reach = sharing.reach_px(camera.charge_spread_px, camera.threshold)
    count_places(x_px, y_px, shape, (camera.charge_spread_px, reach, camera.threshold), counts)
    return counts.reshape(shape)
