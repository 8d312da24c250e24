"""A source whose frames are corrected by the references of its camera, for all agents alike."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.block import Block, FrameBlock
from agents.events.block import EventBlock
from agents.source import Source, SourceError
from twin.formats.dataset import FormatError
from twin.options import OptionError
from twin.references.camera_reference import CameraReference, ReferenceOptions, corrected


class CorrectedSource(Source):
    """Another source, with bad pixels replaced, the dark level subtracted and the gain divided out.

    Events of bad pixels are dropped: there is nothing to replace a single electron by.

    Args:
        inner: not used otherwise; closed with this one.
        options: the references.

    Raises:
        SourceError: references that do not fit the camera, or a dark level or gain for a stream of events.
    """

    def __init__(self, inner: Source, options: ReferenceOptions) -> None:
        self._inner, self.health = inner, inner.health
        try:
            self._reference = CameraReference.of(options, inner.meta.layout.camera)
        except (OptionError, FormatError) as error:
            raise SourceError(str(error)) from error
        self.meta = inner.meta
        if options.centre_px is not None:
            self.meta = replace(inner.meta, metadata=replace(inner.meta.metadata, centre_px=options.centre_px))

    def blocks(self) -> Iterator[Block]:
        for block in self._inner.blocks():
            if isinstance(block, EventBlock):
                yield self._without_bad(block)
            else:
                yield FrameBlock(corrected(block.frames, self._reference), block.pixel)

    def close(self) -> None:
        self._inner.close()

    def __getattr__(self, name: str) -> Any:
        # What a source has beyond the seam: counts, options.
        return getattr(self.__dict__["_inner"], name)

    def _without_bad(self, block: EventBlock) -> EventBlock:
        if self._reference.changes_levels:
            raise SourceError("an event camera counts single electrons: it has bad pixels, and no dark level or gain")
        return EventBlock(*_kept(block, self._reference.bad.ravel()), block.pixel, block.camera)


def _kept(block: EventBlock, bad: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any] | None, NDArray[np.int64]]:
    """Return index, weight and boundaries of the events of good pixels; pixels beyond the camera stay."""
    first, last = int(block.indptr[0]), int(block.indptr[-1])
    index = block.index[first:last]
    good = ~bad[np.minimum(index, len(bad) - 1)] | (index >= len(bad))
    before = np.concatenate([[0], np.cumsum(good)])
    weight = None if block.weight is None else block.weight[first:last][good]
    return np.ascontiguousarray(index[good]), weight, before[block.indptr - first]
