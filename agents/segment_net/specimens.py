"""Random phases for the training: lattices, bilayers, amorphous layers, particles, and phases without any atom."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from abtem.parametrizations import LobatoParametrization
from ase.data import chemical_symbols
from numpy.typing import NDArray

from twin.arrays import Floats
from twin.optics import Optics

ELEMENTS = (1, 3, 5, 6, 7, 8, 13, 14, 16, 22, 26, 29, 34, 38, 42, 47, 50, 56, 74, 79, 82)
NON_ATOMIC = 0.35
"""Share of specimens without atoms: a network that has seen nothing but atoms finds them everywhere."""
STRONGEST_RAD = 2.5
"""Largest difference of phase in a specimen, after the aperture's band limit."""


@dataclass(frozen=True)
class Field:
    """A periodic square of a specimen.

    Attributes:
        side_nm: its side.
        pixels: along the side.
        optics: gives energy and angle.
    """

    side_nm: float
    pixels: int
    optics: Optics

    @property
    def resolution_nm(self) -> float:
        """Resolution element lambda / (2 alpha)."""
        return self.optics.wavelength_nm / (2e-3 * self.optics.convergence_mrad)

    def frequency(self) -> Floats:
        """Magnitude of the frequencies of `rfft2`, periods per resolution element, (n, n // 2 + 1)."""
        step = self.side_nm / self.pixels / self.resolution_nm
        return np.hypot(scipy.fft.fftfreq(self.pixels, step)[:, None], scipy.fft.rfftfreq(self.pixels, step))


def limited(phase: Floats, field: Field, limit: float = 1.0, edge: float = 0.1) -> Floats:
    """Remove frequencies above `limit` periods per resolution element, with a cosine edge."""
    inside = np.clip((limit - field.frequency()) / (edge * limit), 0.0, 1.0)
    return np.asarray(scipy.fft.irfft2(scipy.fft.rfft2(phase) * np.sin(np.pi / 2 * inside) ** 2, s=phase.shape))


def random_phase(field: Field, rng: np.random.Generator, atomic: bool) -> Floats:
    """Draw a projected phase, rad, (pixels, pixels); at most `STRONGEST_RAD` from lowest to highest."""
    if atomic:
        phase = _atoms(field, *_structure(field, rng), rng) * np.exp(rng.uniform(np.log(0.5), np.log(3.0)))
    else:
        phase = (_spectral, _blobs, _edges)[rng.integers(3)](field, rng)
        phase *= np.exp(rng.uniform(np.log(0.03), np.log(0.7))) / max(float(phase.std()), 1e-9)
    strength = float(np.ptp(limited(phase, field)))
    return phase * min(1.0, STRONGEST_RAD / max(strength, 1e-9))


def _structure(field: Field, rng: np.random.Generator) -> tuple[Floats, NDArray[np.int64]]:
    """Positions in nm, (N, 2), and atomic numbers of one or two layers, or of an amorphous one."""
    if rng.random() < 0.15:
        count = max(1, rng.poisson(rng.uniform(3.0, 40.0) * field.side_nm**2))
        where, numbers = rng.uniform(0, field.side_nm, (count, 2)), rng.choice(ELEMENTS, 2)[rng.integers(2, size=count)]
    else:
        turn, layer = rng.uniform(0, np.pi), _cell(rng)
        parts = [_tiled(*layer, turn, field.side_nm, rng)]
        if rng.random() < 0.4:
            other = layer if rng.random() < 0.7 else _cell(rng)
            parts.append(_tiled(*other, turn + rng.uniform(0, 0.6), field.side_nm, rng))
        where, numbers = (np.concatenate(part) for part in zip(*parts, strict=True))
    keep = rng.random(len(where)) > rng.choice([0.0, 0.02, 0.1])
    if rng.random() < 0.25:  # the edge of a flake or a particle
        normal = rng.uniform(0, 2 * np.pi)
        along = (where - field.side_nm / 2) @ np.array([np.cos(normal), np.sin(normal)])
        keep &= along < rng.uniform(-0.3, 0.3) * field.side_nm
    return where[keep], numbers[keep]


def _cell(rng: np.random.Generator) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Lattice vectors in nm, (2, 2), and basis: fractional positions, (N, 2), and atomic numbers."""
    a, ratio, angle = rng.uniform(0.2, 0.5), rng.uniform(0.7, 1.4), np.radians(rng.choice([60.0, 90.0, 120.0]))
    if rng.random() < 0.3:
        angle = rng.uniform(np.radians(60), np.radians(120))
    if rng.random() < 0.6:
        ratio = 1.0
    vectors = a * np.array([[1.0, 0.0], [ratio * np.cos(angle), ratio * np.sin(angle)]])
    count = int(rng.integers(1, 4))
    places = rng.choice([0.0, 1 / 3, 0.5, 2 / 3], (count, 2)) if rng.random() < 0.6 else rng.random((count, 2))
    return vectors, places, rng.choice(ELEMENTS, count)


def _tiled(
    vectors: Floats, places: Floats, numbers: NDArray[np.int64], turn: float, side_nm: float, rng: np.random.Generator
) -> tuple[Floats, NDArray[np.int64]]:
    """Atoms of a rotated lattice at random shift inside a square."""
    reach = int(np.ceil(1.5 * side_nm / (np.linalg.norm(vectors, axis=1).min() * 0.8))) + 1
    cells = np.stack(np.meshgrid(*2 * [np.arange(-reach, reach + 1)]), axis=-1).reshape(-1, 1, 2)
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    where = ((cells + places + rng.random(2)) @ vectors @ rotation).reshape(-1, 2) + side_nm / 2
    inside = np.all((where >= 0) & (where < side_nm), axis=1)
    return where[inside], np.broadcast_to(numbers, (len(cells), len(numbers))).ravel()[inside]


def _atoms(field: Field, where: Floats, numbers: NDArray[np.int64], rng: np.random.Generator) -> Floats:
    """Projected phase of atoms that vibrate, with Lobato and Van Dyck's scattering factors (2014)."""
    n, pixel_a = field.pixels, 10 * field.side_nm / field.pixels
    ky, kx = np.fft.fftfreq(n), np.fft.rfftfreq(n)
    k2 = (ky[:, None] ** 2 + kx**2) / pixel_a**2
    vibration = np.exp(-2 * np.pi**2 * rng.uniform(0.03, 0.12) ** 2 * k2)
    total, lobato = np.zeros(k2.shape, np.complex64), _lobato()
    for z in np.unique(numbers):
        y, x = where[numbers == z].T / field.side_nm * n
        points = np.exp(-2j * np.pi * np.outer(ky, y)).astype(np.complex64) @ np.exp(
            -2j * np.pi * np.outer(x, kx)
        ).astype(np.complex64)
        total += lobato.projected_scattering_factor(chemical_symbols[z])(k2) * points
    sigma = field.optics.interaction_rad_per_v_nm / 10
    return np.asarray(sigma / pixel_a**2 * scipy.fft.irfft2(total * vibration, s=(n, n)), np.float64)


def _lobato() -> Any:
    return LobatoParametrization()


def _spectral(field: Field, rng: np.random.Generator) -> Floats:
    """Random phases of all frequencies below a random limit, with a power law."""
    k = field.frequency()
    lowest = field.resolution_nm / field.side_nm
    weight = np.maximum(k, lowest) ** -rng.uniform(0.0, 2.0) * (k < rng.uniform(0.2, 1.3))
    noise = scipy.fft.rfft2(rng.standard_normal((field.pixels, field.pixels)))
    return np.asarray(scipy.fft.irfft2(noise * weight, s=(field.pixels, field.pixels)))


def _blobs(field: Field, rng: np.random.Generator) -> Floats:
    """Gaussian blobs of either sign and many widths."""
    total = np.zeros((field.pixels, field.pixels))
    axis = np.arange(field.pixels) * field.side_nm / field.pixels
    for _ in range(rng.integers(3, 40)):
        width = field.resolution_nm * np.exp(rng.uniform(np.log(0.3), np.log(4.0), 2))
        away = [axis - centre for centre in rng.uniform(0, field.side_nm, 2)]
        away = [a - field.side_nm * np.rint(a / field.side_nm) for a in away]
        y, x = (np.exp(-0.5 * (a / w) ** 2) for a, w in zip(away, width, strict=True))
        total += rng.choice([-1.0, 1.0]) * rng.uniform(0.3, 1.0) * np.outer(y, x)
    return total


def _edges(field: Field, rng: np.random.Generator) -> Floats:
    """Steps along straight lines and circles."""
    y, x = np.indices((field.pixels, field.pixels)) / field.pixels - 0.5
    total = np.zeros(x.shape)
    for _ in range(rng.integers(1, 6)):
        turn, offset, blur = rng.uniform(0, 2 * np.pi), rng.uniform(-0.4, 0.4), field.resolution_nm / field.side_nm
        if rng.random() < 0.5:
            distance = np.cos(turn) * x + np.sin(turn) * y - offset
        else:
            distance = np.hypot(x - rng.uniform(-0.4, 0.4), y - offset) - rng.uniform(0.05, 0.4)
        total += rng.uniform(-1.0, 1.0) * np.tanh(distance / (blur * rng.uniform(0.2, 1.5)))
    return total
