"""A calibration in the page: the run of `stemtwin calibrate` in a thread, with the operator at its gate."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from controller.base import Estimate
from scenarios.calibration.instruments import Wiring
from scenarios.calibration.page import strict_line, strict_verdict
from scenarios.calibration.results import Result, Step
from scenarios.calibration.run import opened, run_at
from scenarios.calibration.session import Session
from scenarios.live.belief import Belief
from scenarios.live.gate import Gate, GatedMicroscope
from scenarios.live.job import Job
from scenarios.live.plain import rounded
from scenarios.schema import Scenario
from twin.arrays import Array
from twin.errors import printable
from twin.text import json_text
from twin.types import Frame

MOST_STEPS = 400
"""Latest steps that the page is told."""
LOG_BYTES, LOG_LINES = 16_384, 40
"""End of an audit log that the page is told."""
JOIN_S = 150.0
"""Longest wait for a run to end: beyond the time limit of one command of an instrument, and its way back."""


class Calibration(Job):
    """One run.

    Args:
        scenario: with the number of observations and the stop rule that were chosen.
        controller: name of the strategy.
        seed: of the run.
        out: folder of run directories.
        wiring: with the operator's consent or as a dry run.
        changed: called after every change, from any thread.
        show: receives every frame, from the run's thread.

    Attributes:
        gate: of this run.
        result: once it has ended.
        problem: why there is no result.
        begun: the microscope is ready.
        frames: number of frames shown so far.
    """

    def __init__(
        self,
        scenario: Scenario,
        controller: str,
        seed: int,
        out: Path,
        wiring: Wiring,
        changed: Callable[[], None],
        show: Callable[[Frame], None],
        paused: bool = False,
    ) -> None:
        self.scenario, self.controller, self.seed = scenario, controller, seed
        super().__init__("calibration", changed, daemon=False)
        self._out, self._wiring, self._show = out, wiring, show
        self.gate = Gate(changed, paused)
        self.result: Result | None = None
        self.begun, self.frames = False, 0
        self._steps: deque[dict[str, Any]] = deque(maxlen=MOST_STEPS)
        self._estimate: Estimate | None = None
        self._audit: Path | None = None
        self._microscope: GatedMicroscope | None = None

    @property
    def cumulative_nm(self) -> Array:
        """Sum of the inputs that the microscope has at present, (n,)."""
        return self.scenario.space.zero if self._microscope is None else self._microscope.cumulative_nm

    def frame_name(self, number: int) -> str:
        """Return what the frame that is just taken is called: those after the observations say what they are for."""
        if self.gate.finishing:
            return f"Frame {number}: after the way back"
        return f"Frame {number}: a check of the correction" if self.gate.last else f"Frame {number}"

    def end(self) -> str:
        """Stop the run, wait for its end, and return in words what became of it."""
        if not self._thread.is_alive():
            return ""
        self.gate.say("stop")
        self._thread.join(JOIN_S)
        if self._thread.is_alive():
            return f"the calibration has not ended within {JOIN_S:g} s"
        return self.outcome() + ("" if self.result is None else f", in {self.result.directory}")

    def outcome(self) -> str:
        """Return the end of the run as a sentence; empty while it goes on."""
        if self.problem or self.result is None:
            return self.problem
        if self.result.status == "complete":
            return f"complete after {len(self.result.steps)} observations"
        return f"{self.result.status}: {self.result.reason}" if self.result.reason else self.result.status

    def belief(self) -> Belief | None:
        """Return the latest estimate of the state that the run began in."""
        return None if self._estimate is None else Belief.of(self.scenario.space, self._estimate)

    def plain(self) -> dict[str, Any]:
        """Return the state of the run as JSON data."""
        question, gate = self.gate.question, self.gate
        waiting = None if question is None else {"kind": question.kind, "input_nm": rounded(question.input_nm)}
        return {
            "controller": self.controller,
            "seed": self.seed,
            "observations": self.scenario.task.observations,
            "names": list(self.scenario.space.names),
            "start_nm": list(self.scenario.space.start_nm),
            "tolerance_nm": list(self.scenario.space.tolerance_nm),
            "running": self.running,
            "begun": self.begun,
            "paused": gate.paused,
            "exposing": gate.exposing,
            "finishing": gate.finishing,
            "waiting": waiting,
            "steps": list(self._steps),
            "posterior": _posterior(self._estimate),
            "cumulative_nm": rounded(self.cumulative_nm),
            "log": gate.lines,
            "audit": self._audit_lines(),
            "outcome": self.outcome(),
            "dry_run": self._wiring.dry_run,
            **self._ending(),
        }

    def _ending(self) -> dict[str, Any]:
        result = self.result
        if result is None:
            return {"status": None, "report": False, "left": "", "strict": "", "strictly": (False, "")}
        correction = result.correction
        return {
            "status": result.status,
            "left": _left(result),
            "strict": strict_line(result),
            "strictly": strict_verdict(result),
            "in_spec": None if correction is None or not correction.state_nm else correction.in_spec,
            "report": result.report is not None and result.report.is_file(),
            "folder": str(result.directory),
        }

    def _audit_lines(self) -> dict[str, Any] | None:
        """Return the end of an instrument's audit log; None without one."""
        path = self._audit
        if path is None or not path.is_file():
            return None
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_BYTES))
            tail = file.read(LOG_BYTES).splitlines()[-LOG_LINES:]
        return {"path": str(path), "lines": [line for line in map(_audit_line, tail) if line]}

    def work(self) -> None:
        """Run as `scenarios.calibration.run.calibrate` does, with a gate in front of the microscope."""
        wiring = replace(self._wiring, show=self.gate.note)
        with opened(self.scenario, self.controller, self.seed, self._out, wiring) as (session, place):
            if session.bench.simulator is not None:
                session.bench.simulator.prepare()
            self._audit = None if session.bench.guard is None or session.bench.dry_run else place.audit
            gated = self._gated(session)
            self.begun = True
            self._changed()
            self.result = run_at(place, gated, self.seed, lambda step: self._note(session, step))

    def _gated(self, session: Session) -> Session:
        self._microscope = GatedMicroscope(session.bench.microscope, self.gate, self._show)
        return replace(session, bench=replace(session.bench, microscope=self._microscope))

    def _note(self, session: Session, step: Step) -> None:
        task = self.scenario.task
        self.gate.last = step.observation >= task.observations or (task.stop and step.done)
        self._estimate = session.controller.estimate()
        self._steps.append(_plain_step(step))
        self._changed()


def _left(result: Result) -> str:
    """Return how large the aberrations are after the correction: by the estimate, and in truth where it is known.

    Sizes of all calibrated coefficients together, the root of the sum of squares.
    """
    if result.correction is None:
        return ""
    last = result.steps[-1]
    moved_nm = np.add(last.cumulative_nm, result.correction.input_nm)
    left_nm, std_nm = np.linalg.norm(np.add(last.estimate_nm, moved_nm)), np.linalg.norm(last.std_nm)
    words = f"{left_nm:.2f} ± {std_nm:.2f} nm by the estimate"
    if result.correction.state_nm:
        words += f", {np.linalg.norm(result.correction.state_nm):.2f} nm in truth"
    return words


def _plain_step(step: Step) -> dict[str, Any]:
    return {
        "observation": step.observation,
        "input_nm": rounded(step.input_nm),
        "estimate_nm": rounded(step.estimate_nm),
        "std_nm": rounded(step.std_nm),
        "error_nm": rounded([step.error_nm])[0],
        "in_spec": step.in_spec if np.isfinite(step.error_nm) else None,
        "truth_nm": rounded(step.truth_nm),
        "done": step.done,
        "misfit": step.misfit,
    }


def _posterior(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    return {
        "mean_nm": rounded(estimate.mean_nm),
        "cov_nm2": [rounded(row) for row in estimate.cov_nm2],
        "sign_probability": rounded([estimate.sign_probability])[0],
        "reason": printable(estimate.reason),
    }


def _audit_line(line: bytes) -> str:
    """Return an entry of an audit log in one line; empty for one that is cut."""
    try:
        entry: Mapping[str, Any] = json_text.loads(line, finite=False)
        details = ", ".join(f"{key} {value}" for key, value in entry.items() if key not in ("n", "time", "event"))
        return printable(f"{str(entry['time'])[11:19]} {entry['event']}: {details}")
    except (ValueError, KeyError, AttributeError):
        return ""
