"""The bright-field disc as a frame shows it: centre, radius, ellipticity, and how much of it the camera cuts off."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from twin.arrays import Array

RAYS = 90
"""Directions in which the edge is looked for."""
SMOOTHING = 1 / 90
"""Standard deviation of the smoothing before, as a fraction of the frame's side: shadow and noise stay inside."""
HALF = 0.5
"""Fraction of the lit level at which the edge lies."""
BORDER_PX = 2.0
"""Distance from the frame's border within which an edge is the frame's and not the disc's."""
FEWEST = RAYS // 5
"""Rays with an edge that a circle needs."""


@dataclass(frozen=True)
class Disc:
    """A bright-field disc.

    Attributes:
        centre_px: (x, y) from the outer edge of the first pixel.
        radius_px: mean radius.
        ellipticity: half the difference of the longest and the shortest radius over the mean.
        cut: fraction of the edge that lies outside the frame.
        level: median counts inside.
        roughness: rms distance of the edge from the ellipse, over the radius.
    """

    centre_px: tuple[float, float]
    radius_px: float
    ellipticity: float
    cut: float
    level: float
    roughness: float


def find(counts: Array) -> Disc | None:
    """Find the disc in counts above the dark level, (H, W); None if the frame shows no edge.

    Example:
        >>> y, x = np.mgrid[:64, :64] + 0.5
        >>> disc = find(90.0 * (np.hypot(x - 30, y - 33) < 20))
        >>> [round(v) for v in (*disc.centre_px, disc.radius_px)], disc.cut
        ([30, 33, 20], 0.0)
        >>> find(np.full((64, 64), 90.0)) is None
        True
    """
    smooth = ndimage.gaussian_filter(counts, SMOOTHING * max(counts.shape), mode="nearest")
    bright = float(np.percentile(smooth, 90))
    if not bright > 0:
        return None
    level = float(np.median(smooth[smooth > HALF * bright]))
    y, x = np.nonzero(smooth > HALF * level)
    centre = np.array([x.mean() + 0.5, y.mean() + 0.5])
    angles = np.arange(RAYS) * 2 * np.pi / RAYS
    direction = np.stack([np.cos(angles), np.sin(angles)], 1)
    reach = _edges(smooth, centre, direction, HALF * level)
    points = centre + reach[:, None] * direction
    height, width = counts.shape
    inside = np.all((points > BORDER_PX) & (points < np.array([width, height]) - BORDER_PX), axis=1)
    if inside.sum() < FEWEST:
        return None
    middle, radius = _circle(points[inside])
    offset = points[inside] - middle
    ellipticity, rough = _ellipse(np.arctan2(offset[:, 1], offset[:, 0]), np.hypot(*offset.T) / radius)
    cut = 1.0 - float(inside.mean())
    return Disc((float(middle[0]), float(middle[1])), radius, ellipticity, cut, level, rough)


def _edges(smooth: Array, centre: Array, direction: Array, threshold: float) -> Array:
    """Distance from the centre of the outermost crossing of the threshold along each direction, (R, 2) -> (R,)."""
    steps = np.arange(0.0, float(np.hypot(*smooth.shape)), 0.5)
    places = centre[None, None] + steps[None, :, None] * direction[:, None]
    values = ndimage.map_coordinates(smooth, [places[..., 1] - 0.5, places[..., 0] - 0.5], order=1, mode="constant")
    last = values.shape[1] - 1 - np.argmax(values[:, ::-1] > threshold, axis=1)
    here = values[np.arange(len(values)), last]
    beyond = values[np.arange(len(values)), np.minimum(last + 1, len(steps) - 1)]
    part = np.divide(here - threshold, here - beyond, out=np.zeros_like(here), where=here > beyond)
    return steps[last] + 0.5 * np.clip(part, 0.0, 1.0)


def _circle(points: Array) -> tuple[Array, float]:
    """Centre and radius of a circle through points (N, 2), robust against a few that lie elsewhere."""
    weight = np.ones(len(points))
    design = np.column_stack([2 * points, np.ones(len(points))])
    centre, radius = points.mean(0), 1.0
    for _ in range(6):
        root = np.sqrt(weight)
        solution = np.linalg.lstsq(design * root[:, None], root * np.sum(points**2, axis=1), rcond=None)[0]
        centre, radius = solution[:2], float(np.sqrt(max(1e-6, solution[2] + solution[:2] @ solution[:2])))
        residual = np.hypot(*(points - centre).T) - radius
        scale = 1.5 * float(np.median(np.abs(residual))) + 0.1
        weight = 1.0 / (1.0 + (residual / (2 * scale)) ** 2)
    return centre, radius


def _ellipse(angles: Array, ratio: Array) -> tuple[float, float]:
    """Amplitude of the second harmonic of radius over mean radius, and the rms of the rest."""
    design = np.column_stack([np.ones_like(angles), np.cos(2 * angles), np.sin(2 * angles)])
    solution = np.linalg.lstsq(design, ratio, rcond=None)[0]
    return float(np.hypot(solution[1], solution[2])), float(np.std(ratio - design @ solution))
