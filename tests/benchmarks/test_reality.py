"""The bench of days unlike training: what it counts, that it goes on where it stopped, and what it refuses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.reality import __main__ as bench
from benchmarks.reality import baseline, figures
from benchmarks.reality.kinds import GROUPS, KINDS
from benchmarks.reality.runs import Job, microscope, seed_outside
from benchmarks.regression import BaselineError
from controller.canonical import units
from twin.day import KINDS as OF_DAYS
from twin.state import FIRST_ORDER

SMALL = ["--runs", "1", "--frames", "3", "--renderer", "fast", "--controllers", "random", "--kinds", "vibration"]


def record(in_spec: bool, done: bool = False, said: str = "", error_nm: float = 1.0) -> dict[str, Any]:
    return {
        "error_nm": error_nm, "in_spec": in_spec, "covers_90": True, "done": done, "misfit": False, "reason": said,
        "seconds": 0.1,
    }  # fmt: skip


def test_declared_and_wrong_is_judged_when_it_is_declared() -> None:
    runs = [
        [record(False), record(False, True), record(True, True)],  # in spec too late
        [record(True), record(True, True), record(False, True)],
        [record(False), record(False), record(True)],
    ]
    found = figures.shares(runs)
    assert found["declared"] == (pytest.approx(2 / 3), 3)
    assert found["wrong"] == (pytest.approx(1 / 3), 3)
    assert found["in_spec_3"] == (pytest.approx(2 / 3), 3)
    assert "in_spec_5" not in found


def test_a_warning_counts_before_a_claim_and_only_where_the_error_is_large() -> None:
    far = {"error_nm": 20.0}
    runs = [
        [record(False, **far), record(False, said="no", **far), record(False, True, **far)],
        [record(False, **far), record(False, True, **far), record(False, True, "no", **far)],  # too late
        [record(True), record(True), record(True, said="no")],  # no large error
    ]
    assert figures.shares(runs)["warned"] == (0.5, 2)


def test_a_second_run_reads_what_the_first_one_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main([*SMALL, "--workers", "1", "--out", str(tmp_path)]) == 0
    (file,) = tmp_path.iterdir()
    first, text = capsys.readouterr().out, file.read_text()
    assert "vibration" in first
    assert bench.main([*SMALL, "--workers", "1", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == first
    assert file.read_text() == text


def test_an_unknown_kind_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--kinds", "vacum"]) == 2
    assert "did you mean vacuum?" in capsys.readouterr().err


def test_every_kind_of_day_has_a_row_and_every_row_a_day() -> None:
    assert set(OF_DAYS) < set(GROUPS["days"])
    for name, kind in KINDS.items():
        first, again = (kind.day(1.0, np.random.default_rng(4)) for _ in range(2))
        assert first == again, name
        assert (first != KINDS["none"].day(1.0, np.random.default_rng(4))) == (
            bool(kind.departures) or kind.change is not None
        )


@pytest.mark.parametrize("name", ["60_kv_40_mrad", "300_kv_15_mrad", "camera_512_px_disc_200_px"])
def test_every_microscope_gets_a_task_of_the_same_phases(name: str) -> None:
    kind = KINDS[name]
    phases = kind.space.start * units.edge_phases_rad(FIRST_ORDER.names, kind.told)
    assert phases == pytest.approx(FIRST_ORDER.start * units.edge_phases_rad(FIRST_ORDER.names, units.REFERENCE))


def test_a_camera_has_the_disc_it_is_named_for() -> None:
    for name in GROUPS["cameras"]:
        _, pixels, _, _, radius, _ = name.split("_")
        optics = KINDS[name].told
        assert optics.camera_pixels == int(pixels)
        assert units.disc_radius_px(optics) == pytest.approx(float(radius))


def test_a_far_start_lies_outside_the_box() -> None:
    kind = KINDS["far_start"]
    shown = microscope(kind, Job("far_start", "random", 3, renderer="fast"))
    seed_outside(3, shown, kind.space)
    assert abs(shown.truth().initial_nm[0]) > kind.space.start[0]


def of_share(in_spec: list[bool], wrong: list[bool]) -> dict[str, dict[str, figures.Run]]:
    runs = {
        f"none {seed}": [record(good and not bad, bad)]
        for seed, (good, bad) in enumerate(zip(in_spec, wrong, strict=True))
    }
    return {"vae_em": runs}


def test_the_share_fails_when_claims_become_wrong_and_not_by_one_run(tmp_path: Path) -> None:
    file, good, never = tmp_path / "reality.json", [True] * 40, [False] * 40
    baseline.write(file, of_share(good, never), "a test")
    assert not baseline.compare(file, of_share(good, never))[1]
    assert not baseline.compare(file, of_share(good, [True] + [False] * 39))[1]
    lines, worse = baseline.compare(file, of_share(good, [True] * 8 + [False] * 32))
    assert worse
    assert any("wrong" in line and line.endswith("WORSE") for line in lines)


def test_a_baseline_of_other_runs_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "reality.json"
    baseline.write(file, of_share([True] * 3, [False] * 3), "a test")
    with pytest.raises(BaselineError, match="other runs"):
        baseline.compare(file, of_share([True] * 4, [False] * 4))
    with pytest.raises(BaselineError, match="does not exist"):
        baseline.compare(tmp_path / "none.json", of_share([True], [False]))
