"""The bench of disturbed frames: what it counts, and that it goes on where it stopped."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.reality import __main__ as bench
from benchmarks.reality.kinds import KINDS, shifted, spots, vacuum
from benchmarks.reality.runs import Disturbed
from twin.day import Day
from twin.optics import Optics
from twin.simulated import SimulatedMicroscope
from twin.state import FIRST_ORDER

SMALL = ["--runs", "1", "--frames", "3", "--renderer", "fast", "--controllers", "random", "--kinds", "two spots"]


def record(in_spec: bool, done: bool) -> dict[str, object]:
    return {"error_nm": 1.0, "in_spec": in_spec, "covers_90": True, "done": done, "misfit": False, "reason": ""}


def test_declared_and_wrong_is_judged_when_it_is_declared() -> None:
    runs = [
        [record(False, False), record(False, True), record(True, True)],  # in spec too late
        [record(True, False), record(True, True), record(False, True)],
        [record(False, False), record(False, False), record(True, False)],
    ]
    found = bench.figures(runs, 3)
    assert (found["declared"], found["wrong"]) == pytest.approx((2 / 3, 1 / 3))
    assert found["in_spec"] == pytest.approx(2 / 3)
    assert bench.figures(runs, 1)["declared"] == 0.0


def test_a_second_run_reads_what_the_first_one_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main([*SMALL, "--out", str(tmp_path)]) == 0
    (file,) = tmp_path.iterdir()
    first, text = capsys.readouterr().out, file.read_text()
    assert bench.main([*SMALL, "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == first
    assert file.read_text() == text


def test_an_unknown_kind_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["--kinds", "vacum"]) == 2
    assert "did you mean vacuum?" in capsys.readouterr().err


def microscope() -> SimulatedMicroscope:
    chosen = SimulatedMicroscope(Optics(), FIRST_ORDER, Day(), "fast")
    chosen.reset(np.random.default_rng(0))
    return chosen


def test_late_frames_show_the_input_before() -> None:
    late = Disturbed(microscope(), KINDS["late frames"], 0)
    before = late.microscope.truth().state_nm
    late.apply(np.array([7.0, 0.0, 0.0]))
    assert late.microscope.truth().state_nm == pytest.approx(before)
    late.apply(np.array([0.0, 3.0, 0.0]))
    assert late.microscope.truth().state_nm == pytest.approx(before + np.array([7.0, 0.0, 0.0]))


def test_a_turned_corrector_moves_the_other_component() -> None:
    turned = Disturbed(microscope(), KINDS["C12 turned"], 0)
    before = turned.microscope.truth().state_nm
    turned.apply(np.array([0.0, 5.0, 0.0]))
    assert turned.microscope.truth().state_nm - before == pytest.approx([0.0, 0.0, -5.0])


def test_changes_do_what_they_are_called() -> None:
    rng, counts = np.random.default_rng(0), np.random.default_rng(1).poisson(80.0, (128, 128)).astype(float)
    assert np.sum(spots(4)(counts, rng) != counts) in range(27, 37)
    assert np.all(shifted(12)(counts, rng)[:, :12] == 0)
    empty = vacuum(counts, rng)
    assert empty[64, 64] > 0
    assert empty[0, 0] == 0
