"""The figures that the accuracy benchmark makes of its runs."""

import json
from pathlib import Path

import pytest

from benchmarks.accuracy import main, summarise
from scenarios.calibration.results import Step
from scenarios.comparison.sweep import RunRecord


def record(*steps: tuple[float, bool, bool, float]) -> RunRecord:
    """From (error, in spec, covered, seconds) per observation."""
    v = (0.0,)
    rows = [Step(k, v, v, v, v, 1.0, v, e, i, True, c, s, 1.0, 1.0) for k, (e, i, c, s) in enumerate(steps, start=1)]
    return RunRecord("nominal", "random", 0, v, tuple(rows), "")


def test_the_table_counts_runs_by_observation() -> None:
    one = record((4.0, True, False, 0.1), (1.0, True, True, 0.2))
    two = record((8.0, False, False, 0.3), (3.0, True, False, 0.2))
    table = summarise([one, two])
    assert table["1"]["median_error_nm"] == 6.0
    assert table["1"]["in_spec"] == 0.5
    assert table["2"]["coverage_90"] == 0.5
    assert table["2"]["seconds_per_step"] == 0.2


def test_the_command_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures.json"
    words = [
        "--scenarios",
        "nominal",
        "--controllers",
        "random",
        "--runs",
        "2",
        "--observations",
        "2",
        "--workers",
        "1",
    ]
    assert main([*words, "--set", "day.film.thickness_nm=2", "--json", "--out", str(out)]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures == json.loads(out.read_text())
    assert list(figures["nominal"]["random"]["by_observation"]) == ["1", "2"]
