"""`stemtwin quantify`: parse, measure, print."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scenarios.commands.arguments import AsJson
from scenarios.commands.groups.listing import print_rows
from scenarios.commands.refusal import refusals, stop

if TYPE_CHECKING:
    from agents.quantify.quantify import QuantifyOptions

LATE = "interrupted; the columns are not written"


def quantify(
    image: Annotated[Path, typer.Argument(help="A file (.npy, .tif, .png, .dm4, .mrc, .hspy): electrons, no offset.")],
    step_nm: Annotated[float | None, typer.Option(help="Distance of pixels [default: lengths in pixels].")] = None,
    spacing_nm: Annotated[float | None, typer.Option(help="Distance of columns [default: measured].")] = None,
    scan: Annotated[
        str, typer.Option(metavar="joint|perfect", help="Fit shifts of lines and the detector's tail, or neither.")
    ] = "joint",
    width: Annotated[str, typer.Option(metavar="column|shared", help="A width for each column, or one for all.")] = (
        "column"
    ),
    shape: Annotated[
        str, typer.Option(metavar="halo|gaussian", help="Gaussians with a broader part, or Gaussians alone.")
    ] = "halo",
    weighting: Annotated[
        str, typer.Option(metavar="poisson|uniform", help="Weights by shot noise, or plain least squares.")
    ] = "poisson",
    count: Annotated[
        str | None, typer.Option(metavar="mixture|library|none", help="How to count atoms [default: mixture].")
    ] = None,
    library: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Cross-sections of 1, 2, ... atoms, image units x nm2.")
    ] = None,
    first: Annotated[int, typer.Option(min=1, help="Atoms in the thinnest columns, for the mixture.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Folder [default: runs/quantify/IMAGE].")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results of an earlier run.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure the atomic columns of an image. Positions, cross-sections and atoms, each with a standard error."""
    from agents.quantify.quantify import quantify as measure
    from scenarios.folders import results_folder
    from scenarios.quantification.results import FILES, is_ours, read_library, summary, write
    from twin.references.image_files import read_image

    with refusals(LATE):
        how = "mixture" if library is None else "library"
        options = _options(spacing_nm, scan, width, shape, weighting, how if count is None else count, first)
        if library is not None and options.count != "library":
            stop(f"--library {library} is for --count library, not for --count {count}")
        values, known = read_image(image), None if library is None else read_library(library)
        default = Path("runs/quantify") / image.stem
        with results_folder(out, default, FILES, overwrite, is_ours) as place:
            found = measure(values, step_nm, options, known)
            write(found, values, str(image), place)
    plain = {**summary(found, str(image)), "out": str(place)}
    if as_json:
        typer.echo(json.dumps(plain))
    else:
        print_rows(_rows(plain))


def _options(
    spacing_nm: float | None, scan: str, width: str, shape: str, weighting: str, count: str, first: int
) -> "QuantifyOptions":
    from agents.quantify.quantify import QuantifyOptions
    from twin.options import checked_options

    given = {"spacing_nm": spacing_nm, "scan": scan, "width": width, "shape": shape, "weighting": weighting}
    return checked_options(QuantifyOptions, {**given, "count": count, "first": first})


def _rows(plain: dict[str, Any]) -> list[tuple[str, str]]:
    unit, area = ("px", "px2") if "spacing_px" in plain else ("nm", "nm2")
    rows = [("columns", f"{plain['columns']}, {plain['at_edge']} of them cut by an edge")]
    rows.append(("spacing", f"{plain[f'spacing_{unit}']:.4g} {unit}"))
    if plain[f"position_sigma_{unit}"] is not None:
        rows.append(("position", f"to {plain[f'position_sigma_{unit}']:.2g} {unit} along each axis (median)"))
        value, sigma = plain[f"cross_section_{area}"], plain[f"cross_section_sigma_{area}"]
        rows.append(("cross-section", f"{value:.4g} +- {sigma:.2g} image units x {area} (median)"))
    if "atoms" in plain:
        counted = f"of {plain['columns'] - plain['not_counted']} columns" if plain["not_counted"] else "in all"
        assumed = f", if the smallest columns have {plain['first']} (--first)" if "first" in plain else ""
        rows.append(("atoms", f"{plain['atoms']} +- {plain['atoms_sigma']:.2g} {counted}{assumed}"))
    if f"jitter_x_{unit}" in plain:
        x, y = plain[f"jitter_x_{unit}"], plain[f"jitter_y_{unit}"]
        phi = f"{plain['jitter_x_correlation']:.2f} and {plain['jitter_y_correlation']:.2f}"
        rows.append(("jitter", f"{x:.2g} {unit} along x, {y:.2g} along y, correlated by {phi}"))
    if plain["tail"] is not None:
        shape, constant = plain["tail"]
        rows.append(("tail", f"{shape.replace('_', ' ')}, {constant:.3g} per pixel"))
    rows.append(("residuals", f"{plain['dispersion']:.3g} times the variance of shot noise"))
    return [*rows, *(("note", words) for words in plain["notes"]), ("results", plain["out"])]
