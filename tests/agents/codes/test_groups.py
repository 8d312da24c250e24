"""Groups, their number, and outliers, where the answer is known."""

import numpy as np
import pytest

from agents.codes.base import CodeError, load
from agents.codes.clusters import Numbers, elbow, grouped, numbers, silhouette
from agents.codes.outliers import learned
from agents.codes.view import view
from twin.arrays import Floats


def three(count: int = 60) -> Floats:
    rng = np.random.default_rng(1)
    centres = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    return np.concatenate([c + rng.standard_normal((count - 10 * n, 2)) for n, c in enumerate(centres)])


@pytest.mark.parametrize("method", ["kmeans", "mixture"])
def test_three_clouds_are_three_groups(method: str) -> None:
    found = grouped(three(), 3, method)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found.label, np.repeat([0, 1, 2], [60, 50, 40]))  # the largest comes first
    np.testing.assert_allclose(found.responsibility.sum(axis=1), 1.0)
    np.testing.assert_allclose(found.centres, [[0, 0], [10, 0], [0, 10]], atol=0.5)


def test_every_rule_finds_three() -> None:
    tried = numbers(three(), 6)
    assert [tried.best(rule) for rule in ("silhouette", "elbow", "bic")] == [3, 3, 3]  # type: ignore[arg-type]
    assert Numbers((1, 2), (5.0, 1.0), (0.0, 0.9), (3.0, 4.0)).best("bic") == 1


def test_clouds_of_different_size_need_covariances() -> None:
    rng = np.random.default_rng(2)
    both = np.concatenate([2.0 * rng.standard_normal((300, 2)), 0.3 * rng.standard_normal((100, 2)) + [4.5, 0.0]])
    truth = np.repeat([0, 1], [300, 100])
    right = {m: np.mean(grouped(both, 2, m).label == truth) for m in ("kmeans", "mixture")}  # type: ignore[arg-type]
    assert right["mixture"] > 0.96
    assert right["kmeans"] < right["mixture"] - 0.03


def test_between_two_clouds_both_are_responsible() -> None:
    rng = np.random.default_rng(3)
    codes = np.concatenate([rng.normal(-3, 1, (200, 1)), rng.normal(3, 1, (200, 1)), [[0.0]]])
    assert 0.2 < grouped(codes, 2).responsibility[-1].max() < 0.98


def test_bad_codes_are_refused() -> None:
    with pytest.raises(CodeError, match="at least 5"):
        grouped(np.zeros((3, 2)), 5)
    with pytest.raises(CodeError, match="3 numbers of groups do not fit 2 sums"):
        elbow([1, 2, 3], [2.0, 1.0])
    assert silhouette(three(), np.zeros(150, np.int64)) == 0.0


def test_false_alarms_come_at_the_stated_rate() -> None:
    rng = np.random.default_rng(4)
    axes = rng.standard_normal((2, 12))
    known = rng.standard_normal((4000, 2)) @ axes + rng.normal(0, 0.1, (4000, 12))
    reference = learned(load("pca", {"size": 2}), known[:2000], known[2000:])
    usual = rng.standard_normal((4000, 2)) @ axes + rng.normal(0, 0.1, (4000, 12))
    assert np.mean(reference.rarity(usual) <= 0.02) == pytest.approx(0.02, abs=0.009)
    beyond = 30 * axes[:1]  # reconstructed well, and far from all others
    assert reference.rarity(beyond)[0] < 0.002
    assert reference.scores(beyond).error[0] < 0.1
    with pytest.raises(CodeError, match="9 groups of codes need at least 18 reference examples; got 10"):
        learned(load("pca", {"size": 2}), usual[:10], usual[10:20], groups=9)


def test_a_view_keeps_neighbours() -> None:
    flat = view(three(30))
    assert silhouette(flat, np.repeat([0, 1, 2], [30, 20, 10])) > 0.5
