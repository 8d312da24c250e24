"""Where a detector looks: regions of the diffraction plane in mrad, and the share of every pixel that each one covers.

Geometry only: what the electrons inside a region become is `scintillator`.
"""

import math
from collections.abc import Mapping
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from twin.detectors.layouts import AngleError, Detector, Region
from twin.optics import Optics
from twin.options import Count, Positive, validated

FRAMES_AT_ONCE = 16
"""Integer frames are widened this many at a time: they stay in the cache, and a long stack needs no second copy."""


@validated
class DiffractionGrid:
    """The sampled diffraction plane, or the camera's part of it.

    Attributes:
        shape: (H, W) pixels.
        pixel_mrad: side of a pixel.
        centre_px: (row, column) of zero angle, where pixel i spans i - 0.5 to i + 0.5; None is (H // 2, W // 2).
    """

    shape: tuple[Count, Count]
    pixel_mrad: Positive
    centre_px: tuple[float, float] | None = None

    @property
    def origin_px(self) -> tuple[float, float]:
        """(row, column) of zero angle."""
        return (float(self.shape[0] // 2), float(self.shape[1] // 2)) if self.centre_px is None else self.centre_px

    @property
    def reach_mrad(self) -> tuple[float, float, float, float]:
        """Angles up to which the outer pixels reach, along -x, +x, -y and +y; each counted positive outwards."""
        row, column = self.origin_px
        height, width = self.shape
        sides = (column + 0.5, width - 0.5 - column, row + 0.5, height - 0.5 - row)
        return (
            sides[0] * self.pixel_mrad,
            sides[1] * self.pixel_mrad,
            sides[2] * self.pixel_mrad,
            sides[3] * self.pixel_mrad,
        )


def reciprocal_grid(optics: Optics) -> DiffractionGrid:
    """The computing grid's diffraction plane, zero angle at grid // 2."""
    return DiffractionGrid(shape=(optics.grid, optics.grid), pixel_mrad=optics.pixel_mrad)


def camera_grid(optics: Optics) -> DiffractionGrid:
    """The ideal camera's pixels.

    A camera pixel joins `binning` grid pixels, so that zero angle, the centre of a grid pixel, is the centre of a
    camera pixel only where nothing is binned.
    """
    side, bins = optics.camera_pixels * optics.binning, optics.binning
    centre = (side // 2 + 0.5) / bins - 0.5
    return DiffractionGrid(
        shape=(optics.camera_pixels, optics.camera_pixels),
        pixel_mrad=optics.camera_pixel_mrad,
        centre_px=(centre, centre),
    )


def check_sampled(detectors: Mapping[str, Detector], grid: DiffractionGrid) -> None:
    """Refuse detectors that the grid does not hold entirely.

    Raises:
        AngleError: naming the detector, how far it reaches and how far the grid does.
    """
    for name, rings in detectors.items():
        for ring in rings:
            x, y = ring.centre_mrad
            needs = (ring.outer_mrad - x, ring.outer_mrad + x, ring.outer_mrad - y, ring.outer_mrad + y)
            worst = max(range(4), key=lambda side: needs[side] - grid.reach_mrad[side])
            if needs[worst] > grid.reach_mrad[worst] * (1 + 1e-9):
                raise AngleError(
                    f"detector {name!r} reaches {needs[worst]:.1f} mrad along {('-x', '+x', '-y', '+y')[worst]};"
                    f" the sampled angles end at {grid.reach_mrad[worst]:.1f} mrad."
                    " Lower outer_mrad or sample more finely in real space."
                )


def weights(detectors: Mapping[str, Detector], grid: DiffractionGrid) -> NDArray[np.float64]:
    """The share of every pixel's area inside every segment, (D, H, W), in the order of `labels`.

    Exact areas of squares cut by circles and lines, not samples: segments of a ring add up to the ring, and rings
    that touch add up to the disc, to rounding.

    Raises:
        AngleError: a detector reaches beyond the grid.
    """
    check_sampled(detectors, grid)
    regions = [ring for rings in detectors.values() for ring in rings]
    covered = [region_weights(region, grid) for region in regions]
    return np.concatenate(covered) if covered else np.empty((0, *grid.shape))


def region_weights(region: Region, grid: DiffractionGrid) -> NDArray[np.float64]:
    """The share of every pixel's area inside each segment of one region, (segments, H, W)."""
    row, column = grid.origin_px
    x = np.arange(grid.shape[1], dtype=np.float64) - column - region.centre_mrad[0] / grid.pixel_mrad
    y = np.arange(grid.shape[0], dtype=np.float64) - row - region.centre_mrad[1] / grid.pixel_mrad
    start = math.radians(region.rotation_deg) + 2 * math.pi / region.segments * np.arange(region.segments + 1)
    rays = np.stack([np.cos(start), np.sin(start)], -1)
    if region.segments > 1:
        rays[-1] = rays[0]  # to the bit, or the last segment and the first would not share an edge
    areas = _cover(x, y, region.inner_mrad / grid.pixel_mrad, region.outer_mrad / grid.pixel_mrad, rays)
    return np.maximum(areas, 0.0)  # a difference of discs may round to -1e-14, and Poisson takes no negative mean


def integrate(frames: NDArray[Any], share: NDArray[np.floating]) -> NDArray[np.floating]:
    """What every detector collects of every frame: a matrix product.

    Args:
        frames: (N, H, W) intensities or counts.
        share: (D, H, W), from `weights`.

    Returns:
        (N, D), float32 for float32 frames, else float64: whole counts add up exactly.

    Raises:
        ValueError: frames and weights differ in shape.
    """
    if frames.ndim != 3 or share.ndim != 3 or frames.shape[1:] != share.shape[1:]:
        raise ValueError(f"frames (N, H, W) and weights (D, H, W) must match, got {frames.shape} and {share.shape}")
    dtype = np.dtype(np.float32 if frames.dtype == np.float32 else np.float64)
    columns: NDArray[Any] = np.ascontiguousarray(share.reshape(len(share), -1).T, dtype)
    flat = frames.reshape(-1, len(columns))
    if flat.dtype == dtype:
        return flat @ columns
    signals: NDArray[np.floating] = np.empty((len(flat), columns.shape[1]), dtype)
    for first in range(0, len(flat), FRAMES_AT_ONCE):
        signals[first : first + FRAMES_AT_ONCE] = flat[first : first + FRAMES_AT_ONCE].astype(dtype) @ columns
    return signals


@numba.njit(cache=True)
def _cover(
    x: NDArray[np.float64], y: NDArray[np.float64], inner: float, outer: float, rays: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Areas of the unit squares about (x, y) inside each segment, (segments, len(y), len(x)); lengths in pixels."""
    segments = len(rays) - 1
    areas = np.zeros((segments, len(y), len(x)))
    square = np.empty((8, 2))
    half = np.empty((8, 2))
    wedge = np.empty((8, 2))
    for i in range(len(y)):
        for j in range(len(x)):
            distance = math.hypot(x[j], y[i])
            if distance > outer + 0.75 or distance < inner - 0.75:
                continue  # farther from the edge than half a diagonal
            for corner in range(4):
                square[corner, 0] = x[j] + (0.5 if corner in (1, 2) else -0.5)
                square[corner, 1] = y[i] + (0.5 if corner >= 2 else -0.5)
            for k in range(segments):
                count = 4
                piece = square
                if segments > 1:
                    count = _clip(square, 4, rays[k, 0], rays[k, 1], half)
                    piece = half
                if segments > 2:  # two segments are half-planes: their other ray is the same line
                    count = _clip(half, count, -rays[k + 1, 0], -rays[k + 1, 1], wedge)
                    piece = wedge
                areas[k, i, j] = _disc_area(piece, count, outer) - _disc_area(piece, count, inner)
    return areas


@numba.njit(cache=True)
def _clip(polygon: NDArray[np.float64], count: int, ray_x: float, ray_y: float, out: NDArray[np.float64]) -> int:
    """The part of a convex polygon on the left of a ray from the origin into `out`; the number of its corners.

    Left of +x is +y, the direction in which segments count (Sutherland and Hodgman 1974).
    """
    kept = 0
    for i in range(count):
        ax, ay = polygon[i, 0], polygon[i, 1]
        bx, by = polygon[(i + 1) % count, 0], polygon[(i + 1) % count, 1]
        side_a, side_b = ray_x * ay - ray_y * ax, ray_x * by - ray_y * bx
        if side_a >= 0.0:
            out[kept, 0], out[kept, 1] = ax, ay
            kept += 1
        if (side_a > 0.0 and side_b < 0.0) or (side_a < 0.0 and side_b > 0.0):
            t = side_a / (side_a - side_b)
            out[kept, 0], out[kept, 1] = ax + t * (bx - ax), ay + t * (by - ay)
            kept += 1
    return kept


@numba.njit(cache=True)
def _disc_area(polygon: NDArray[np.float64], count: int, radius: float) -> float:
    """Area common to a polygon, corners anticlockwise, and a disc about the origin: a signed sum over its edges.

    Each edge with the origin spans a triangle; where the edge is outside the disc, the triangle becomes a sector.
    """
    if radius == 0.0:
        return 0.0
    total = 0.0
    for i in range(count):
        ax, ay = polygon[i, 0], polygon[i, 1]
        bx, by = polygon[(i + 1) % count, 0], polygon[(i + 1) % count, 1]
        dx, dy = bx - ax, by - ay
        length2 = dx * dx + dy * dy
        if length2 == 0.0:
            continue
        along = -(ax * dx + ay * dy) / length2
        reach2 = along * along - (ax * ax + ay * ay - radius * radius) / length2
        enter, leave = 1.0, 1.0  # the edge misses the disc: all of it is sector
        if reach2 > 0.0:
            root = math.sqrt(reach2)
            enter = min(max(along - root, 0.0), 1.0)
            leave = min(max(along + root, 0.0), 1.0)
        # An end inside the disc stays as it is: recomputed beside the origin, its direction would be rounding noise.
        px, py = (ax + enter * dx, ay + enter * dy) if enter > 0.0 else (ax, ay)
        qx, qy = (ax + leave * dx, ay + leave * dy) if leave < 1.0 else (bx, by)
        total += px * qy - py * qx
        if enter > 0.0:
            total += radius * radius * _turn(ax, ay, px, py)
        if leave < 1.0:
            total += radius * radius * _turn(qx, qy, bx, by)
    return total / 2.0


@numba.njit(cache=True)
def _turn(ax: float, ay: float, bx: float, by: float) -> float:
    """Angle from a to b as seen from the origin, rad, in (-pi, pi]."""
    return math.atan2(ax * by - ay * bx, ax * bx + ay * by)
