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
from scenarios.commands.refusal import FAILED, INTERRUPTED, refusals

if TYPE_CHECKING:
    from scenarios.calibration.instruments import Wiring
    from scenarios.calibration.results import Result


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
    dry_run: Annotated[bool, typer.Option(help="Print the commands to an instrument instead of sending them.")] = False,
    as_json: AsJson = False,
) -> None:
    """Find and correct the aberrations of a microscope, virtual or not, from its Ronchigrams."""
    from scenarios.calibration.instruments import Wiring, address_overrides

    changes = list(overrides or ()) + ([f"task.observations={observations}"] if observations else [])
    with refusals():
        changes += [] if microscope is None else address_overrides(microscope)
        wiring = Wiring(record=record, resume=resume, dry_run=dry_run, seed=seed, controller=controller)
        result = _run(scenario, controller, seed, changes, out, wiring)
    if as_json:
        typer.echo(json.dumps(result.summary()))
    else:
        _print_table(result)
    if result.status != "complete":
        raise typer.Exit(INTERRUPTED if result.status == "interrupted" else FAILED)


def _run(scenario: str, controller: str, seed: int, changes: list[str], out: Path, wiring: "Wiring") -> "Result":
    """Run with a progress bar on stderr that follows the observations."""
    from tqdm import tqdm

    from scenarios.calibration.results import Step
    from scenarios.calibration.run import audit_path, prepare, run
    from scenarios.schema import load

    chosen = load(scenario, changes).for_seed(seed)
    audit = audit_path(out, chosen, controller, seed)
    session = prepare(chosen, controller, replace(wiring, audit=audit, show=partial(tqdm.write, file=sys.stderr)))
    total = session.scenario.task.observations
    with tqdm(total=total, desc=f"{session.scenario.name}, {controller}", unit="obs", leave=False) as bar:

        def show(step: Step) -> None:
            if math.isfinite(step.error_nm):
                bar.set_postfix_str(f"error {step.error_nm:.2f} nm", refresh=False)
            bar.update()

        return run(session, seed, out, show)


def _print_table(result: "Result") -> None:
    from scenarios.calibration.page import MISFIT, headline

    names = result.scenario.space.names
    head = "  ".join(f"{name + ' ± std':>15}" for name in names)
    typer.echo(f"{'#':>3}  {'error (nm)':>10}  {'in spec':>7}  {head}")
    for step in result.steps:
        estimates = (f"{m:+7.2f} ± {s:5.2f}" for m, s in zip(step.estimate_nm, step.std_nm, strict=True))
        error, in_spec = (f"{step.error_nm:.2f}", "yes" if step.in_spec else "no") if result.scored else ("", "")
        cells = "  ".join(f"{cell:>15}" for cell in estimates)
        typer.echo(f"{step.observation:3d}  {error:>10}  {in_spec:>7}  {cells}")
    if result.scored:
        typer.echo(f"{'truth':>26}" + "".join(f"{value:+9.2f}{'':8}" for value in result.steps[-1].truth_nm).rstrip())
    typer.echo(headline(result))
    if result.steps and result.steps[-1].misfit:
        typer.echo(f"note: {MISFIT}")
    typer.echo(f"report: {result.report}")
