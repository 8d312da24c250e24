"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Scenario = Annotated[str, typer.Argument(help="A library scenario, or a .yaml file.")]
ScanScenario = Annotated[str, typer.Argument(help="A library scenario with a scan, or a .yaml file.")]
Seed = Annotated[int, typer.Option(min=0, help="The same seed gives the same results.")]
Observations = Annotated[int | None, typer.Option(min=1, help="Ronchigrams per run [default: as in the scenario].")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.KEY=VALUE", help="Change one value of the scenario; may be repeated."),
]
Agents = Annotated[
    list[str],
    typer.Option(
        metavar="NAME[:KEY=VALUE,...],...", help="See `stemtwin list agents`; commas or the option again for more."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
RunFolder = Annotated[Path, typer.Option(help="Folder of the run directories.")]
Meta = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Metadata that the stream lacks or has wrong: step_nm, ..."),
]
SourceOptions = Annotated[
    list[str] | None, typer.Option("--option", metavar="KEY=VALUE", help="Of the source, see docs/streaming.md.")
]
DATA_FILE = "FILE.zarr|.mib|.t3p|.hspy"
