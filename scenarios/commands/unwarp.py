"""`stemtwin unwarp`: parse, show progress, print."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scenarios.commands.arguments import DATA_FILE, AsJson
from scenarios.commands.groups.listing import print_rows
from scenarios.commands.refusal import refusals

if TYPE_CHECKING:
    from scenarios.quantification.unwarp import Unwarped


def unwarp(
    source: Annotated[str, typer.Argument(metavar="FILE", help="A scan (.mib, .zarr, .hspy, .t3p, ...).")],
    layout: Annotated[
        str, typer.Option(metavar="adf|haadf", help="Ring whose image shows the columns that the fit needs.")
    ] = "adf",
    shifts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Shifts of the lines (.npy, columns.zarr) [default: fitted to the image]."),
    ] = None,
    even: Annotated[
        bool, typer.Option("--even", help="Expose all places alike (for SSB, ePIE) instead of keeping every electron.")
    ] = False,
    meta: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Metadata that the file lacks or has wrong.")
    ] = None,
    options: Annotated[
        list[str] | None, typer.Option("--option", metavar="KEY=VALUE", help="Of the source, see docs/streaming.md.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar=DATA_FILE, help="New file [default: FILE_unwarped.zarr].")] = None,
    as_json: AsJson = False,
) -> None:
    """Put a 4D scan onto its true grid. Every frame goes where the beam was, and no electron is lost."""
    from tqdm import tqdm

    from agents.methods import RINGS
    from agents.quantify.resample import ShiftMap
    from agents.sources import kind_of
    from scenarios import choices
    from scenarios.quantification.unwarp import UnwarpError, check_target, measured_shifts, read_shifts
    from scenarios.quantification.unwarp import unwarp as put_straight
    from twin.errors import check_known

    with refusals("interrupted; the new file is incomplete"):
        given, how = choices.options(meta or (), "--meta"), choices.options(options or (), "--option")
        target = out or Path(source).with_name(f"{Path(source).stem}_unwarped.zarr")
        check_target(target)
        check_known(layout, RINGS, "a ring", UnwarpError)
        known = None if shifts is None else ShiftMap.of(read_shifts(shifts))
        kind_of(source)
        with tqdm(desc=source, unit="pos", leave=False, delay=0.2) as bar:  # after what is refused at once

            def show(done: int) -> None:
                bar.update(done - bar.n)

            notes: tuple[str, ...] = ()
            if known is None:
                known, notes = measured_shifts(source, layout, given, how, show)
                bar.reset()
            found = put_straight(source, known, target, given, how, show, even)
    if as_json:
        typer.echo(json.dumps(found.summary()))
    else:
        _print(found, notes)


def _print(found: "Unwarped", notes: tuple[str, ...]) -> None:
    figures = found.summary()
    unit = "px" if found.step_nm is None else "nm"
    x, y = figures[f"shift_x_rms_{unit}"], figures[f"shift_y_rms_{unit}"]
    low, high = figures["exposure_of_lines"]
    rows = [
        ("shifts", f"{x:.2g} {unit} rms along x, {y:.2g} {unit} along y"),
        ("lines", f"each line of the grid receives {low:.2f} to {high:.2f} recorded ones"),
        ("counts", f"{found.counts}"),
    ]
    print_rows([*rows, *(("note", words) for words in (*notes, *found.notes)), ("results", str(found.path))])
