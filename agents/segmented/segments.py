"""The 34 virtual segments of every pattern that the network takes, along the axes of the scan.

Radii are multiples of the convergence angle: for a thin specimen the counts of these segments depend on energy,
angle and step only through the number of steps in a resolution element, lambda / (2 alpha).
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from twin.arrays import Floats
from twin.detectors.geometry import DiffractionGrid, region_weights
from twin.detectors.layouts import Region

RINGS = (
    (0.0, 0.4, 4), (0.4, 0.75, 8), (0.75, 1.0, 8), (1.0, 1.3, 8), (1.3, 1.7, 4), (1.7, 2.0, 1), (2.0, 2.4, 1),
)  # fmt: skip
"""Inner and outer radius over the convergence angle, and number of segments, of each ring."""
COUNT = sum(number for *_, number in RINGS)
LEAST_REACH = 1.0
"""Smallest reach of a camera over the convergence angle: the disc has to be whole."""


def fractions(
    grid: DiffractionGrid, alpha_mrad: float, rotation_deg: float = 0.0, transposed: bool = False
) -> NDArray[np.float32]:
    """Part of every camera pixel inside each segment, (34, H, W).

    Segments count from the scan's fast axis towards its slow axis. Rings end with the camera; those beyond it are
    empty.

    Args:
        grid: the camera.
        alpha_mrad: convergence angle.
        rotation_deg: angle from the camera's +x to the scan's fast axis, towards +y.
        transposed: the camera's rows and columns are swapped.
    """
    if transposed:
        swapped = DiffractionGrid(shape=grid.shape[::-1], pixel_mrad=grid.pixel_mrad, centre_px=grid.origin_px[::-1])
        return np.ascontiguousarray(fractions(swapped, alpha_mrad, rotation_deg).transpose(0, 2, 1))
    reach, parts = min(grid.reach_mrad), []
    for inner, outer, number in RINGS:
        end = min(outer * alpha_mrad, reach)
        if end <= inner * alpha_mrad:
            parts.append(np.zeros((number, *grid.shape)))
            continue
        ring = Region(inner_mrad=inner * alpha_mrad, outer_mrad=end, segments=number, rotation_deg=rotation_deg)
        parts.append(region_weights(ring, grid))
    return np.concatenate(parts).astype(np.float32)


@lru_cache
def centroids() -> Floats:
    """Centre of mass (fast, slow) of each segment over the convergence angle, (34, 2)."""
    found = []
    for inner, outer, number in RINGS:
        half = np.pi / number
        radius = 2 / 3 * (outer**3 - inner**3) / (outer**2 - inner**2) * (np.sin(half) / half if number > 1 else 0.0)
        middle = 2 * half * (np.arange(number) + 0.5)
        found.append(radius * np.stack([np.cos(middle), np.sin(middle)], axis=-1))
    return np.concatenate(found)


@lru_cache
def mirrored(kind: str) -> NDArray[np.int64]:
    """Segment that takes the place of each one when the scan is mirrored, (34,).

    Args:
        kind: "fast" and "slow" reverse an axis, "swap" exchanges them.

    Example:
        >>> mirrored("fast")[:4], mirrored("slow")[:4], mirrored("swap")[:4]
        (array([1, 0, 3, 2]), array([3, 2, 1, 0]), array([0, 3, 2, 1]))
    """
    turn = {"fast": 2, "slow": 1, "swap": 4}[kind]
    first, found = 0, []
    for *_, number in RINGS:
        own = np.arange(number)
        found.append(first + ((number // turn - 1 - own) % number if number > 1 else own))
        first += number
    return np.concatenate(found)
