"""Which figures the paper has, and how each is made and written."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from scenarios.figures import curves, latents, maps
from scenarios.figures.pictures import figure_folder, picked, store


class PaperFigure(NamedTuple):
    """One figure of the paper.

    Attributes:
        number: in the paper.
        name: of the file.
        text: what it shows.
        make: draws it, PNG bytes, given the folder of stored comparisons.

    Raises:
        MissingCampaign: by `make`, see `curves.stored`.
    """

    number: int
    name: str
    text: str
    make: Callable[[Path], bytes]

    @property
    def file(self) -> str:
        """Name of the picture."""
        return f"paper_{self.number}_{self.name}.png"


FIGURES = (
    PaperFigure(1, "spectra", "Ronchigrams and their power spectra at x and -x", lambda _: latents.spectra()),
    PaperFigure(4, "latent_space", "States of two aberrations and their latents", lambda _: latents.nominal_day()),
    PaperFigure(5, "days", "Latents of several days", lambda _: latents.several_days()),
    PaperFigure(6, "map", "Prior mean, and the map learned on day_b", lambda _: maps.learned()),
    PaperFigure(7, "errors", "Error against observations, day_a and day_b", curves.mild_and_strong_gap),
    PaperFigure(8, "errors_further_days", "Error against observations, day_c and random_1", curves.further_days),
)


def chosen(numbers: Iterable[int]) -> list[PaperFigure]:
    """Return the figures of these numbers, or all.

    Raises:
        FigureError: no such number; names the nearest.

    Example:
        >>> [figure.file for figure in chosen([4])]
        ['paper_4_latent_space.png']
    """
    return picked(FIGURES, numbers)


def write(out: Path, figures: Iterable[PaperFigure], campaigns: Path) -> Iterator[tuple[PaperFigure, str]]:
    """Make figures and write each to a folder; yield each with what is missing of it, empty if nothing is.

    Args:
        out: the folder, made if need be.
        figures: from `chosen`.
        campaigns: folder of the stored comparisons.

    Raises:
        FigureError: the folder cannot be written.
        NotWritten: the disc is full.
    """
    with figure_folder(out):
        for figure in figures:
            try:
                picture = figure.make(campaigns)
            except curves.MissingCampaign as error:
                yield figure, str(error)
                continue
            store(out / figure.file, picture)
            yield figure, ""
