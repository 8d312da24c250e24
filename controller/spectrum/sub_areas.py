"""What the sub-areas of a Ronchigram tell of coma and three-fold astigmatism.

Away from the axis these act as defocus and astigmatism: the curvature of chi at an angle theta is that of a local
state `l = x + G(theta) c`, linear in the second order c. Each sub-area's own antipodal mixture q(l | sub-area) then
gives, for a hypothetical x, a Gaussian for c. What the network knew of l before it saw the sub-area is divided out:
counted again in every frame, it would pull c to zero. Geometry and arithmetic; the network is in
`posterior/network.py`.
"""

from functools import lru_cache
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from controller.preprocess import hann_window, patch_pixels, patch_starts
from twin.optics import Optics

Array = NDArray[np.floating]

NAMES = ("C21a", "C21b", "C23a", "C23b")
"""The second order c, in the order that everything here has it."""


def local_state(theta_x: float, theta_y: float) -> Array:
    """Local (C10, C12a, C12b) made by one nm of each of `NAMES` at an angle, rad; (3, 4).

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
    """`local_state` of every sub-area, row by row, (P, 3, 4).

    A sub-area stands at the mean angle of its electrons under the squared window, which those at the rim of the disc
    see less far out than their centre.
    """
    side, height = optics.camera_pixels, patch_pixels(optics.camera_pixels)
    rad_per_pixel = optics.pixel_mrad * optics.binning * 1e-3
    axis = (np.arange(side) - side // 2) * rad_per_pixel
    lit = np.hypot(axis[:, None], axis[None, :]) <= optics.convergence_mrad * 1e-3
    weight = hann_window(height) ** 2
    found = []
    for row in patch_starts(side):
        for column in patch_starts(side):
            share = weight * lit[row : row + height, column : column + height]
            y = float((share.sum(1) @ axis[row : row + height]) / share.sum())
            x = float((share.sum(0) @ axis[column : column + height]) / share.sum())
            found.append(local_state(x, y))
    result = np.stack(found)
    result.flags.writeable = False
    return result


SAFE = 0.9
"""Share of the least precision of a Gaussian that the prior may take away: what is left is positive definite."""


class Areas(NamedTuple):
    """A frame's sub-areas made ready for `information`; any leading shape, P areas, K components.

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
        """One of several frames."""
        mixtures, least, curvature, pull, directions, overlap = self
        return Areas(mixtures[k], least[k], curvature[k], pull[k], directions, overlap)


def ready(mixtures: NDArray[np.float32], directions: Array) -> Areas:
    """From packed mixtures (..., P, K, 1 + n + n n) and G (P, n, m)."""
    n = directions.shape[1]
    white = mixtures[..., 1 + n :].reshape(*mixtures.shape[:-1], n, n).astype(np.float64)
    least = np.linalg.svd(white, compute_uv=False)[..., -1] ** 2
    precision = np.swapaxes(white, -1, -2) @ white
    pull = np.swapaxes(directions, -1, -2)[:, None] @ precision
    overlap = np.swapaxes(directions, -1, -2) @ directions
    return Areas(mixtures, least, pull @ directions[:, None], pull, np.ascontiguousarray(directions), overlap)


@numba.njit(cache=True)
def information(areas, states, held, weight, matrix, vector):  # type: ignore[no-untyped-def]
    """Gaussian knowledge of c from one frame's sub-areas, if its state is x: of log q / p about c = 0.

    Of each mixture the components count by their share at l = x, as in an E-step; the curvature is their mean
    precision less the prior's, as far as that leaves any.

    Args:
        areas: of one frame, see `ready`.
        states: candidates x, scaled, (M, n).
        held: precision of the prior at each, about zero and alike along the axes, (M,); see `StateMixture.precision`.
        weight: what the sub-areas count, for they overlap and their networks err alike.
        matrix: curvature, (M, m, m), written.
        vector: gradient, (M, m), written.
    """
    mixtures = areas.mixtures
    count, components, _ = mixtures.shape
    axes, unknowns = areas.directions.shape[1:]
    offset, share = np.empty((2 * components, axes)), np.empty(2 * components)
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
                share[k] = p[0] - 0.5 * square
                top = max(top, share[k])
            total = 0.0
            for k in range(2 * components):
                share[k] = np.exp(share[k] - top)
                total += share[k]
            for k in range(2 * components):
                part = weight * share[k] / total
                if part < 1e-6:
                    continue
                one = k % components
                prior = min(held[m], SAFE * areas.least[area, one])
                for u in range(unknowns):
                    for a in range(axes):
                        pull = areas.pull[area, one, u, a] * offset[k, a]
                        vector[m, u] += part * (pull + held[m] * areas.directions[area, a, u] * states[m, a])
                    for v in range(unknowns):
                        left = areas.curvature[area, one, u, v] - prior * areas.overlap[area, u, v]
                        matrix[m, u, v] += part * left
