"""`stemtwin calibrate`: parse, show progress, print."""

import json
import math
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scenarios.commands.arguments import AsJson, Observations, Overrides, RunFolder, Scenario, Seed
from scenarios.commands.refusal import FAILED, refusals, stop

if TYPE_CHECKING:
    from scenarios.calibration.instruments import Wiring
    from scenarios.calibration.results import Result, Step


def calibrate(
    scenario: Scenario = "day_a",
    controller: Annotated[str, typer.Option(help="See `stemtwin list controllers`.")] = "vae_em",
    seed: Seed = 0,
    observations: Observations = None,
    overrides: Overrides = None,
    out: RunFolder = Path("runs"),
    microscope: Annotated[
        str | None, typer.Option(metavar="KIND[:ADDRESS]", help="Instead of the scenario's, e.g. replay:run.zarr.")
    ] = None,
    record: Annotated[Path | None, typer.Option(metavar="FILE", help="Keep every frame and input, in zarr.")] = None,
    resume: Annotated[bool, typer.Option(help="Continue the recording.")] = False,
    move: Annotated[
        bool, typer.Option("--move", help="Move the scenario's instrument; --microscope KIND does, too.")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Print the commands to an instrument instead of sending them.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the earlier run of this seed, instead of numbering this one.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Find and correct the aberrations of a microscope. They are seen in its Ronchigrams; it is virtual or not."""
    from scenarios.calibration.instruments import Wiring, address_overrides
    from scenarios.calibration.place import forget
    from scenarios.choices import check_controllers

    changes = list(overrides or ()) + ([f"task.observations={observations}"] if observations else [])
    with refusals("interrupted before the first observation") as ending:
        name, colon, _ = controller.partition(":")
        if colon:
            stop(f"--controller {controller}: options go with --set controllers.{name}.OPTION=VALUE")
        check_controllers(changes, [controller])
        changes += [] if microscope is None else address_overrides(microscope)
        name_hosts(changes)
        # An instrument that is named on the command line is meant.
        meant = move or any(change.startswith("microscope.kind=") for change in changes)
        wiring = Wiring(record=record, resume=resume, dry_run=dry_run)
        result = _run(scenario, controller, seed, changes, out, wiring, meant, overwrite)
        if not result.begun:
            forget(result.directory, None if resume else record)
            stop(f"{result.scenario.name}: {result.scenario.microscope.kind}: {result.reason}")
    if as_json:
        typer.echo(json.dumps(result.summary()))
    else:
        _print_table(result)
    if result.status != "complete":
        raise typer.Exit(ending.exit_code if result.status == "interrupted" else FAILED)


def name_hosts(changes: list[str]) -> None:
    """Note the instrument's host if the command line names it: it may be sent the token."""
    from twin.instrument import operator

    for change in changes:
        key, _, value = change.partition("=")
        if key == "microscope.options.host":
            try:
                operator.name_host(value.strip().strip("\"'"))
            except ValueError as error:
                stop(f"--set {change}: {error}")


def _run(
    scenario: str,
    controller: str,
    seed: int,
    changes: list[str],
    out: Path,
    wiring: "Wiring",
    move: bool,
    overwrite: bool,
) -> "Result":
    """Run with a progress bar on stderr that follows the observations."""
    from tqdm import tqdm

    from scenarios.calibration.instruments import consents
    from scenarios.calibration.results import Step
    from scenarios.calibration.run import opened, run_at
    from scenarios.schema import load

    chosen = load(scenario, changes)
    if not wiring.dry_run and not consents(chosen, move):
        kind = chosen.microscope.kind
        typer.echo(
            f"stemtwin: a dry run: {scenario} names the instrument {kind}, but only you can have it moved:"
            f" --move, --microscope {kind}, or `move: [{kind}]` in your configuration",
            err=True,
        )
        wiring = replace(wiring, dry_run=True)
    wiring = replace(wiring, show=partial(tqdm.write, file=sys.stderr))
    with opened(chosen, controller, seed, out, wiring, overwrite) as (session, place):
        total = session.scenario.task.observations
        with tqdm(total=total, desc=f"{session.scenario.name}, {controller}", unit="obs", leave=False) as bar:

            def show(step: Step) -> None:
                if math.isfinite(step.error_nm):
                    bar.set_postfix_str(f"error {step.error_nm:.2f} nm", refresh=False)
                bar.update()

            return run_at(place, session, seed, show)


def _print_table(result: "Result") -> None:
    from scenarios.calibration.page import MISFIT, headline, probe_line, saturation_line, strict_line

    names = result.scenario.space.names
    saturated = any(step.saturated > 0 for step in result.steps)
    head = "  ".join([*(["saturated"] if saturated else []), *(f"{name + ' ± std':>15}" for name in names)])
    typer.echo(f"{'#':>3}  {'error (nm)':>10}  {'in spec':>7}  {'2 nm':>4}  {'π/4':>4}  {'Strehl':>6}  {head}")
    for step in result.steps:
        estimates = (f"{m:+7.2f} ± {s:5.2f}" for m, s in zip(step.estimate_nm, step.std_nm, strict=True))
        cells = [*([f"{100 * step.saturated:.2g} %"] if saturated else []), *estimates]
        widths = [9] * saturated + [15] * len(names)
        shown = "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        typer.echo(f"{step.observation:3d}  {_scores(result, step)}  {shown}")
    if result.scored:
        blank = " " * (48 + 11 * saturated)
        typer.echo(
            f"{'truth':>5}{blank[5:]}" + "".join(f"{v:+7.2f}{'':10}" for v in result.steps[-1].truth_nm).rstrip()
        )
    typer.echo(headline(result))
    if probe := probe_line(result):
        typer.echo(f"probe by these coefficients alone: {probe}; {strict_line(result)}")
    if saturation := saturation_line(result):
        typer.echo(f"note: {saturation}")
    if result.steps and result.steps[-1].misfit:
        typer.echo(f"note: {MISFIT}")
    typer.echo(f"report: {result.report}")


def _scores(result: "Result", step: "Step") -> str:
    """Error and verdicts of a step, blank without ground truth."""
    if not result.scored:
        return " " * 39
    left = result.strict(step.error_component_nm)
    marks = ("yes" if yes else "no" for yes in (step.in_spec, left["within_2_nm"], left["within_pi_4"]))
    return "{:>10.2f}  {:>7}  {:>4}  {:>4}  {:>6.2f}".format(step.error_nm, *marks, left["strehl"])
