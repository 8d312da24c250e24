"""Cramer-Rao bound of estimators that use power spectra of frames from independent film regions.

Fisher information of the Whittle likelihood (Whittle 1953; Kay 1993, section 3.9): the bins of a periodogram are
exponentially distributed with mean S(k; x). All operating conditions except x0 are taken as known. A fit of several
frames of one region can have a smaller error, because it learns the film; so can an estimator with a prior, or with
spectra of sub-areas for coma and three-fold astigmatism. Imports torch through the renderer.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from controller.preprocess import hann_window
from twin.aberrations import index
from twin.arrays import Array
from twin.cameras.ronchigram_camera import gain_map
from twin.day import Day
from twin.optics import Optics
from twin.ronchigram.camera_geometry import to_camera
from twin.ronchigram.phase_screens import SLICE_NM, FastRenderer
from twin.state import StateSpace

HANN_CORRELATION = (1 + 2 * ((2 / 3) ** 2 + (1 / 6) ** 2)) ** 2
"""Design effect of a Hann window, (35/18)^2 = 3.78: correlated bins per independent one.

Sum over neighbours of the squared correlation of their amplitudes, which is 2/3 and 1/6 at one and two bins along an
axis. The variance of a smooth sum over the periodogram is larger by this factor than for independent bins.
"""

LOWEST_PX = 3.0
"""Lowest frequency: below it the disc's own transform dominates; the estimators leave it out as well."""

VERSION = 1
"""Part of `digest`; increased when the same arguments give another bound."""

MOST_SLICES = 4
"""Largest number of slices; more do not change the spectrum of thick films."""


@dataclass(frozen=True)
class Design:
    """States and numbers of film regions for estimating the information.

    Attributes:
        tolerances: |component| of the states, in tolerances of the space. Not zero: the spectrum is even in x to
            first order, so that a frame at x = 0 carries no information. From 2 to 6 tolerances of 10 nm the
            information of a frame of a library day is largest, and nearly constant.
        states: number of sign patterns, drawn from all patterns up to x -> -x, which changes little.
        regions: number of film regions per state.
        step_tolerances: step of the finite difference, in tolerances.
        seed: of regions and patterns.
    """

    tolerances: float = 2.5
    states: int = 3
    regions: int = 8
    step_tolerances: float = 0.05
    seed: int = 0


def default_design(space: StateSpace) -> Design:
    """Return more regions for more coefficients: odd orders carry little information, which speckle hides."""
    return Design(regions=8 * math.ceil(space.dimension / 3))


def bound_nm(information_per_nm2: Array, frames: int) -> float:
    """Least root-mean-square error norm, nm, of an unbiased estimate of x0 from independent frames.

    Infinite if the information is not positive definite: in some direction it does not exceed the speckle.

    Example:
        >>> bound_nm(np.diag([1.0, 1.0, 1.0]), frames=3)
        1.0
    """
    if np.linalg.eigvalsh(information_per_nm2)[0] <= 0:
        return math.inf
    return float(np.sqrt(np.trace(np.linalg.inv(frames * information_per_nm2))))


def median_over_rms(information_per_nm2: Array) -> float:
    """Ratio of median to root mean square of the error norm of a Gaussian estimate at the bound.

    0.67 for one coefficient, 0.89 for three of equal variance. From fixed draws, accurate to 0.3 %.
    """
    variances = np.linalg.eigvalsh(np.linalg.inv(information_per_nm2))
    draws = np.random.default_rng(0).standard_normal((100_000, variances.size))
    return float(np.sqrt(np.median(draws**2 @ variances) / np.sum(variances)))


def digest(optics: Optics, space: StateSpace, day: Day, design: Design | None = None) -> str:
    """SHA-256 of all arguments of `frame_information` and the constants that it depends on."""
    parts = (VERSION, LOWEST_PX, optics, space, day, design or default_design(space))
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def frame_information(optics: Optics, space: StateSpace, day: Day, design: Design | None = None) -> Array:
    """Fisher information of one frame's power spectrum on the state, shape (n, n), per nm^2.

    The mean over the design's states, where inputs are assumed to bring the state. Films are phase screens
    (`FastRenderer`), whatever the scenario's renderer.
    """
    design = design or default_design(space)
    rng = np.random.default_rng(design.seed)
    slices = min(MOST_SLICES, math.ceil(day.film.thickness_nm / SLICE_NM))
    renderer = FastRenderer(optics, day, slices)
    total = np.zeros((space.dimension, space.dimension))
    for state in design_states(space, design, rng):
        seeds = rng.integers(2**32, size=design.regions)
        derivative, power = spectra_and_slopes(renderer, space, state, design, seeds)
        total += whittle_information(derivative, power, informative_bins(optics.camera_pixels))
    return total / design.states


def design_states(space: StateSpace, design: Design, rng: np.random.Generator) -> Array:
    """Draw corners of the box of `design.tolerances`, the first component positive, shape (states, n), nm."""
    patterns = np.array([(1.0, *rest) for rest in product((1.0, -1.0), repeat=space.dimension - 1)])
    chosen = rng.permutation(len(patterns))[np.arange(design.states) % len(patterns)]
    corners: Array = design.tolerances * patterns[chosen] * space.tolerance
    return corners


def informative_bins(pixels: int) -> NDArray[np.bool_]:
    """Select all frequencies but the disc's own, (pixels, pixels), zero frequency at the centre."""
    axis = np.arange(pixels) - pixels // 2
    return np.hypot(axis[:, None], axis[None, :]) >= LOWEST_PX


def whittle_information(derivative: Array, power: Array, bins: NDArray[np.bool_]) -> Array:
    """Sum over independent frequencies of (d log S / dx)(d log S / dx)^T, shape (n, n).

    A mean over R regions still contains their speckle, whose square would be mistaken for information. Products of two
    different regions are unbiased: sum over r != s of D_r D_s^T / (R (R - 1) S^2). A real image contains each frequency
    twice, and `HANN_CORRELATION` bins behind the Hann window carry the information of one.

    Args:
        derivative: dP/dx of the periodogram of each region, (R, n, H, W), R >= 2.
        power: expected periodogram, (H, W).
        bins: frequencies to sum over, (H, W).

    Raises:
        ValueError: fewer than two regions.
    """
    count = len(derivative)
    if count < 2:
        raise ValueError(f"the information needs 2 regions or more to be separated from speckle; got {count}")
    slopes = derivative[..., bins] / power[bins]
    together, alone = slopes.sum(0), np.einsum("rif,rjf->ij", slopes, slopes)
    information: Array = (together @ together.T - alone) / (count * (count - 1)) / (2 * HANN_CORRELATION)
    return information


def spectra_and_slopes(
    renderer: FastRenderer, space: StateSpace, state_nm: Array, design: Design, seeds: Sequence[int] | NDArray[np.int64]
) -> tuple[Array, Array]:
    """Return dP/dx of every region, (R, n, H, W), and the expected periodogram including shot noise, (H, W).

    Forward differences on the same film equal central ones half a step away, and S is smooth. Frames are noiseless:
    the floor that shot noise adds to P does not depend on x. Units: squared counts.
    """
    import torch

    states = np.repeat(renderer.day.residual.array()[None], 1 + space.dimension, 0)
    calibrated = [index(name) for name in space.names]
    step = design.step_tolerances * space.tolerance
    states[:, calibrated] += np.asarray(state_nm)
    states[range(1, 1 + space.dimension), calibrated] += step
    images = []
    with torch.no_grad():
        for seed in seeds:
            film = renderer.transmission(int(seed))[None]
            rows = [renderer.intensity(torch.from_numpy(row[None]).to(renderer.dtype), film) for row in states]
            images.append(to_camera(torch.cat(rows), renderer.optics, renderer.day.camera).double().numpy())
    stack = np.stack(images)
    power = _periodogram(stack, renderer.day)
    slopes = (power[:, 1:] - power[:, :1]) / step[:, None, None]
    expected = power.mean((0, 1)) + shot_noise(stack.mean((0, 1)), renderer.day)
    return slopes, _smooth(expected)


def _periodogram(probability: Array, day: Day) -> Array:
    """|F[hann * counts]|^2 of noiseless frames, (..., H, W), zero frequency at the centre."""
    pixels = probability.shape[-1]
    counts = day.dose_e * probability * gain_map(day.camera, (pixels, pixels))
    power = np.abs(np.fft.fft2(hann_window(pixels) * counts)) ** 2
    return np.fft.fftshift(power, axes=(-2, -1)) * _transfer2(day, pixels)


def shot_noise(probability: Array, day: Day) -> Array:
    """Expected periodogram of shot and read-out noise, (H, W): white before the camera blurs it."""
    pixels = probability.shape[-1]
    gain, window2 = gain_map(day.camera, (pixels, pixels)), hann_window(pixels) ** 2
    shot = float(np.sum(window2 * gain**2 * day.dose_e * probability))
    rounding = 1 / 12
    white = (day.camera.readout_rms**2 + rounding) * float(np.sum(window2))
    return shot * _transfer2(day, pixels) + white


def _transfer2(day: Day, pixels: int) -> Array:
    """Squared modulation transfer at every frequency, (H, W), zero frequency at the centre."""
    axis = (np.arange(pixels) - pixels // 2) / (pixels / 2)
    transfer: Array = day.camera.mtf_nyquist ** (2 * (axis[:, None] ** 2 + axis[None, :] ** 2))
    return transfer


def _smooth(power: Array) -> Array:
    """Average each bin with its eight neighbours, which the Hann window mixes anyway: less speckle in 1 / S^2."""
    smooth: Array = ndimage.uniform_filter(power, size=3, mode="wrap")
    return smooth
