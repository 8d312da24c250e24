"""Blocks: consecutive positions of a scan with their frames or events.

Blocks of frames and of events offer the same sums: an agent that needs only sums takes both.
"""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from agents.frames import sums as dense
from agents.frames.region import Region
from twin.arrays import Floats

Frames = NDArray[np.unsignedinteger]


class Block(ABC):
    """N positions in order of arrival. Immutable.

    Sums are cached for agents that need the same ones.

    Attributes:
        pixel: (row, column) of each position in the image, (N, 2).
        camera: (H, W) of a frame.
    """

    def __init__(self, pixel: NDArray[np.integer], camera: tuple[int, int]) -> None:
        self.pixel, self.camera = pixel, camera
        self._moments: dict[Region | None, Floats] = {}
        self._squares: dict[Region | None, Floats] = {}

    def __len__(self) -> int:
        return len(self.pixel)

    def moments(self, region: Region | None = None) -> Floats:
        """Counts, sum of column * counts and sum of row * counts of each position, (N, 3).

        Columns and rows count from zero at the centre of the first pixel. A pixel belongs to the region if its centre
        does; None is the whole camera.
        """
        if region not in self._moments:
            self._moments[region] = self._compute_moments(region)
            self._moments[region].flags.writeable = False
        return self._moments[region]

    def squares(self, region: Region | None = None) -> Floats:
        """Sum of (column^2 + row^2) * counts of each position, (N,); pixels as in `moments`.

        With the moments it gives the width of the pattern, hence the noise of its centre of mass.
        """
        if region not in self._squares:
            self._squares[region] = self._compute_squares(region)
            self._squares[region].flags.writeable = False
        return self._squares[region]

    @abstractmethod
    def sums(self, weights: NDArray[np.float32]) -> Floats:
        """Counts under each weight image, (N, D), for weights of shape (D, H, W)."""

    @property
    @abstractmethod
    def frames(self) -> Frames:
        """Counts, (N, H, W), y before x, of either byte order. Blocks of events have to compute them."""

    @abstractmethod
    def _compute_moments(self, region: Region | None) -> Floats: ...

    def _compute_squares(self, region: Region | None) -> Floats:
        return dense.squares(self.frames, region)


class FrameBlock(Block):
    """Frames of a camera, of either byte order: kernels swap bytes on reading.

    Args:
        frames: counts, (N, H, W).
        pixel: (row, column) of each, (N, 2).
    """

    def __init__(self, frames: Frames, pixel: NDArray[np.integer]) -> None:
        super().__init__(pixel, (frames.shape[1], frames.shape[2]))
        self._frames = frames

    @property
    def frames(self) -> Frames:
        return self._frames

    def sums(self, weights: NDArray[np.float32]) -> Floats:
        return dense.sums(self._frames, weights)

    def _compute_moments(self, region: Region | None) -> Floats:
        both = dense.moments_and_squares(self._frames, region)
        self._squares[region] = both[:, 3]  # comes with the moments at no cost
        self._squares[region].flags.writeable = False
        return both[:, :3]

    def _compute_squares(self, region: Region | None) -> Floats:
        self.moments(region)
        return self._squares[region]
