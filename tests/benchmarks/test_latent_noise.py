"""The table on the noise of the latents: what it counts, and which of two noises it is of."""

import numpy as np
import pytest

from benchmarks.latent_noise import frames_at, noise
from twin.optics import Optics

SMALL = Optics(convergence_mrad=14.0, grid=256, sampling_nm=0.05, camera_pixels=64, binning=4)


def test_heavy_tails_and_common_noise_are_told_from_a_gaussian() -> None:
    rng = np.random.default_rng(1)
    plain = noise(rng.standard_normal((4000, 3)) * (1.0, 2.0, 3.0))
    assert plain.std == pytest.approx([1.0, 2.0, 3.0], rel=0.05)
    assert plain.covered == pytest.approx(0.9, abs=0.01)
    assert abs(plain.excess_kurtosis) < 0.4
    assert plain.correlation < 0.06
    heavy = noise(rng.standard_t(5, (4000, 3)))
    assert heavy.excess_kurtosis > 1.5
    common = noise(rng.standard_normal((4000, 1)) + 0.5 * rng.standard_normal((4000, 2)))
    assert common.correlation == pytest.approx(0.8, abs=0.03)


def test_one_region_differs_by_its_counts_alone() -> None:
    state = np.array([40.0, 0.0, 0.0])
    scatter = []
    for same_region in (True, False):
        frames = [f.counts.astype(float) for f in frames_at(state, 6, same_region, SMALL, np.random.default_rng(2))]
        scatter.append(np.var(frames, axis=0).sum() / np.mean(frames))
    counts_alone = SMALL.camera_pixels**2 * 5 / 6
    assert scatter[0] == pytest.approx(counts_alone, rel=0.1)
    assert scatter[1] > 1.5 * scatter[0]
