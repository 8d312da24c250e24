"""Thermal displacements in the Debye model."""

import math

import ase.data
from scipy.integrate import quad

HBAR_J_S = 1.054571817e-34
BOLTZMANN_J_K = 1.380649e-23
DALTON_KG = 1.66053906892e-27

ROOM_K = 295.0


def debye_rms_nm(mass_da: float, debye_k: float, temperature_k: float = ROOM_K) -> float:
    """Rms displacement along one axis of an atom in a Debye solid, nm (Warren, X-ray Diffraction, 1969, eq 3.28).

    `u^2 = 3 hbar^2 / (M k Theta) [1/4 + (T / Theta)^2 int_0^(Theta/T) x / (e^x - 1) dx]`

    Args:
        mass_da: atomic mass; of a compound, the mean.
        debye_k: Debye temperature.
        temperature_k: temperature.
    """
    ratio = debye_k / temperature_k
    thermal, _ = quad(lambda x: x / math.expm1(x) if x > 0 else 1.0, 0.0, ratio)
    scale = 3 * HBAR_J_S**2 / (mass_da * DALTON_KG * BOLTZMANN_J_K * debye_k)
    return 1e9 * math.sqrt(scale * (0.25 + thermal / ratio**2))


def element_rms_nm(number: int, debye_k: float) -> float:
    """Rms displacement of an elemental solid at room temperature, see `debye_rms_nm`."""
    return debye_rms_nm(float(ase.data.atomic_masses[number]), debye_k)
