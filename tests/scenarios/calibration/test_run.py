"""The runner scores honestly, repeats itself exactly, and keeps what an interrupted run measured."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from controller.base import Controller, Estimate
from controller.strategies import random as random_strategy
from scenarios.calibration import run
from scenarios.calibration.page import render
from scenarios.calibration.results import Result, RunDirectory, Step
from scenarios.schema import Scenario, ScenarioError, parse
from twin.optics import Optics
from twin.state import StateSpace

Make = Callable[..., Scenario]


class Fixed(random_strategy.Random):
    """Random inputs and an estimate that never changes."""

    def __init__(self, space: StateSpace, estimate: Estimate, done_after: int = 10**6) -> None:
        super().__init__(space)
        self.fixed, self.done_after, self.updates = estimate, done_after, 0

    def update(self, delta_nm: NDArray[np.floating], frame: object) -> None:
        self.updates += 1
        self.cumulative_nm = self.cumulative_nm + delta_nm

    def estimate(self) -> Estimate:
        return self.fixed

    @property
    def done(self) -> bool:
        return self.updates >= self.done_after


def use(monkeypatch: pytest.MonkeyPatch, controller: Controller) -> None:
    def load(name: str, optics: Optics, space: StateSpace, options: object) -> Controller:
        return controller

    monkeypatch.setattr("scenarios.calibration.session.load", load)


def quick(
    scenario: Scenario, controller: str, seed: int, out: Path, progress: Callable[[Step], None] | None = None
) -> Result:
    """A run without its report, which takes longer than the run."""
    return run.calibrate(scenario, controller, seed, out, progress, report=False)


def rows(directory: Path) -> list[dict[str, str]]:
    with (directory / "steps.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def without_time(steps: tuple[Step, ...]) -> list[Step]:
    return [replace(step, seconds=0.0) for step in steps]


def test_a_run_leaves_its_directory_and_every_number_agrees(small: Make, tmp_path: Path) -> None:
    result = run.calibrate(small(3), "random", 5, tmp_path)
    assert result.directory == tmp_path / "nominal" / "random" / "5"
    assert sorted(p.name for p in result.directory.iterdir()) == [
        "config.yaml",
        "report.html",
        "steps.csv",
        "summary.json",
    ]
    table = rows(result.directory)
    assert [float(row["error_nm"]) for row in table] == [step.error_nm for step in result.steps]
    assert [float(row["input_C12a_nm"]) for row in table] == [step.input_nm[1] for step in result.steps]
    summary = json.loads((result.directory / "summary.json").read_text())
    assert summary == json.loads(json.dumps(result.summary()))
    assert summary["observations"] == len(summary["error_nm"]) == len(summary["in_spec"]) == 3
    again = parse(yaml.safe_load((result.directory / "config.yaml").read_text()), "config.yaml")
    assert again == result.scenario


def test_errors_are_the_truth_minus_the_estimate(small: Make, tmp_path: Path) -> None:
    result = quick(small(4), "random", 1, tmp_path)
    truth = np.array(result.truth_nm)
    total = np.zeros(3)
    for step in result.steps:
        total = total + step.input_nm
        np.testing.assert_allclose(step.cumulative_nm, total, atol=1e-12)
        np.testing.assert_allclose(step.error_component_nm, truth - step.estimate_nm, atol=1e-9)
        assert step.error_nm == pytest.approx(float(np.linalg.norm(truth - step.estimate_nm)))
    assert result.steps[0].input_nm == (0.0, 0.0, 0.0)
    assert np.ptp([step.input_nm[0] for step in result.steps]) > 1.0


def test_the_truth_of_a_step_follows_a_corrector_that_is_not_exact(small: Make, tmp_path: Path) -> None:
    exact, short = (quick(small(4, f"day.actuator.gain={gain}"), "random", 1, tmp_path) for gain in (1.0, 0.9))
    for result, share in ((exact, 0.0), (short, -0.1)):
        for step in result.steps:
            expected = np.array(result.truth_nm) + share * np.array(step.cumulative_nm)
            np.testing.assert_allclose(step.truth_nm, expected, atol=1e-9)
    page = render(short)
    for value in short.steps[-1].truth_nm:
        assert f"<td><b>{value:+.1f}</b></td>" in page


def test_cost_counts_every_observation_and_not_the_last_look(small: Make, tmp_path: Path) -> None:
    result = quick(small(3, "day.dose_e=1000", "day.exposure_s=0.5", "day.overhead_s=0.25"), "random", 0, tmp_path)
    assert [step.dose_e for step in result.steps] == [1000.0, 2000.0, 3000.0]
    assert [step.simulated_s for step in result.steps] == pytest.approx([0.75, 1.5, 2.25])
    whole = result.summary()["cost"]  # with it
    assert (whole["electrons_e"], whole["regions"]) == (4000.0, 4)
    assert (whole["simulated_s"], whole["exposure_s"], whole["overhead_s"]) == pytest.approx((3.0, 2.0, 1.0))


def test_a_perfect_estimate_is_corrected_to_zero(small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = small(3)
    truth = np.array(quick(scenario, "random", 2, tmp_path).truth_nm)
    use(monkeypatch, Fixed(scenario.space, Estimate(truth, np.eye(3))))
    result = quick(scenario, "oracle", 2, tmp_path)
    assert result.truth_nm == tuple(truth)
    assert max(step.error_nm for step in result.steps) < 1e-9
    assert result.correction is not None
    np.testing.assert_allclose(result.correction.state_nm, 0.0, atol=1e-9)
    assert result.correction.in_spec
    assert all(step.in_spec and step.covers_50 and step.covers_90 for step in result.steps)


def test_a_wrong_estimate_leaves_its_error_and_its_regions_tell(
    small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = small(2, "space.start_nm=[10, 10, 10]", "space.tolerance_nm=[10, 10, 10]")
    truth = np.array(quick(scenario, "random", 2, tmp_path).truth_nm)
    offset = np.array([0.0, 12.0, 0.0])
    # Mahalanobis distance 2: chi-squared with 3 degrees of freedom has quantiles 2.37 (50 %) and 6.25 (90 %).
    use(monkeypatch, Fixed(scenario.space, Estimate(truth - offset, np.eye(3) * 6.0**2)))
    result = quick(scenario, "wrong", 2, tmp_path)
    last = result.steps[-1]
    assert (last.covers_50, last.covers_90) == (False, True)
    assert not last.in_spec
    assert last.error_nm == pytest.approx(12.0)
    assert result.correction is not None
    np.testing.assert_allclose(result.correction.state_nm, offset, atol=1e-9)
    assert not result.correction.in_spec


def test_an_estimate_out_of_reach_is_corrected_as_far_as_the_corrector_goes(
    small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = small(2)
    use(monkeypatch, Fixed(scenario.space, Estimate(np.array([90.0, 0.0, 0.0]), np.eye(3))))
    result = quick(scenario, "far", 0, tmp_path)
    assert result.correction is not None
    total = np.array(result.steps[-1].cumulative_nm) + result.correction.input_nm
    np.testing.assert_allclose(total, [-scenario.space.input_nm[0], 0.0, 0.0], atol=1e-9)


def test_the_same_seed_repeats_and_a_longer_run_only_continues(small: Make, tmp_path: Path) -> None:
    first = quick(small(2), "random", 7, tmp_path / "a")
    again = quick(small(2), "random", 7, tmp_path / "b")
    longer = quick(small(4), "random", 7, tmp_path / "c")
    other = quick(small(2), "random", 8, tmp_path / "d")
    assert first.before is not None
    assert again.before is not None
    assert other.before is not None
    np.testing.assert_array_equal(first.before.counts, again.before.counts)
    assert without_time(first.steps) == without_time(again.steps) == without_time(longer.steps[:2])
    assert other.truth_nm != first.truth_nm
    assert not np.array_equal(first.before.counts, other.before.counts)


def test_a_prepared_session_serves_many_seeds(small: Make, tmp_path: Path) -> None:
    session = run.prepare(small(2), "random")
    runs = [run.run(session, seed, tmp_path, report=False) for seed in (1, 2, 1)]
    assert without_time(runs[0].steps) == without_time(runs[2].steps)
    assert runs[0].truth_nm != runs[1].truth_nm
    observed = tuple(step for step, *_ in run.observe(session, 1))
    assert without_time(observed) == without_time(runs[0].steps)


def test_every_controller_meets_the_same_truth_and_the_same_noise(
    small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = small(1)
    first = quick(scenario, "random", 3, tmp_path)
    use(monkeypatch, Fixed(scenario.space, Estimate(scenario.space.zero, np.eye(3))))
    other = quick(scenario, "fixed", 3, tmp_path)
    assert other.truth_nm == first.truth_nm
    assert first.before is not None
    assert other.before is not None
    np.testing.assert_array_equal(other.before.counts, first.before.counts)


@pytest.mark.parametrize(("stop", "taken"), [(True, 2), (False, 4)])
def test_the_stop_rule_ends_a_run_only_when_the_task_says_so(
    stop: bool, taken: int, small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = small(4, f"task.stop={str(stop).lower()}")
    use(monkeypatch, Fixed(scenario.space, Estimate(scenario.space.zero, np.eye(3)), done_after=2))
    result = quick(scenario, "stopping", 0, tmp_path)
    assert len(result.steps) == taken
    assert result.status == "complete"


def test_an_interrupt_keeps_and_reports_what_was_measured(small: Make, tmp_path: Path) -> None:
    def stop_at_two(step: Step) -> None:
        if step.observation == 2:
            raise KeyboardInterrupt

    result = run.calibrate(small(5), "random", 0, tmp_path, stop_at_two)
    assert result.status == "interrupted"
    assert len(rows(result.directory)) == len(result.steps) == 2
    summary = json.loads((result.directory / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert summary["corrected_state_nm"] is None
    assert "interrupted" in (result.directory / "report.html").read_text()


def test_an_interrupt_in_the_middle_of_a_row_leaves_a_whole_table(
    small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(self: RunDirectory, step: Step) -> None:
        self._file.write("1,0.0,0.")
        self._file.flush()
        raise KeyboardInterrupt

    monkeypatch.setattr(RunDirectory, "append", torn)
    result = quick(small(3), "random", 0, tmp_path)
    table = rows(result.directory)
    assert len(table) == len(result.steps) == 1
    assert float(table[0]["simulated_s"]) == result.steps[0].simulated_s


def test_a_crash_loses_no_row_and_leaves_no_stale_summary(small: Make, tmp_path: Path) -> None:
    earlier = run.calibrate(small(2), "random", 0, tmp_path).directory
    before = {path.name: path.read_bytes() for path in earlier.iterdir()}
    directory = earlier.with_name("0-2")

    def crash(step: Step) -> None:
        assert len(rows(directory)) == step.observation
        if step.observation == 3:
            raise RuntimeError("the lights went out")

    with pytest.raises(RuntimeError, match="the lights went out"):
        quick(small(5), "random", 0, tmp_path, crash)
    assert len(rows(directory)) == 3
    assert not (directory / "summary.json").exists()
    assert not (directory / "report.html").exists()
    assert {path.name: path.read_bytes() for path in earlier.iterdir()} == before


def test_what_cannot_run_is_refused_before_a_directory_exists(small: Make, tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"'randon' is not a controller \(did you mean random\?\)"):
        quick(small(1), "randon", 0, tmp_path / "runs")
    with pytest.raises(ScenarioError, match="random takes no options"):
        quick(small(1, "controllers.random.speed=3"), "random", 0, tmp_path / "runs")
    with pytest.raises(ScenarioError, match=r"needs a window of .* nm; the grid spans 12\.8 nm"):
        quick(small(1, "day.residual_nm.C30=1e7"), "random", 0, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_an_unwritable_place_is_named(small: Make, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(ScenarioError, match=r"Not a directory|File exists"):
        quick(small(1), "random", 0, blocked)


def test_ctrl_c_exits_130_with_a_summary(small_overrides: tuple[str, ...], tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from scenarios.cli import main; main()", "calibrate", "nominal", "--json"]
    command += ["--controller", "random", "--observations", "100000", "--out", str(tmp_path)]
    command += [word for override in small_overrides for word in ("--set", override)]
    directory = tmp_path / "nominal" / "random" / "0"
    deadline = time.monotonic() + 60
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            while not ((directory / "steps.csv").exists() and len(rows(directory)) >= 3):
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()  # it would go on for hours
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    summary = json.loads(output)
    assert summary["status"] == "interrupted"
    assert summary == json.loads((directory / "summary.json").read_text())
    assert len(rows(directory)) == summary["observations"] >= 3
