"""From an image to numbers: finding columns, counting atoms, intervals, and what an image cannot tell."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from agents.quantify.counting import by_library, by_mixture
from agents.quantify.errors import QuantifyError
from agents.quantify.intervals import mean_interval, variance_interval
from agents.quantify.peaks import find, spacing
from agents.quantify.quantify import QuantifyOptions, quantify

Make = Callable[..., Any]
PLAIN = QuantifyOptions(scan="perfect", count="none")


@pytest.mark.parametrize("height", [10.0, 1000.0])
def test_all_columns_are_found_and_no_others(recorded: Make, height: float) -> None:
    image, true, _ = recorded(0, height)
    found = find(image)
    assert len(found.x_px) == len(true)
    assert found.spacing_px == pytest.approx(12.0, abs=1.0)
    distance = np.hypot(found.x_px[:, None] - true.x_px, found.y_px[:, None] - true.y_px).min(axis=1)
    assert distance.max() < 2.0


def test_a_faint_column_among_strong_ones_is_found(recorded: Make) -> None:
    image, true, _ = recorded(1, 300.0)
    y, x = np.mgrid[:72, :72]
    faint = np.exp(-((x - true.x_px[12]) ** 2 + (y - true.y_px[12]) ** 2) / (2 * 2.7**2))
    dimmer = image - 0.75 * true.height[12] * faint
    assert len(find(dimmer).x_px) == len(true)


def noise(shape: tuple[int, int] = (64, 64)) -> np.ndarray:
    return np.random.default_rng(0).poisson(10.0, shape).astype(float)


def blob() -> np.ndarray:
    y, x = np.mgrid[:64, :64]
    return np.asarray(np.exp(-((x - 30.0) ** 2 + (y - 30.0) ** 2) / 50.0))


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (noise(), "stands out of the noise|repeats"),
        (blob(), "repeats|only"),
        (np.add.outer(np.arange(64.0), np.arange(64.0)), "repeats"),
        (np.where(np.eye(64) > 0, np.nan, 1.0), "64 of 4096 pixels are not finite, the first one in row 0, column 0"),
        (np.full((64, 64), 3.0), "every pixel of the image is 3"),
        (np.ones((5, 64)), "at least 16"),
        (np.ones((3, 64, 64)), "rows and columns"),
        (np.full((64, 64), "a"), "numbers"),
    ],
)
def test_an_image_without_columns_is_refused_in_a_sentence(image: np.ndarray, words: str) -> None:
    with pytest.raises(QuantifyError, match=words) as refusal:
        quantify(image)
    assert "\n" not in str(refusal.value)


def test_fewer_than_four_columns_are_refused(recorded: Make) -> None:
    image, _, _ = recorded(2, 400.0)
    with pytest.raises(QuantifyError, match=r"only \d of 4 columns"):
        quantify(image[:20, :32], 0.1, QuantifyOptions(spacing_nm=1.2, count="none"))


def test_without_a_step_there_are_pixels_and_a_note(recorded: Make) -> None:
    image, true, _ = recorded(3, 400.0)
    found = quantify(image, options=PLAIN)
    table = found.table()
    assert {"x_px", "x_sigma_px", "cross_section_px2", "cross_section_sigma_px2"} <= set(table)
    assert not any(name.endswith("nm") for name in table)
    assert any("pixels" in note for note in found.notes)
    in_nm = quantify(image, 0.02, PLAIN).table()
    np.testing.assert_allclose(in_nm["x_nm"], 0.02 * table["x_px"])
    np.testing.assert_allclose(in_nm["cross_section_nm2"], 0.02**2 * table["cross_section_px2"])
    assert table["x_px"] == pytest.approx(np.sort(true.x_px.reshape(5, 5)).ravel(), abs=0.5)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"step_nm": -1.0}, "step_nm"),
        ({"step_nm": 0.02, "options": QuantifyOptions(count="library")}, "needs a library"),
        ({"options": QuantifyOptions(count="library"), "library": [1.0]}, "needs step_nm"),
        ({"options": QuantifyOptions(spacing_nm=0.2)}, "needs step_nm"),
    ],
)
def test_what_is_missing_is_asked_for(recorded: Make, given: dict[str, Any], words: str) -> None:
    with pytest.raises(QuantifyError, match=words):
        quantify(recorded(3, 400.0).image, **given)


def test_the_spacing_of_a_tilted_lattice() -> None:
    y, x = np.mgrid[:96, :96]
    u, v = 0.8 * x + 0.6 * y, -0.6 * x + 0.8 * y
    assert spacing(np.cos(np.pi * u / 9) ** 2 * np.cos(np.pi * v / 9) ** 2) == pytest.approx(9.0, abs=0.5)


# --- atoms ----------------------------------------------------------------------------------------


def columns_of(seed: int, relative: float, count: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cross-sections of 1 to 6 atoms, their standard errors, and the atoms."""
    rng = np.random.default_rng(seed)
    atoms = rng.integers(1, 7, count)
    sigma = np.full(count, relative)
    return atoms + rng.normal(0, sigma), sigma, atoms


@pytest.mark.parametrize("relative", [0.1, 0.35])
def test_stated_probabilities_are_frequencies(relative: float) -> None:
    """3000 columns: the share of right counts is the mean probability within 3.3 deviations, 0.03."""
    value, sigma, atoms = columns_of(0, relative, 3000)
    found = by_library(value, sigma, np.arange(1.0, 7.0), spread=0.0)
    assert np.mean(found.atoms == atoms) == pytest.approx(found.probability.mean(), abs=0.03)
    unsure = found.probability < 0.8
    if relative > 0.3:
        assert np.mean((found.atoms == atoms)[unsure]) == pytest.approx(found.probability[unsure].mean(), abs=0.06)


def test_a_mixture_finds_the_number_of_kinds_and_counts_them() -> None:
    value, sigma, atoms = columns_of(1, 0.08)
    found = by_mixture(value, sigma, most=10)
    assert np.argmin(found.icl) + 1 == 6
    assert np.mean(found.atoms == atoms) > 0.99
    np.testing.assert_allclose(found.means, np.arange(1, 7), atol=0.05)


def test_a_mixture_says_how_many_atoms_the_first_kind_has() -> None:
    value, sigma, atoms = columns_of(2, 0.05)
    found = by_mixture(value + 2, sigma, most=8, first=3)
    assert np.mean(found.atoms == atoms + 2) > 0.99


def test_columns_left_out_of_a_mixture_are_counted_all_the_same() -> None:
    value, sigma, atoms = columns_of(3, 0.05)
    found = by_mixture(value, sigma, most=8, used=np.arange(len(value)) < 250)
    assert np.mean(found.atoms[250:] == atoms[250:]) == 1.0


def test_what_no_number_of_atoms_explains_is_not_counted() -> None:
    value = np.array([1.0, 2.5, 6.3, 12.0, 4e-4])
    found = by_library(value, np.full(5, 0.05), np.arange(1.0, 7.0))
    assert found.known.tolist() == [True, False, False, False, False]
    assert found.unlike[0] < 0.01
    assert np.all(found.probability[1:] < 0.01)


def test_a_library_in_another_unit_leaves_everything_uncounted_and_says_so(recorded: Make) -> None:
    library = [1e3 * n for n in range(1, 6)]
    image, _, _ = recorded(0, 1000.0)
    found = quantify(image, 0.02, QuantifyOptions(scan="perfect", count="library"), library)
    inner = ~found.at_edge
    assert found.counts is not None
    assert not found.counts.known[inner].any()
    assert np.isnan(found.table()["atoms"][inner]).all()
    assert any(f"{inner.sum()} of {inner.sum()} columns have a cross-section of no number" in n for n in found.notes)


def test_a_library_has_to_rise() -> None:
    with pytest.raises(QuantifyError, match="rise"):
        by_library(np.ones(3), np.ones(3), np.array([2.0, 1.0]))


# --- intervals ------------------------------------------------------------------------------------


def test_intervals_cover_as_often_as_they_say() -> None:
    """2000 samples of 12 values: 90 % within 3.3 deviations, 2.2 %."""
    drawn = np.random.default_rng(4).normal(3.0, 2.0, (2000, 12))
    means = [mean_interval(values, 0.9) for values in drawn]
    variances = [variance_interval(values, 0.9) for values in drawn]
    assert np.mean([low < 3.0 < high for low, high in means]) == pytest.approx(0.9, abs=0.022)
    assert np.mean([low < 4.0 < high for low, high in variances]) == pytest.approx(0.9, abs=0.022)


def test_an_interval_needs_two_values() -> None:
    with pytest.raises(ValueError, match="at least two values, got 1"):
        mean_interval(np.array([1.0]))
