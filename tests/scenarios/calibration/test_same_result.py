"""One scenario and seed: the same bytes and the same estimate in process, over the wire, and from a recording of it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import served
from typer.testing import CliRunner

from scenarios.calibration import run
from scenarios.calibration.instruments import Wiring, address_overrides
from scenarios.calibration.results import Result, Step
from scenarios.cli import app
from scenarios.schema import Scenario, ScenarioError
from scenarios.serve import Serving, TwinServer
from twin.instrument.audit import read
from twin.instrument.recording import Recording
from twin.types import Frame

Make = Callable[..., Scenario]
CONTROLLER = "coordinate_scan"
SEED = 3
PATIENT = ("microscope.safety.retry_wait_s=0", "microscope.options.timeout_s=2")
SCORED = "microscope.options.truth=true"


class Server:
    """`stemtwin serve` as a program of its own, always with the same control port."""

    def __init__(self, overrides: tuple[str, ...]) -> None:
        self._command = [sys.executable, "-c", "from scenarios.cli import main; main()", "serve", "nominal"]
        self._command += ["--json", "--port", "0", "--free", "--expose-truth"]
        self._command += [word for override in overrides for word in ("--set", override)]
        self._program: subprocess.Popen[str] | None = None
        self.port = 0

    def start(self) -> None:
        if self._program is None:
            self._program = subprocess.Popen(
                [*self._command, "--control", str(self.port)],
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            assert self._program.stdout is not None
            self.port = json.loads(self._program.stdout.readline())["ports"]["control"]

    def kill(self) -> None:
        program, self._program = self._program, None
        if program is not None:
            program.send_signal(signal.SIGKILL)
            program.communicate(timeout=10)


@pytest.fixture(scope="module")
def kept(small_overrides: tuple[str, ...]) -> Iterator[Server]:
    made = Server(small_overrides)
    yield made
    made.kill()


@pytest.fixture
def server(kept: Server) -> Server:
    kept.start()
    return kept


def calibrated(scenario: Scenario, out: Path, progress: Callable[[Step], None] | None = None, **wiring: Any) -> Result:
    """A run without its report."""
    asked = Wiring(seed=SEED, controller=CONTROLLER, audit=out / "audit.jsonl", **wiring)
    return run.run(run.prepare(scenario, CONTROLLER, asked), SEED, out, progress, report=False)


def over_the_wire(make: Make, port: int, observations: int = 6, *overrides: str) -> Scenario:
    return make(observations, *address_overrides(f"remote:127.0.0.1:{port}"), *PATIENT, *overrides)


def without_time(steps: tuple[Step, ...]) -> list[Step]:
    return [replace(step, seconds=0.0) for step in steps]


def frames(path: Path) -> list[Frame]:
    recording = Recording(path)
    return [recording.frame(k) for k in range(recording.count)]


def test_in_process_over_the_wire_and_from_a_recording_are_one_run(small: Make, server: Server, tmp_path: Path) -> None:
    paths = {name: tmp_path / f"{name}.zarr" for name in ("near", "thread", "program")}
    near = calibrated(small(6), tmp_path / "near", record=paths["near"])
    with TwinServer(small(6), 99, Serving(free_ports=True, paced=False, expose_truth=True)) as thread:
        results = {
            "thread": calibrated(
                over_the_wire(small, thread.ports["control"], 6, SCORED), tmp_path / "thread", record=paths["thread"]
            )
        }
    results["program"] = calibrated(
        over_the_wire(small, server.port, 6, SCORED), tmp_path / "program", record=paths["program"]
    )
    replayed = address_overrides(f"replay:{paths['program']}")
    results["replayed"] = calibrated(small(6, *replayed), tmp_path / "replayed")

    expected = frames(paths["near"])
    assert len(expected) == 7
    for name in ("thread", "program"):
        assert frames(paths[name]) == expected
    assert near.correction is not None
    for result in results.values():
        assert result.status == "complete"
        assert without_time(result.steps) == without_time(near.steps)
        assert result.truth_nm == near.truth_nm
        assert result.estimate is not None
        assert near.estimate is not None
        assert result.estimate.mean_nm.tobytes() == near.estimate.mean_nm.tobytes()
        assert result.estimate.cov_nm2.tobytes() == near.estimate.cov_nm2.tobytes()
        assert result.correction is not None
        assert result.correction.frame == near.correction.frame
        assert result.correction.state_nm == near.correction.state_nm
    # The estimate comes from the frames: another seed gives another one.
    assert near.steps[-1].estimate_nm != near.steps[0].estimate_nm


def test_without_the_truth_the_run_is_the_same_and_not_scored(small: Make, server: Server, tmp_path: Path) -> None:
    near = calibrated(small(3), tmp_path / "near")
    far = calibrated(over_the_wire(small, server.port, 3), tmp_path / "far")
    assert not far.scored
    assert [step.estimate_nm for step in far.steps] == [step.estimate_nm for step in near.steps]
    assert far.before == near.before
    events = [entry["event"] for entry in read(tmp_path / "far" / "audit.jsonl")]
    assert events == ["reset", "exposure", "frame"] + 3 * ["command", "moved", "exposure", "frame"] + ["end"]


def test_lines_that_break_in_the_middle_of_a_run_change_nothing(small: Make, tmp_path: Path) -> None:
    near = calibrated(small(5), tmp_path / "near")
    kinds = {"control": "netstring", "merlin_control": "merlin", "merlin_data": "merlin"}
    options = {"control": "port", "merlin_control": "camera_port", "merlin_data": "data_port"}
    with TwinServer(small(5), 99, Serving(free_ports=True, paced=False)) as server, ExitStack() as stack:
        proxies = {n: stack.enter_context(served.Proxy(kind, server.ports[n])) for n, kind in kinds.items()}
        ports = [f"microscope.options.{options[name]}={proxy.port}" for name, proxy in proxies.items()]

        def cut(step: Step) -> None:
            if step.observation in (2, 3):
                for proxy in proxies.values():
                    proxy.cut()

        far = calibrated(small(5, "microscope.kind=remote", *ports, *PATIENT), tmp_path / "far", cut)
    assert far.status == "complete"
    assert [step.estimate_nm for step in far.steps] == [step.estimate_nm for step in near.steps]
    assert [step.cumulative_nm for step in far.steps] == [step.cumulative_nm for step in near.steps]
    assert far.correction is not None
    assert near.correction is not None
    assert far.correction.frame == near.correction.frame
    faults = [entry for entry in read(tmp_path / "far" / "audit.jsonl") if entry["event"] == "fault"]
    assert len(faults) == 2
    assert all("data line" in entry["reason"] or "camera" in entry["reason"] for entry in faults)


def test_a_corrector_and_a_camera_are_enough_for_a_calibration(small: Make, tmp_path: Path) -> None:
    """Inputs go out as aberrations in metres and frames come back without a word about them: the same correction."""
    near = calibrated(small(6), tmp_path / "near")
    options = {"corrector": "corrector_port", "merlin_control": "camera_port", "merlin_data": "data_port"}
    with TwinServer(small(6), SEED, Serving(free_ports=True, paced=False, expose_truth=True)) as server:
        chosen = [f"microscope.options.{option}={server.ports[name]}" for name, option in options.items()]
        chosen += ["microscope.kind=remote", "microscope.options.control=false"]
        chosen += ["microscope.options.beam_current_a=3.204353268e-13"]  # the twin's 1e6 electrons in 0.5 s
        far = calibrated(small(6, *chosen, *PATIENT), tmp_path / "far")
        assert far.status == "complete"
        assert near.correction is not None
        left_nm = server.bench.truth().state_nm
    np.testing.assert_allclose([step.estimate_nm for step in far.steps], [step.estimate_nm for step in near.steps])
    np.testing.assert_allclose(left_nm, near.correction.state_nm, atol=1e-6)


def test_a_corrector_that_cannot_say_where_it_stands_cannot_be_gone_on_with(small: Make, tmp_path: Path) -> None:
    asked = Wiring(record=tmp_path / "run.zarr", resume=True, audit=tmp_path / "a.jsonl", seed=SEED)
    with pytest.raises(ScenarioError, match="remote cannot take up a session"):
        run.prepare(small(3, "microscope.kind=remote", "microscope.options.control=false"), CONTROLLER, asked)


def test_a_killed_server_leaves_log_and_recording_and_the_run_goes_on(
    small: Make,
    small_overrides: tuple[str, ...],
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """kill -9 in the middle; the server is started again on its port, and `--resume` drives it to where it was."""
    whole = calibrated(small(6), tmp_path / "whole", record=tmp_path / "whole.zarr")
    recording, out = tmp_path / "run.zarr", tmp_path / "runs"
    audit = out / "nominal" / CONTROLLER / str(SEED) / "audit.jsonl"

    def kill(step: Step) -> None:
        if step.observation == 3:
            server.kill()

    asked = Wiring(record=recording, audit=audit, seed=SEED, controller=CONTROLLER)
    session = run.prepare(over_the_wire(small, server.port, 6, SCORED), CONTROLLER, asked)
    result = run.run(session, SEED, out, kill, report=False)
    assert (result.status, len(result.steps)) == ("stopped", 3)
    assert result.truth_nm == whole.truth_nm
    assert "NOT restored" in result.reason
    assert frames(recording) == frames(tmp_path / "whole.zarr")[:3]
    log = read(audit)
    assert [entry["event"] for entry in log].count("frame") == 3
    assert [entry["event"] for entry in log[-2:]] == ["fault", "not restored"]

    server.start()
    words = ["calibrate", "nominal", "--controller", CONTROLLER, "--seed", str(SEED), "--observations", "6"]
    words += ["--out", str(out), "--record", str(recording), "--resume", "--json"]
    words += ["--microscope", f"remote:127.0.0.1:{server.port}"]
    words += [word for override in (*small_overrides, *PATIENT, SCORED) for word in ("--set", override)]
    monkeypatch.setattr(run, "render", lambda result: "")  # the page takes longer than all the rest
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["status"] == "complete"
    assert frames(recording) == frames(tmp_path / "whole.zarr")
    for figure in ("estimate_nm", "error_nm", "corrected_state_nm"):
        assert json.loads(done.stdout)[figure] == whole.summary()[figure]
    again = read(audit)
    assert again[: len(log)] == log
    assert again[len(log)]["event"] == "reset"
