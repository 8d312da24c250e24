"""`stemtwin acquire`: parse, show progress, print."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scenarios.commands.arguments import DATA_FILE, AsJson, Overrides, ScanScenario, Seed
from scenarios.commands.groups.listing import print_rows
from scenarios.commands.refusal import refusals

if TYPE_CHECKING:
    from scenarios.scans.acquire import Acquired


def acquire(
    scenario: ScanScenario = "sto_001",
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar=DATA_FILE,
            help="Data file [default: runs/SCENARIO/acquire/SEED/scan.zarr]; signals go beside it.",
        ),
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Scan a specimen into files: 4D-STEM data and detector images. Frames are in read-out order."""
    with refusals("interrupted before the first position; nothing was written") as ending:
        acquired = _acquire(scenario, seed, out, list(overrides or ()))
    if as_json:
        typer.echo(json.dumps(acquired.summary()))
    else:
        _print(acquired)
    if acquired.status == "interrupted":
        raise typer.Exit(ending.exit_code)


def _acquire(scenario: str, seed: int, out: Path | None, changes: list[str]) -> "Acquired":
    """Acquire with a progress bar on stderr that follows the positions."""
    from tqdm import tqdm

    from scenarios.scans.acquire import prepare, run
    from scenarios.schema import load
    from twin.types import ScanBlock

    session = prepare(load(scenario, changes), seed, out)
    name = session.scenario.name
    with tqdm(total=session.section.plan.count, desc=f"{name}, getting ready", unit="pos", leave=False) as bar:

        def show(block: ScanBlock) -> None:
            bar.set_description(name, refresh=False)
            bar.update(len(block))

        return run(session, show)


def _print(acquired: "Acquired") -> None:
    figures = acquired.summary()
    rows = [
        ("positions", f"{figures['positions']} of {acquired.scenario.required_scan.plan.count}, {acquired.status}"),
        ("simulated time", f"{figures['simulated_s']:.4g} s"),
        ("electrons", f"{figures['electrons_e']:.3g}"),
        ("dose", f"{figures['e_per_nm2']:.3g} e/nm2"),
        ("computing", f"{figures['preparation_s']:.1f} s of preparation, {figures['seconds']:.1f} s of scan"),
        ("rate", f"{figures['positions_per_s'] or 0.0:.0f} positions/s"),
    ]
    if figures["peak_memory_mib"] is not None:
        rows.append(("peak memory", f"{figures['peak_memory_mib']:.0f} MiB"))
    rows += [(name, str(figures[name])) for name in ("data", "signals", "picture") if figures[name] is not None]
    print_rows(rows)
