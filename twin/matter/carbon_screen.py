"""Amorphous carbon as a random phase object: its structure factor and the phase screens drawn from it.

The atomic model with the same statistics is in `carbon_atoms.py`.
"""

import math

import numpy as np
from numpy.typing import NDArray

from twin.arrays import Array
from twin.day import FilmProperties
from twin.optics import Optics

# Lobato & Van Dyck, Acta Cryst. A 70 (2014) 636, carbon: a [angstrom], b [angstrom^2].
_LOBATO_CARBON_A = np.array(
    [124.466088621343, -220.352857078963, 195.235352280479, -98.1079361269799, 0.0142023041213623]
)
_LOBATO_CARBON_B = np.array(
    [2.42120849256005, 2.30537943752425, 2.04851932106564, 1.93352552917547, 0.0768976818478339]
)

# h^2 / (2 pi m0 e), V nm^2: from a scattering factor in nm to the transform of a potential in V nm^3.
_FACTOR_TO_POTENTIAL_V_NM2 = 0.4787801


def scattering_factor_nm(q_per_nm: Array) -> Array:
    """Electron scattering factor of carbon, nm, at spatial frequency q (1/nm, cycles), any shape."""
    g2 = (np.asarray(q_per_nm, np.float64)[..., None] * 0.1) ** 2
    b = _LOBATO_CARBON_B * g2
    angstrom = np.sum(_LOBATO_CARBON_A * (2 + b) / (1 + b) ** 2, axis=-1)
    return angstrom * 0.1


def structure_factor(q_per_nm: Array, film: FilmProperties) -> Array:
    """S(q) of the film's hard cores in the Percus-Yevick closed form (Wertheim, PRL 10 (1963) 321).

    Args:
        q_per_nm: spatial frequency in cycles per nm, any shape.
        film: density and closest approach define the packing fraction.

    Returns:
        S, same shape; 1 far above 1 / hard_core_nm.
    """
    d = film.hard_core_nm
    eta = math.pi / 6 * film.density_per_nm3 * d**3
    alpha = (1 + 2 * eta) ** 2 / (1 - eta) ** 4
    beta = -6 * eta * (1 + eta / 2) ** 2 / (1 - eta) ** 4
    gamma = eta * alpha / 2
    # Below 0.05 the closed form suffers from cancellation; S is flat there.
    k = np.maximum(2 * np.pi * np.asarray(q_per_nm, np.float64) * d, 0.05)
    s, c = np.sin(k), np.cos(k)
    transform = (
        alpha * (s - k * c) / k**3
        + beta * (2 * k * s + (2 - k**2) * c - 2) / k**4
        + gamma * (-(k**4) * c + 4 * ((3 * k**2 - 6) * c + (k**3 - 6 * k) * s + 6)) / k**6
    )
    return 1.0 / (1.0 + 24 * eta * transform)


def phase_psd_rad2_nm2(q_per_nm: Array, film: FilmProperties, optics: Optics, thickness_nm: float) -> Array:
    """Power spectral density of the projected phase of `thickness_nm` of film, rad^2 nm^2, shape of q.

    Its integral over the plane of q is the variance of the phase: n t |sigma V(q)|^2 S(q), with the
    structure factor on the central plane of reciprocal space (the film is much thicker than an atom).
    """
    potential = _FACTOR_TO_POTENTIAL_V_NM2 * scattering_factor_nm(q_per_nm)
    per_atom = (optics.interaction_rad_per_v_nm * potential) ** 2
    return film.density_per_nm3 * thickness_nm * per_atom * structure_factor(q_per_nm, film)


def grid_frequencies(grid: int, sampling_nm: float) -> Array:
    """|q| in 1/nm on the half plane of a real FFT, shape (grid, grid // 2 + 1)."""
    return np.hypot(np.fft.fftfreq(grid, sampling_nm)[:, None], np.fft.rfftfreq(grid, sampling_nm)[None, :])


def screen_filter(
    film: FilmProperties, optics: Optics, thickness_nm: float, source_size_nm: float = 0.0, side: int | None = None
) -> NDArray[np.float32]:
    """Filter from unit complex noise on the half plane to a film's phase, shape (side, side // 2 + 1).

    `side` is by default that of the grid; the sampling is the same for any side.

    To first order in the potential, a finite source blurs the Ronchigram like a blur of the potential (shifting the
    probe shifts the shadow image): the filter includes the source's Gaussian.
    """
    side = side or optics.grid
    q = grid_frequencies(side, optics.sampling_nm)
    psd = phase_psd_rad2_nm2(q, film, optics, thickness_nm)
    amplitude = np.sqrt(psd) * (side / optics.sampling_nm)
    amplitude[0, 0] = 0.0  # a constant phase has no effect
    return (amplitude * np.exp(-2 * (np.pi * source_size_nm * q) ** 2)).astype(np.float32)


def unit_noise(grid: int, rng: np.random.Generator) -> NDArray[np.complex64]:
    """Transform of real white noise of unit power on the half plane, shape (grid, grid // 2 + 1)."""
    parts = rng.standard_normal((2, grid, grid // 2 + 1), dtype=np.float32)
    noise = ((parts[0] + 1j * parts[1]) * np.float32(math.sqrt(0.5))).astype(np.complex64)
    # A real field is Hermitian on the two self-conjugate columns.
    for column in (0, grid // 2) if grid % 2 == 0 else (0,):
        mirrored = np.conj(np.roll(noise[::-1, column], 1))
        noise[:, column] = (noise[:, column] + mirrored) * np.float32(math.sqrt(0.5))
    return noise
