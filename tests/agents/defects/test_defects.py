"""Labelled images, what the network is given, scores, and what is told about bad images."""

from dataclasses import replace

import numpy as np
import pytest

from agents.defects.conditions import CLEAN, RANDOM, Conditions, Interval, drawn, only
from agents.defects.day import statistics
from agents.defects.detection import (
    DefectImageError,
    Defects,
    calibration_error,
    check_image,
    find,
    matches,
    score,
)
from agents.defects.fitting import painted_labels, patches, simulated
from agents.defects.network import CELL, GRID_NM, DefectNetwork, prepared, probabilities
from agents.defects.sheet import KINDS, Labelled, labelled_image
from twin.arrays import Floats
from twin.zcontrast.profile import ZContrast

BEAM = ZContrast(energy_kev=80.0, convergence_mrad=25.0, inner_mrad=63.0, outer_mrad=200.0)


@pytest.fixture(autouse=True)
def _one_focus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.defects.sheet.C10_STEP_NM", 10.0)


STILL = replace(Conditions(), dose_e_per_nm2=1e8, source_nm=0.02)


def at(found: Labelled, x_nm: float, y_nm: float) -> float:
    """Signal at a place."""
    return float(found.image[round(y_nm / found.step_nm), round(x_nm / found.step_nm)])


def test_a_defect_is_where_its_label_says() -> None:
    found = labelled_image(BEAM, STILL, (160, 120), np.random.default_rng(1), density=0.2)
    assert found.image.shape == (160, 120)
    seen = {name: [at(found, x, y) for x, y, k in zip(found.x_nm, found.y_nm, found.kind, strict=True) if k == number]
            for number, name in enumerate(KINDS)}  # fmt: skip
    assert all(seen.values())
    full, nothing = np.quantile(found.image, 0.99), np.quantile(found.image, 0.2)
    assert max(seen["empty"]) < 0.25 * full
    assert nothing < np.mean(seen["vacancy"]) < 0.75 * full
    assert np.mean(seen["substitution"]) < full


def test_noise_is_that_of_the_dose() -> None:
    rng = np.random.default_rng(2)
    quiet = labelled_image(BEAM, replace(STILL, dose_e_per_nm2=1e10), (100, 100), np.random.default_rng(3))
    for dose in (1e5, 1e6):
        same = replace(STILL, dose_e_per_nm2=dose)
        noisy = labelled_image(BEAM, same, (100, 100), np.random.default_rng(3)).image
        expected = quiet.image * dose / 1e10
        assert np.mean((noisy - expected) ** 2) == pytest.approx(expected.mean(), rel=0.05)
    assert drawn(only(CLEAN), rng) == CLEAN


def test_a_smear_goes_along_the_lines_and_keeps_the_signal() -> None:
    smeared = labelled_image(
        BEAM, replace(STILL, dose_e_per_nm2=3e5, smear_px=1.0), (128, 128), np.random.default_rng(4)
    )
    sharp = labelled_image(BEAM, replace(STILL, dose_e_per_nm2=3e5), (128, 128), np.random.default_rng(4))
    assert smeared.image.mean() == pytest.approx(sharp.image.mean(), rel=0.02)
    rough = {name: [np.mean(np.diff(one.image, axis=axis) ** 2) for axis in (0, 1)]
             for name, one in (("smeared", smeared), ("sharp", sharp))}  # fmt: skip
    assert rough["smeared"][1] < 0.6 * rough["sharp"][1]
    assert rough["smeared"][1] < 0.7 * rough["smeared"][0]


def test_dirt_adds_slow_signal() -> None:
    clean = labelled_image(BEAM, STILL, (128, 128), np.random.default_rng(5)).image
    dirty = labelled_image(BEAM, replace(STILL, contamination=0.5), (128, 128), np.random.default_rng(5)).image
    assert 1.2 < dirty.mean() / clean.mean() < 1.8
    assert (dirty >= 0).all()


def test_the_same_seed_gives_the_same_days_within_their_ranges() -> None:
    one, other = (list(simulated(BEAM, {**RANDOM, "c10_nm": Interval(0, 0)}, 2, 7)) for _ in range(2))
    np.testing.assert_array_equal(one[1].image, other[1].image)
    assert RANDOM["dose_e_per_nm2"].narrowed(1.0, 1e9) == RANDOM["dose_e_per_nm2"]
    assert RANDOM["smear_px"].narrowed(0.2, 0.4) == Interval(0.2, 0.4)


def test_preparing_forgets_units_and_slow_changes_and_keeps_places() -> None:
    y, x = np.mgrid[:120, :90] * 0.02
    spot = np.exp(-((x - 0.9) ** 2 + (y - 1.5) ** 2) / 0.01)
    ready = prepared(3.0 + 5.0 * spot + 0.5 * y, 0.02)
    row, column = np.nonzero(ready > 0.9 * ready.max())
    assert (row.mean(), column.mean()) == pytest.approx((50, 30), abs=0.6)
    np.testing.assert_allclose(prepared(7.0 * spot, 0.02), prepared(spot, 0.02), atol=1e-9)


def test_labels_are_painted_about_the_places() -> None:
    found = Labelled(np.ones((60, 60)), GRID_NM, np.array([0.6]), np.array([1.2]), np.array([2]))
    labels = painted_labels(found, 30)
    row, column = np.nonzero(labels == 3)
    assert ((row.mean() * CELL + 0.5) * GRID_NM, (column.mean() * CELL + 0.5) * GRID_NM) == pytest.approx(
        (1.2, 0.6), abs=0.03
    )
    assert set(np.unique(labels)) == {0, 3}


def test_crops_have_image_and_label_in_step() -> None:
    import torch

    data = patches(list(simulated(BEAM, only(STILL), 2, 8)))
    marked = torch.zeros_like(data.images)
    marked[:, ::CELL, ::CELL] = data.labels.half()
    images, labels = replace(data, images=marked).chosen(torch.arange(2), torch.Generator().manual_seed(1))
    for image, label in zip(images[:, 0], labels, strict=True):
        upside = image[1::CELL].abs().sum() > image[::CELL].abs().sum()
        rows = image[1::CELL] if upside else image[::CELL]
        torch.testing.assert_close(rows[:, ::CELL].long(), label)


def test_an_image_of_any_size_gets_probabilities() -> None:
    whole = probabilities(DefectNetwork(), np.zeros((37, 50)))
    assert whole.shape == (4, 19, 25)
    np.testing.assert_allclose(whole.sum(axis=0), 1.0, atol=1e-6)


@pytest.mark.parametrize(
    ("image", "step_nm", "words"),
    [
        (np.full((80, 80), np.nan), 0.02, "6400 pixels are not finite"),
        (np.ones((20, 80)), 0.02, "0.4 nm wide; at least 1 nm"),
        (np.eye(80), 0.1, "0.1 nm apart; at most 0.06 nm"),
        (np.ones((80, 80)), 0.02, "all pixels have the value 1"),
    ],
)
def test_an_image_without_atoms_is_refused(image: Floats, step_nm: float, words: str) -> None:
    with pytest.raises(DefectImageError, match=words):
        check_image(image, step_nm)
    with pytest.raises(DefectImageError, match=words):
        find(DefectNetwork(), image, step_nm)


def test_each_true_defect_is_matched_once_and_by_its_kind() -> None:
    found = Defects(np.array([0.0, 0.02, 1.0, 2.0]), np.zeros(4), np.array([0, 0, 1, 0]), np.ones(4))
    index = matches(found, np.array([0.03, 1.0, 2.2]), np.zeros(3), np.array([0, 0, 0]))
    assert index.tolist() == [-1, 0, -1, -1]
    assert score(0, 0, 5).f1 == 0.0


def test_calibrated_probabilities_have_no_calibration_error() -> None:
    rng = np.random.default_rng(9)
    chance = rng.random(20_000)
    assert calibration_error(chance, rng.random(20_000) < chance) < 0.02
    assert calibration_error(np.full(100, 0.9), np.zeros(100, np.bool_)) == pytest.approx(0.9)


def test_statistics_have_no_units_and_tell_noise() -> None:
    image = labelled_image(BEAM, STILL, (128, 128), np.random.default_rng(10)).image
    np.testing.assert_allclose(statistics(3.0 * image), statistics(image), rtol=1e-6, atol=1e-6)
    noisy = labelled_image(BEAM, replace(STILL, dose_e_per_nm2=1e5), (128, 128), np.random.default_rng(10)).image
    assert np.abs(statistics(noisy) - statistics(image)).max() > 1.0
