"""`stemtwin quantify` on a file: results on disc and on the screen, and refusals in a sentence."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import zarr
from typer.testing import CliRunner, Result

from scenarios.cli import app
from scenarios.quantification.results import LibraryError, read_library


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five by five columns of 1 to 5 atoms."""
    y, x = np.mgrid[:72, :72]
    expected = np.full((72, 72), 20.0)
    for number in range(25):
        row, column = divmod(number, 5)
        square = (x - 12 * (column + 1)) ** 2 + (y - 12 * (row + 1)) ** 2
        expected += 200 * (column + 1) * np.exp(-square / (2 * 2.7**2))
    path = tmp_path_factory.mktemp("image") / "columns.npy"
    np.save(path, np.random.default_rng(0).poisson(expected))
    return path


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["quantify", *map(str, words), "--scan", "perfect"])


def test_it_writes_a_table_a_picture_and_arrays(image: Path, tmp_path: Path) -> None:
    library, out = tmp_path / "library.txt", tmp_path / "out"
    one = 2 * np.pi * 200 * 2.7**2 * 0.02**2
    library.write_text("# atoms, nm2\n" + "".join(f"{n}, {n * one}\n" for n in range(1, 7)))
    done = run(image, "--step-nm", 0.02, "--library", library, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    plain = json.loads(done.stdout)
    assert plain["columns"] == 25
    assert plain["atoms"] == 75
    assert plain["spacing_nm"] == pytest.approx(0.24, abs=0.02)
    rows = list(csv.DictReader((out / "columns.csv").read_text().splitlines()))
    assert [int(float(row["atoms"])) for row in rows] == [1, 2, 3, 4, 5] * 5
    sigmas = [name for name in rows[0] if "sigma" in name]
    assert len(sigmas) == 6  # a standard error for every number
    assert all(float(row[name]) >= 0 for row in rows for name in sigmas)
    assert (out / "columns.png").read_bytes().startswith(b"\x89PNG")
    group = zarr.open_group(out / "columns.zarr", mode="r")
    assert group["residual"].shape == (72, 72)
    np.testing.assert_allclose(group["table/x_nm"][:], [float(row["x_nm"]) for row in rows], rtol=1e-6)


def test_results_are_not_replaced_unasked(image: Path, tmp_path: Path) -> None:
    assert run(image, "--count", "none", "--out", tmp_path).exit_code == 0
    again = run(image, "--count", "none", "--out", tmp_path)
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr
    told = run(image, "--count", "none", "--out", tmp_path, "--overwrite")
    assert told.exit_code == 0
    assert "lengths are in pixels" in told.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--count", "libary"], "count"),
        (["--count", "library"], "needs a library"),
        (["--library", "nowhere.txt"], "nowhere.txt does not exist"),
        (["--spacing-nm", "0.2"], "needs step_nm"),
        (["--step-nm", "-1"], "step_nm is the distance of pixels"),
    ],
)
def test_a_mistake_is_told_in_one_line(image: Path, words: list[str], expected: str) -> None:
    done = run(image, *words)
    assert done.exit_code == 2
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1


def test_no_lattice_is_told_in_one_line(tmp_path: Path) -> None:
    np.save(tmp_path / "ramp.npy", np.add.outer(np.arange(64.0), np.arange(64.0)))
    done = run(tmp_path / "ramp.npy")
    assert done.exit_code == 2
    assert "no lattice of columns" in done.stderr


def test_a_library_of_words_is_refused(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("1 one\n")
    with pytest.raises(LibraryError, match=r"words.txt, line 1: a cross-section above 0 is expected, got 'one'"):
        read_library(tmp_path / "words.txt")
