"""Z-contrast of one column: the beam is propagated along it, and every atom scatters what passes its thermal cloud.

Incoherent: what one atom scatters to the detector adds to what another does. The wave inside the column channels, so
that the n-th atom need not scatter as much as the first. Other columns are not there.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal, Self

import numpy as np
import scipy.fft
from ase.data import chemical_symbols
from pydantic import model_validator
from scipy.special import j0

from twin.aberrations import Aberrations
from twin.arrays import Floats
from twin.detectors.layouts import Region
from twin.matter.carbon_screen import grid_frequencies, potential_v_nm3
from twin.matter.crystals import projected_phase
from twin.optics import Optics
from twin.options import NonNegative, validated
from twin.zcontrast import depth as depth_law

RIGHT_ANGLE_MRAD = 500 * math.pi
GRID = 128
"""Pixels of the window in which the beam is propagated."""
SAMPLING_NM = 0.0156
RADIAL_NM = 0.004
"""Distance of the points of a profile."""
PLACES = 48
"""Distances from the column at which the beam is propagated."""
REACH_NM = 0.8
"""Radius within which a column is computed."""
FINE, FINE_NM = 1024, 0.0015
"""Grid for the scattering of one atom."""


@validated
class ZContrast:
    """Beam and detector of a Z-contrast image.

    Attributes:
        energy_kev: of the beam.
        convergence_mrad: semi-angle.
        c10_nm, c30_nm, c50_nm: round aberrations; C10 counts from the entrance face, defocus is minus C10.
        inner_mrad, outer_mrad: ring of the detector.
        source_nm: rms of the source's Gaussian image along one axis.
        depth: "fast", every atom scatters what passes its thermal cloud; or "multislice", corrected by a law of the
            number of atoms that is computed once for each kind of column, in seconds (`twin.zcontrast.depth`).
    """

    energy_kev: float = 300.0
    convergence_mrad: float = 21.1
    c10_nm: float = 0.0
    c30_nm: float = 0.0
    c50_nm: float = 0.0
    inner_mrad: NonNegative = 60.0
    outer_mrad: NonNegative = 190.0
    source_nm: NonNegative = 0.03
    depth: Literal["fast", "multislice"] = "fast"

    @model_validator(mode="after")
    def _ring(self) -> Self:
        check_ring(self.inner_mrad, self.outer_mrad)
        return self

    @property
    def aberrations(self) -> Aberrations:
        """The round ones."""
        return Aberrations.of({"C10": self.c10_nm, "C30": self.c30_nm, "C50": self.c50_nm})

    @property
    def optics(self) -> Optics:
        """Beam on the grid of the propagation."""
        return Optics(
            energy_kev=self.energy_kev,
            convergence_mrad=self.convergence_mrad,
            grid=GRID,
            sampling_nm=SAMPLING_NM,
            camera_pixels=64,
            binning=1,
        )

    @property
    def ring(self) -> Region:
        """The detector."""
        return Region(inner_mrad=self.inner_mrad, outer_mrad=self.outer_mrad)


def check_ring(inner_mrad: float, outer_mrad: float) -> None:
    """Refuse a ring without angles.

    Raises:
        ValueError: names both.
    """
    if not 0 <= inner_mrad < outer_mrad <= RIGHT_ANGLE_MRAD:
        raise ValueError(
            f"a ring has an inner angle below the outer one, both from 0 to {RIGHT_ANGLE_MRAD:.0f} mrad, got"
            f" {inner_mrad:g} and {outer_mrad:g}"
        )


@lru_cache(maxsize=256)
def atom_cross_section_nm2(number: int, energy_kev: float, inner_mrad: float, outer_mrad: float) -> float:
    """Cross-section of one atom for scattering into a ring, nm^2.

    The squared Fourier transform of exp(i sigma V) - 1 for a plane wave, with Lobato and Van Dyck's potential.
    """
    optics = Optics(energy_kev=energy_kev, convergence_mrad=20.0)
    q = np.hypot(np.fft.fftfreq(FINE, FINE_NM)[:, None], np.fft.fftfreq(FINE, FINE_NM)[None, :])
    spectrum = optics.interaction_rad_per_v_nm * potential_v_nm3(q, chemical_symbols[number])
    phase = scipy.fft.ifft2(spectrum).real / FINE_NM**2
    scattered = scipy.fft.fft2(np.exp(1j * phase) - 1.0) * FINE_NM**2
    angle_mrad = 1e3 * optics.wavelength_nm * q
    inside = (angle_mrad >= inner_mrad) & (angle_mrad < outer_mrad)
    return float(np.sum(np.abs(scattered[inside]) ** 2)) / (FINE * FINE_NM) ** 2


def column_profile(
    elements: Sequence[int], depth_nm: Sequence[float], rms_nm: Mapping[int, float], beam: ZContrast
) -> Floats:
    """Part of the beam that reaches the detector, by distance from the column, for its first 0, 1, ... atoms.

    Args:
        elements: atomic numbers from the entrance on, n of them.
        depth_nm: depths of the atoms, rising; the beam is focused relative to depth zero.
        rms_nm: rms displacement along one axis by atomic number.
        beam: beam and detector.

    Returns:
        Shape (n + 1, P); points `RADIAL_NM` apart from the column's centre on.
    """
    optics = beam.optics
    place_nm = np.linspace(0.0, REACH_NM, PLACES)
    density = _densities(optics, beam, elements, depth_nm, rms_nm, place_nm)
    radius = np.arange(0.0, REACH_NM, RADIAL_NM)
    scattered = np.zeros((len(elements) + 1, len(radius)))
    ring = beam.ring
    for n, number in enumerate(elements):
        sigma = atom_cross_section_nm2(number, beam.energy_kev, ring.inner_mrad, ring.outer_mrad)
        scattered[n + 1] = scattered[n] + sigma * np.interp(radius, place_nm, density[n])
    if beam.depth == "multislice" and len(elements):
        first = slice(0, depth_law.MOST_ATOMS)
        signal = depth_law.multislice_signal(
            elements[first], depth_nm[first], rms_nm, (optics, beam.aberrations), beam.ring
        )
        factor, exponent = depth_law.power_law(signal, scattered[1 : len(signal) + 1, 0])
        scattered[1:] *= factor * np.arange(1.0, len(elements) + 1)[:, None] ** exponent
    return _blurred(scattered, radius, beam.source_nm)


def _densities(
    optics: Optics,
    beam: ZContrast,
    elements: Sequence[int],
    depth_nm: Sequence[float],
    rms_nm: Mapping[int, float],
    place_nm: Floats,
) -> Floats:
    """Beam density over the thermal cloud of each atom, nm^-2, for a beam at each distance, (n, places)."""
    side_nm = GRID * SAMPLING_NM
    middle, q = np.full((1, 2), side_nm / 2), grid_frequencies(GRID, SAMPLING_NM)
    frequency = np.asarray(np.fft.fftfreq(GRID, SAMPLING_NM), np.float64)
    k2 = frequency[:, None] ** 2 + frequency[None, :] ** 2
    kept = k2 < (2 / 3 * 0.5 / SAMPLING_NM) ** 2
    psi = _probes(optics, beam, place_nm, frequency)
    density, before_nm = np.empty((len(elements), len(place_nm))), 0.0
    cloud_of, layer_of = {}, {}
    for number in set(elements):
        blur_nm = rms_nm.get(number, 0.0)
        phase = projected_phase(chemical_symbols[number], middle, optics, GRID, SAMPLING_NM, blur_nm)
        layer_of[number] = scipy.fft.ifft2(kept * scipy.fft.fft2(np.exp(1j * phase)))
        transfer = np.exp(-2 * (math.pi * blur_nm * q) ** 2)
        shift = np.exp(-1j * math.pi * side_nm * (frequency[:, None] + np.fft.rfftfreq(GRID, SAMPLING_NM)[None, :]))
        cloud_of[number] = scipy.fft.irfft2(transfer * shift, s=(GRID, GRID)) / SAMPLING_NM**2
    for n, (number, depth) in enumerate(zip(elements, depth_nm, strict=True)):
        if depth > before_nm:
            free = kept * np.exp(-1j * math.pi * optics.wavelength_nm * (depth - before_nm) * k2)
            psi = scipy.fft.ifft2(free * scipy.fft.fft2(psi, axes=(1, 2)), axes=(1, 2))
            before_nm = depth
        density[n] = np.tensordot(np.abs(psi) ** 2, cloud_of[number], 2)
        psi = psi * layer_of[number]
    return density


def _probes(optics: Optics, beam: ZContrast, place_nm: Floats, frequency: Floats) -> np.ndarray:
    """Probes at the entrance face, each displaced from the window's middle, (places, GRID, GRID); sum |psi|^2 = 1."""
    wavelength = optics.wavelength_nm
    theta = wavelength * np.hypot(frequency[:, None], frequency[None, :])
    aberrations = beam.aberrations
    round_terms = ((2, aberrations["C10"]), (4, aberrations["C30"]), (6, aberrations["C50"]))
    chi = 2 * math.pi / wavelength * sum(value * theta**order / order for order, value in round_terms)
    # A soft edge of one pixel: the aperture's area does not jump with the grid.
    edge = (beam.convergence_mrad * 1e-3 - theta) / (wavelength / (GRID * SAMPLING_NM)) + 0.5
    wave = np.clip(edge, 0.0, 1.0) * np.exp(-1j * chi)
    wave /= math.sqrt(float(np.sum(np.abs(wave) ** 2)))
    middle = GRID * SAMPLING_NM / 2
    along_x = np.exp(-2j * math.pi * frequency[None, :] * (middle + place_nm)[:, None])
    along_y = np.exp(-2j * math.pi * frequency * middle)
    psi = scipy.fft.ifft2(wave * along_y[None, :, None] * along_x[:, None, :], axes=(1, 2))
    return np.asarray(psi * GRID)


def _blurred(profiles: Floats, radius_nm: Floats, rms_nm: float) -> Floats:
    """Round profiles convolved with a Gaussian in two dimensions, by Hankel transforms."""
    if rms_nm == 0:
        return profiles
    q = np.linspace(0.0, 40.0, 600)  # 1/nm; the beam has nothing beyond twice its aperture over the wavelength
    kernel = j0(2 * math.pi * q[:, None] * radius_nm[None, :])
    spectrum = 2 * math.pi * (profiles * radius_nm) @ kernel.T * RADIAL_NM
    damped = spectrum * np.exp(-2 * (math.pi * rms_nm * q) ** 2)
    # Beyond the last ring of the transform it oscillates about zero.
    return np.maximum(2 * math.pi * (damped * q) @ kernel * (q[1] - q[0]), 0.0)
