"""Does a frame show a specimen? The likelihood of a film's spectrum against that of an evenly lit disc's shot noise.

The spectrum of the middle of the disc is compared with what amorphous films of several thicknesses would show at states
all over the box, in focus, too (`spectrum.model`). Frames are independent, so that the log-odds of a run add up.
"""

from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from controller import preprocess
from controller.canonical import units
from controller.spectrum import fit as spectrum_fit
from controller.spectrum import model as spectrum_model
from controller.spectrum.model import CORRELATION, Nuisance
from twin.arrays import Array
from twin.optics import Optics

INNER = 11 / 16
"""Side of the square inside the disc that is looked at, over the frame's side: it leaves out the edge of the disc."""
LOW, HIGH = 3 / 88, 26 / 88
"""Band of frequencies over the side of that square."""
STATES, REACH_NM = 64, np.array([120.0, 60.0, 60.0])
"""Number of states whose spectra are compared, and their half-range, nm at the reference optics."""
AMPLITUDES, THIN = np.array([0.1, 0.3, 1.0, 2.5]), 1
"""Power of the films over that of 5 nm of carbon, and which of them is the thinnest that a frame is held against."""
LEVELS = (0.75, 1.4)
"""Smallest and largest noise at low frequency over that extrapolated from high ones."""
SEEN, DENIED, CERTAIN = 8.0, -3.0, 12.0
"""Log-odds from which one frame shows a specimen; of a film of the thin kind below which a frame that shows none denies
it; and of all frames of a run from which a specimen is certain (docs/calibrate.md has the rates)."""


class Evidence(NamedTuple):
    """Log-odds of a specimen against an evenly lit disc.

    Attributes:
        any_film: of a film of any of the thicknesses.
        thin_film: of one with a third of the power of 5 nm of carbon.
    """

    any_film: float
    thin_film: float

    @property
    def none(self) -> bool:
        """Whether the frame shows no specimen and would show a film."""
        return self.any_film < SEEN and self.thin_film < DENIED


def evidence(counts: Array, optics: Optics) -> Evidence:
    """Weigh one frame.

    Args:
        counts: above the dark level, on the reference camera, (H, H).
        optics: beam, on the reference camera.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> evidence(rng.poisson(80.0, (128, 128)).astype(float), Optics()).none
        True
        >>> stripes = 80.0 + 8.0 * np.cos(np.arange(128))
        >>> evidence(rng.poisson(np.tile(stripes, (128, 1))).astype(float), Optics()).any_film > SEEN
        True
    """
    side = round(INNER * len(counts) / 2) * 2
    start = (len(counts) - side) // 2
    middle = preprocess.remove_defects(counts)[start : start + side, start : start + side]
    power = preprocess.per_dose(preprocess.spectrum(middle), preprocess.windowed_sum(middle))
    floor = preprocess.noise_floor(power)
    measured = (power / floor.power(side))[_band(side)]
    ratios = [_log_ratios(measured, amplitude * _films(optics, side) / floor.level) for amplitude in AMPLITUDES]
    return Evidence(_log_mean(np.concatenate(ratios)), _log_mean(ratios[THIN]))


def _log_ratios(measured: Array, signal: Array) -> Array:
    """Whittle log-likelihood of each expected signal (N, P) less that of none, in units of the noise floor, (N,).

    The floor, extrapolated from high frequencies, may be off: each takes the level within `LEVELS` that suits it best.
    """
    return _log_likelihood(measured, 1.0 + signal) - _log_likelihood(measured, np.ones((1, len(measured))))


def _log_likelihood(measured: Array, expected: Array) -> Array:
    level = np.clip(np.mean(measured / expected, axis=1), *LEVELS)
    fits = np.sum(measured / expected, axis=1) / level
    return np.asarray(-(fits + measured.size * np.log(level) + np.sum(np.log(expected), axis=1)) / CORRELATION)


def _log_mean(log_ratios: Array) -> float:
    largest = float(log_ratios.max())
    return largest + float(np.log(np.mean(np.exp(log_ratios - largest))))


@lru_cache(maxsize=4)
def _band(side: int) -> NDArray[np.bool_]:
    """Select frequencies beyond the illumination's own, each pair once, (side, side)."""
    y, x = np.mgrid[:side, :side] - side // 2
    radius = np.hypot(y, x)
    return np.asarray((radius >= LOW * side) & (radius <= HIGH * side) & ((x > 0) | ((x == 0) & (y > 0))))


@lru_cache(maxsize=2)
def _films(optics: Optics, side: int) -> Array:
    """Expected signal of 5 nm of carbon at states up to sign, (N, P), in units of the shot noise of 1e6 electrons."""
    grid = spectrum_model.grid(replace(optics, camera_pixels=side))
    reach = REACH_NM / units.scale(spectrum_fit.COEFFICIENTS, optics, units.REFERENCE)
    states = spectrum_fit.quasi_random(STATES, reach, np.random.default_rng(0))
    signal = np.zeros((STATES, side, side))
    signal[:, :, side // 2 :] = spectrum_model.expected_signal(states, Nuisance(), grid)
    return np.asarray(signal[:, _band(side)])
