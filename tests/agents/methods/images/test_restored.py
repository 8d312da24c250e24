"""Restoration agents: what they report, what is missing, and a network on images of any size."""

import numpy as np
import pytest
import torch

from agents.base import StreamMeta, load
from agents.block import FrameBlock
from agents.methods.images import bm3d
from agents.restoration import apply
from agents.restoration.network import WEIGHTS, Generator, Restoration
from learning.weights_file import WeightsError, find
from twin.formats.dataset import Layout, Metadata
from twin.optics import Optics

SCAN = (12, 18)
META = StreamMeta(Layout(SCAN, (16, 16)), Metadata(convergence_mrad=5.0, pixel_mrad=3.0))


def blocks() -> list[FrameBlock]:
    """Counts of a wave, in two parts."""
    row, column = np.mgrid[: SCAN[0], : SCAN[1]]
    mean = 3 + 2 * np.cos(column) * np.cos(row)
    frames = np.zeros((row.size, 16, 16), np.uint16)
    frames[:, 8, 12] = np.random.default_rng(0).poisson(mean).ravel()
    pixel = np.stack([row.ravel(), column.ravel()], axis=1)
    return [FrameBlock(frames[:100], pixel[:100]), FrameBlock(frames[100:], pixel[100:])]


def test_unknown_positions_stay_unknown_and_all_figures_are_reported() -> None:
    agent = load("wiener")
    agent.start(META)
    first, second = blocks()
    agent.update(first)
    partly = agent.result()
    assert np.count_nonzero(np.isnan(partly.images["wiener"].values)) == len(second)
    agent.update(second)
    found = agent.result()
    assert np.isfinite(found.images["wiener"].values).all()
    assert found.figures["deviation"] < found.figures["deviation_before"]
    assert found.figures["mean"] == pytest.approx(found.figures["mean_before"], rel=0.1)


def test_without_its_package_bm3d_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bm3d, "find_spec", lambda name: None)
    agent = load("bm3d")
    agent.start(META)
    for block in blocks():
        agent.update(block)
    found = agent.result()
    assert np.isnan(found.images["bm3d"].values).all()
    assert "pip install bm3d" in found.notes[-1]


def small_network() -> Restoration:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = Generator(features=8, groups=1, blocks=1)
        for head in network.heads:
            torch.nn.init.normal_(head[-1].weight, std=0.05)  # type: ignore[index]
    return Restoration(network.eval(), 2.0, Optics(), {})


def test_the_sum_is_kept_and_units_do_not_matter() -> None:
    image, trained = np.random.default_rng(1).poisson(2.0, (37, 50)).astype(float), small_network()
    found, scaled = apply.restored(image, trained), apply.restored(1000 * image, trained)
    assert found.values.shape == image.shape
    assert found.values.sum() == pytest.approx(image.sum())
    assert found.spread is not None
    assert scaled.spread is not None
    np.testing.assert_allclose(scaled.values, 1000 * found.values, rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(scaled.spread, 1000 * found.spread, rtol=1e-2, atol=1.0)
    assert apply.restored(np.zeros((5, 7)), trained).values.shape == (5, 7)


def test_tiles_give_what_the_whole_image_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    image, trained = np.random.default_rng(2).poisson(3.0, (200, 168)).astype(float), small_network()
    whole = apply.restored(image, trained).values
    monkeypatch.setattr(apply, "TILE", 128)
    np.testing.assert_allclose(apply.restored(image, trained).values, whole, atol=0.02 * whole.max())


def test_shipped_weights_are_small_and_better_than_wiener() -> None:
    from agents.restoration.wiener import wiener

    path = find("restoration", WEIGHTS.shipped)
    assert path.stat().st_size < 5e6
    trained = WEIGHTS.load(path)
    y, x = np.mgrid[:96, :96]
    near = (x % 12 - 6) ** 2 + (y % 14 - 7) ** 2
    truth = 0.4 + 4.0 * np.exp(-near / 12.0) * (x < 60)
    counts = np.random.default_rng(4).poisson(truth).astype(float)
    error = [np.mean((image - truth) ** 2) for image in (apply.restored(counts, trained).values, wiener(counts))]
    assert error[0] < error[1]
    empty = apply.restored(counts, trained).values[:, 72:]
    assert empty.max() < 0.4 * truth.max()  # no column in vacuum


def test_weights_that_are_not_there_are_refused() -> None:
    with pytest.raises(WeightsError, match=r"restoratio.*did you mean restoration"):
        load("restore", {"weights": "restoratio"})
