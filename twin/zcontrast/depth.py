"""How the signal of a column grows with its atoms: a power law that corrects the fast profiles, from multislice.

The fast profiles let every atom scatter what passes its thermal cloud, once. Here the same column, alone, is computed
with frozen phonons and all orders of scattering, for a beam on its middle.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import scipy.fft
from ase.data import chemical_symbols

from twin.aberrations import Aberrations
from twin.arrays import Floats
from twin.detectors.layouts import Region
from twin.matter.crystals import projected_phase
from twin.optics import Optics

SIDE_NM = 0.9
MOST_ATOMS = 10
"""Atoms that are computed; the law is continued beyond."""
SNAPSHOTS = 12
SEED = 1


def power_law(signal: Floats, fast: Floats) -> tuple[float, float]:
    """Factor a and exponent b for which a n^b times the fast signal of n atoms is nearest to the signal.

    Least squares of the logarithms over n = 1, 2, ...; one atom gives a alone.

    Args:
        signal, fast: of 1, 2, ... atoms, (N,).

    Example:
        >>> import numpy as np
        >>> n = np.arange(1.0, 6.0)
        >>> a, b = power_law(1.1 * n**1.2, n)
        >>> round(a, 3), round(b, 3)
        (1.1, 0.2)
    """
    logarithm, atoms = np.log(signal / fast), np.arange(1, len(signal) + 1)
    if len(atoms) == 1:
        return math.exp(float(logarithm[0])), 0.0
    b, log_a = np.polyfit(np.log(atoms), logarithm, 1)
    return math.exp(float(log_a)), float(b)


def multislice_signal(
    elements: Sequence[int], depth_nm: Sequence[float], rms_nm: Mapping[int, float], beam: tuple[Optics, Aberrations],
    ring: Region,
) -> Floats:  # fmt: skip
    """Part of a beam on the middle of a column that reaches a ring, for its first 1, 2, ... atoms, (n,).

    Args:
        elements, depth_nm, rms_nm: as for `twin.zcontrast.profile.column_profile`.
        beam: energy and convergence, and aberrations; the grid is chosen here.
        ring: the detector.
    """
    key = tuple(sorted((z, rms_nm.get(z, 0.0)) for z in set(elements)))
    return _signal(tuple(elements), tuple(float(d) for d in depth_nm), key, *beam, ring).copy()


@lru_cache(maxsize=256)
def _signal(
    elements: tuple[int, ...],
    depth_nm: tuple[float, ...],
    rms_nm: tuple[tuple[int, float], ...],
    optics: Optics,
    aberrations: Aberrations,
    ring: Region,
) -> Floats:
    optics = _fine(optics, ring)
    grid, step = optics.grid, optics.sampling_nm
    frequency = np.fft.fftfreq(grid, step)
    k2 = frequency[:, None] ** 2 + frequency[None, :] ** 2
    angle = 1e3 * optics.wavelength_nm * np.sqrt(k2)
    inside, kept = (angle >= ring.inner_mrad) & (angle < ring.outer_mrad), k2 < (2 / 3 * 0.5 / step) ** 2
    rng, moving = np.random.default_rng(SEED), dict(rms_nm)
    centred = np.exp(-1j * math.pi * grid * step * (frequency[:, None] + frequency[None, :]))
    start = (_probe(optics, aberrations, angle) * centred).astype(np.complex64)
    inside, kept = inside.astype(np.float32), kept.astype(np.float32)
    total = np.zeros(len(elements))
    still = not any(moving.values())
    count = 1 if still else SNAPSHOTS
    for _ in range(count):
        far, before = start, 0.0
        for n, (z, depth) in enumerate(zip(elements, depth_nm, strict=True)):
            if depth > before:
                far = far * np.exp(-1j * math.pi * optics.wavelength_nm * (depth - before) * k2).astype(np.complex64)
                before = depth
            place = np.full((1, 2), grid * step / 2) + moving[z] * rng.normal(size=(1, 2))
            phase = projected_phase(chemical_symbols[z], place, optics, grid, step, 0.0)
            far = kept * scipy.fft.fft2(scipy.fft.ifft2(far) * np.exp(1j * phase.astype(np.float32)))
            total[n] += float(np.vdot(far, inside * far).real)
    return total / count


def _probe(optics: Optics, aberrations: Aberrations, angle_mrad: Floats) -> np.ndarray:
    """Wave of a round probe in the plane of angles; its power over the grid's transform is one, (grid, grid)."""
    theta = 1e-3 * angle_mrad
    orders = ((2, "C10"), (4, "C30"), (6, "C50"))
    chi = 2 * math.pi / optics.wavelength_nm * sum(aberrations[name] * theta**n / n for n, name in orders)
    wave = (angle_mrad <= optics.convergence_mrad) * np.exp(-1j * chi)
    return np.asarray(wave / math.sqrt(float(np.sum(np.abs(wave) ** 2))))


def _fine(optics: Optics, ring: Region) -> Optics:
    """The beam on a grid that reaches the ring's outer angle."""
    step = optics.wavelength_nm * 1e3 / (3.05 * max(ring.outer_mrad, 2 * optics.convergence_mrad))
    grid = int(scipy.fft.next_fast_len(math.ceil(SIDE_NM / step)))
    grid += grid % 2
    return Optics(
        energy_kev=optics.energy_kev, convergence_mrad=optics.convergence_mrad, grid=grid, sampling_nm=SIDE_NM / grid,
        camera_pixels=32, binning=1,
    )  # fmt: skip
