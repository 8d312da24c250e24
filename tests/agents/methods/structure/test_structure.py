"""Agents that look for structure without labels, on scans whose structure is known."""

import numpy as np
import pytest
from numpy.typing import NDArray

from agents.base import MetaError, StreamMeta, load
from agents.block import FrameBlock
from agents.codes import features
from agents.codes.features import FeatureMap, FeatureOptions
from twin.formats.dataset import Layout, Metadata
from twin.options import OptionError
from twin.spectra.noise import spectrum_image

ROWS, COLUMNS, SIDE = 12, 15, 16
PIXEL = np.stack(np.divmod(np.arange(ROWS * COLUMNS), COLUMNS), axis=1)


def region() -> NDArray[np.int64]:
    """Three stripes of a scan."""
    return np.broadcast_to(np.arange(COLUMNS) // 5, (ROWS, COLUMNS)).copy()


def frames(label: NDArray[np.integer], seed: int = 1) -> NDArray[np.uint16]:
    """Patterns with a spot at one of three places."""
    y, x = np.mgrid[:SIDE, :SIDE]
    spots = [np.exp(-((x - a) ** 2 + (y - b) ** 2) / 6.0) for a, b in ((4, 4), (11, 6), (7, 12))]
    return np.random.default_rng(seed).poisson(3.0 * np.array(spots)[label.ravel()] + 0.1).astype(np.uint16)


def started(name: str, options: dict[str, object], camera: tuple[int, int] = (SIDE, SIDE)):  # type: ignore[no-untyped-def]
    agent = load(name, options)
    agent.start(StreamMeta(Layout((ROWS, COLUMNS), camera, "uint16"), Metadata()))
    return agent


@pytest.mark.parametrize("method", ["kmeans", "mixture"])
def test_three_regions_are_three_phases(method: str) -> None:
    agent = started("phases", {"method": method, "bins": 8})
    agent.update(FrameBlock(frames(region()), PIXEL))
    found = agent.result()
    assert found.figures["phases"] == 3
    assert found.notes[0].startswith("3 phases, of ")
    label = found.images["phases"].values
    assert all(len(np.unique(label[region() == number])) == 1 for number in range(3))
    assert len(np.unique(label)) == 3
    total = sum(found.images[f"probability_{number}"].values for number in range(3))
    np.testing.assert_allclose(total, 1.0)
    brightest = {divmod(int(part.argmax()), 8) for part in agent.centroids()}
    assert brightest == {(2, 2), (3, 5), (6, 3)}


def test_spectra_are_grouped_as_patterns_are() -> None:
    label = region() % 2
    spectra = spectrum_image(label, ["FeO", "Fe2O3"], np.random.default_rng(2))
    counts = np.maximum(np.rint(spectra.measured * 50), 0).astype(np.uint16).reshape(ROWS * COLUMNS, 1, -1)
    agent = started("phases", {"count": 2}, (1, 128))
    agent.update(FrameBlock(counts, PIXEL))
    found = agent.result().images["phases"].values
    assert max(np.mean(found == label), np.mean(found != label)) > 0.97


def test_what_is_not_in_the_reference_is_flagged() -> None:
    label = np.zeros((ROWS, COLUMNS), np.int64)
    odd = [(3, 12), (8, 9), (10, 14)]
    for place in odd:
        label[place] = 2
    agent = started("anomaly", {"reference": (0, ROWS, 0, 8), "false_alarms": 0.05, "size": 2, "bins": 8})
    agent.update(FrameBlock(frames(label), PIXEL))
    found = [(one.row, one.column) for one in agent.found()]
    assert set(odd) <= set(found)
    assert len(found) <= len(odd) + 15
    assert agent.result().figures["flagged"] == len(found)
    assert agent.result().notes[0] == f"{len(found)} of {ROWS * COLUMNS} positions are unlike the reference"


def test_a_reference_has_to_lie_in_the_scan() -> None:
    with pytest.raises(MetaError, match=r"anomaly: reference \(0, 13, 0, 5\) lies beyond the scan of 12 x 15"):
        started("anomaly", {"reference": (0, 13, 0, 5)})
    with pytest.raises(OptionError, match="is empty"):
        load("anomaly", {"reference": (3, 3, 0, 5)})
    agent = started("anomaly", {"reference": (0, 2, 0, 10), "false_alarms": 0.01})
    agent.update(FrameBlock(frames(region()), PIXEL))
    assert any("too small for a rate of 0.01" in note for note in agent.result().notes)


def test_features_are_counts_with_a_variance_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = FeatureMap("codes", FeatureOptions(bins=4))
    kept.start(StreamMeta(Layout((ROWS, COLUMNS), (SIDE, SIDE), "uint16"), Metadata()))
    rng = np.random.default_rng(3)
    kept.update(FrameBlock(rng.poisson(2.0, (ROWS * COLUMNS, SIDE, SIDE)).astype(np.uint16), PIXEL))
    assert kept.examples().var() == pytest.approx(1.0, abs=0.06)
    assert kept.counts_of(kept.examples()).mean() == pytest.approx(32.0, rel=0.02)
    monkeypatch.setattr(features, "LARGEST_BYTES", 1000)
    with pytest.raises(MetaError, match="choose fewer bins"):
        kept.start(StreamMeta(Layout((ROWS, COLUMNS), (SIDE, SIDE), "uint16"), Metadata()))


def test_pooled_counts_have_less_noise_and_the_same_mean() -> None:
    values = []
    for width in (0.0, 1.5):
        kept = FeatureMap("codes", FeatureOptions(bins=2, pooled_positions=width))
        kept.start(StreamMeta(Layout((ROWS, COLUMNS), (SIDE, SIDE), "uint16"), Metadata()))
        some = np.random.default_rng(4).permutation(len(PIXEL))[:120]
        kept.update(FrameBlock(frames(np.zeros((ROWS, COLUMNS), np.int64))[some], PIXEL[some]))
        values.append(kept.counts_of(kept.examples()))
    np.testing.assert_allclose(values[1].mean(axis=0), values[0].mean(axis=0), rtol=0.05, atol=0.2)
    assert values[1].var(axis=0).sum() < 0.3 * values[0].var(axis=0).sum()


def test_a_context_has_the_features_of_the_neighbours() -> None:
    kept = FeatureMap("codes", FeatureOptions(bins=1, context_positions=2))
    kept.start(StreamMeta(Layout((ROWS, COLUMNS), (1, 1), "uint16"), Metadata()))
    counts = np.arange(ROWS * COLUMNS, dtype=np.uint16)
    kept.update(FrameBlock(counts.reshape(-1, 1, 1), PIXEL))
    found = kept.examples().reshape(ROWS, COLUMNS, 9)
    number = np.rint((found / 2) ** 2 - 0.375)
    here = 6 * COLUMNS + 7
    around = [(0, 0), (0, 2), (1, 1), (2, 0), (1, -1), (0, -2), (-1, -1), (-2, 0), (-1, 1)]
    assert number[6, 7].tolist() == [here + COLUMNS * down + right for down, right in around]
    assert number[0, 0, 7] == 2 * COLUMNS  # mirrored at the edge
    np.testing.assert_array_equal(np.rint(kept.counts_of(kept.examples()))[:, 0], counts)


def test_codes_tell_the_regions_apart() -> None:
    agent = started("codes", {"size": 2, "bins": 8})
    agent.update(FrameBlock(frames(region()), PIXEL))
    maps = np.stack([agent.result().images[f"code_{n}"].values for n in (1, 2)])
    means = np.array([maps[:, region() == number].mean(axis=1) for number in range(3)])
    spread = max(maps[:, region() == number].std(axis=1).max() for number in range(3))
    apart = [np.linalg.norm(means[i] - means[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert min(apart) > 4 * spread
