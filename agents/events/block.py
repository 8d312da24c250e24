"""Blocks of events; frames are computed only on request."""

from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

from agents.block import Block, Frames
from agents.events import sums as event_sums
from agents.frames.region import Region
from twin.arrays import Floats
from twin.formats.t3p import RECORD

Events = NDArray[np.void]


class EventBlock(Block):
    """Events of a camera at N consecutive positions; their order within a position is irrelevant.

    Args:
        index: pixel of every event, y W + x, (n,); pixels beyond the camera are ignored.
        weight: counts of each event, (n,); None if each counts one.
        indptr: events of position k are `indptr[k]` to `indptr[k + 1]`, (N + 1,).
        pixel: (row, column) of each position in the image, (N, 2).
        camera: (H, W).

    Raises:
        ValueError: boundaries that fall, exceed the events, or do not match the positions.
    """

    def __init__(
        self,
        index: NDArray[np.unsignedinteger],
        weight: NDArray[np.unsignedinteger] | None,
        indptr: NDArray[np.integer],
        pixel: NDArray[np.integer],
        camera: tuple[int, int],
    ) -> None:
        super().__init__(pixel, camera)
        bounds = np.ascontiguousarray(indptr, np.int64)
        if bounds.shape != (len(pixel) + 1,):
            raise ValueError(f"{len(pixel)} positions need {len(pixel) + 1} boundaries; got shape {bounds.shape}")
        if bounds[0] < 0 or bounds[-1] > len(index) or np.any(np.diff(bounds) < 0):
            raise ValueError(f"boundaries must rise from 0 to at most {len(index)}; got {bounds[0]} to {bounds[-1]}")
        if weight is not None and weight.shape != index.shape:
            raise ValueError(f"{len(index)} events need {len(index)} weights; got shape {weight.shape}")
        self.index, self.weight, self.indptr = index, weight, bounds
        self._frames: Frames | None = None

    @classmethod
    def of_records(
        cls,
        events: Events,
        indptr: NDArray[np.integer],
        pixel: NDArray[np.integer],
        camera: tuple[int, int],
    ) -> Self:
        """Build a block from records of `twin.formats.t3p`, (n,), contiguous, position by position; without a copy."""
        if events.dtype != RECORD:
            raise ValueError(f"events are records of {RECORD.names}; got {events.dtype}")
        return cls(events.view(np.uint32).reshape(-1, 4)[:, 0], None, indptr, pixel, camera)

    @property
    def count(self) -> int:
        """Number of events."""
        return int(self.indptr[-1] - self.indptr[0])

    @property
    def frames(self) -> Frames:
        """Counts, uint32, (N, H, W); computed once."""
        if self._frames is None:
            built = np.zeros((len(self), self.camera[0] * self.camera[1]), np.uint32)
            event_sums.frames(self.indptr, self.index, self.weight, built)
            built.flags.writeable = False
            self._frames = built.reshape(len(self), *self.camera)
        return self._frames

    def sums(self, weights: NDArray[np.float32]) -> Floats:
        """See `Block.sums`; from the events, without making frames of them."""
        out = np.empty((len(self), len(weights)))
        images = np.ascontiguousarray(weights, np.float32).reshape(len(weights), -1)
        event_sums.sums(self.indptr, self.index, self.weight, images, out)
        return out

    def _compute_moments(self, region: Region | None) -> Floats:
        out, (height, width) = np.empty((len(self), 4)), self.camera
        if region is not None:
            event_sums.moments_inside(self.indptr, self.index, self.weight, inside(region, self.camera), width, out)
        elif event_sums.moments(self.indptr, self.index, self.weight, width, out) >= height * width:
            everywhere = np.ones(height * width, np.uint8)
            event_sums.moments_inside(self.indptr, self.index, self.weight, everywhere, width, out)
        out.flags.writeable = False
        self._squares[region] = out[:, 3]  # comes with the moments at hardly any cost
        return out[:, :3]

    def _compute_squares(self, region: Region | None) -> Floats:
        self.moments(region)
        return self._squares[region]


@lru_cache(maxsize=16)
def inside(region: Region, camera: tuple[int, int]) -> NDArray[np.uint8]:
    """One for every pixel of the region, (H W,), read-only and cached: blocks are many and small."""
    mask = region.mask(camera).astype(np.uint8).ravel()
    mask.flags.writeable = False
    return mask
