"""Anscombe's transform and Wiener's filter."""

import numpy as np
import pytest

from agents.restoration.anscombe import EXACT_TO, expected, stabilised
from agents.restoration.wiener import wiener


@pytest.mark.parametrize("mean", [0.05, 0.5, 4.0, 59.0, 61.0, 300.0])
def test_the_inverse_is_unbiased_at_every_count(mean: float) -> None:
    counts = np.random.default_rng(1).poisson(mean, 400_000).astype(float)
    found = float(expected(stabilised(counts).mean()))
    assert found == pytest.approx(mean, abs=5 * np.sqrt((mean + 0.1) / len(counts)))


def test_the_inverse_is_continuous_where_the_table_ends() -> None:
    end = 2 * np.sqrt(EXACT_TO + 0.375)
    low, high = expected(np.array([end - 0.02, end + 0.02]))
    assert 0.28 < high - low < 0.34  # 0.04 z / 2


def test_stabilised_counts_have_a_variance_of_one() -> None:
    for mean in (5.0, 50.0, 500.0):
        counts = np.random.default_rng(2).poisson(mean, 200_000)
        assert stabilised(counts).var() == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize("mean", [0.3, 3.0, 30.0])
def test_the_filter_keeps_the_mean_and_lowers_the_error(mean: float) -> None:
    y, x = np.mgrid[:72, :90]
    truth = mean * (1 + 0.8 * np.cos(x / 2) * np.cos(y / 3))
    counts = np.random.default_rng(3).poisson(truth).astype(float)
    found = wiener(counts)
    assert np.mean((found - truth) ** 2) < 0.35 * np.mean((counts - truth) ** 2)
    assert found.mean() == pytest.approx(counts.mean(), rel=0.1)


def test_of_noise_alone_almost_nothing_passes() -> None:
    counts = np.random.default_rng(4).poisson(4.0, (96, 96)).astype(float)
    assert wiener(counts).std() < 0.5 * counts.std()
