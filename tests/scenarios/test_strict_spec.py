"""The strict verdicts follow the phase at the aperture's edge, at any optics."""

import numpy as np
import pytest

from scenarios.strict_spec import within_quarter_pi, within_strict_nm
from twin.optics import Optics
from twin.probe import residual_phase_rad
from twin.state import FIRST_ORDER, SECOND_ORDER, StateSpace

OPTICS = (Optics(), Optics(energy_kev=80.0, convergence_mrad=20.0), Optics(energy_kev=200.0, convergence_mrad=35.0))


@pytest.mark.parametrize("optics", OPTICS)
@pytest.mark.parametrize("name", ["C10", "C12a", "C12b", "C21b", "C23a"])
def test_one_coefficient_is_within_a_quarter_pi_as_its_phase_is(name: str, optics: Optics) -> None:
    error = np.zeros(SECOND_ORDER.dimension)
    for factor in (0.98, 1.02):
        error[SECOND_ORDER.names.index(name)] = 1.0
        error *= factor * np.pi / 4 / residual_phase_rad(SECOND_ORDER.to_aberrations(error), optics)
        assert within_quarter_pi(error, SECOND_ORDER, optics) is (factor < 1)


def test_the_components_of_a_pair_count_together() -> None:
    """0.5 nm each make 0.71 nm of astigmatism; pi / 4 is 0.63 nm."""
    assert within_quarter_pi(np.array([0.0, 0.5, 0.0]), FIRST_ORDER, Optics())
    assert not within_quarter_pi(np.array([0.0, 0.5, 0.5]), FIRST_ORDER, Optics())


def test_two_nanometres_bind_the_first_order_and_a_quarter_pi_the_rest() -> None:
    optics = Optics()
    error = np.array([1.9, -1.9, 1.9, 20.0, 20.0, -33.0, 0.0])
    assert within_strict_nm(error, SECOND_ORDER, optics)
    assert not within_strict_nm(error + np.eye(7)[0] * 0.2, SECOND_ORDER, optics)
    assert not within_strict_nm(error - np.eye(7)[5] * 2.0, SECOND_ORDER, optics)
    assert within_strict_nm(np.array([30.0]), StateSpace(("C21a",), (50.0,), (50.0,), (40.0,)), optics)
