"""`stemtwin unwarp` on a file: counts are kept, results are described, and bad input is refused in a sentence."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from scenarios.cli import app
from twin.formats import Layout, Metadata, create, open_frames

ROWS, COLUMNS = 6, 5


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "scan.zarr"
    frames = np.random.default_rng(0).poisson(0.8, (ROWS * COLUMNS, 8, 8)).astype(np.uint16)
    about = Metadata(convergence_mrad=5.0, pixel_mrad=3.0, step_nm=0.02)
    with create(path, Layout((ROWS, COLUMNS), (8, 8)), about) as writer:
        writer.append(frames)
    return path


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["unwarp", *map(str, words)])


def total(path: Path) -> int:
    with open_frames(path) as reader:
        return int(reader.read(0, reader.layout.count).sum(dtype=np.int64))


def test_counts_are_kept_exactly(scan: Path, tmp_path: Path) -> None:
    shifts, out = tmp_path / "shifts.npy", tmp_path / "new.zarr"
    np.save(shifts, np.random.default_rng(1).normal(0, 0.4, (2, ROWS)))
    done = run(scan, "--shifts", shifts, "--out", out, "--json")
    assert done.exit_code == 0, done.output
    plain = json.loads(done.stdout)
    assert plain["counts"] == total(scan) == total(out)
    assert plain["positions"] == ROWS * COLUMNS
    assert plain["shift_x_rms_nm"] == pytest.approx(0.008, rel=0.6)
    told = run(scan, "--shifts", shifts, "--out", tmp_path / "even.zarr", "--even")
    assert told.exit_code == 0, told.output
    assert "each line of the grid receives" in told.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--shifts", "nowhere.npy"], "nowhere.npy does not exist"),
        (["--layout", "haddf"], "haadf"),
        ([], "a side needs at least 16"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(scan: Path, tmp_path: Path, words: list[str], expected: str) -> None:
    done = run(scan, "--out", tmp_path / "new.zarr", *words)
    assert done.exit_code == 2, done.output
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
