"""What is behind the seam is one line of a scenario; a run can be recorded, replayed, killed and gone on with."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fakes import autoscript, physics
from typer.testing import CliRunner

from scenarios.calibration import run
from scenarios.calibration.instruments import Wiring, address_overrides
from scenarios.calibration.results import Result, RunDirectory, Step
from scenarios.cli import app
from scenarios.schema import Scenario, ScenarioError, load
from twin.instrument.audit import read
from twin.instrument.recording import Recording
from twin.types import Frame

Make = Callable[..., Scenario]
ROOT = Path(__file__).parents[3]

LAB = (
    "microscope.kind=autoscript",
    f"microscope.options.module={autoscript.NAME}",
    "microscope.options.stigmator_nm=[[2.0, 0.5], [-0.5, 3.0]]",
    "microscope.options.exposure_s=0.001",
    "microscope.safety.retry_wait_s=0",
)


def calibrated(scenario: Scenario, out: Path, controller: str = "random", seed: int = 3, **wiring: Any) -> Result:
    """A run without its report."""
    asked = Wiring(seed=seed, controller=controller, audit=out / "audit.jsonl", **wiring)
    return run.run(run.prepare(scenario, controller, asked), seed, out, report=False)


def without_time(steps: tuple[Step, ...]) -> list[Step]:
    return [replace(step, seconds=0.0) for step in steps]


def frames(path: Path) -> list[Frame]:
    recording = Recording(path)
    return [recording.frame(k) for k in range(recording.count)]


@pytest.fixture
def column(small: Make) -> Iterator[Any]:
    """A stand-in for AutoScript, defocused by 20 nm."""
    made = physics.Column(small().optics, {"C10": 20.0, "C12a": -5.0, "C12b": 3.0})
    autoscript.install(made)
    yield made
    for name in (autoscript.NAME, f"{autoscript.NAME}.structures"):
        sys.modules.pop(name)


# --- recording and replay ------------------------------------------------------------------------


def test_in_process_recorded_and_replayed_are_one_run(tmp_path: Path) -> None:
    scenario = load("nominal", ["task.observations=3"])
    bare = calibrated(scenario, tmp_path / "bare", "vae_em")
    recorded = calibrated(scenario, tmp_path / "recorded", "vae_em", record=tmp_path / "run.zarr")
    again = load("nominal", ["task.observations=3", *address_overrides(f"replay:{tmp_path / 'run.zarr'}")])
    replayed = calibrated(again, tmp_path / "replayed", "vae_em")
    assert without_time(bare.steps) == without_time(recorded.steps) == without_time(replayed.steps)
    assert bare.truth_nm == replayed.truth_nm
    assert bare.correction is not None
    assert replayed.correction is not None
    assert bare.correction.frame == replayed.correction.frame
    assert bare.before == replayed.before
    assert frames(tmp_path / "run.zarr")[0] == bare.before
    assert frames(tmp_path / "run.zarr")[-1] == bare.correction.frame
    provenance = Recording(tmp_path / "run.zarr").attributes["provenance"]
    assert (provenance["seed"], provenance["controller"]) == (3, "vae_em")


def test_a_replay_that_is_asked_for_more_is_stopped_with_what_it_gave(small: Make, tmp_path: Path) -> None:
    calibrated(small(2), tmp_path, record=tmp_path / "run.zarr")
    result = calibrated(small(4, *address_overrides(f"replay:{tmp_path / 'run.zarr'}")), tmp_path / "b")
    assert (result.status, len(result.steps)) == ("stopped", 2)
    assert "left the recorded ones at frame 2" in result.reason


# --- going on after a kill -----------------------------------------------------------------------


KILL = """
import os, signal
from twin.instrument.recording import RecordingWriter
append, kept = RecordingWriter.append, []
def deadly(self, *arguments):
    if len(kept) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    kept.append(append(self, *arguments))
RecordingWriter.append = deadly
"""
"""Ends the program with its fourth frame taken and not yet on disc."""


def killed(command: list[str]) -> None:
    """Run a calibration that dies of SIGKILL."""
    done = subprocess.run(
        command, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_killed_simulation_goes_on_to_the_same_end(
    small: Make, small_overrides: tuple[str, ...], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", KILL + "from scenarios.cli import main; main()", "calibrate", "nominal"]
    command += ["--controller", "random", "--seed", "3", "--observations", "9", "--out", str(tmp_path / "killed")]
    command += [word for override in small_overrides for word in ("--set", override)]
    killed([*command, "--record", str(tmp_path / "run.zarr")])
    assert Recording(tmp_path / "run.zarr").count == 3
    whole = calibrated(small(5), tmp_path / "whole", record=tmp_path / "whole.zarr")
    resumed = calibrated(small(5), tmp_path / "resumed", record=tmp_path / "run.zarr", resume=True)
    assert without_time(resumed.steps) == without_time(whole.steps)
    assert frames(tmp_path / "run.zarr") == frames(tmp_path / "whole.zarr")
    assert resumed.correction is not None
    assert whole.correction is not None
    assert resumed.correction.state_nm == whole.correction.state_nm


# An instrument outlives the program: its corrector is a file here.
INSTRUMENT = (
    KILL
    + """
import json, pathlib, sys
root, state = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
sys.path.append(str(root / "tests"))
from fakes import autoscript, physics
from scenarios.schema import load

class Kept(dict):
    def __setitem__(self, name, value):
        super().__setitem__(name, value)
        state.write_text(json.dumps(self))
    def __ior__(self, other):
        for name, value in other.items():
            self[name] = value
        return self

overrides = json.loads(sys.argv[3])
column = physics.Column(load("nominal", overrides).optics, {})
column.nm = Kept(json.loads(state.read_text()))
autoscript.install(column)
sys.argv = ["stemtwin", *sys.argv[4:], *(word for text in overrides for word in ("--set", text))]
from scenarios.cli import main
main()
"""
)


def test_a_killed_calibration_of_an_instrument_goes_on_from_recording_and_log(
    small: Make, small_overrides: tuple[str, ...], column: Any, tmp_path: Path
) -> None:
    state, out, recording = tmp_path / "lenses.json", tmp_path / "runs", tmp_path / "run.zarr"
    start = {"C10": 20.0, "C12a": -5.0, "C12b": 3.0}
    state.write_text(json.dumps(start))
    command = [sys.executable, "-c", INSTRUMENT, str(ROOT), str(state), json.dumps([*small_overrides, *LAB])]
    command += ["calibrate", "nominal", "--controller", "random", "--seed", "3", "--observations", "9"]
    killed([*command, "--out", str(out), "--record", str(recording)])
    had = Recording(recording).count
    assert had == 3
    log = read(out / "nominal" / "random" / "3" / "audit.jsonl")
    assert [entry["event"] for entry in log].count("frame") == had + 1
    # Whatever it was sent after the last recorded frame, and whatever happened since.
    left = json.loads(state.read_text())
    column.nm = {name: start[name] + 0.8 * (value - start[name]) + 1.0 for name, value in left.items()}
    before = [entry["target_nm"] for entry in log if entry["event"] == "command"]

    audit = out / "nominal" / "random" / "3" / "audit.jsonl"
    asked = Wiring(record=recording, resume=True, audit=audit, seed=3, controller="random")
    session = run.prepare(small(had + 2, *LAB), "random", asked)
    result = run.run(session, 3, tmp_path / "resumed", report=False)
    assert (result.status, result.reason) == ("complete", "")
    assert len(result.steps) == had + 2
    assert not result.scored
    trace = Recording(recording).trace(0)
    np.testing.assert_array_equal([step.cumulative_nm for step in result.steps], trace.cumulative_nm[: had + 2])
    # The same inputs as before the kill, and the lenses where the inputs say, counted from the first start.
    np.testing.assert_allclose(before[: had - 1], trace.cumulative_nm[1:had])
    end = np.array(list(start.values())) + trace.cumulative_nm[-1]
    np.testing.assert_allclose(list(column.nm.values()), end, atol=1e-6)
    events = [entry["event"] for entry in read(audit)]
    assert events[: len(log)] == [entry["event"] for entry in log]
    assert events[len(log)] == "resume"
    assert read(audit)[len(log)]["cumulative_nm"] == trace.cumulative_nm[had - 1].tolist()


def test_only_the_same_run_can_be_gone_on_with(small: Make, tmp_path: Path) -> None:
    calibrated(small(2), tmp_path, record=tmp_path / "run.zarr")
    again = {"record": tmp_path / "run.zarr", "resume": True}
    for scenario, changes, message in (
        (small(2), {"seed": 4}, r"seed was 3 and is 4"),
        (small(2), {"controller": "coordinate_scan"}, r"controller was 'random' and is 'coordinate_scan'"),
        (small(2, "day.dose_e=1e4"), {}, r"scenario\.day\.dose_e was .* and is 10000\.0"),
    ):
        with pytest.raises(ScenarioError, match=message):
            calibrated(scenario, tmp_path, **{**again, **changes})
    with pytest.raises(ScenarioError, match="name it with --record FILE"):
        calibrated(small(2), tmp_path, resume=True)
    with pytest.raises(ScenarioError, match="exists; choose another name"):
        calibrated(small(2), tmp_path, record=tmp_path / "run.zarr")
    assert without_time(calibrated(small(2), tmp_path / "b", **again).steps)


# --- instruments ---------------------------------------------------------------------------------


def test_an_instrument_is_calibrated_without_anybody_knowing_the_truth(
    small: Make, column: Any, tmp_path: Path
) -> None:
    session = run.prepare(small(3, *LAB), "random", Wiring(audit=tmp_path / "audit.jsonl"))
    result = run.run(session, 3, tmp_path)
    assert (result.status, result.scored, len(result.steps)) == ("complete", False, 3)
    summary = json.loads((result.directory / "summary.json").read_text())
    assert summary == json.loads(json.dumps(result.summary()))
    assert "NaN" not in (result.directory / "summary.json").read_text()
    assert summary["error_nm"] == summary["in_spec"] == [None] * 3
    assert summary["corrected_state_nm"] is None
    assert summary["estimate_nm"] is not None
    assert result.report is not None
    page = result.report.read_text()
    assert "nan" not in re.sub(r'src="[^"]*"', "", page).lower()
    assert "in spec</b>" not in page
    events = [entry["event"] for entry in read(tmp_path / "audit.jsonl")]
    assert events == ["reset", "exposure", "frame"] + 3 * ["command", "moved", "exposure", "frame"] + ["end"]


def test_limits_of_the_scenario_stop_a_run_at_its_last_good_state(small: Make, column: Any, tmp_path: Path) -> None:
    electrons = 50e-12 * 0.001 / 1.602176634e-19
    limits = (f"microscope.safety.dose_e={2.5 * electrons}", "microscope.safety.step_nm.C10=5")
    result = calibrated(small(5, *LAB, *limits), tmp_path)
    assert (result.status, len(result.steps), result.correction) == ("stopped", 2, None)
    assert "dose_e allows" in result.reason
    assert "restored to" in result.reason
    expected = np.array([20.0, -5.0, 3.0]) + result.steps[-1].cumulative_nm
    np.testing.assert_allclose(list(column.nm.values()), expected, atol=1e-6)
    commands = [entry for entry in read(tmp_path / "audit.jsonl") if entry["event"] == "command"]
    assert max(abs(entry["delta_nm"][0]) for entry in commands) <= 5.0 + 1e-9
    assert (result.directory / "summary.json").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ZeroDivisionError("a bug")])
def test_an_instrument_is_brought_back_however_a_run_ends(
    error: BaseException, small: Make, column: Any, tmp_path: Path
) -> None:
    session = run.prepare(small(9, *LAB), "random", Wiring(audit=tmp_path / "audit.jsonl"))

    def stop_at_two(step: Step) -> None:
        if step.observation == 2:
            session.bench.microscope.apply(np.array([1.0, 1.0, 1.0]))
            raise error

    if isinstance(error, KeyboardInterrupt):
        result = run.run(session, 3, tmp_path, stop_at_two, report=False)
        assert result.status == "interrupted"
    else:
        with pytest.raises(ZeroDivisionError):
            run.run(session, 3, tmp_path, stop_at_two, report=False)
    log = read(tmp_path / "audit.jsonl")
    assert [entry["event"] for entry in log[-3:]] == ["abort", "restoring", "restored"]
    assert ("interrupted" if isinstance(error, KeyboardInterrupt) else "a program error") in log[-3]["reason"]
    np.testing.assert_allclose(
        list(column.nm.values()), np.array([20.0, -5.0, 3.0]) + log[-1]["cumulative_nm"], atol=1e-6
    )


def test_a_dry_run_shows_what_would_be_sent_and_sends_nothing(
    small_overrides: tuple[str, ...], column: Any, tmp_path: Path
) -> None:
    words = ["calibrate", "nominal", "--controller", "random", "--observations", "2", "--out", str(tmp_path), "--json"]
    words += [word for text in (*small_overrides, *LAB) for word in ("--set", text)]
    done = CliRunner().invoke(app, [*words, "--dry-run"])
    assert done.exit_code == 0, done.output
    assert column.nm == {"C10": 20.0, "C12a": -5.0, "C12b": 3.0}
    assert done.stderr.count("autoscript, dry run: would expose") == 3
    assert done.stderr.count("autoscript, dry run: would add") == 2
    assert json.loads(done.stdout)["status"] == "complete"
    # What was not sent is in no log of what was.
    assert not list(tmp_path.rglob("audit.jsonl"))


def test_no_instrument_moves_without_a_log(small: Make, column: Any, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="autoscript is an instrument and needs an audit log"):
        run.prepare(small(1, *LAB), "random")
    result = run.calibrate(small(1, *LAB), "random", 3, tmp_path, report=False, move=True)
    assert [entry["event"] for entry in read(result.directory / "audit.jsonl")][:3] == ["reset", "exposure", "frame"]


def test_instruments_are_not_compared(small_overrides: tuple[str, ...], column: Any, tmp_path: Path) -> None:
    words = ["compare", "nominal", "--controllers", "random", "--runs", "1", "--out", str(tmp_path / "compared")]
    words += [word for text in (*small_overrides, *LAB) for word in ("--set", text)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2
    assert "needs an audit log: use `stemtwin calibrate`" in done.stderr
    assert column.nm == {"C10": 20.0, "C12a": -5.0, "C12b": 3.0}


def test_a_dose_budget_is_not_gone_on_with_without_its_log(small: Make, column: Any, tmp_path: Path) -> None:
    again = {"record": tmp_path / "run.zarr", "resume": True}
    budget = "microscope.safety.dose_e=1e12"
    calibrated(small(2, *LAB, budget), tmp_path / "a", record=tmp_path / "run.zarr")
    with pytest.raises(ScenarioError, match=r"b/audit\.jsonl does not know 3 of the 3 frames of .*Give the --out"):
        calibrated(small(2, *LAB, budget), tmp_path / "b", **again)
    assert calibrated(small(2, *LAB, budget), tmp_path / "a", **again).status == "complete"
    spent = [entry["spent_e"] for entry in read(tmp_path / "a" / "audit.jsonl") if "spent_e" in entry]
    assert spent == sorted(spent)
    # Without a budget nothing can be overdrawn.
    calibrated(small(1, *LAB), tmp_path / "c", record=tmp_path / "free.zarr")
    assert calibrated(small(1, *LAB), tmp_path / "d", record=tmp_path / "free.zarr", resume=True).status == "complete"


def test_a_full_disc_does_not_keep_an_instrument_from_coming_back(
    small: Make, column: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = run.prepare(small(9, *LAB), "random", Wiring(audit=tmp_path / "audit.jsonl"))

    close = RunDirectory.close

    def full(self: RunDirectory, step: Step) -> None:
        session.bench.microscope.apply(np.array([1.0, 1.0, 1.0]))
        raise OSError("no space left on device")

    def closed(self: RunDirectory) -> None:
        close(self)
        raise OSError("no space left on device")

    monkeypatch.setattr(RunDirectory, "append", full)
    monkeypatch.setattr(RunDirectory, "close", closed)
    with pytest.raises(OSError, match="no space"):
        run.run(session, 3, tmp_path, report=False)
    assert [entry["event"] for entry in read(tmp_path / "audit.jsonl")[-2:]] == ["restoring", "restored"]
    np.testing.assert_allclose(list(column.nm.values()), [20.0, -5.0, 3.0], atol=1e-6)


def test_the_systems_wish_to_end_brings_an_instrument_back(
    small_overrides: tuple[str, ...], column: Any, tmp_path: Path
) -> None:
    """SIGTERM, as from `timeout` or a system that shuts down."""
    state = tmp_path / "lenses.json"
    state.write_text(json.dumps({"C10": 20.0, "C12a": -5.0, "C12b": 3.0}))
    program = INSTRUMENT.replace("signal.SIGKILL", "signal.SIGTERM")
    command = [sys.executable, "-c", program, str(ROOT), str(state), json.dumps([*small_overrides, *LAB])]
    command += ["calibrate", "nominal", "--controller", "random", "--seed", "3", "--observations", "9", "--json"]
    command += ["--out", str(tmp_path), "--record", str(tmp_path / "run.zarr")]
    done = subprocess.run(
        command, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120, check=False
    )
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert json.loads(done.stdout)["status"] == "interrupted"
    log = read(tmp_path / "nominal" / "random" / "3" / "audit.jsonl")
    assert log[-1]["event"] == "restored"
    left = np.array(list(json.loads(state.read_text()).values()))
    np.testing.assert_allclose(left, np.array([20.0, -5.0, 3.0]) + log[-1]["cumulative_nm"], atol=1e-6)


# --- choosing ------------------------------------------------------------------------------------


def test_a_microscope_is_one_line(small: Make) -> None:
    assert small().microscope.kind == "simulated"
    assert "microscope" not in small().resolved()
    assert address_overrides("replay:runs/a.zarr") == address_overrides("replay://runs/a.zarr")
    scenario = small(2, *address_overrides("replay:runs/a b.zarr"))
    assert (scenario.microscope.kind, scenario.microscope.options) == ("replay", {"path": "runs/a b.zarr"})
    assert address_overrides("autoscript:10.0.0.7:9095")[1] == 'microscope.options.host="10.0.0.7:9095"'
    for text, message in (
        ("replya:x", r"'replya' is not a kind of microscope \(did you mean replay\?\)"),
        ("nion:x", "nion takes no address"),
        ("simulated:x", "simulated takes no address"),
    ):
        with pytest.raises(ScenarioError, match=message):
            address_overrides(text)


def test_mistakes_about_microscopes_are_refused_before_anything_is_made(small: Make, tmp_path: Path) -> None:
    for change, message in (
        ("microscope.kind=nio", r"not a kind of microscope \(did you mean nion\?\)"),
        ("microscope.kid=nion", r"microscope.kid is not a key here \(did you mean kind\?\)"),
        ("microscope.safety.settle=1", r"microscope.safety.settle is not a key here \(did you mean settle_s\?\)"),
        ("microscope.safety.settle_s=-1", "settle_s: input should be greater than or equal to 0, got -1"),
    ):
        with pytest.raises(ScenarioError, match=message):
            small(1, change)
    blocked = tmp_path / "file"
    blocked.write_text("")
    for changes, message in (
        (["microscope.options.path=x"], r"microscope.options: the simulator has none"),
        (["microscope.safety.dose_e=1e6"], r"microscope.safety: the simulator has none"),
        (["microscope.kind=replay", "microscope.options.path=nowhere.zarr"], "not a recording"),
        (["microscope.kind=nion", "microscope.options.spend=1"], "'spend' is not an option"),
        (["microscope.kind=nion", "microscope.safety.step_nm.C21a=1"], "'C21a' is not a calibrated coefficient"),
    ):
        with pytest.raises(ScenarioError, match=message):
            run.prepare(small(1, *changes), "random", Wiring(audit=tmp_path / "audit.jsonl"))
    for scenario, asked, message in (
        (small(1), Wiring(dry_run=True), "the simulator moves nothing"),
        (small(1), Wiring(dry_run=True, record=tmp_path / "run.zarr"), "nothing to record"),
        (small(1, *LAB), Wiring(audit=blocked / "audit.jsonl"), "Not a directory|File exists|is no folder"),
    ):
        with pytest.raises(ScenarioError, match=message):
            run.prepare(scenario, "random", asked)


def test_the_command_takes_what_a_run_takes(small: Make, small_overrides: tuple[str, ...], tmp_path: Path) -> None:
    calibrated(small(2), tmp_path, record=tmp_path / "run.zarr")
    words = ["calibrate", "nominal", "--controller", "random", "--out", str(tmp_path)]
    words += [word for override in small_overrides for word in ("--set", override)]
    recording = ["--record", str(tmp_path / "run.zarr")]
    for extra, message in (
        (recording, "exists; choose another name"),
        ([*recording, "--resume"], "seed was 3 and is 0"),
        (["--resume"], "name it with --record FILE"),
        (["--dry-run"], "the simulator moves nothing"),
        (["--microscope", "replya:x"], "did you mean replay?"),
        (["--microscope", f"replay:{tmp_path / 'none.zarr'}"], "not a recording"),
    ):
        done = CliRunner().invoke(app, [*words, *extra])
        assert done.exit_code == 2
        assert message in done.stderr


def test_microscopes_are_listed() -> None:
    done = CliRunner().invoke(app, ["list", "microscopes"])
    assert done.exit_code == 0
    assert {line.split()[0] for line in done.stdout.splitlines()} >= {"simulated", "replay", "nion", "autoscript"}


def test_the_yaml_on_the_page_is_a_scenarios(small: Make, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "hardware.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.S)
    assert len(blocks) == 1
    section = yaml.safe_load(blocks[0].replace("kind: lab", "kind: autoscript"))["microscope"]
    overrides = [f"microscope.{key}={json.dumps(value)}" for key, value in section.items()]
    scenario = small(1, *overrides, f"microscope.options.stigmator_nm={[[1, 0], [0, 1]]}")
    assert scenario.microscope.safety.step_nm == {"C10": 20}
    assert run.prepare(scenario, "random", Wiring(audit=tmp_path / "audit.jsonl")).bench.guard is not None
