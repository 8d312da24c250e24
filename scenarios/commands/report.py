"""`stemtwin report`: the part of a bug report that a program can write."""

import json
from typing import Annotated

import typer

from scenarios.commands.arguments import AsJson
from scenarios.commands.groups.listing import print_rows
from scenarios.commands.refusal import stop


def report(
    environment: Annotated[
        bool, typer.Option("--environment", help="Versions, threads, processor, memory, optional parts.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print software and machine for a bug report. `stemtwin report --environment`."""
    if not environment:
        stop("nothing to report; use --environment")
    from scenarios.versions import environment as described

    found = described()
    if as_json:
        typer.echo(json.dumps(found))
        return
    for title, rows in found.items():
        typer.echo(title)
        print_rows((f"  {name}", str(value)) for name, value in rows.items())
