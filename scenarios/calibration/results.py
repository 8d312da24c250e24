"""Results of a run: a table row per observation, a summary, and the directory that holds them.

Rows reach the disc as they come, so that an interrupted run keeps everything it measured.
"""

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import yaml

from controller.base import Estimate
from scenarios.folders import write_text as write_text
from scenarios.schema import Scenario
from scenarios.strict_spec import within_quarter_pi, within_strict_nm
from twin.probe import probe_d50_nm, strehl_ratio
from twin.types import Frame

Status = Literal["complete", "interrupted", "stopped"]
"""Stopped: by the instrument, or at the end of a replay."""
Vector = tuple[float, ...]


@dataclass(frozen=True)
class Step:
    """One observation and the estimate after it. Errors are NaN without ground truth.

    Attributes:
        observation: counted from 1.
        input_nm: input applied before the exposure.
        cumulative_nm: sum of all inputs so far.
        estimate_nm, std_nm: estimate of the initial state and its standard deviation.
        sign_probability: probability of the estimate's sign.
        error_component_nm: true state minus (estimate + cumulative input).
        error_nm: its Euclidean norm.
        in_spec: every component of the error within tolerance.
        covers_50, covers_90: whether the credible region of that probability contains the truth.
        seconds: computing time of the controller (propose, update, estimate).
        dose_e: electrons spent so far.
        simulated_s: instrument clock.
        done: the controller's stop rule holds.
        misfit: the controller's OOD test fires: the frames do not fit its training days (`Estimate.misfit`).
        saturated: fraction of the frame's lit pixels at which the camera cuts off.
    """

    observation: int
    input_nm: Vector
    cumulative_nm: Vector
    estimate_nm: Vector
    std_nm: Vector
    sign_probability: float
    error_component_nm: Vector
    error_nm: float
    in_spec: bool
    covers_50: bool
    covers_90: bool
    seconds: float
    dose_e: float
    simulated_s: float
    done: bool = False
    misfit: bool = False
    saturated: float = 0.0

    @property
    def truth_nm(self) -> Vector:
        """The true value of the estimate: the true state minus the cumulative input.

        The initial state itself, unless the instrument drifts or the corrector is not exact.
        """
        return tuple(e + d for e, d in zip(self.estimate_nm, self.error_component_nm, strict=True))


@dataclass(frozen=True)
class Correction:
    """The final input and the state after it.

    Attributes:
        input_nm: brings the cumulative input to minus the estimate.
        state_nm: the true state afterwards; zero is perfect; empty without ground truth.
        frame: one more exposure, for the report; not an observation.
    """

    input_nm: Vector
    state_nm: Vector
    in_spec: bool
    frame: Frame


@dataclass(frozen=True)
class Result:
    """A run, finished or not.

    `cost` is the simulator's own account, the final correction's exposure included (`twin.cost.Cost.plain`).
    `truth_nm` is empty without ground truth or observations. `reason` is why a run was stopped.
    After a `dry_run` nothing was sent to the instrument: frames and truth are the simulator's. `begun` is False if an
    instrument could not be reached or made ready.
    """

    scenario: Scenario
    controller: str
    seed: int
    status: Status
    directory: Path
    truth_nm: Vector
    steps: tuple[Step, ...]
    estimate: Estimate | None
    before: Frame | None
    correction: Correction | None
    report: Path | None
    cost: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    dry_run: bool = False
    begun: bool = True

    @property
    def scored(self) -> bool:
        """Whether there is ground truth."""
        return bool(self.truth_nm)

    def strict(self, error_nm: Vector) -> dict[str, Any]:
        """Return what an error leaves: the strict verdicts and the Strehl ratio; None each without ground truth."""
        if not self.scored or not error_nm:
            return {"within_2_nm": None, "within_pi_4": None, "strehl": None}
        error, space, optics = np.asarray(error_nm), self.scenario.space, self.scenario.optics
        return {
            "within_2_nm": within_strict_nm(error, space, optics),
            "within_pi_4": within_quarter_pi(error, space, optics),
            "strehl": strehl_ratio(space.to_aberrations(error), optics),
        }

    @cached_property
    def probe_d50_nm(self) -> float | None:
        """Diameter that holds half of the electrons after the correction; None without one, or without ground truth."""
        if not self.scored or self.correction is None:
            return None
        left = self.scenario.space.to_aberrations(np.asarray(self.correction.state_nm))
        return probe_d50_nm(left, self.scenario.optics)

    def summary(self) -> dict[str, Any]:
        """Return plain data for `summary.json` and `--json`: lists have one entry per observation."""
        last = self.steps[-1] if self.steps else None
        return {
            "controller": self.controller,
            "scenario": self.scenario.name,
            "seed": self.seed,
            "status": self.status,
            "reason": self.reason,
            "dry_run": self.dry_run,
            "scored": self.scored,
            "names": list(self.scenario.space.names),
            "tolerance_nm": list(self.scenario.space.tolerance_nm),
            "truth_nm": list(self.truth_nm),
            "estimate_nm": list(last.estimate_nm) if last else None,
            "std_nm": list(last.std_nm) if last else None,
            "sign_probability": last.sign_probability if last else None,
            "error_nm": [step.error_nm if self.scored else None for step in self.steps],
            "in_spec": [step.in_spec if self.scored else None for step in self.steps],
            **self._strict_lists(),
            "probe_d50_nm": self.probe_d50_nm,
            "covers_50": [step.covers_50 if self.scored else None for step in self.steps],
            "covers_90": [step.covers_90 if self.scored else None for step in self.steps],
            "done": [step.done for step in self.steps],
            "misfit": [step.misfit for step in self.steps],
            "saturated": [step.saturated for step in self.steps],
            "observations": len(self.steps),
            "seconds_per_step": [step.seconds for step in self.steps],
            "dose_e": last.dose_e if last else 0.0,
            "simulated_s": last.simulated_s if last else 0.0,
            "correction_nm": list(self.correction.input_nm) if self.correction else None,
            "corrected_state_nm": list(self.correction.state_nm) if self.correction and self.scored else None,
            "corrected_in_spec": self.correction.in_spec if self.correction and self.scored else None,
            "cost": dict(self.cost),
            "directory": str(self.directory),
            "report": str(self.report) if self.report else None,
        }

    def _strict_lists(self) -> dict[str, list[Any]]:
        found = [self.strict(step.error_component_nm) for step in self.steps]
        return {key: [each[key] for each in found] for key in ("within_2_nm", "within_pi_4", "strehl")}


class RunDirectory:
    """`config.yaml`, `steps.csv`, `summary.json` of a run that has begun."""

    def __init__(self, path: Path, scenario: Scenario, dry_run: bool = False) -> None:
        """Write the resolved scenario and begin the table.

        Args:
            path: an existing folder without these files.
            scenario: of the run.
            dry_run: mark both: nothing was sent to the instrument.

        Raises:
            OSError: the folder cannot be written.
        """
        self.path = path
        self.names = scenario.space.names
        self._dry_run = dry_run
        settings = yaml.safe_dump(scenario.resolved(), sort_keys=False, allow_unicode=True)
        write_text(path / "config.yaml", MARK + (DRY_RUN_MARK if dry_run else "") + settings)
        self._file: TextIO = (path / "steps.csv").open("x", encoding="utf-8", newline="")
        self._rows = csv.writer(self._file)
        self._rows.writerow(self._header())
        self._file.flush()

    def append(self, step: Step) -> None:
        """Append a row; it is on disc when this returns."""
        self._rows.writerow(self._row(step))
        self._file.flush()
        os.fsync(self._file.fileno())

    def rewrite(self, steps: Iterable[Step]) -> None:
        """Write the whole table again: an interrupt may have cut a row in two."""
        buffer = io.StringIO(newline="")
        csv.writer(buffer).writerows([self._header(), *map(self._row, steps)])
        write_text(self.path / "steps.csv", buffer.getvalue())

    def close(self) -> None:
        """Close the table."""
        self._file.close()

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the summary whole or not at all."""
        write_text(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")

    def _header(self) -> list[str]:
        return [*_header(self.names), *(["dry_run"] if self._dry_run else [])]

    def _row(self, step: Step) -> list[Any]:
        return [*_row(step), *([1] if self._dry_run else [])]


MARK = "# stemtwin: the scenario of this run, with every setting\n"
"""First line of `config.yaml`: only a folder with it is ever replaced."""
DRY_RUN_MARK = "# DRY RUN: nothing was sent to the instrument; the simulator gave the frames\n"

_VECTORS = {
    "input_nm": "input",
    "cumulative_nm": "cumulative",
    "estimate_nm": "estimate",
    "std_nm": "std",
    "error_component_nm": "error",
}


def _header(names: tuple[str, ...]) -> list[str]:
    columns = []
    for column in Step.__dataclass_fields__:
        columns += [f"{_VECTORS[column]}_{name}_nm" for name in names] if column in _VECTORS else [column]
    return columns


def _row(step: Step) -> list[Any]:
    cells: list[Any] = []
    for column in Step.__dataclass_fields__:
        value = getattr(step, column)
        cells += value if column in _VECTORS else [int(value) if isinstance(value, bool) else value]
    return cells
