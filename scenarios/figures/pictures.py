"""Figures of publications: chosen by number, redrawn, and written small enough for a page."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from scenarios.folders import NotWritten, locked, sentence, write_bytes
from twin.errors import StemtwinError, nearest

LARGEST_PX = 1200
"""Longest side of a picture."""
COLOURS = 64
"""Colours of a picture: a page with several has to open at once."""


class FigureError(StemtwinError, ValueError):
    """No such figure, or a folder that cannot be written."""


class MissingCampaign(StemtwinError, FileNotFoundError):
    """A stored comparison that a figure needs is not there."""


class PublishedFigure(NamedTuple):
    """A figure of a publication, redrawn from the twin.

    Attributes:
        series: publication; the beginning of the file's name.
        number: in the publication.
        name: rest of the file's name.
        text: what it shows.
        make: draws it, PNG bytes, given the folder of stored comparisons; may raise `MissingCampaign`.
    """

    series: str
    number: int
    name: str
    text: str
    make: Callable[[Path], bytes]

    @property
    def file(self) -> str:
        """Name of the picture."""
        return f"{self.series}_{self.number}_{self.name}.png"


def chosen(figures: Sequence[PublishedFigure], numbers: Iterable[int]) -> list[PublishedFigure]:
    """Return the figures of these numbers, or all.

    Raises:
        FigureError: no such number; names the nearest.

    Example:
        >>> from scenarios.figures.paper import FIGURES
        >>> [figure.file for figure in chosen(FIGURES, [4])]
        ['paper_4_latent_space.png']
    """
    wanted, known = list(numbers), [figure.number for figure in figures]
    for number in wanted:
        if number not in known:
            suggestion = nearest(str(number), [str(k) for k in known])
            raise FigureError(f"{number} is not a figure here{suggestion}; known: {', '.join(map(str, known))}")
    return [figure for figure in figures if not wanted or figure.number in wanted]


def write(out: Path, figures: Iterable[PublishedFigure], campaigns: Path) -> Iterator[tuple[PublishedFigure, str]]:
    """Make figures and write each to a folder; yield each with what is missing of it, empty if nothing is.

    Args:
        out: the folder, made if need be.
        figures: from `chosen`.
        campaigns: folder of the stored comparisons.

    Raises:
        FigureError: the folder cannot be written.
        InUse: another run writes there.
        NotWritten: the disc is full.
    """
    with figure_folder(out):
        for figure in figures:
            try:
                picture = figure.make(campaigns)
            except MissingCampaign as error:
                yield figure, str(error)
                continue
            store(out / figure.file, picture)
            yield figure, ""


@contextmanager
def figure_folder(out: Path) -> Iterator[None]:
    """Create a folder for figures and hold it, before the first is made; it is removed if none is.

    Raises:
        FigureError: it cannot be written.
        InUse: another run writes there.
    """
    with ExitStack() as held:
        try:
            held.enter_context(locked(out, inside=True))
        except OSError as error:
            raise FigureError(f"{sentence(error, out)}; choose another --out") from error
        yield


def store(path: Path, png: bytes) -> Path:
    """Write a picture, made small, whole or not at all; return its path.

    Raises:
        NotWritten: the disc is full.
    """
    try:
        write_bytes(path, small(png))
    except OSError as error:
        raise NotWritten(f"the figure could not be written: {sentence(error, path)}") from error
    return path


def small(png: bytes) -> bytes:
    """Return a picture with at most `LARGEST_PX` along a side and `COLOURS` colours."""
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.thumbnail((LARGEST_PX, LARGEST_PX), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.quantize(COLOURS).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
