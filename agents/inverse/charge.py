"""Charge density from a phase, by Poisson's equation."""

import math

import numpy as np
import scipy.fft

from twin.arrays import Floats
from twin.errors import StemtwinError
from twin.optics import Optics

VACUUM_E_PER_V_NM = 0.05526349406
"""Vacuum permittivity, elementary charges per V and nm (CODATA 2018)."""


class ThicknessError(StemtwinError, ValueError):
    """A thickness that is not positive."""


def charge_density(phase: Floats, step_nm: float, energy_kev: float, thickness_nm: float) -> Floats:
    """Mean charge density along the beam, elementary charges per nm^3: nuclei positive, (R, C).

    `rho = -eps0 laplace(V)` with the mean potential `V = phase / (sigma t)`; sigma is the interaction parameter.
    Differences of phase amplify noise: smooth the phase first, or take a regularised one.

    Args:
        phase: rad, (R, C), periodic.
        step_nm: scan step.
        energy_kev: of the beam.
        thickness_nm: of the specimen.

    Raises:
        ThicknessError: a thickness that is not positive.

    Example:
        >>> x = np.arange(32) * 0.05
        >>> phase = np.cos(2 * np.pi * x / 1.6)[None, :] * np.ones((8, 1))
        >>> rho = charge_density(phase, 0.05, 300.0, 1.0)
        >>> bool(rho[0, 0] > 0 > rho[0, 16])
        True
    """
    if not thickness_nm > 0:
        raise ThicknessError(f"thickness_nm must be positive, got {thickness_nm:g}")
    potential = phase / (Optics(energy_kev=energy_kev).interaction_rad_per_v_nm * thickness_nm)
    k2 = scipy.fft.fftfreq(phase.shape[0], step_nm)[:, None] ** 2 + scipy.fft.rfftfreq(phase.shape[1], step_nm) ** 2
    return np.asarray(
        VACUUM_E_PER_V_NM * scipy.fft.irfft2(4 * math.pi**2 * k2 * scipy.fft.rfft2(potential), s=phase.shape)
    )
