"""What reaches an agent: consecutive positions of a scan with what the camera saw at each.

A block of frames and a block of events offer the same sums, so that an agent that lives on them takes both.
"""

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from agents.frames import sums as dense
from agents.frames.region import Region

Floats = NDArray[np.float64]
Frames = NDArray[np.unsignedinteger]


class Block(ABC):
    """N consecutive positions in the order in which they arrived. Immutable.

    Sums are kept: several agents that ask for the same ones pay once.

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

        Columns and rows count from zero at the middle of the first pixel. Whole pixels: those whose middle lies in
        the region; None is the whole camera.
        """
        if region not in self._moments:
            self._moments[region] = self._compute_moments(region)
            self._moments[region].flags.writeable = False
        return self._moments[region]

    def squares(self, region: Region | None = None) -> Floats:
        """Sum of (column^2 + row^2) * counts of each position, (N,); pixels as in `moments`.

        With the moments it gives the width of the pattern, and so the noise of its centre of mass.
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
        """Counts, (N, H, W), y before x; of either byte order. Blocks of events have to build them."""

    @abstractmethod
    def _compute_moments(self, region: Region | None) -> Floats: ...

    def _compute_squares(self, region: Region | None) -> Floats:
        # Of frames that a block of events has to build; one that can do without overrides this.
        return dense.squares(self.frames, region)


class FrameBlock(Block):
    """Frames of a camera as they came, of either byte order: kernels swap bytes on the way.

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
