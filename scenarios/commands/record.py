"""`stemtwin record`: parse, record, print."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from scenarios.commands.arguments import AsJson, Overrides, Seed
from scenarios.commands.groups.listing import print_rows
from scenarios.commands.refusal import refusals


def record(
    folder: Annotated[Path, typer.Argument(help="A folder of Ronchigrams: .npy, .tif, .png, .mrc, .dm3, .dm4, .hspy.")],
    out: Annotated[Path, typer.Option(metavar="FILE.zarr", help="The new recording.")] = Path("recording.zarr"),
    scenario: Annotated[str, typer.Option(help="Scenario with the optics and coefficients.")] = "day_a",
    table: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="Columns file; cumulative.NAME, state.NAME in nm for each coefficient; dose_e; exposure_s.",
        ),
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="KEY=VALUE",
            help="pixel_mrad, dose_e, exposure_s, dark_level; and references of the camera: bad_pixels, bad_rows,"
            " bad_columns, dark, gain, centre_px.",
        ),
    ] = None,
    controller: Annotated[str, typer.Option(help="Whose run `calibrate --resume` may go on with.")] = "vae_em",
    seed: Seed = 0,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Make a recording of a folder of images. For `calibrate --microscope replay:FILE` or `--record FILE --resume`."""
    from agents.sources import REFERENCES
    from scenarios import choices
    from scenarios.calibration.folder_recording import FolderOptions, entries
    from scenarios.calibration.folder_recording import record as write
    from scenarios.calibration.instruments import Wiring
    from scenarios.schema import load
    from twin.errors import check_known
    from twin.options import OptionError, checked_options
    from twin.references.camera_reference import ReferenceOptions

    with refusals("interrupted; the recording is incomplete"):
        chosen = load(scenario, overrides or ()).for_seed(seed)
        given = choices.options(options or (), "--option")
        known = (*(field.name for field in fields(FolderOptions)), *REFERENCES)
        for key in given:
            check_known(key, known, "an option here", OptionError)
        about = {key: given.pop(key) for key in REFERENCES if key in given}
        how = checked_options(FolderOptions, given)
        references = checked_options(ReferenceOptions, about) if about else None
        images = entries(folder, chosen.space, table)
        recorded = write(chosen, images, out, how, references, Wiring(seed=seed, controller=controller))
    if as_json:
        typer.echo(json.dumps(recorded.summary()))
        return
    rows = [("recording", str(recorded.path)), ("frames", str(recorded.frames))]
    print_rows(rows + [("note", words) for words in recorded.notes])
