"""An amorphous film as a random phase object: its structure factor and the phase screens drawn from it.

The atomic model with the same statistics is in `carbon_atoms.py`.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from twin.arrays import Array
from twin.day import FilmProperties, IlluminationProperties
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


@lru_cache(maxsize=16)
def _lobato(element: str) -> tuple[Array, Array]:
    """Parameters a and b of an element; those of carbon stand here, the others in abTEM, whose import takes seconds."""
    if element == "C":
        return _LOBATO_CARBON_A, _LOBATO_CARBON_B
    from abtem.parametrizations import LobatoParametrization

    a, b = LobatoParametrization().scaled_parameters(element, "scattering_factor")
    return np.asarray(a, np.float64), np.asarray(b, np.float64)


def scattering_factor_nm(q_per_nm: Array, element: str = "C") -> Array:
    """Electron scattering factor of an element, nm, at spatial frequency q (1/nm, cycles), any shape."""
    g2 = (np.asarray(q_per_nm, np.float64)[..., None] * 0.1) ** 2
    lobato_a, lobato_b = _lobato(element)
    b = lobato_b * g2
    angstrom = np.sum(lobato_a * (2 + b) / (1 + b) ** 2, axis=-1)
    return angstrom * 0.1


def potential_v_nm3(q_per_nm: Array, element: str) -> Array:
    """Fourier transform of the potential of one atom, V nm^3, at spatial frequency q (1/nm, cycles), any shape."""
    return _FACTOR_TO_POTENTIAL_V_NM2 * scattering_factor_nm(q_per_nm, element)


def structure_factor(q_per_nm: Array, film: FilmProperties) -> Array:
    """S(q) of the film's hard cores in the Percus-Yevick closed form (Wertheim, PRL 10 (1963) 321).

    Displacing every atom by an independent Gaussian multiplies S - 1 by the square of its characteristic function.

    Args:
        q_per_nm: spatial frequency in cycles per nm, any shape.
        film: density and closest approach define the packing fraction; its disorder.

    Returns:
        S, same shape; 1 far above 1 / hard_core_nm.
    """
    d = film.closest_nm
    eta = math.pi / 6 * film.atoms_per_nm3 * d**3
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
    packed = 1.0 / (1.0 + 24 * eta * transform)
    if film.disorder_nm == 0.0:
        return packed
    return 1.0 + (packed - 1.0) * np.exp(-((2 * np.pi * film.disorder_nm * np.asarray(q_per_nm, np.float64)) ** 2))


def phase_psd_rad2_nm2(q_per_nm: Array, film: FilmProperties, optics: Optics, thickness_nm: float) -> Array:
    """Power spectral density of the projected phase of `thickness_nm` of film, rad^2 nm^2, shape of q.

    Its integral over the plane of q is the variance of the phase: n t |sigma V(q)|^2 S(q), with the
    structure factor on the central plane of reciprocal space (the film is much thicker than an atom). The elements of
    a compound are distributed over the cores at random: <V>^2 S + (<V^2> - <V>^2).
    """
    structure = structure_factor(q_per_nm, film)
    mean = mean_square = np.zeros(np.shape(q_per_nm))
    for element, share in film.composition:
        phase = optics.interaction_rad_per_v_nm * potential_v_nm3(q_per_nm, element)
        mean, mean_square = mean + share * phase, mean_square + share * phase**2
    per_area = film.atoms_per_nm3 * thickness_nm
    return per_area * mean**2 * structure + per_area * (mean_square - mean**2)


def grid_frequencies(grid: int, sampling_nm: float) -> Array:
    """|q| in 1/nm on the half plane of a real FFT, shape (grid, grid // 2 + 1)."""
    return np.hypot(np.fft.fftfreq(grid, sampling_nm)[:, None], np.fft.rfftfreq(grid, sampling_nm)[None, :])


def vibration_transfer(qx_per_nm: Array, qy_per_nm: Array, illumination: IlluminationProperties) -> Array:
    """Gaussian of a probe that vibrates along one axis, at spatial frequencies along x and y; 1 at rest."""
    turn = math.radians(illumination.vibration_deg)
    along = math.cos(turn) * qx_per_nm + math.sin(turn) * qy_per_nm
    return np.asarray(np.exp(-2 * (np.pi * illumination.vibration_nm * along) ** 2))


def screen_filter(
    film: FilmProperties,
    optics: Optics,
    thickness_nm: float,
    source_size_nm: float = 0.0,
    side: int | None = None,
    illumination: IlluminationProperties | None = None,
) -> NDArray[np.float32]:
    """Filter from unit complex noise on the half plane to a film's phase, shape (side, side // 2 + 1).

    `side` is by default that of the grid; the sampling is the same for any side.

    To first order in the potential, a finite source blurs the Ronchigram like a blur of the potential (shifting the
    probe shifts the shadow image): the filter includes the source's Gaussian and that of a vibration.
    """
    side = side or optics.grid
    q = grid_frequencies(side, optics.sampling_nm)
    psd = phase_psd_rad2_nm2(q, film, optics, thickness_nm)
    amplitude = np.sqrt(psd) * (side / optics.sampling_nm)
    amplitude[0, 0] = 0.0  # a constant phase has no effect
    filtered = amplitude * np.exp(-2 * (np.pi * source_size_nm * q) ** 2)
    if illumination is not None and illumination.vibration_nm > 0.0:
        along_x, along_y = np.fft.rfftfreq(side, optics.sampling_nm), np.fft.fftfreq(side, optics.sampling_nm)
        filtered = filtered * vibration_transfer(along_x[None, :], along_y[:, None], illumination)
    return filtered.astype(np.float32)


def unit_noise(grid: int, rng: np.random.Generator) -> NDArray[np.complex64]:
    """Transform of real white noise of unit power on the half plane, shape (grid, grid // 2 + 1)."""
    parts = rng.standard_normal((2, grid, grid // 2 + 1), dtype=np.float32)
    noise = ((parts[0] + 1j * parts[1]) * np.float32(math.sqrt(0.5))).astype(np.complex64)
    # A real field is Hermitian on the two self-conjugate columns.
    for column in (0, grid // 2) if grid % 2 == 0 else (0,):
        mirrored = np.conj(np.roll(noise[::-1, column], 1))
        noise[:, column] = (noise[:, column] + mirrored) * np.float32(math.sqrt(0.5))
    return noise
