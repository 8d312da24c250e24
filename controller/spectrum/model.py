"""Expected power spectrum of a thin amorphous film's Ronchigram, and its Whittle likelihood; no learning, no torch.

For a weak phase phi(q) and chi quadratic in k with curvature M = [[C10 + C12a, C12b], [C12b, C10 - C12a]], film
frequency q appears in the shadow image as `A_- exp(-i W) - A_+ exp(i W)` times a fringe of frequency
`rho = lambda M q`, with `W = pi lambda q.M q` and A_-+ the aperture shifted by +-q. Its power,

    PSD(q) [P(|q|) - R(|q|) cos 2W]     (4 sin^2 W where both shifted apertures overlap the disc, 1 where one does)

appears at rho. P and R include aperture overlap and focal spread; the source size blurs the potential; a film of
thickness t multiplies cos 2W by sinc(lambda q^2 t). Contrast transfer as in Lin and Cowley (1986, Ultramicroscopy 19,
31), shadow magnification and its use for defocus and astigmatism as in Kimoto and Ishizuka (2003) and Lupini et al.
(2010). Odd and spherical aberrations, at most 1 to 3 nm of curvature at the edge of the disc, are neglected.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

from controller import preprocess
from twin.arrays import Array
from twin.day import FilmProperties
from twin.matter.carbon_screen import phase_psd_rad2_nm2
from twin.optics import Optics
from twin.types import Frame

CORRELATION = 3.78
"""Design effect of a Hann periodogram: the sum of squared correlations between neighbouring frequencies,
1 + 2 (4/9 + 1/36) per axis, squared. The log-likelihood of independent frequencies is divided by it."""

FOCAL_NM = np.arange(0.0, 6.01, 0.25)
"""Focal spreads of the tables, rms nm."""


STRUCTURE_PER_NM = (1.0, 2.8, 4.6, 6.4)
"""Film frequencies between which the power of a film may differ from carbon's."""


@dataclass(frozen=True)
class Nuisance:
    """Nuisance parameters: operating conditions that the spectrum depends on beside the state.

    Attributes:
        log_amplitude: log of the film's power over the nominal film's.
        log_scale: log of the camera's scale.
        rotation_rad: rotation of the camera relative to the corrector.
        focal_spread_nm, source_size_nm: rms.
        thickness_nm: of the film.
        log_structure: log of the film's power over carbon's at the frequencies `STRUCTURE_PER_NM`, linear between:
            another material or another arrangement of its atoms.
    """

    log_amplitude: float = 0.0
    log_scale: float = 0.0
    rotation_rad: float = 0.0
    focal_spread_nm: float = 1.5
    source_size_nm: float = 0.04
    thickness_nm: float = 5.0
    log_structure: tuple[float, ...] = (0.0,) * len(STRUCTURE_PER_NM)


class Nodes(NamedTuple):
    """Film frequencies on a polar grid over half a plane, for a square camera or a square part of it.

    Attributes:
        q_per_nm: radii, (R,).
        angles_rad: over half a turn, (A,).
        bin_nm: width of a frequency pixel of the spectrum, nm.
        wavelength_nm: of the beam.
        pixels: side of the square.
    """

    q_per_nm: Array
    angles_rad: Array
    bin_nm: float
    wavelength_nm: float
    pixels: int


@dataclass(frozen=True)
class Grid:
    """Film frequencies for the whole camera, with tables of P and R.

    Attributes:
        nodes: film frequencies.
        power: nominal film's power per node for 1 nm of film, in units of the shot noise of 1e6 electrons, (R,).
        direct, cross: P and R of the module's docstring at each focal spread, (F, R).
    """

    nodes: Nodes
    power: Array
    direct: Array
    cross: Array

    @property
    def pixels(self) -> int:
        """Side of the camera."""
        return self.nodes.pixels


REACH_PER_NM = 9.0
"""Highest film frequency: the film scatters little beyond."""


def nodes(optics: Optics, pixels: int, radii: int, angles: int) -> Nodes:
    """Return film frequencies for a square of `pixels` camera pixels a side."""
    pixel_per_nm = optics.camera_pixel_mrad * 1e-3 / optics.wavelength_nm
    q = (np.arange(radii) + 0.5) * REACH_PER_NM / radii
    turn = (np.arange(angles) + 0.5) * math.pi / angles
    return Nodes(q, turn, 1.0 / (pixels * pixel_per_nm), optics.wavelength_nm, pixels)


def film_power(nodes: Nodes, optics: Optics) -> Array:
    """Power of 1 nm of the nominal film at each radius, the same at all angles, (R,)."""
    q = nodes.q_per_nm
    area = q * (REACH_PER_NM / len(q)) * math.pi / len(nodes.angles_rad)
    power: Array = phase_psd_rad2_nm2(q, FilmProperties(), optics, 1.0) * area
    return power


@lru_cache(maxsize=2)
def grid(optics: Optics, radii: int = 80, angles: int = 120) -> Grid:
    """Build the tables for one instrument."""
    whole = nodes(optics, optics.camera_pixels, radii, angles)
    return Grid(whole, film_power(whole, optics), *overlap_tables(whole.q_per_nm, optics))


def overlap_tables(q_per_nm: Array, optics: Optics) -> tuple[Array, Array]:
    """P and R, each (F, R): window-weighted aperture overlap with focal-spread damping, summed over the camera.

    A Gaussian focal spread of rms s damps exp(-i (chi(k -+ q) - chi(k))) by
    exp(-(pi lambda s (q^2 -+ 2 k.q))^2 / 2). The window is approximated as isotropic: q points along x.
    """
    wavelength, n = optics.wavelength_nm, optics.camera_pixels
    axis = (np.arange(0, n, 2) - n // 2) * optics.camera_pixel_mrad * 1e-3 / wavelength
    window = preprocess.hann_window(n)[::2, ::2]
    x, y = np.meshgrid(axis, axis)
    edge = optics.convergence_mrad * 1e-3 / wavelength
    inside = np.hypot(x, y) <= edge
    x, y, h = x[inside], y[inside], window[inside]
    # Sums run over every fourth pixel; the factors of 4 make N sum(h^2) / sum(h)^2 that of all pixels.
    scale = n * n * 4.0 / (4.0 * h.sum()) ** 2 * preprocess.REFERENCE_DOSE_E / 2.25
    direct, cross = np.empty((2, len(FOCAL_NM), len(q_per_nm)))
    for j, q in enumerate(q_per_nm):
        overlap = [np.hypot(x - s * q, y) <= edge for s in (1, -1)]
        path = [math.pi * wavelength * (q * q - s * 2 * x * q) for s in (1, -1)]
        for i, focal in enumerate(FOCAL_NM):
            minus, plus = (o * np.exp(-0.5 * (focal * p) ** 2) for o, p in zip(overlap, path, strict=True))
            direct[i, j] = scale * np.sum(h**2 * (minus**2 + plus**2))
            cross[i, j] = scale * np.sum(h**2 * 2 * minus * plus)
    return direct, cross


def tables(grid: Grid, nuisance: Nuisance) -> tuple[Array, Array]:
    """Interpolate the tables to one day: the constant power and the amplitude of cos 2W per film frequency, (R,)."""
    focal = float(np.clip(nuisance.focal_spread_nm, 0.0, FOCAL_NM[-1] - 1e-9)) / (FOCAL_NM[1] - FOCAL_NM[0])
    low, part = int(focal), focal - int(focal)
    power = blurred_power(grid.power, nuisance, grid.nodes)
    direct = (1 - part) * grid.direct[low] + part * grid.direct[low + 1]
    cross = (1 - part) * grid.cross[low] + part * grid.cross[low + 1]
    return power * direct, power * cross * through_thickness(nuisance, grid.nodes)


def blurred_power(power: Array, nuisance: Nuisance, nodes: Nodes) -> Array:
    """Scale `film_power` to a day's film and blur it by the day's source size, (R,)."""
    scaled: Array = power * nuisance.thickness_nm * math.exp(nuisance.log_amplitude)
    structure = np.interp(nodes.q_per_nm, STRUCTURE_PER_NM, nuisance.log_structure)
    return scaled * np.exp(structure - 4 * (math.pi * nuisance.source_size_nm * nodes.q_per_nm) ** 2)


def through_thickness(nuisance: Nuisance, nodes: Nodes) -> Array:
    """Damping of the interference term by the film's thickness, (R,)."""
    return np.asarray(np.sinc(nodes.wavelength_nm * nodes.q_per_nm**2 * nuisance.thickness_nm))


class NodePower(NamedTuple):
    """Power at every film frequency; one table per state, or one for all states, (B or 1, A, R).

    Attributes:
        direct, cross: the constant power and the amplitude of the interference.
        lean: mean angle (x, y), rad, off the middle of the window of the pixels where the fringes arise,
            (2, B or 1, A, R).
        tilt: mean angle of the pixels where both sidebands interfere, (2, B or 1, A, R).
    """

    direct: Array
    cross: Array
    lean: Array
    tilt: Array


@numba.njit(cache=True)
def _deposit(curvature, bend, nodes, cosine, sine, per_bin, power_table, out):  # type: ignore[no-untyped-def]
    """Add the film's power to the fringe frequencies of each state's spectrum, bilinearly; see `deposited`."""
    direct, cross, lean, tilt = power_table
    q, wavelength = nodes.q_per_nm, nodes.wavelength_nm
    half = out.shape[1] // 2
    for b in range(curvature.shape[0]):
        xx, xy, yy = curvature[b, 0], curvature[b, 1], curvature[b, 2]
        own = b if len(direct) > 1 else 0
        for a in range(cosine.shape[0]):
            ux = xx * cosine[a] + xy * sine[a]
            uy = xy * cosine[a] + yy * sine[a]
            along = 2 * math.pi * wavelength * (ux * cosine[a] + uy * sine[a])
            per_x = 2 * math.pi * wavelength * (bend[0, a, 0] * cosine[a] + bend[0, a, 1] * sine[a])
            per_y = 2 * math.pi * wavelength * (bend[1, a, 0] * cosine[a] + bend[1, a, 1] * sine[a])
            for r in range(q.shape[0]):
                phase = along + per_x * tilt[0, own, a, r] + per_y * tilt[1, own, a, r]
                power = direct[own, a, r] - cross[own, a, r] * math.cos(phase * q[r] * q[r])
                x, y = lean[0, own, a, r], lean[1, own, a, r]
                fx = (ux + x * bend[0, a, 0] + y * bend[1, a, 0]) * wavelength * per_bin
                fy = (uy + x * bend[0, a, 1] + y * bend[1, a, 1]) * wavelength * per_bin
                if fx < 0:
                    fx, fy = -fx, -fy
                for side in range(2):
                    px = fx * q[r] if side == 0 else -fx * q[r]
                    py = fy * q[r] if side == 0 else -fy * q[r]
                    px, py = px + 2.0, py + half
                    if px < 0 or px >= out.shape[2] - 1 or py < 0 or py >= out.shape[1] - 1:
                        continue
                    i, j = int(py), int(px)
                    v, u = py - i, px - j
                    out[b, i, j] += power * (1 - u) * (1 - v)
                    out[b, i, j + 1] += power * u * (1 - v)
                    out[b, i + 1, j] += power * (1 - u) * v
                    out[b, i + 1, j + 1] += power * u * v


def deposited(
    states_nm: Array, nuisance: Nuisance, nodes: Nodes, power: NodePower, bend_nm: Array | None = None
) -> Array:
    """Expected spectra for states (B, 3), shape (B, H, W // 2).

    `bend_nm`, (2, A, 2), is the change of curvature times q / |q| per rad along x and along y; None: no change.
    """
    turn = np.exp(2j * nuisance.rotation_rad) * (states_nm[:, 1] + 1j * states_nm[:, 2])
    curvature = np.stack([states_nm[:, 0] + turn.real, turn.imag, states_nm[:, 0] - turn.real], 1)
    n = nodes.pixels
    out = np.zeros((len(states_nm), n, n // 2 + 4))
    per_bin = math.exp(-nuisance.log_scale) / nodes.bin_nm
    bend = np.zeros((2, len(nodes.angles_rad), 2)) if bend_nm is None else bend_nm
    _deposit(curvature, bend, nodes, np.cos(nodes.angles_rad), np.sin(nodes.angles_rad), per_bin, power, out)
    # Leakage of the Hann window: |(1/4, 1/2, 1/4)|^2, normalised.
    for axis in (1, 2):
        out = out * (2 / 3) + (np.roll(out, 1, axis) + np.roll(out, -1, axis)) / 6
    return out[:, :, 2 : 2 + n // 2] * pixel_transfer(n)


def expected_signal(states_nm: Array, nuisance: Nuisance, grid: Grid) -> Array:
    """Expected film signal for states (B, 3), shape (B, H, W // 2), in units of the shot noise of 1e6 electrons.

    Zero frequency at (H // 2, 0), as `preprocess.Spectrum.values`. The camera's transfer is not included: divide a
    measurement by its noise floor, which has the same transfer.
    """
    states = np.atleast_2d(np.asarray(states_nm, np.float64))
    shape = (1, len(grid.nodes.angles_rad), len(grid.nodes.q_per_nm))
    direct, cross = (np.ascontiguousarray(np.broadcast_to(t, shape)) for t in tables(grid, nuisance))
    return deposited(states, nuisance, grid.nodes, NodePower(direct, cross, *np.zeros((2, 2, *shape))))


@lru_cache(maxsize=2)
def pixel_transfer(pixels: int) -> Array:
    """Power transfer of a square camera pixel, which averages a fringe over its area, (H, W // 2)."""
    f = np.arange(-pixels // 2, pixels // 2) / pixels
    return np.asarray(np.sinc(f)[:, None] ** 2 * np.sinc(f)[None, pixels // 2 :] ** 2)


@lru_cache(maxsize=2)
def band(pixels: int) -> NDArray[np.bool_]:
    """Select the frequencies of the likelihood, (H, W // 2): beyond the disc's own transform, each pair +-f once."""
    y, x = np.mgrid[-pixels // 2 : pixels // 2, 0 : pixels // 2]
    radius = np.hypot(y, x)
    return np.asarray((radius >= 4) & (radius <= 0.85 * pixels / 2) & ((x > 0) | (y > 0)))


@dataclass(frozen=True)
class Periodogram:
    """A measured spectrum in units of its shot-noise floor.

    Attributes:
        values: floor-normalised power inside `band`, exponentially distributed about its expectation, (P,).
        floor: level of the floor; 1 for a uniform frame of 1e6 electrons.
    """

    values: Array
    floor: float


def periodogram(frame: Frame) -> Periodogram:
    """Divide the Hann-windowed spectrum by its own noise floor, without smoothing.

    Raises:
        ValueError: the frame is not square, or holds no signal.
    """
    counts = preprocess.signal(frame)
    power = preprocess.per_dose(preprocess.spectrum(counts), preprocess.windowed_sum(counts))
    floor = preprocess.noise_floor(power)
    n = len(counts)
    return Periodogram((power / floor.power(n))[:, n // 2 :][band(n)], floor.level)


def expected_periodogram(states_nm: Array, nuisance: Nuisance, grid: Grid, floor: float) -> Array:
    """Expectation of `periodogram(...).values` for states (B, 3), shape (B, P)."""
    return 1.0 + expected_signal(states_nm, nuisance, grid)[:, band(grid.pixels)] / floor


def whittle(measured: Array, expected: Array) -> Array:
    """Whittle log-likelihood (Whittle 1953), corrected for `CORRELATION`, nats, (B,).

    Args:
        measured: periodogram in units of the noise floor, (P,), or one for each expectation, (B, P).
        expected: expected periodograms, (B, P).

    Example:
        >>> float(whittle(np.array([1.0, 3.0]), np.ones((1, 2)))[0]) * CORRELATION
        -4.0
    """
    return np.asarray(-np.sum(np.log(expected) + measured / expected, axis=-1) / CORRELATION)
