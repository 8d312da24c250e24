"""Expected spectra of a thin film in the sub-areas of a Ronchigram: the model of the second-order fit.

Extends `spectrum.model` to windows off the axis. At an angle theta the local state is `l = x + G(theta) c`
(`sub_areas.local_state`); the two sidebands of film frequency q reach the window from angles on either side, and focal
spread damps them by their phase per nm of defocus, `pi lambda (q^2 -+ 2 q.theta / lambda)`. The fringes of a sideband
have the curvature half way between sideband and beam, at theta -+ lambda q / 2: at the rim of the disc, where the outer
sideband is missing, the effective angle is closer to the axis.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from controller import preprocess
from controller.preprocess import hann_window
from controller.spectrum import model as spectrum_model
from controller.spectrum import sub_areas
from controller.spectrum.model import NodePower, Nodes, Nuisance
from twin.arrays import Array
from twin.optics import Optics

AXIS = 5
"""Sub-areas along each axis, three quarters overlapping."""
REACH = 30 / 128
"""Distance of the outer sub-areas' centres from the camera's, as a fraction of its side."""
LOWEST_PX = 3
"""Lowest frequency: the disc's own transform lies below."""
HIGHEST = 0.85
"""Highest frequency, as a fraction of the Nyquist frequency, as in `spectrum.model.band`."""
RADII, ANGLES = 64, 72
"""Size of the polar grid of film frequencies."""


@dataclass(frozen=True)
class AreaGrid:
    """P sub-areas with tables of aperture overlap.

    Attributes:
        nodes: film frequencies, for the side of a sub-area.
        corners: first row and column of each sub-area.
        directions: local state per nm of each second-order coefficient, (P, 3, 4).
        power: nominal film's power per node for 1 nm of film, (R,).
        overlap: window-weighted fraction of the disc that each sideband reaches, (2, P, A, R).
        both: twice the fraction that both sidebands reach, (P, A, R).
        origin_rad: angle (x, y), relative to the sub-area's, at which each sideband's fringes arise, (2, 2, P, A, R).
        middle_rad: mean angle (x, y), relative to the sub-area's, where both sidebands interfere, (2, P, A, R).
        path: phase of each sideband relative to the beam per nm of defocus, rad, (2, P, A, R).
        correlation: between the periodograms of sub-areas at one frequency, (P, P).
    """

    nodes: Nodes
    corners: tuple[tuple[int, int], ...]
    directions: Array
    power: Array
    overlap: Array
    both: Array
    origin_rad: Array
    middle_rad: Array
    path: Array
    correlation: Array


@lru_cache(maxsize=2)
def area_grid(optics: Optics) -> AreaGrid:
    """Build the tables for one instrument."""
    side = optics.camera_pixels
    height = side // 2
    reach = round(REACH * side)
    starts = [round(v) for v in np.linspace(side / 2 - reach - height / 2, side / 2 + reach - height / 2, AXIS)]
    corners = tuple((row, column) for row in starts for column in starts)
    nodes = spectrum_model.nodes(optics, height, RADII, ANGLES)
    middles, tables = [], []
    for corner in corners:
        x, y, window = _lit(optics, corner, height)
        weight = window**2 / np.sum(window**2)
        middles.append((float(weight @ x), float(weight @ y)))
        tables.append(_overlaps(x, y, window, nodes, optics))
    overlap, both, origin, middle = (np.stack(parts) for parts in zip(*tables, strict=True))
    return AreaGrid(
        nodes=nodes,
        corners=corners,
        directions=np.stack([sub_areas.local_state(*middle) for middle in middles]),
        power=spectrum_model.film_power(nodes, optics),
        overlap=np.ascontiguousarray(np.swapaxes(overlap, 0, 1)),
        both=both,
        origin_rad=np.ascontiguousarray(np.moveaxis(origin, 0, 2)),
        middle_rad=np.ascontiguousarray(np.swapaxes(middle, 0, 1)),
        path=_paths(np.array(middles), nodes),
        correlation=_correlations(corners, height),
    )


def _lit(optics: Optics, corner: tuple[int, int], height: int) -> tuple[Array, Array, Array]:
    """Angles x and y, rad, and window of every fourth pixel of a sub-area, where the disc lights it."""
    side, rad = optics.camera_pixels, optics.camera_pixel_mrad * 1e-3
    axis = (np.arange(side) - side // 2) * rad
    y, x = np.meshgrid(axis[corner[0] :][:height:2], axis[corner[1] :][:height:2], indexing="ij")
    lit = np.hypot(x, y) <= optics.convergence_mrad * 1e-3
    return x[lit], y[lit], hann_window(height)[::2, ::2][lit]


def _overlaps(x: Array, y: Array, window: Array, nodes: Nodes, optics: Optics) -> tuple[Array, ...]:
    """A sub-area's tables `overlap` (2, A, R), `both` (A, R), `origin_rad` (2, 2, A, R) and `middle_rad` (2, A, R)."""
    # Sums over every fourth pixel: factors of 4 as in `spectrum.model.overlap_tables`.
    scale = nodes.pixels**2 * 4.0 / (4.0 * window.sum()) ** 2 * preprocess.REFERENCE_DOSE_E / 2.25
    weight = scale * window**2
    middle = np.array([weight @ x, weight @ y]) / weight.sum()
    moments = np.stack([weight, weight * (x - middle[0]), weight * (y - middle[1])], 1)
    edge2 = (optics.convergence_mrad * 1e-3) ** 2
    shape = (len(nodes.angles_rad), len(nodes.q_per_nm))
    overlap, both = np.empty((2, *shape)), np.empty(shape)
    origin, middle_of_both = np.empty((2, 2, *shape)), np.empty((2, *shape))
    least = 1e-9 * weight.sum()
    theta = nodes.wavelength_nm * nodes.q_per_nm
    for a, angle in enumerate(nodes.angles_rad):
        shift = np.outer([math.cos(angle), math.sin(angle)], theta)
        within = [(x - s * shift[0][:, None]) ** 2 + (y - s * shift[1][:, None]) ** 2 <= edge2 for s in (1, -1)]
        for side, inside in enumerate(within):
            total, *first = (inside @ moments).T
            overlap[side, a] = total
            # Half way between the pixels that the sideband reaches and its origin.
            half_way = (0.5 if side else -0.5) * shift
            origin[side, :, a] = np.stack(first) / np.maximum(total, least) + half_way
        total, *first = ((within[0] & within[1]) @ moments).T
        both[a] = 2 * total
        middle_of_both[:, a] = np.stack(first) / np.maximum(total, least)
    return overlap, both, origin, middle_of_both


def _paths(middles: Array, nodes: Nodes) -> Array:
    """Compute `AreaGrid.path` from the sub-areas' angles (P, 2), rad."""
    direction = np.stack([np.cos(nodes.angles_rad), np.sin(nodes.angles_rad)])
    along = (middles @ direction)[:, :, None] * nodes.q_per_nm
    own = nodes.wavelength_nm * nodes.q_per_nm**2
    return math.pi * np.stack([own - 2 * along, own + 2 * along])


def _correlations(corners: tuple[tuple[int, int], ...], height: int) -> Array:
    """Squared overlap of the windows of every two sub-areas, (P, P); separable, like the window."""
    line = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(height) / height)
    starts = np.array(corners)

    def along(axis: int) -> Array:
        apart = np.minimum(np.abs(starts[:, axis, None] - starts[None, :, axis]), height)
        shared = [float(line[shift:] @ line[: height - shift]) for shift in range(height + 1)]
        return np.array(shared)[apart] / shared[0]

    return np.asarray((along(0) * along(1)) ** 2)


@lru_cache(maxsize=2)
def band(height: int) -> NDArray[np.bool_]:
    """Select the frequencies of the likelihood, (h, h // 2), each pair +-f once."""
    y, x = np.mgrid[-height // 2 : height // 2, 0 : height // 2]
    radius = np.hypot(y, x)
    return np.asarray((radius >= LOWEST_PX) & (radius <= HIGHEST * height / 2) & ((x > 0) | (y > 0)))


@dataclass(frozen=True)
class AreaPeriodograms:
    """Measured spectra of a frame's sub-areas.

    Attributes:
        values: power in units of the shot noise inside `band`, (P, F).
        levels: shot-noise level of each sub-area, see `preprocess.area_powers`, (P,).
    """

    values: Array
    levels: Array


def periodograms(counts: Array, mean: Array, frames: int, grid: AreaGrid) -> AreaPeriodograms:
    """Measure the sub-areas' spectra of a frame less the mean of several frames, itself included.

    The mean removes the disc's edge, sharp inside the outer windows and the same in every frame.

    Args:
        counts: above the dark level, (H, W).
        mean: mean of the frames, each scaled to a sum of one, (H, W).
        frames: number of frames in the mean, at least two.
        grid: sub-areas.
    """
    height = grid.nodes.pixels
    _, floor = preprocess.normalise(preprocess.spectrum(counts), preprocess.windowed_sum(counts))
    keep = band(height)
    values, levels = [], []
    for power, noise in preprocess.area_powers(counts, floor, grid.corners, height, mean * counts.sum()):
        values.append((power / noise)[:, height // 2 :][keep] * frames / (frames - 1))
        levels.append(noise[height // 2, height // 2])
    return AreaPeriodograms(np.stack(values), np.array(levels))


def node_power(grid: AreaGrid, nuisance: Nuisance) -> NodePower:
    """Compute the power per film frequency for one day, (P, A, R)."""
    power = spectrum_model.blurred_power(grid.power, nuisance, grid.nodes)
    minus, plus = np.exp(-0.5 * (nuisance.focal_spread_nm * grid.path) ** 2)
    power_minus, power_plus = grid.overlap[0] * minus**2, grid.overlap[1] * plus**2
    both = power_minus + power_plus
    weight = np.divide(np.stack([power_minus, power_plus]), both, out=np.zeros((2, *both.shape)), where=both > 0)
    lean = np.einsum("spar,sxpar->xpar", weight, grid.origin_rad)
    cross = power * spectrum_model.through_thickness(nuisance, grid.nodes) * grid.both * minus * plus
    return NodePower(power * both, cross, lean, grid.middle_rad)


def expected_signal(first_nm: Array, second_nm: Array, nuisance: Nuisance, grid: AreaGrid, power: NodePower) -> Array:
    """Expected film signal of each sub-area inside `band`, (P, F), in units of the shot noise of 1e6 electrons.

    Args:
        first_nm, second_nm: aberrations (3,) and (4,), in the order of `sub_areas`.
        nuisance: nuisance parameters of the day.
        grid: sub-areas.
        power: from `node_power` with the same nuisance parameters.
    """
    angles = grid.nodes.angles_rad
    cosine, sine = np.cos(angles), np.sin(angles)
    bend = np.empty((2, len(angles), 2))
    for axis, unit in enumerate(((1.0, 0.0), (0.0, 1.0))):
        defocus, along, across = sub_areas.local_state(*unit) @ second_nm
        bend[axis, :, 0] = (defocus + along) * cosine + across * sine
        bend[axis, :, 1] = across * cosine + (defocus - along) * sine
    local = first_nm + grid.directions @ second_nm
    spectra = spectrum_model.deposited(local, nuisance, grid.nodes, power, bend)
    signal: Array = spectra[:, band(grid.nodes.pixels)]
    return signal
