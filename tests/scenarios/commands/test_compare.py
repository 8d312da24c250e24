"""`stemtwin compare`: what it refuses, what it leaves behind, and that nothing finished is ever lost.

The figures are `test_figures.py`'s business: here every summary is a plain account of the records.
"""

import json
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

import scenarios.comparison.sweep
from scenarios.calibration.results import write_text
from scenarios.cli import app
from scenarios.comparison.ledger import Groups, split_controllers
from scenarios.comparison.sweep import Job, RunRecord
from scenarios.schema import ScenarioError

Compare = Callable[..., Result]


def summarise(groups: Groups, chosen: Mapping[str, Any], cache: Path) -> dict[str, Any]:
    """Every error of every run, in the shape that the table wants."""
    assert groups.keys() == chosen.keys()
    account: dict[str, Any] = {}
    for scenario, controllers in groups.items():
        for controller, records in controllers.items():
            steps = {str(i + 1): [record.steps[i] for record in records] for i in range(len(records[0].steps))}
            rows = {
                k: {
                    "median_error_nm": sorted(s.error_nm for s in of_k)[0],
                    "p90_error_nm": sum(s.error_nm for s in of_k),
                    **dict.fromkeys(("in_spec", "within_2_nm", "within_pi_4", "strehl"), 0.0),
                    "coverage_90": sum(s.covers_90 for s in of_k) / len(of_k),
                    "seconds_per_step": 0.0,
                }
                for k, of_k in steps.items()
            }
            seeds = [record.seed for record in records]
            found = account.setdefault(scenario, {"controllers": {}})["controllers"]
            found[controller] = {"by_observation": rows, "seeds": seeds, "probe_d50_nm": {"median": 0.05}}
    return {"controllers": {}, "scenarios": account}


def write_report(summary: dict[str, Any], groups: Groups, chosen: Mapping[str, Any], folder: Path) -> None:
    write_text(folder / "report.html", "<!doctype html>")


STAND_IN = types.ModuleType("scenarios.comparison.figures")
STAND_IN.__dict__.update(summarise=summarise, write_report=write_report)


@pytest.fixture
def arguments(small_overrides: tuple[str, ...]) -> list[str]:
    """Small, in this process, random inputs."""
    small = [word for override in small_overrides for word in ("--set", override)]
    return ["--controllers", "random", "--observations", "2", "--workers", "1", *small]


@pytest.fixture
def compare(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compare:
    monkeypatch.setitem(sys.modules, "scenarios.comparison.figures", STAND_IN)

    def invoke(*words: str) -> Result:
        return CliRunner().invoke(app, ["compare", *arguments, "--out", str(tmp_path / "out"), *words])

    return invoke


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Jobs as they are run."""
    jobs: list[Job] = []
    original = scenarios.comparison.sweep.run

    def run(job: Job) -> RunRecord:
        jobs.append(job)
        return original(job)

    monkeypatch.setattr(scenarios.comparison.sweep, "run", run)
    return jobs


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_it_leaves_runs_settings_summary_and_report(compare: Compare, tmp_path: Path) -> None:
    result = compare("nominal", "day_b", "--runs", "2", "--first-seed", "5")
    assert result.exit_code == 0, result.output
    out = tmp_path / "out"
    runs = [f"runs/{name}/random/{seed}.json" for name in ("day_b", "nominal") for seed in (5, 6)]
    assert files(out) == ["compare.yaml", "report.html", *runs, "summary.json"]
    settings = yaml.safe_load((out / "compare.yaml").read_text())
    assert settings["seeds"] == {"first": 5, "runs": 2}
    assert settings["scenarios"]["day_b"]["task"]["observations"] == 2
    assert {"stemtwin", "numpy", "torch"} <= settings["versions"].keys()
    record = RunRecord.from_json((out / runs[0]).read_text())
    assert (record.scenario, record.controller, record.seed, len(record.steps)) == ("day_b", "random", 5, 2)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["scenarios"]["nominal"]["controllers"]["random"]["seeds"] == [5, 6]
    assert result.stdout.splitlines()[-1] == f"report: {out / 'report.html'}"


def test_json_is_the_summary(compare: Compare, tmp_path: Path) -> None:
    result = compare("nominal", "--runs", "1", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == json.loads((tmp_path / "out" / "summary.json").read_text())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["dya_a"], "'dya_a' is not a scenario (did you mean day_a?)"),
        (["nominal", "--controllers", "random,vae_me"], "did you mean vae_em?"),
        (["nominal", "--controllers", "random:speed=3"], "random takes no options"),
        (["nominal", "--controllers", "random,random"], "named twice"),
        (["nominal", "nominal"], "both named nominal"),
        (["nominal", "--set", "day.dose_e=-1"], "day.dose_e"),
        (["nominal", "--scheduler", "tcp://127.0.0.1:1"], "exclude each other"),
    ],
)
def test_bad_input_is_one_line_and_no_run(compare: Compare, tmp_path: Path, words: list[str], expected: str) -> None:
    result = compare("--runs", "1", *words)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert expected in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_with_runs_is_touched_only_to_resume(compare: Compare, made: list[Job]) -> None:
    assert compare("nominal", "--runs", "1").exit_code == 0
    refused = compare("nominal", "--runs", "2")
    assert refused.exit_code == 2
    assert "--resume" in refused.stderr
    assert compare("nominal", "day_b", "--runs", "2", "--resume").exit_code == 0
    assert [(job.scenario, job.seed) for job in made] == [("nominal", 0), ("nominal", 1), ("day_b", 0), ("day_b", 1)]


def test_other_settings_are_refused_by_name(compare: Compare, made: list[Job]) -> None:
    assert compare("nominal", "--runs", "1").exit_code == 0
    refused = compare("nominal", "--runs", "1", "--resume", "--set", "day.dose_e=3e5")
    assert refused.exit_code == 2
    assert "nominal.day.dose_e is 300000.0 and was 1000000.0" in refused.stderr
    assert len(made) == 1
    # Also once the scenario was left out for a while.
    assert compare("day_b", "--runs", "1", "--resume").exit_code == 0
    assert compare("nominal", "--runs", "1", "--resume", "--observations", "3").exit_code == 2


def test_a_spoilt_record_is_named(compare: Compare, tmp_path: Path) -> None:
    assert compare("nominal", "--runs", "1").exit_code == 0
    (tmp_path / "out/runs/nominal/random/0.json").write_text("{")
    refused = compare("nominal", "--runs", "1", "--resume")
    assert refused.exit_code == 2
    assert "random/0.json" in refused.stderr


def test_ctrl_c_keeps_what_is_finished(compare: Compare, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    original = scenarios.comparison.sweep.run

    def interrupted(job: Job) -> RunRecord:
        if job.seed == 2:
            raise KeyboardInterrupt
        return original(job)

    with monkeypatch.context() as patch:
        patch.setattr(scenarios.comparison.sweep, "run", interrupted)
        result = compare("nominal", "--runs", "4")
    assert result.exit_code == 130
    assert "interrupted; 2 of 4 runs are safe" in result.stderr
    assert "--resume" in result.stderr
    assert files(tmp_path / "out" / "runs") == ["nominal/random/0.json", "nominal/random/1.json"]
    assert compare("nominal", "--runs", "4", "--resume").exit_code == 0


def test_a_controller_that_fails_is_left_out(compare: Compare, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    original = scenarios.comparison.sweep.run

    def fragile(job: Job) -> RunRecord:
        if job.controller == "vae_em" and job.seed == 1:
            raise ArithmeticError("no inverse")
        return original(Job(job.scenario, "random", job.seed, job.observations, job.overrides))

    monkeypatch.setattr(scenarios.comparison.sweep, "run", fragile)
    large = [f"optics.{key}" for key in ("convergence_mrad=28", "sampling_nm=0.025", "grid=512", "binning=3")]
    back = [word for change in [*large, "optics.camera_pixels=128"] for word in ("--set", change)]
    result = compare("nominal", "--runs", "2", "--controllers", "random,vae_em", *back)
    assert result.exit_code == 1, result.output
    assert "vae_em left out: nominal, vae_em, seed 1: ArithmeticError: no inverse" in result.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert list(summary["scenarios"]["nominal"]["controllers"]) == ["random"]


def test_killed_half_way_and_resumed_gives_the_same_summary(
    compare: Compare, arguments: list[str], tmp_path: Path
) -> None:
    out, runs = tmp_path / "out", ("nominal", "--runs", "150")
    command = [sys.executable, "-c", "from scenarios.cli import main; main()", "compare", *arguments]
    victim = subprocess.Popen([*command, "--out", str(out), *runs], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while len(list(out.glob("runs/*/*/*.json"))) < 3:
            assert time.monotonic() < deadline
            assert victim.poll() is None
            time.sleep(0.005)
    finally:
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
    left = len(list(out.glob("runs/*/*/*.json")))
    assert 3 <= left < 150
    resumed = compare(*runs, "--resume", "--json")
    assert resumed.exit_code == 0, resumed.output
    whole = compare(*runs, "--json", "--out", str(tmp_path / "whole"))
    assert json.loads(resumed.stdout) == json.loads(whole.stdout)


@pytest.mark.parametrize("ends", [(signal.SIGTERM, signal.SIGTERM), (signal.SIGINT,), (signal.SIGKILL,)])
def test_no_worker_outlives_a_comparison(ends: tuple[int, ...], arguments: list[str], tmp_path: Path) -> None:
    import psutil

    command = [sys.executable, "-c", "from scenarios.cli import main; main()", "compare", *arguments]
    runs = ["nominal", "--runs", "400", "--workers", "2", "--out", str(tmp_path / "out")]
    running = subprocess.Popen([*command, *runs], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        deadline, workers = time.monotonic() + 60, []
        while len(workers) < 2:
            assert time.monotonic() < deadline
            assert running.poll() is None
            time.sleep(0.02)
            children = psutil.Process(running.pid).children(recursive=True)
            workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
        for number in ends:
            running.send_signal(number)
            time.sleep(0.05)
        running.wait(60)
        _, left = psutil.wait_procs(workers, timeout=20)
        assert left == []
    finally:
        running.kill()
        running.wait()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b", ("a", "b")),
        ("vae_em:hard=true,candidates=500,random", ("vae_em:hard=true,candidates=500", "random")),
        ("vae_em,vae_em:hard=true", ("vae_em", "vae_em:hard=true")),
        ("a:x=[1,2],y=3, b", ("a:x=[1,2],y=3", "b")),
        ("a:path=c:d,b", ("a:path=c:d", "b")),
    ],
)
def test_controllers_keep_their_options(text: str, expected: tuple[str, ...]) -> None:
    assert split_controllers(text) == expected


@pytest.mark.parametrize("text", ["", ",", "x=1,a", "a,a"])
def test_a_list_that_names_no_controllers_is_refused(text: str) -> None:
    with pytest.raises(ScenarioError):
        split_controllers(text)
