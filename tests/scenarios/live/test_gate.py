"""The operator's word in a run: what the instrument does, and what its audit log says."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scenarios.calibration.instruments import Wiring
from scenarios.live.calibration import Calibration
from scenarios.live.gate import Gate, GatedMicroscope, Question
from scenarios.schema import Scenario
from twin.instrument.audit import AuditLog, read
from twin.instrument.faults import Stopped
from twin.instrument.limits import Limits
from twin.instrument.safety import SafeMicroscope
from twin.simulated import SimulatedMicroscope

STEP = np.array([7.0, -2.0, 1.0])


def wait_for(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 30.0
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.002)


class Bench:
    """A guarded microscope behind a gate, used from a thread of its own."""

    def __init__(self, scenario: Scenario, log: Path, limits: Limits | None = None) -> None:
        self.twin = SimulatedMicroscope(scenario.optics, scenario.space, scenario.day)
        self.guard = SafeMicroscope(self.twin, limits or Limits(), AuditLog(log))
        self.gate = Gate(lambda: None, paused=True, look_s=0.0)
        self.frames = 0
        self.microscope = GatedMicroscope(self.guard, self.gate, self.count)
        self.said = ""
        self.microscope.reset(np.random.default_rng(4))
        self.start_nm = self.twin.truth().state_nm

    def count(self, frame: object) -> None:
        self.frames += 1

    def run(self, inputs: int) -> threading.Thread:
        thread = threading.Thread(target=self._run, args=(inputs,))
        thread.start()
        return thread

    def _run(self, inputs: int) -> None:
        """As a calibration does: frames and inputs, the last of which is the correction."""
        try:
            self.microscope.acquire()
            for k in range(inputs):
                self.gate.last = k == inputs - 1
                self.microscope.apply(STEP)
                self.microscope.acquire()
            self.guard.end()
        except Stopped as stopped:
            self.said = f"{stopped}; {self.guard.abort(str(stopped))}"

    def moved_nm(self) -> list[float]:
        return list(np.round(self.twin.truth().state_nm - self.start_nm, 9))


@pytest.fixture
def bench(small: Scenario, tmp_path: Path) -> Bench:
    return Bench(small, tmp_path / "audit.jsonl")


def asked(bench: Bench) -> Question:
    wait_for(lambda: bench.gate.question)
    assert bench.gate.question is not None
    return bench.gate.question


def test_while_it_pauses_an_input_is_shown_and_not_sent(bench: Bench) -> None:
    thread = bench.run(2)
    assert (asked(bench).kind, asked(bench).input_nm.tolist()) == ("input", STEP.tolist())
    assert bench.moved_nm() == [0.0, 0.0, 0.0]
    bench.gate.say("step")
    wait_for(lambda: bench.frames == 2 and bench.gate.question)
    assert (bench.moved_nm(), asked(bench).kind) == (list(STEP), "correction")
    bench.gate.say("stop")
    thread.join()


def test_a_correction_that_is_kept_stays(bench: Bench) -> None:
    thread = bench.run(2)
    asked(bench)
    bench.gate.say("run")
    wait_for(lambda: bench.gate.question is not None and bench.gate.question.kind == "keep")
    assert asked(bench).input_nm.tolist() == (2 * STEP).tolist()
    bench.gate.say("keep")
    thread.join()
    assert (bench.moved_nm(), bench.said) == (list(2 * STEP), "")


def test_stop_leaves_the_last_state_with_a_good_frame(bench: Bench, tmp_path: Path) -> None:
    thread = bench.run(3)
    asked(bench)
    bench.gate.say("step")
    wait_for(lambda: bench.frames == 2 and bench.gate.question)
    bench.gate.say("stop")
    thread.join()
    assert bench.moved_nm() == list(STEP)
    assert "stopped from the page" in bench.said
    assert read(tmp_path / "audit.jsonl")[-1]["event"] == "restored"


def test_go_back_undoes_every_input_through_the_guard(small: Scenario, tmp_path: Path) -> None:
    bench = Bench(small, tmp_path / "audit.jsonl", Limits(step_nm={"C10": 5.0}))
    thread = bench.run(2)
    asked(bench)
    bench.gate.say("run")
    wait_for(lambda: bench.gate.question is not None and bench.gate.question.kind == "keep")
    bench.gate.say("back")
    thread.join()
    assert bench.moved_nm() == [0.0, 0.0, 0.0]
    assert "taken back" in bench.said
    assert [line["text"].partition(" at ")[0] for line in bench.gate.lines if "frame" in line["text"]][-2:] == [
        "check of the correction: frame",
        "after the way back: frame",
    ]
    entries = read(tmp_path / "audit.jsonl")
    # Twice 7 nm in two commands of at most 5 nm, and 14 nm back in three.
    assert [entry["event"] for entry in entries].count("command") == 7
    assert np.allclose(entries[-1]["cumulative_nm"], 0.0)


def test_go_back_before_the_first_input_sends_nothing(bench: Bench) -> None:
    thread = bench.run(2)
    asked(bench)
    bench.gate.say("back")
    thread.join()
    assert (bench.moved_nm(), bench.frames) == ([0.0, 0.0, 0.0], 1)


def test_an_unknown_word_is_refused(bench: Bench) -> None:
    with pytest.raises(ValueError, match="did you mean stop"):
        bench.gate.say("stopp")


def test_what_is_kept_for_the_page_is_bounded() -> None:
    gate = Gate(lambda: None)
    for k in range(1000):
        gate.note(f"line {k}")
    assert (len(gate.lines), gate.lines[-1]["n"]) == (200, 1000)


def test_the_last_change_that_is_told_shows_the_end(small: Scenario, tmp_path: Path) -> None:
    """Who asks only when told of a change, as the page does, must not be left with a run that goes on."""
    told: list[bool] = []
    run = Calibration(small, "random", 1, tmp_path, Wiring(), lambda: told.append(run.running), lambda frame: None)
    run.start()
    wait_for(lambda: run.gate.question is not None and run.gate.question.kind == "keep")
    run.gate.say("keep")
    run._thread.join(60)
    assert (told[-1], run.outcome()) == (False, "complete after 3 observations")
