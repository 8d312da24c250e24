"""Coma and three-fold astigmatism (the second order c) from the sub-areas of a Ronchigram.

Off the axis the second order acts as defocus and astigmatism: the curvature of chi at an angle theta is that of a local
state `l = x + G(theta) c`, linear in c. Given the first order x, the antipodal Gaussian mixture q(l | sub-area) that
the network reads from a sub-area is a Gaussian likelihood of c. The network's prior of l is divided out: counted again
in every frame, it would pull c to zero. The network itself is in `posterior/network.py`.
"""

from functools import lru_cache
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from controller.preprocess import hann_window, patch_pixels, patch_starts
from twin.arrays import Array
from twin.optics import Optics

NAMES = ("C21a", "C21b", "C23a", "C23b")
"""The second order c, in the order used in this module."""


def local_state(theta_x: float, theta_y: float) -> Array:
    """Local (C10, C12a, C12b) per nm of each of `NAMES` at an angle, rad: the matrix G(theta), (3, 4).

    Half the second derivatives of the wave aberration: chi = k theta^3 / 3 (C21 first harmonic + C23 third harmonic).
    """
    x, y = theta_x, theta_y
    return np.array(
        [
            [4 / 3 * x, 4 / 3 * y, 0.0, 0.0],
            [2 / 3 * x, -2 / 3 * y, 2 * x, 2 * y],
            [2 / 3 * y, 2 / 3 * x, -2 * y, 2 * x],
        ]
    )


@lru_cache(maxsize=8)
def geometry(optics: Optics) -> Array:
    """Return `local_state` of every sub-area, row by row, (P, 3, 4).

    The angle of a sub-area is the mean over its lit pixels, weighted by the squared window. For sub-areas at the rim of
    the disc it lies closer to the axis than their centre.
    """
    side, height = optics.camera_pixels, patch_pixels(optics.camera_pixels)
    rad_per_pixel = optics.pixel_mrad * optics.binning * 1e-3
    axis = (np.arange(side) - side // 2) * rad_per_pixel
    lit = np.hypot(axis[:, None], axis[None, :]) <= optics.convergence_mrad * 1e-3
    weight = hann_window(height) ** 2
    states = []
    for row in patch_starts(side):
        for column in patch_starts(side):
            lit_weight = weight * lit[row : row + height, column : column + height]
            y = float((lit_weight.sum(1) @ axis[row : row + height]) / lit_weight.sum())
            x = float((lit_weight.sum(0) @ axis[column : column + height]) / lit_weight.sum())
            states.append(local_state(x, y))
    result = np.stack(states)
    result.flags.writeable = False
    return result


SAFE = 0.9
"""Largest fraction of a Gaussian's least precision that the prior's may be: the difference stays positive definite."""


class Areas(NamedTuple):
    """A frame's sub-areas, prepared for `information`; any leading shape, P areas, K components.

    Attributes:
        mixtures: packed as in `posterior.network.packed`, (P, K, 1 + n + n n).
        least: smallest eigenvalue of each component's precision, (P, K).
        curvature: G' precision G, (P, K, m, m).
        pull: G' precision, (P, K, m, n).
        directions: G in scaled units, (P, n, m).
        overlap: G'G, (P, m, m).
    """

    mixtures: NDArray[np.float32]
    least: Array
    curvature: Array
    pull: Array
    directions: Array
    overlap: Array

    def frame(self, k: int) -> "Areas":
        """Select one of several frames."""
        mixtures, least, curvature, pull, directions, overlap = self
        return Areas(mixtures[k], least[k], curvature[k], pull[k], directions, overlap)


def ready(mixtures: NDArray[np.float32], directions: Array) -> Areas:
    """Prepare packed mixtures (..., P, K, 1 + n + n n) and the matrices G (P, n, m)."""
    n = directions.shape[1]
    white = mixtures[..., 1 + n :].reshape(*mixtures.shape[:-1], n, n).astype(np.float64)
    least = np.linalg.svd(white, compute_uv=False)[..., -1] ** 2
    precision = np.swapaxes(white, -1, -2) @ white
    pull = np.swapaxes(directions, -1, -2)[:, None] @ precision
    overlap = np.swapaxes(directions, -1, -2) @ directions
    return Areas(mixtures, least, pull @ directions[:, None], pull, np.ascontiguousarray(directions), overlap)


@numba.njit(cache=True)
def information(areas, states, prior_precision, weight, matrix, vector):  # type: ignore[no-untyped-def]
    """Gradient and curvature about c = 0 of one frame's log likelihood ratio log q / p of the second order, given x.

    The components of each mixture are weighted by their responsibility at l = x, as in an E-step. The curvature is
    their mean precision less the prior's, which is limited to `SAFE` of it.

    Args:
        areas: of one frame, see `ready`.
        states: particles x, scaled, (M, n).
        prior_precision: precision of the isotropic prior at each particle, (M,); see `StateMixture.precision`.
        weight: weight of each sub-area, below 1 because they overlap and share the network's errors.
        matrix: curvature, (M, m, m), written.
        vector: gradient, (M, m), written.
    """
    mixtures = areas.mixtures
    count, components, _ = mixtures.shape
    axes, unknowns = areas.directions.shape[1:]
    offset, responsibility = np.empty((2 * components, axes)), np.empty(2 * components)
    for m in range(len(states)):
        matrix[m] = 0.0
        vector[m] = 0.0
        for area in range(count):
            top = -1e300
            for k in range(2 * components):
                p = mixtures[area, k % components]
                sign = 1.0 if k < components else -1.0
                square = 0.0
                for a in range(axes):
                    offset[k, a] = sign * p[1 + a] - states[m, a]
                    white = 0.0
                    for b in range(a + 1):
                        white += p[1 + axes + a * axes + b] * offset[k, b]
                    square += white * white
                responsibility[k] = p[0] - 0.5 * square
                top = max(top, responsibility[k])
            total = 0.0
            for k in range(2 * components):
                responsibility[k] = np.exp(responsibility[k] - top)
                total += responsibility[k]
            for k in range(2 * components):
                part = weight * responsibility[k] / total
                if part < 1e-6:
                    continue
                component = k % components
                prior = min(prior_precision[m], SAFE * areas.least[area, component])
                for u in range(unknowns):
                    for a in range(axes):
                        pull = areas.pull[area, component, u, a] * offset[k, a]
                        vector[m, u] += part * (pull + prior_precision[m] * areas.directions[area, a, u] * states[m, a])
                    for v in range(unknowns):
                        gain = areas.curvature[area, component, u, v] - prior * areas.overlap[area, u, v]
                        matrix[m, u, v] += part * gain
