"""`stemtwin adapt`: parse, estimate the day, fit the network to it, print."""

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scenarios.commands.arguments import AsJson
from scenarios.commands.groups.listing import print_rows
from scenarios.commands.refusal import refusals

if TYPE_CHECKING:
    from agents.defects.day import EstimatedDay

LATE = "interrupted; nothing is written"
Ring = tuple[float, float]


def adapt(
    images: Annotated[list[Path], typer.Argument(help="Dark-field images of one day (.npy, .tif, .png, .dm4, ...).")],
    step_nm: Annotated[float, typer.Option(help="Distance of pixels.")],
    weights: Annotated[str, typer.Option(help="Network to begin with: shipped, or a .safetensors file.")] = "defects",
    ring_mrad: Annotated[Ring, typer.Option(help="Inner and outer angle of the detector.")] = (63.0, 200.0),
    simulated: Annotated[int, typer.Option(min=20, help="Simulated images for the estimate.")] = 300,
    days: Annotated[int, typer.Option(min=10, help="Simulated images to fit to.")] = 200,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over them.")] = 6,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same network.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder [default: runs/adapt/FIRST IMAGE].")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results of an earlier run.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fit the defect network to a day by its unlabelled images. Its conditions are estimated; defects are found."""
    from agents.defects.adaptation import AdaptOptions, adapted
    from agents.defects.day import estimated
    from agents.defects.detection import check_image
    from agents.defects.network import WEIGHTS
    from learning.training import silent
    from learning.weights_file import find
    from scenarios.adaptation.results import FILES, beam_of, is_ours, write
    from scenarios.commands.groups.train import Bars
    from scenarios.folders import results_folder
    from twin.options import checked_options
    from twin.references.image_files import read_image

    with refusals(LATE):
        options = checked_options(AdaptOptions, {"days": days, "epochs": epochs, "seed": seed})
        before = WEIGHTS.load(find(weights, WEIGHTS.shipped))
        beam = beam_of(before, ring_mrad)
        values = {str(path): read_image(path) for path in images}
        for name, image in values.items():
            check_image(image, step_nm, f"{name}: ")
        bars, default = Bars("adapt"), Path("runs/adapt") / images[0].stem
        progress = silent if as_json else bars
        with closing(bars), results_folder(out, default, FILES, overwrite, is_ours) as place:
            day = estimated(list(values.values()), step_nm, beam, simulated, seed, progress)
            after = adapted(before, beam, day.ranges, options, progress)
            plain = write(after, day, values, step_nm, place)
    if as_json:
        typer.echo(json.dumps(plain))
    else:
        print_rows(_rows(plain, day))


def _rows(plain: dict[str, Any], day: "EstimatedDay") -> list[tuple[str, str]]:
    rows = []
    for name, interval in day.ranges.items():
        if name in day.sigma:
            value = getattr(day.conditions, name)
            rows.append((name, f"{value:.3g} ({interval.low:.3g} to {interval.high:.3g})"))
    kinds = ", ".join(f"{number} {kind}" for kind, number in plain["defects"].items())
    return [*rows, ("defects", f"{kinds}, in {plain['images']} images"), ("results", plain["out"])]
