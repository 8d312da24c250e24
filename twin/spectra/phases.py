"""Phases and their spectra: peaks on a smooth background, with what varies from place to place.

Shapes only: positions and widths are round values near those of iron's L edge, and no spectrum is computed from a
structure. Energies in eV.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from twin.arrays import Floats


@dataclass(frozen=True)
class Peak:
    """A Gaussian peak.

    Attributes:
        energy_ev: its middle.
        width_ev: rms width.
        height: relative to the other peaks.
    """

    energy_ev: float
    width_ev: float
    height: float


@dataclass(frozen=True)
class SpectralPhase:
    """A phase by its spectrum.

    Attributes:
        peaks: of the edge.
        background: height of the power law at the first energy, relative to the peaks.
        exponent: of the power law.
    """

    peaks: tuple[Peak, ...]
    background: float = 0.1
    exponent: float = 3.0


@dataclass(frozen=True)
class Variation:
    """What varies from place to place within a phase, each normally distributed.

    Attributes:
        shift_ev: rms shift of all peaks, by charge and the spectrometer.
        broadening: rms relative width.
        height: rms relative height of every peak but the first, by thickness and composition.
    """

    shift_ev: float = 0.35
    broadening: float = 0.05
    height: float = 0.08


IRON: Mapping[str, SpectralPhase] = {
    "Fe2O3": SpectralPhase((Peak(709.5, 0.5, 1.0), Peak(707.9, 0.35, 0.35), Peak(722.8, 0.7, 0.45))),
    "FeO": SpectralPhase((Peak(706.6, 0.55, 1.0), Peak(719.3, 0.7, 0.35))),
    "Fe3O4": SpectralPhase((Peak(708.2, 0.8, 1.0), Peak(721.2, 0.9, 0.55))),
    "amorphous": SpectralPhase((Peak(711.5, 1.2, 1.0), Peak(724.5, 1.3, 0.7)), background=0.25),
}
"""Four phases near the L edge of iron."""


def iron_axis_ev(channels: int = 128) -> Floats:
    """Energies of the channels from 700 to 740 eV."""
    return np.linspace(700.0, 740.0, channels)


def spectra_of(
    phase: SpectralPhase, energy_ev: Floats, count: int, variation: Variation, rng: np.random.Generator
) -> Floats:
    """Draw noiseless spectra of one phase, each with its largest value 1, (count, channels).

    Args:
        phase: peaks and background.
        energy_ev: of the channels, rising.
        count: number of spectra.
        variation: from place to place.
        rng: random numbers.
    """
    shift = variation.shift_ev * rng.standard_normal((count, 1))
    broader = np.exp(variation.broadening * rng.standard_normal((count, 1)))
    total = phase.background * (energy_ev / energy_ev[0]) ** -phase.exponent + np.zeros((count, 1))
    for number, peak in enumerate(phase.peaks):
        height = peak.height * np.exp((variation.height if number else 0.0) * rng.standard_normal((count, 1)))
        total = total + height * np.exp(-0.5 * ((energy_ev - peak.energy_ev - shift) / (peak.width_ev * broader)) ** 2)
    return np.asarray(total / total.max(axis=1, keepdims=True))
