"""Pairs for the training: what was done to an image is what a scan does, and all kinds of scenes occur."""

import numpy as np
import pytest

from agents.restoration.lattices import LARGEST_NM, SMALLEST_NM, random_lattice
from agents.restoration.pairs import random_pair


@pytest.fixture(autouse=True)
def few_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two elements and thin columns: profiles of all take seconds."""
    monkeypatch.setattr("agents.restoration.scenes.ELEMENTS", (78, 6))
    monkeypatch.setattr("agents.restoration.scenes.HEAVIEST", 3)


def test_a_pair_is_the_same_for_the_same_numbers_and_in_units_of_its_mean() -> None:
    first, second = (random_pair(48, 1, np.random.default_rng([1, 2])) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.shape == (48, 48)
        assert np.isfinite(one).all()
        assert one.min() >= 0
    assert first[0].mean() == pytest.approx(1.0)


def test_noise_and_distortion_keep_the_signal() -> None:
    pairs = [random_pair(48, 1, np.random.default_rng([3, number])) for number in range(40)]
    ratio = [truth.mean() / noisy.mean() for noisy, truth in pairs if noisy.max() > 0]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.03)
    noise = [np.std(noisy - truth) for noisy, truth in pairs]
    assert max(noise) > 20 * min(noise)  # of high and of low dose


def test_vacuum_edges_and_gaps_occur() -> None:
    truths = [random_pair(48, 1, np.random.default_rng([4, number]))[1] for number in range(40)]
    dark = [np.mean(truth < 0.2 * truth.mean()) for truth in truths]
    assert 3 < sum(share > 0.3 for share in dark) < 37


def test_lattices_have_distances_of_crystals() -> None:
    from scipy.spatial import cKDTree

    rng, nearest = np.random.default_rng(5), []
    for _ in range(20):
        lattice = random_lattice(2.0, rng)
        places = np.stack([lattice.x_nm, lattice.y_nm], axis=1)
        nearest.append(np.median(cKDTree(places).query(places, k=2)[0][:, 1]))
        assert lattice.site.max() < lattice.sites
    assert min(nearest) > 0.8 * SMALLEST_NM
    assert max(nearest) < 1.1 * LARGEST_NM
    assert np.std(nearest) > 0.03
