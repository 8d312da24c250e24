"""`stemtwin compare`: parse, show progress, print; the comparison itself is `scenarios.comparison.run`."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scenarios.commands.arguments import AsJson, Observations, Overrides
from scenarios.commands.refusal import FAILED, refusals, stop

if TYPE_CHECKING:
    from scenarios.comparison.run import Comparison, Prepared
    from twin.interrupt import Ending

PRINTED = (1, 2, 3, 5, 10, 20, 40)
"""Observations with a line of their own in the table, beside the last."""


def compare(
    scenarios: Annotated[list[str], typer.Argument(metavar="SCENARIO...", help="Library scenarios, or .yaml files.")],
    controllers: Annotated[str, typer.Option(help="Names, separated by commas; options as NAME:a=b,c=d.")],
    runs: Annotated[int, typer.Option(min=1, help="Seeds per scenario and controller.")] = 20,
    first_seed: Annotated[int, typer.Option(min=0, help="The seeds are this one and those after it.")] = 0,
    observations: Observations = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 is one per core.")] = 0,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Use the workers of this Dask cluster instead.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for runs, summary and report.")] = Path("runs/compare"),
    resume: Annotated[bool, typer.Option("--resume", help="Continue where an earlier call stopped.")] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Compare controllers on the same days, states, films and noise.

    Every finished run is on disc at once; after an interruption, the same command with --resume continues.
    """
    from scenarios.choices import check_controllers
    from scenarios.comparison.ledger import make_plan, split_controllers
    from scenarios.comparison.run import prepare

    if scheduler and workers:
        stop("--workers and --scheduler exclude each other")
    with refusals("interrupted before the first run") as ending:
        seeds = range(first_seed, first_seed + runs)
        chosen = split_controllers(controllers)
        check_controllers(overrides or (), [name.partition(":")[0] for name in chosen])
        plan = make_plan(scenarios, chosen, seeds, observations, overrides or ())
        prepared = prepare(plan, out, resume)
        compared = _run(prepared, scheduler, workers, ending)
    if as_json:
        typer.echo(json.dumps(compared.summary))
    else:
        _print(compared.summary)
        typer.echo(f"report: {compared.report}")
    if compared.failures:
        stop(compared.left_out, FAILED)


def _run(prepared: "Prepared", scheduler: str | None, workers: int, ending: "Ending") -> "Comparison":
    """Run with a progress bar on stderr that shows each controller's median error at the end of a run."""
    from tqdm import tqdm

    from scenarios.comparison.executors import SweepError
    from scenarios.comparison.run import run
    from scenarios.comparison.sweep import Failure, RunRecord
    from scenarios.folders import sentence

    if not prepared.same_code:
        typer.echo("stemtwin: the finished runs were made with other code; figures may mix", err=True)
    last: dict[str, list[float]] = {name: [] for name in prepared.plan.controllers}
    for record in prepared.records.values():
        last[record.controller].append(record.steps[-1].error_nm)
    try:
        with tqdm(total=prepared.total, initial=len(prepared.records), desc="runs", unit="run", leave=False) as bar:

            def show(outcome: RunRecord | Failure) -> None:
                if isinstance(outcome, RunRecord):
                    last[outcome.controller].append(outcome.steps[-1].error_nm)
                medians = (f"{name} {median(errors):.2f}" for name, errors in last.items() if errors)
                bar.set_postfix_str(", ".join(medians) + " nm", refresh=False)
                bar.update()

            compared = run(prepared, scheduler, workers, show)
            bar.leave = True
            return compared
    except SweepError as error:
        stop(f"{error}; {_finished(prepared)}", FAILED)
    except OSError as error:
        stop(f"{sentence(error, prepared.ledger.folder)}; {_finished(prepared)}", FAILED)
    except KeyboardInterrupt:
        stop(f"interrupted; {_finished(prepared)}", ending.exit_code)


def _finished(prepared: "Prepared") -> str:
    count, folder = len(prepared.records), prepared.ledger.folder
    return f"{count} of {prepared.total} runs are safe in {folder}; the same command with --resume continues"


def _rows(by_observation: Mapping[str, Mapping[str, float]]) -> Iterator[tuple[str, Mapping[str, float]]]:
    final = max(map(int, by_observation))
    for k in sorted({*PRINTED, final}):
        if str(k) in by_observation:
            yield str(k), by_observation[str(k)]


def _print(summary: Mapping[str, Any]) -> None:
    width = max(len(name) for scenario in summary["scenarios"].values() for name in scenario["controllers"])
    row = f"{{:14}} {{:{width}}} {{:>6}} {{:>11}} {{:>8}} {{:>8}} {{:>5}} {{:>5}} {{:>6}} {{:>8}} {{:>13}} {{:>8}}"
    head = ("scenario", "controller", "frames", "median (nm)", "p90 (nm)", "in spec", "2 nm", "pi/4", "Strehl")
    typer.echo(row.format(*head, "d50 (pm)", "90 % coverage", "ms"))
    for scenario, of_scenario in summary["scenarios"].items():
        for name, figures in of_scenario["controllers"].items():
            last = str(max(map(int, figures["by_observation"])))
            for k, f in _rows(figures["by_observation"]):
                errors = (f"{f['median_error_nm']:.2f}", f"{f['p90_error_nm']:.1f}")
                shares = (f"{f[key]:.0%}" for key in ("in_spec", "within_2_nm", "within_pi_4"))
                # The size of the probe takes long: it is known after the last frame.
                size = f"{1e3 * figures['probe_d50_nm']['median']:.0f}" if k == last else ""
                probe = (f"{f['strehl']:.2f}", size, f"{f['coverage_90']:.0%}")
                typer.echo(
                    row.format(scenario, name, k, *errors, *shares, *probe, f"{1e3 * f['seconds_per_step']:.0f}")
                )
    typer.echo(
        "2 nm, pi/4: shares of runs within 2 nm, and with less than pi/4 of phase at the aperture's edge, in every"
    )
    typer.echo("coefficient; Strehl, d50: probe of the calibrated coefficients alone, medians")
