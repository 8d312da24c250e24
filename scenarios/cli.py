"""The `stemtwin` command. Parses, prints and sets exit codes; imports what computes only when it is asked to.

Exit codes: 0 done, 1 some run failed (`compare`), an instrument stopped (`calibrate`), a stream was incomplete or an
agent left behind (`scan`, `stream`), 2 bad input (one line on stderr), 130 interrupted.
"""

import atexit
import gc
import json
import math
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scenarios.commands import train as training
from scenarios.commands.compare import compare
from scenarios.commands.scan import scan, stream
from scenarios.commands.serve import serve

if TYPE_CHECKING:
    from scenarios.calibration.instruments import Wiring
    from scenarios.calibration.results import Result
    from scenarios.scans.acquire import Acquired

app = typer.Typer(
    name="stemtwin",
    help="A virtual scanning transmission electron microscope that calibrates itself.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
listing = typer.Typer(help="What there is to choose from.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(listing, name="list")
app.add_typer(training.app, name="train")
app.command()(compare)
app.command()(scan)
app.command()(stream)
app.command()(serve)

INTERRUPTED = 130


def main() -> None:
    """Entry point of the console script."""
    # At its end Python looks for garbage among everything that was imported: most of a second, many on a busy machine.
    atexit.register(gc.freeze)
    app()


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"stemtwin {version('stemtwin')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


@app.command()
def calibrate(
    scenario: Annotated[str, typer.Argument(help="A library scenario, or a .yaml file.")] = "day_a",
    controller: Annotated[str, typer.Option(help="See `stemtwin list controllers`.")] = "vae_em",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same run.")] = 0,
    observations: Annotated[int | None, typer.Option(min=1, help="Ronchigrams to take.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY.KEY=VALUE", help="Change one value of the scenario.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where run directories go.")] = Path("runs"),
    microscope: Annotated[
        str | None, typer.Option(metavar="KIND[:ADDRESS]", help="Instead of the scenario's, e.g. replay:run.zarr.")
    ] = None,
    record: Annotated[Path | None, typer.Option(metavar="FILE", help="Keep every frame and input, in zarr.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the recording where it ends.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Show what an instrument would be sent, and send nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Find and correct the aberrations of a microscope, virtual or not, from its Ronchigrams."""
    from scenarios.calibration.instruments import Wiring, address_overrides
    from scenarios.schema import ScenarioError

    changes = list(overrides or ()) + ([f"task.observations={observations}"] if observations else [])
    try:
        changes += [] if microscope is None else address_overrides(microscope)
        wiring = Wiring(record=record, resume=resume, dry_run=dry_run, seed=seed, controller=controller)
        result = _run(scenario, controller, seed, changes, out, wiring)
    except ScenarioError as error:
        _fail(str(error))
    if as_json:
        typer.echo(json.dumps(result.summary()))
    else:
        _print_table(result)
    if result.status != "complete":
        raise typer.Exit(INTERRUPTED if result.status == "interrupted" else 1)


@app.command()
def acquire(
    scenario: Annotated[str, typer.Argument(help="A library scenario with a scan, or a .yaml file.")] = "sto_001",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same data.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.zarr|.mib|.t3p|.hspy",
            help="Where the frames go; default runs/SCENARIO/acquire/SEED/scan.zarr. Signals go beside them.",
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY.KEY=VALUE", help="Change one value of the scenario.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of lines.")] = False,
) -> None:
    """Scan a specimen: 4D-STEM data and detector images to disc, in read-out order."""
    from scenarios.schema import ScenarioError

    try:
        acquired = _acquire(scenario, seed, out, list(overrides or ()))
    except ScenarioError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        typer.echo("stemtwin: interrupted before the first position; nothing was written", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        typer.echo(json.dumps(acquired.summary()))
    else:
        _print_acquired(acquired)
    if acquired.status == "interrupted":
        raise typer.Exit(INTERRUPTED)


@app.command()
def gallery(
    out: Annotated[Path, typer.Option(help="The page, self-contained HTML.")] = Path("gallery.html"),
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="One section; may be repeated.")] = None,
) -> None:
    """What the microscope shows: Ronchigrams, probes, diffraction, images, detector noise, scan errors."""
    from tqdm import tqdm

    from scenarios.gallery.page import GalleryError, sections, write

    try:
        chosen = sections(only)
        with tqdm(total=len(chosen), desc="gallery", unit="figure", leave=False) as bar:

            def show(name: str) -> None:
                bar.set_postfix_str(name, refresh=False)
                bar.update()

            write(out, chosen, show)
    except GalleryError as error:
        _fail(str(error))
    typer.echo(out)


@listing.command("scenarios")
def list_scenarios() -> None:
    """Scenarios that come with the package."""
    from scenarios.schema import description, library

    _print_list([(name, description(name)) for name in library()])


@listing.command("controllers")
def list_controllers() -> None:
    """Calibration strategies: one file each in controller/strategies."""
    from controller.base import describe, names

    _print_list([(name, describe(name)) for name in names()])


@listing.command("agents")
def list_agents() -> None:
    """Streaming reconstructions: one file each in agents/methods."""
    from agents.base import describe, names

    _print_list([(name, describe(name)) for name in names()])


@listing.command("microscopes")
def list_microscopes() -> None:
    """What can be behind the seam: the simulator, and one file each in twin/backends."""
    import twin
    from twin import backends, registry

    _print_list([(k, registry.describe(twin if k == backends.SIMULATED else backends, k)) for k in backends.kinds()])


@listing.command("environments")
def list_environments() -> None:
    """Gymnasium environments that `import twin` registers."""
    import gymnasium
    from gymnasium.envs.registration import load_env_creator

    import twin  # noqa: F401  (registers)
    from twin.state import FIRST_ORDER

    rows = []
    for name, spec in sorted(gymnasium.registry.items()):
        if name.startswith("stemtwin/") and isinstance(spec.entry_point, str):
            summary = (load_env_creator(spec.entry_point).__doc__ or "").splitlines()[0]
            coefficients = spec.kwargs.get("space", FIRST_ORDER).names
            rows.append((name, f"{summary} {', '.join(coefficients)}; {spec.max_episode_steps} steps"))
    _print_list(rows)


def _fail(message: str) -> None:
    typer.echo(f"stemtwin: {' '.join(message.split())}", err=True)
    raise typer.Exit(2)


def _print_list(rows: list[tuple[str, str]]) -> None:
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        typer.echo(f"{name:{width}}  {text}".rstrip())


def _run(scenario: str, controller: str, seed: int, changes: list[str], out: Path, wiring: "Wiring") -> "Result":
    """The run itself, with a progress bar on stderr that follows the observations."""
    from tqdm import tqdm

    from scenarios.calibration.results import Step
    from scenarios.calibration.run import audit_path, prepare, record
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

        return record(session, seed, out, show)


def _acquire(scenario: str, seed: int, out: Path | None, changes: list[str]) -> "Acquired":
    """The acquisition, with a progress bar on stderr that follows the positions."""
    from tqdm import tqdm

    from scenarios.scans.acquire import ready, record
    from scenarios.schema import load
    from twin.types import ScanBlock

    session = ready(load(scenario, changes), seed, out)
    with tqdm(total=session.scenario.scan.plan.count, desc=session.scenario.name, unit="pos", leave=False) as bar:

        def show(block: ScanBlock) -> None:
            bar.update(len(block))

        return record(session, show)


def _print_acquired(acquired: "Acquired") -> None:
    figures = acquired.summary()
    rows = [
        ("positions", f"{figures['positions']} of {acquired.scenario.scan.plan.count}, {acquired.status}"),
        ("simulated time", f"{figures['simulated_s']:.4g} s"),
        ("electrons", f"{figures['electrons_e']:.3g}"),
        ("dose", f"{figures['e_per_nm2']:.3g} e/nm2"),
        ("computing", f"{figures['preparation_s']:.1f} s + {figures['seconds']:.1f} s"),
        ("rate", f"{figures['positions_per_s'] or 0.0:.0f} positions/s"),
    ]
    if figures["peak_memory_mib"] is not None:
        rows.append(("peak memory", f"{figures['peak_memory_mib']:.0f} MiB"))
    rows += [(name, str(figures[name])) for name in ("data", "signals", "picture") if figures[name] is not None]
    _print_list(rows)


def _print_table(result: "Result") -> None:
    from scenarios.calibration.page import MISFIT, headline

    names = result.scenario.space.names
    typer.echo(
        f"{'#':>3}  {'error (nm)':>10}  {'in spec':>7}  " + "  ".join(f"{name + ' ± std':>15}" for name in names)
    )
    for step in result.steps:
        believed = (f"{m:+7.2f} ± {s:5.2f}" for m, s in zip(step.estimate_nm, step.std_nm, strict=True))
        error, yes = (f"{step.error_nm:.2f}", "yes" if step.in_spec else "no") if result.scored else ("", "")
        cells = "  ".join(f"{cell:>15}" for cell in believed)
        typer.echo(f"{step.observation:3d}  {error:>10}  {yes:>7}  {cells}")
    if result.scored:
        typer.echo(f"{'truth':>26}" + "".join(f"{value:+9.2f}{'':8}" for value in result.steps[-1].truth_nm).rstrip())
    typer.echo(headline(result))
    if result.steps and result.steps[-1].misfit:
        typer.echo(f"note: {MISFIT}")
    typer.echo(f"report: {result.report}")
