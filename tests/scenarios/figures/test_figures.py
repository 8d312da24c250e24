"""The paper's figures: opposite states have equal latents, the pictures are small, what is missing is named."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from scenarios.cli import app
from scenarios.figures import latents, maps
from scenarios.figures.paper import FIGURES
from scenarios.figures.pictures import LARGEST_PX, small

BASELINES = Path(__file__).parents[3] / "benchmarks" / "baselines"
LARGEST = 150_000

pytestmark = pytest.mark.usefixtures("drawn")


def made(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["figures", "paper", *words])
    return done.exit_code, done.output


def test_opposite_states_have_equal_latents_and_others_do_not() -> None:
    found = latents.latents_on("nominal", 7)
    assert found.antipodes < 0.2
    # Neighbours along the ring of directions are not: the latents tell states apart that are not antipodes.
    turned = np.linalg.norm(found.values - found.values.reshape(7, 7, -1).transpose(1, 0, 2).reshape(49, -1), axis=1)
    opposite = np.linalg.norm(found.values - found.values[::-1], axis=1)
    assert np.median(turned) > 3 * np.median(opposite)


def test_spectra_at_opposite_states_are_alike() -> None:
    picture = Image.open(io.BytesIO(latents.spectra()))
    assert picture.width > 1000
    axis = np.arange(32) - 16
    ring = np.exp(-((np.hypot(axis[:, None], axis[None, :]) - 9) ** 2))
    assert latents.correlation(ring, 3 * ring) == pytest.approx(1.0)
    assert latents.correlation(ring, np.roll(ring, 4, axis=0)) < 0.5
    peaked = ring + 1e6 * (np.hypot(axis[:, None], axis[None, :]) < 2)  # the disc's own peak counts for nothing
    assert latents.correlation(ring, peaked) == pytest.approx(1.0)


def test_the_map_is_learned_on_the_other_day() -> None:
    states = np.array([[0.0, 0.0], [20.0, 5.0], [-20.0, -5.0]])
    found = maps.run(states, observations=4)
    assert found.visited_nm.shape == (4, 2)
    assert np.abs(found.map.deviation).max() > 0.1
    np.testing.assert_allclose(found.map.mean[:, 1], found.map.mean[:, 2], atol=1e-6)  # even


def test_a_picture_is_written_small_and_a_missing_comparison_is_named(tmp_path: Path) -> None:
    campaigns = tmp_path / "stored"
    campaigns.mkdir()
    shutil.copy(BASELINES / "accuracy_vae_em_against_bo.json", campaigns)
    code, text = made("--only", "7", "--only", "8", "--out", str(tmp_path), "--campaigns", str(campaigns))
    assert code == 0
    assert str(tmp_path / "paper_7_errors.png") in text
    assert "Fig. 8 needs" in text
    assert "python -m benchmarks.campaign error_curves" in text
    assert not (tmp_path / "paper_8_errors_further_days.png").exists()
    assert (tmp_path / "paper_7_errors.png").stat().st_size < LARGEST


def test_both_error_curves_come_from_the_comparison_on_four_days(tmp_path: Path) -> None:
    one = json.loads((BASELINES / "accuracy_vae_em_against_bo.json").read_text())["day_a"]
    four = dict.fromkeys(("day_a", "day_b", "day_c", "random_1"), one)
    (tmp_path / "accuracy_error_curves.json").write_text(json.dumps(four))
    code, text = made("--only", "7", "--only", "8", "--out", str(tmp_path), "--campaigns", str(tmp_path))
    assert code == 0
    assert "needs" not in text
    with Image.open(tmp_path / "paper_7_errors.png") as picture:
        assert picture.width > 900  # two days side by side


def test_an_unknown_figure_is_refused_with_those_there_are() -> None:
    code, text = made("--only", "3")
    assert code == 2
    assert "known: 1, 4, 5, 6, 7, 8" in text
    assert [figure.number for figure in FIGURES] == [1, 4, 5, 6, 7, 8]


def test_a_large_picture_is_made_smaller() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (900, 3000, 3), np.uint8)).save(buffer, "PNG")
    assert Image.open(io.BytesIO(small(buffer.getvalue()))).size == (LARGEST_PX, 360)
