"""Charge density against a closed form."""

import numpy as np
import pytest

from agents.inverse.charge import VACUUM_E_PER_V_NM, ThicknessError, charge_density
from twin.optics import Optics


def test_a_cosine_potential_has_the_charge_of_poisson() -> None:
    step_nm, thickness_nm, period_nm, volts = 0.05, 2.0, 1.6, 5.0
    x = np.indices((20, 32))[1] * step_nm
    potential = volts * np.cos(2 * np.pi * x / period_nm)
    phase = Optics(energy_kev=200.0).interaction_rad_per_v_nm * thickness_nm * potential
    expected = VACUUM_E_PER_V_NM * (2 * np.pi / period_nm) ** 2 * potential
    np.testing.assert_allclose(charge_density(phase, step_nm, 200.0, thickness_nm), expected, atol=1e-9)


def test_no_thickness_is_refused() -> None:
    with pytest.raises(ThicknessError, match="must be positive, got 0"):
        charge_density(np.zeros((4, 4)), 0.1, 200.0, 0.0)
