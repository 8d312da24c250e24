"""What all figures share: they are chosen by number, and small enough for a page."""

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from scenarios.folders import NotWritten, locked, sentence, write_bytes
from twin.errors import StemtwinError, nearest

LARGEST_PX = 1200
"""Longest side of a picture."""
COLOURS = 64
"""Colours of a picture: a page with several has to open at once."""


class FigureError(StemtwinError, ValueError):
    """No such figure, or a folder that cannot be written."""


class Numbered(Protocol):
    """A figure with its number."""

    @property
    def number(self) -> int:
        """In its source."""
        ...


Figures = TypeVar("Figures", bound=Numbered)


def picked(figures: Sequence[Figures], numbers: Iterable[int]) -> list[Figures]:
    """Return the figures of these numbers, or all.

    Raises:
        FigureError: no such number; names the nearest.
    """
    wanted, known = list(numbers), [figure.number for figure in figures]
    for number in wanted:
        if number not in known:
            suggestion = nearest(str(number), [str(k) for k in known])
            raise FigureError(f"{number} is not a figure here{suggestion}; known: {', '.join(map(str, known))}")
    return [figure for figure in figures if not wanted or figure.number in wanted]


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
