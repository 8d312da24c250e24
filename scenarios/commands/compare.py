"""`stemtwin compare`: controllers against each other on the same days, states and films.

Parses, shows progress, prints; the runs are `sweep.py`'s, the folder `ledger.py`'s, the figures
`comparison/figures.py`'s.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from scenarios.comparison.ledger import Ledger, Plan
    from scenarios.comparison.sweep import Failure, RunRecord

    Records = dict[tuple[str, str, int], RunRecord]

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
"""Exit codes: some run or worker failed, the question was wrong, Ctrl-C."""

PRINTED = (1, 2, 3, 5, 10, 20, 40)
"""Observations with a line of their own in the table, beside the last."""


def compare(
    scenarios: Annotated[list[str], typer.Argument(metavar="SCENARIO...", help="Library scenarios, or .yaml files.")],
    controllers: Annotated[str, typer.Option(help="Names, separated by commas; options as NAME:a=b,c=d.")],
    runs: Annotated[int, typer.Option(min=1, help="Seeds per scenario and controller.")] = 20,
    first_seed: Annotated[int, typer.Option(min=0, help="The seeds are this one and those after it.")] = 0,
    observations: Annotated[int | None, typer.Option(min=1, help="Ronchigrams per run.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 is one per core.")] = 0,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Use the workers of this Dask cluster instead.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for runs, summary and report.")] = Path("runs/compare"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an earlier call stopped.")] = False,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY.KEY=VALUE", help="Change one value of every scenario.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")] = False,
) -> None:
    """Compare controllers: on the same seed, all meet the same day, initial state, film and noise.

    Every finished run is on disc at once; after Ctrl-C or worse, the same command with --resume goes on.
    """
    from scenarios.comparison.executors import SweepError
    from scenarios.comparison.ledger import Ledger, make_plan, split_controllers
    from scenarios.schema import ScenarioError

    if scheduler and workers:
        _stop("--workers and --scheduler exclude each other", BAD_INPUT)
    ledger = Ledger(out)
    records: Records = {}
    total = len(scenarios) * runs
    try:
        seeds = range(first_seed, first_seed + runs)
        plan = make_plan(scenarios, split_controllers(controllers), seeds, observations, overrides or ())
        total *= len(plan.controllers)
        records = ledger.finished(plan, resume)
        summary, failures = compared(plan, ledger, records, scheduler, workers)
    except ScenarioError as error:
        _stop(str(error), BAD_INPUT)
    except SweepError as error:
        _stop(f"{error}; {_safe(records, total, out)}", FAILED)
    except KeyboardInterrupt:
        _stop(f"interrupted; {_safe(records, total, out)}", INTERRUPTED)
    if as_json:
        typer.echo(json.dumps(summary))
    else:
        _print(summary)
        typer.echo(f"report: {out / 'report.html'}")
    if failures:
        _stop(told(failures), FAILED)


def compared(
    plan: "Plan", ledger: "Ledger", records: "Records", scheduler: str | None = None, workers: int = 0
) -> tuple[dict[str, Any], "list[Failure]"]:
    """Do what is missing with a progress bar, then write summary and report; the summary, and the runs that failed.

    Args:
        plan: what is asked.
        ledger: the folder; every record is there as soon as its run ends.
        records: what `Ledger.finished` found; added to.
        scheduler, workers: who does it, see `lanes`.

    Raises:
        ScenarioError: a scenario or controller cannot be built, or the folder cannot be written.
        SweepError: a worker died, or no controller is left.
    """
    from scenarios.comparison.ledger import check_builds

    with lanes(scheduler, workers, sum(key not in records for key, _ in plan.jobs())) as ready:
        check_builds(plan)  # while the workers start
        if not ledger.enter(plan):
            typer.echo("stemtwin: the code has changed since the runs that are there; figures may mix", err=True)
        failures = _run(plan, ledger, records, ready)
    return _conclude(plan, ledger.folder, records, failures), failures


def lanes(scheduler: str | None, workers: int, jobs: int) -> AbstractContextManager["list[Executor]"]:
    """A cluster's workers, processes, or this process when one is enough; not more than there are jobs."""
    from scenarios.comparison.executors import dask_cluster, processes, serial

    if scheduler and jobs:
        return dask_cluster(scheduler)
    count = min(workers or os.cpu_count() or 1, jobs)
    return processes(count) if count > 1 else serial()


def _run(plan: "Plan", ledger: "Ledger", records: "Records", ready: "list[Executor]") -> "list[Failure]":
    """Do what is missing and show how it goes; `records` is added to."""
    from tqdm import tqdm

    from scenarios.comparison.sweep import Failure

    failures: list[Failure] = []
    last: dict[str, list[float]] = {name: [] for name in plan.controllers}
    for record in records.values():
        last[record.controller].append(record.steps[-1].error_nm)
    with tqdm(total=sum(1 for _ in plan.jobs()), initial=len(records), desc="runs", unit="run") as bar:
        for outcome in ledger.complete(plan, records, ready):
            if isinstance(outcome, Failure):
                failures.append(outcome)
            else:
                last[outcome.controller].append(outcome.steps[-1].error_nm)
            bar.set_postfix_str(_running(last), refresh=False)
            bar.update()
    return failures


def _running(last: Mapping[str, list[float]]) -> str:
    """Median error so far at the end of a run, by controller."""
    return ", ".join(f"{name} {median(errors):.2f}" for name, errors in last.items() if errors) + " nm"


def _conclude(plan: "Plan", out: Path, records: "Records", failures: "list[Failure]") -> dict[str, Any]:
    """Summary and report; a controller with a failed run is left out, for runs are compared in pairs."""
    from scenarios.calibration.results import write_text
    from scenarios.comparison.executors import SweepError
    from scenarios.comparison.figures import summarise, write_report
    from scenarios.comparison.ledger import group

    failed = {failure.job.controller for failure in failures}
    sound = [name for name in plan.controllers if name not in failed]
    if not sound:
        raise SweepError(f"every controller failed: {told(failures)}")
    groups = group(plan, records, sound)
    summary: dict[str, Any] = summarise(groups, plan.scenarios, out / "bounds")
    write_text(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    write_report(summary, groups, plan.scenarios, out)
    return summary


def told(failures: "list[Failure]") -> str:
    """Whom failed runs leave out of a comparison, and why."""
    first = failures[0]
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    names = ", ".join(sorted({failure.job.controller for failure in failures}))
    return f"{names} left out: {first.job.scenario}, {first.job.controller}, seed {first.job.seed}: {first.error}{more}"


def _safe(records: "Records", total: int, out: Path) -> str:
    return f"{len(records)} of {total} runs are safe in {out}; the same command with --resume goes on"


def _stop(message: str, code: int) -> Any:
    typer.echo(f"stemtwin: {' '.join(message.split())}", err=True)
    raise typer.Exit(code)


def _rows(by_observation: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[str, Mapping[str, float]]]:
    final = max(map(int, by_observation))
    for k in sorted({*PRINTED, final}):
        if str(k) in by_observation:
            yield str(k), by_observation[str(k)]


def _print(summary: Mapping[str, Any]) -> None:
    width = max(len(name) for scenario in summary["scenarios"].values() for name in scenario["controllers"])
    row = f"{{:14}} {{:{width}}} {{:>6}} {{:>11}} {{:>8}} {{:>8}} {{:>12}} {{:>8}}"
    typer.echo(
        row.format("scenario", "controller", "frames", "median (nm)", "p90 (nm)", "in spec", "90 % covers", "ms")
    )
    for scenario, of_scenario in summary["scenarios"].items():
        for name, figures in of_scenario["controllers"].items():
            for k, f in _rows(figures["by_observation"]):
                errors = (f"{f['median_error_nm']:.2f}", f"{f['p90_error_nm']:.1f}")
                shares = (f"{f['in_spec']:.0%}", f"{f['coverage_90']:.0%}")
                typer.echo(row.format(scenario, name, k, *errors, *shares, f"{1e3 * f['seconds_per_step']:.0f}"))
