"""What the page says of the probe: one Strehl ratio, and which coefficients it covers."""

import numpy as np
import pytest

from scenarios.live.belief import Belief, true_figures
from twin.aberrations import Aberrations
from twin.optics import Optics
from twin.probe import strehl_ratio
from twin.state import FIRST_ORDER

OPTICS = Optics()
KNOBS_NM = np.array([-40.0, 7.0, 24.0])


def belief(std_nm: float) -> Belief:
    return Belief(FIRST_ORDER, -KNOBS_NM, std_nm**2 * np.array([[1.0, 0.3, 0.0], [0.3, 1.0, 0.0], [0.0, 0.0, 0.5]]))


def test_a_sure_estimate_that_is_corrected_has_a_ratio_of_one() -> None:
    found = belief(0.0).figures(KNOBS_NM, OPTICS)
    assert found["strehl"] == pytest.approx(1.0)
    assert found["strehl_std"] == pytest.approx(0.0, abs=1e-9)
    assert found["covers"] == ["C10", "C12a", "C12b"]


def test_an_unsure_estimate_is_not_perfect_but_has_the_ratio_that_is_expected() -> None:
    """Against 400 draws of the state: their mean is known to 0.005, the page's 20 give it to 0.03."""
    unsure = belief(0.5)
    draws = np.random.default_rng(1).multivariate_normal(unsure.mean_nm, unsure.cov_nm2, 400) + KNOBS_NM
    ratios = [strehl_ratio(FIRST_ORDER.to_aberrations(state), OPTICS) for state in draws]
    found = unsure.figures(KNOBS_NM, OPTICS)
    assert found["strehl"] == pytest.approx(np.mean(ratios), abs=0.03)
    assert found["strehl_std"] == pytest.approx(np.std(ratios), rel=0.4)
    assert np.mean(ratios) < 0.95


def test_the_truth_has_the_ratio_of_everything_and_that_of_a_report() -> None:
    left = {"C10": -0.65, "C12a": 0.43, "C12b": 0.17}
    higher = {"C21a": 25.0, "C21b": -20.0, "C23a": 30.0, "C23b": 30.0, "C30": 500.0}
    found = true_figures(Aberrations.of({**left, **higher}), FIRST_ORDER.names, OPTICS)
    assert found["strehl_calibrated"] == strehl_ratio(Aberrations.of(left), OPTICS)
    assert found["strehl"] == strehl_ratio(Aberrations.of({**left, **higher}), OPTICS)
    assert found["strehl"] < found["strehl_calibrated"] < 1.0
