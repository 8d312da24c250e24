"""A spectrum image of HyperSpy as a stream: every spectrum is a frame of one row (`spectra://FILE.hspy`)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agents.base import StreamMeta
from agents.block import FrameBlock
from agents.source import Health, Source, SourceError
from twin.formats.dataset import FormatError, Layout, Metadata
from twin.options import checked_options, validated
from twin.spectra.files import read_spectrum_image

BLOCK = 1024
"""Spectra of a block."""


@validated
class Options:
    """No settings."""


class SpectrumSource(Source):
    """Spectra in the order of the scan, rounded to counts.

    Args:
        path: of the file.

    Raises:
        SourceError: no spectrum image, or one with counts below zero or beyond 32 bits.
    """

    def __init__(self, path: Path) -> None:
        try:
            image = read_spectrum_image(path)
        except FormatError as error:
            raise SourceError(str(error)) from error
        least, most = float(image.counts.min()), float(image.counts.max())
        if least < 0 or most > np.iinfo(np.uint32).max:
            raise SourceError(f"{path.name}: counts are expected; its values reach from {least:g} to {most:g}")
        rows, columns, channels = image.counts.shape
        self._counts = np.rint(image.counts).astype(np.uint32).reshape(rows * columns, 1, channels)
        self.health = Health()
        self.meta = StreamMeta(Layout((rows, columns), (1, channels), "uint32"), Metadata(step_nm=image.step_nm))

    def blocks(self) -> Iterator[FrameBlock]:
        """Spectra, `BLOCK` at a time."""
        columns = self.meta.layout.scan[1]
        for first in range(0, len(self._counts), BLOCK):
            part = self._counts[first : first + BLOCK]
            place = np.stack(np.divmod(np.arange(first, first + len(part)), columns), axis=1)
            self.health.received += len(part)
            yield FrameBlock(part, place)


def make(where: str, options: Mapping[str, Any]) -> SpectrumSource:
    """Open a file by its path; see `agents.sources.open_source`."""
    checked_options(Options, options)
    return SpectrumSource(Path(where))
