"""Blocks of a scan that are kept while they fit in memory, so that a changed agent can take them in again."""

import math

import numpy as np

from agents.block import Block, FrameBlock
from twin.formats.dataset import Layout

MOST_BYTES = 256 * 2**20
"""Largest scan that is kept: one of 128 x 128 positions with 64 x 64 pixels of two bytes takes half of it."""


class KeptBlocks:
    """Copies of the blocks of a scan, if the whole scan fits; otherwise none.

    Attributes:
        blocks: in order of arrival.
        whole: every block so far is kept.

    Example:
        >>> kept = KeptBlocks()
        >>> kept.begin(Layout((1, 2), (4, 4), "uint8"))
        >>> kept.add(FrameBlock(np.zeros((2, 4, 4), np.uint8), np.array([[0, 0], [0, 1]])))
        >>> kept.whole, [len(block) for block in kept.blocks]
        (True, [2])
    """

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.whole = False

    def begin(self, layout: Layout) -> None:
        """Begin a scan of this size."""
        scan_bytes = layout.count * math.prod(layout.camera) * np.dtype(layout.dtype).itemsize
        self.blocks, self.whole = [], scan_bytes <= MOST_BYTES

    def add(self, block: Block) -> None:
        """Keep a block; events are not kept, for their number is not known beforehand."""
        if not self.whole:
            return
        if not isinstance(block, FrameBlock):
            self.whole, self.blocks = False, []
            return
        # Sources may use their memory again.
        self.blocks.append(FrameBlock(np.array(block.frames), np.array(block.pixel)))
