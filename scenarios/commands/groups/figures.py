"""`stemtwin figures` and `stemtwin gallery`: pictures for a page; parse, show progress, print."""

from pathlib import Path
from typing import Annotated

import typer

from scenarios.commands.refusal import refusals, stop

app = typer.Typer(help="Redraw the figures of a paper.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _figures() -> None:
    pass


Folder = Annotated[Path, typer.Option(help="Folder of the pictures.")]
"""Option `--out` of every command here."""


@app.command()
def paper(
    only: Annotated[list[int] | None, typer.Option(metavar="N", help="One figure; may be repeated.")] = None,
    out: Folder = Path("runs/figures"),
    campaigns: Annotated[
        Path, typer.Option(help="Folder of the stored comparisons that the error curves need.")
    ] = Path("benchmarks/baselines"),
) -> None:
    """Figures 1 and 4 to 8 of the paper on VAE-EM (van Hulst 2026). From shipped weights and stored comparisons.

    A figure whose comparison has not been run yet is left out, with the command that runs it.
    """
    _write("scenarios.figures.paper", only, out, campaigns)


@app.command()
def restoration(
    only: Annotated[
        list[int] | None, typer.Option(metavar="N", help="One figure, 7 to 12 for 2.7 to 2.12; may be repeated.")
    ] = None,
    out: Folder = Path("runs/figures"),
) -> None:
    """Figures 2.7 to 2.12 of Friedrich (2023), in the twin. Restored images, and what is measured on them."""
    _write("scenarios.figures.restoration", only, out)


def _write(module: str, only: list[int] | None, out: Path, campaigns: Path = Path()) -> None:
    """Make the figures that a module lists, with progress, and print where each is or what it needs."""
    from importlib import import_module

    from tqdm import tqdm

    from scenarios.figures.pictures import chosen, write

    with refusals("interrupted; the figures written so far are whole"):
        figures = chosen(import_module(module).FIGURES, only or ())
        with tqdm(total=len(figures), desc="figures", unit="figure", leave=False, delay=0.2) as bar:
            for figure, missing in write(out, figures, campaigns):
                typer.echo(f"Fig. {figure.number} {missing}" if missing else out / figure.file)
                bar.update()


def gallery(
    out: Annotated[
        Path | None, typer.Option(help="The page, self-contained HTML; by default gallery.html or play.html.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="NAME", help="One section; may be repeated.")] = None,
    play: Annotated[
        bool, typer.Option("--play", help="Write a page whose knobs can be turned in any browser instead.")
    ] = False,
) -> None:
    """Show what is simulated, as pictures. Ronchigrams, probes, diffraction, images, detector noise, scan errors."""
    if out is not None and out.suffix.lower() not in ("", ".html", ".htm"):
        stop(f"--out {out}: the page is HTML: name it {out.stem}.html")
    if play:
        typer.echo(_playable(out or Path("play.html"), only))
        return
    from tqdm import tqdm

    from scenarios.gallery.page import sections, write

    page = out or Path("gallery.html")
    with refusals("interrupted; no page was written"):
        chosen = sections(only)
        with tqdm(total=len(chosen), desc="gallery", unit="figure", leave=False, delay=0.2) as bar:

            def show(name: str) -> None:
                bar.set_postfix_str(name, refresh=False)
                bar.update()

            write(page, chosen, show)
    typer.echo(page)


def _playable(out: Path, only: list[str] | None) -> Path:
    """Write the page to play with, and return its place."""
    from scenarios.gallery.page import GalleryError
    from scenarios.gallery.play import write

    with refusals("interrupted; no page was written"):
        if only:
            raise GalleryError(f"--only {only[0]} is a section of the gallery; --play writes a page without sections")
        write(out)
    return out
