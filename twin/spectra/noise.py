"""Sets of spectra and spectrum images with the noise of a camera: Poisson, then read-out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twin.arrays import Floats
from twin.errors import check_known
from twin.options import NonNegative, Positive, validated
from twin.spectra.phases import IRON, SpectralPhase, Variation, iron_axis_ev, spectra_of


@validated
class SpectrumNoise:
    """Noise of a spectrometer's camera.

    Attributes:
        peak_e: mean electrons in the highest channel.
        readout_e: rms of the read-out noise.
    """

    peak_e: Positive = 50.0
    readout_e: NonNegative = 1.5


@dataclass(frozen=True, eq=False)
class Spectra:
    """Spectra of several phases.

    Attributes:
        energy_ev: of the channels, (E,).
        expected: without noise, the highest channel 1, (..., E).
        measured: the same with noise, in the same units, (..., E).
        phase: index of the phase, (...).
        names: of the phases.
    """

    energy_ev: Floats
    expected: Floats
    measured: Floats
    phase: NDArray[np.int64]
    names: tuple[str, ...]


def measured(expected: Floats, noise: SpectrumNoise, rng: np.random.Generator) -> Floats:
    """Spectra with noise, in the units of the expected ones.

    Args:
        expected: the highest channel of each is 1.
        noise: of the camera.
        rng: random numbers.
    """
    counts = rng.poisson(expected * noise.peak_e) + noise.readout_e * rng.standard_normal(expected.shape)
    return np.asarray(counts / noise.peak_e)


def draw(
    names: Sequence[str],
    count: int,
    seed: int,
    noise: SpectrumNoise | None = None,
    variation: Variation | None = None,
    phases: Mapping[str, SpectralPhase] = IRON,
) -> Spectra:
    """Draw spectra of phases, `count` of each, one phase after the other.

    Raises:
        ValueError: an unknown phase; names the nearest.

    Example:
        >>> found = draw(["FeO", "Fe2O3"], 100, seed=42)
        >>> found.measured.shape, found.phase[[0, -1]].tolist()
        ((200, 128), [0, 1])
    """
    labels = np.repeat(np.arange(len(names)), count)
    return _drawn(names, labels, np.random.default_rng(seed), noise, variation, phases)


def spectrum_image(
    label: NDArray[np.integer],
    names: Sequence[str],
    rng: np.random.Generator,
    noise: SpectrumNoise | None = None,
    variation: Variation | None = None,
    phases: Mapping[str, SpectralPhase] = IRON,
) -> Spectra:
    """Draw a spectrum for every position of a map of phases.

    Args:
        label: index of the phase at every position, (rows, columns).
        names: of the phases.
        rng: random numbers.
        noise, variation: of the camera and from place to place; None: the usual ones.
        phases: known ones by name.

    Raises:
        ValueError: an unknown phase; names the nearest.
    """
    return _drawn(names, np.asarray(label), rng, noise, variation, phases)


def _drawn(
    names: Sequence[str],
    label: NDArray[np.integer],
    rng: np.random.Generator,
    noise: SpectrumNoise | None,
    variation: Variation | None,
    phases: Mapping[str, SpectralPhase],
) -> Spectra:
    for name in names:
        check_known(name, phases, "a phase")
    energy = iron_axis_ev()
    expected = np.empty((*label.shape, len(energy)))
    for number, name in enumerate(names):
        here = label == number
        expected[here] = spectra_of(phases[name], energy, int(here.sum()), variation or Variation(), rng)
    values = measured(expected, noise or SpectrumNoise(), rng)
    return Spectra(energy, expected, values, label.astype(np.int64), tuple(names))
