"""`stemtwin gallery`: parse, show progress, print."""

from pathlib import Path
from typing import Annotated

import typer

from scenarios.commands.refusal import refusals


def gallery(
    out: Annotated[Path, typer.Option(help="The page, self-contained HTML.")] = Path("gallery.html"),
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="One section; may be repeated.")] = None,
) -> None:
    """Show what is simulated: Ronchigrams, probes, diffraction, images, detector noise, scan errors."""
    from tqdm import tqdm

    from scenarios.gallery.page import sections, write

    with refusals("interrupted; no page was written"):
        chosen = sections(only)
        with tqdm(total=len(chosen), desc="gallery", unit="figure", leave=False) as bar:

            def show(name: str) -> None:
                bar.set_postfix_str(name, refresh=False)
                bar.update()

            write(out, chosen, show)
    typer.echo(out)
