"""The design effect: what it does to the likelihood, and that it is what the distances ask for."""

import numpy as np
import pytest

from controller import calibration, latent_gp
from controller.dataset import DayRanges
from controller.latent_gp import Evidence, Factors, Kernel
from controller.strategies.random import Random
from twin.optics import Optics
from twin.state import FIRST_ORDER

SMALL = Optics(grid=256, sampling_nm=0.025, camera_pixels=64, binning=3)


def log_likelihood(correlation: float, count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    inputs, states = rng.normal(size=(count, 3)), rng.normal(size=(4, 3))
    evidence = Evidence(rng.normal(size=(2, count, 4)), np.ones((2, count, 4)), np.zeros((2, 0, count, 4)))
    kernel = Kernel(0, np.ones(3), np.ones(2), np.ones(2), np.inf, correlation)
    factors = latent_gp.absorb(Factors.empty(2, 0, 4), kernel, states, inputs, evidence)
    return latent_gp.log_likelihood(factors, kernel)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_correlated_observations_count_less_by_the_design_effect(count: int) -> None:
    assert log_likelihood(0.25, count) == pytest.approx(log_likelihood(0.0, count) / (1 + 0.25 * (count - 1)))


@pytest.fixture
def distances(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    drawn: list[float] = []
    monkeypatch.setattr(calibration, "squared_distance", lambda *_: drawn.pop())
    monkeypatch.setattr(calibration, "DaySource", lambda *_: None)
    return drawn


def correlation(days: int) -> float:
    controller = Random(FIRST_ORDER)  # never asked: the distances are given
    return calibration.intra_class_correlation(controller, SMALL, FIRST_ORDER, DayRanges(), days, 0)


@pytest.mark.parametrize(("mean", "expected"), [(3.0, 0.0), (2.0, 0.0), (6.0, 1 / 19), (9.0, 2 / 19)])
def test_the_correlation_makes_the_distances_what_they_should_be(
    distances: list[float], mean: float, expected: float
) -> None:
    distances += [mean] * 12
    assert correlation(12) == pytest.approx(expected)


def test_one_wild_run_in_ten_does_not_set_the_correlation(distances: list[float]) -> None:
    distances += [3.0] * 19 + [1000.0]
    assert correlation(20) < 1e-6
