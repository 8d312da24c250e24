"""A comparison of controllers, from the question to summary and report; prints nothing.

The runs are `sweep.py`'s, the folder `ledger.py`'s, the figures `figures.py`'s.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenarios.comparison.executors import SweepError, lanes
from scenarios.comparison.ledger import Ledger, Plan, check_builds, group, make_plan, split_controllers
from scenarios.comparison.sweep import Failure, RunRecord
from scenarios.folders import locked, sentence, write_text
from scenarios.schema import ScenarioError

Records = dict[tuple[str, str, int], RunRecord]
"""By scenario name, controller and seed."""
Progress = Callable[[RunRecord | Failure], None]


@dataclass(frozen=True)
class Prepared:
    """A comparison whose question is checked.

    Attributes:
        plan: every run.
        ledger: its folder.
        records: finished runs; grows while the comparison runs.
        same_code: whether the finished runs were made with this code.
        resume: continue what is in the folder.
    """

    plan: Plan
    ledger: Ledger
    records: Records
    same_code: bool
    resume: bool = False

    @property
    def total(self) -> int:
        """Number of runs, finished or not."""
        return sum(1 for _ in self.plan.jobs())


@dataclass(frozen=True)
class Comparison:
    """Figures of a comparison.

    Attributes:
        summary: what summary.json holds, see `figures.summarise`.
        failures: runs that raised an error; their controllers have no figures, because runs are compared in pairs.
        folder: holds summary.json, report.html, runs.csv and every run.
    """

    summary: Mapping[str, Any]
    failures: tuple[Failure, ...]
    folder: Path

    @property
    def report(self) -> Path:
        """The page."""
        return self.folder / "report.html"

    @property
    def left_out(self) -> str:
        """Which controllers have no figures, and why; empty if all have."""
        return left_out(self.failures)


def compare(
    scenarios: Iterable[str],
    controllers: Iterable[str],
    runs: int = 20,
    *,
    first_seed: int = 0,
    observations: int | None = None,
    overrides: Iterable[str] = (),
    out: Path | str = Path("runs/compare"),
    resume: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> Comparison:
    """Compare controllers: on the same seed, all meet the same day, initial state, film and noise.

    Args:
        scenarios: library names or paths of YAML files.
        controllers: names, with options if any: `vae_em:hard=true`.
        runs: seeds per scenario and controller, from `first_seed` on.
        first_seed: see `runs`.
        observations: Ronchigrams per run; default as in the scenario.
        overrides: `key.key=value` changes of every scenario.
        out: folder; every finished run is written at once.
        resume: continue what an earlier call has left in `out`.
        workers: processes; 0 is one per core.
        progress: called after every run.

    Raises:
        ScenarioError: a scenario or a controller cannot be used, or `out` holds other runs.
        SweepError: a worker died, or every controller failed.

    Example:
        >>> import tempfile
        >>> from scenarios import compare
        >>> small = ["renderer=fast", "optics.convergence_mrad=14", "optics.sampling_nm=0.05", "optics.grid=256"]
        >>> small += ["optics.camera_pixels=64", "optics.binning=4", "day.same_region=true"]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = compare(["nominal"], ["random"], 2, observations=2, overrides=small, out=folder)
        >>> found.summary["controllers"]["random"]["runs"]
        2
    """
    seeds = range(first_seed, first_seed + runs)
    plan = make_plan(scenarios, split_controllers(",".join(controllers)), seeds, observations, overrides)
    return run(prepare(plan, Path(out), resume), workers=workers, progress=progress)


def prepare(plan: Plan, out: Path, resume: bool = False) -> Prepared:
    """Read what is finished; nothing is written.

    Raises:
        ScenarioError: as in `Ledger.finished`, or a file where the folder is to be.
    """
    if out.exists() and not out.is_dir():
        raise ScenarioError(f"{out} exists and is no folder: choose another folder")
    ledger = Ledger(out)
    return Prepared(plan, ledger, ledger.finished(plan, resume), ledger.same_code(plan), resume)


def run(
    prepared: Prepared, scheduler: str | None = None, workers: int = 1, progress: Progress | None = None
) -> Comparison:
    """Do the missing runs, then write summary and report.

    Args:
        prepared: from `prepare`; its records grow.
        scheduler, workers: see `executors.lanes`.
        progress: called after every run.

    Raises:
        ScenarioError: a scenario or controller cannot be built, or the folder cannot be written.
        InUse: another comparison writes there.
        SweepError: a worker died, or every controller failed.
    """
    plan, ledger, records = prepared.plan, prepared.ledger, prepared.records
    failures: list[Failure] = []
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(ledger.folder, inside=True))
        except OSError as error:
            raise ScenarioError(sentence(error, ledger.folder)) from error
        # Once more: another comparison may have written there between `prepare` and the lock.
        records.update(ledger.finished(plan, prepared.resume))
        _complete(prepared, scheduler, workers, progress, failures)
        return Comparison(_conclude(prepared, failures), tuple(failures), ledger.folder)


def _complete(
    prepared: Prepared, scheduler: str | None, workers: int, progress: Progress | None, failures: list[Failure]
) -> None:
    """Do the missing runs; add those that raise an error to `failures`."""
    plan, ledger, records = prepared.plan, prepared.ledger, prepared.records
    with lanes(scheduler, workers, prepared.total - len(records)) as ready:
        check_builds(plan)  # while the workers start
        ledger.enter(plan)
        for outcome in ledger.complete(plan, records, ready):
            if isinstance(outcome, Failure):
                failures.append(outcome)
            if progress is not None:
                progress(outcome)


def _conclude(prepared: Prepared, failures: list[Failure]) -> dict[str, Any]:
    """Write summary and report of the controllers without a failed run."""
    from scenarios.comparison.figures import summarise, write_report

    plan, out = prepared.plan, prepared.ledger.folder
    failed = {failure.job.controller for failure in failures}
    complete = [name for name in plan.controllers if name not in failed]
    if not complete:
        raise SweepError(f"every controller failed: {left_out(failures)}")
    groups = group(plan, prepared.records, complete)
    summary: dict[str, Any] = summarise(groups, plan.scenarios, out / "bounds")
    write_text(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    write_report(summary, groups, plan.scenarios, out)
    return summary


def left_out(failures: Iterable[Failure]) -> str:
    """Which controllers have failed runs, with the first failure."""
    failed = list(failures)
    if not failed:
        return ""
    first = failed[0]
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    names = ", ".join(sorted({failure.job.controller for failure in failed}))
    return f"{names} left out: {first.job.scenario}, {first.job.controller}, seed {first.job.seed}: {first.error}{more}"
