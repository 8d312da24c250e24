"""Two reconstructions of one scan at half its dose each: their correlation measures the resolution."""

from collections.abc import Callable

import numpy as np

from agents.base import Agent, Image, Reconstruction, StreamMeta
from agents.block import Block, FrameBlock


class Halves:
    """An agent that assigns every count at random to one of two others.

    Poisson counts split like this are two independent exposures of half the dose. Camera noise beyond counting
    (spread of charge, read-out noise) is common to both halves.

    Args:
        make: builds one of the two.
        seed: of the split.
    """

    def __init__(self, make: Callable[[], Agent], seed: int = 0) -> None:
        self.agents = (make(), make())
        self.seed = seed

    def start(self, meta: StreamMeta) -> None:
        self._rng = np.random.default_rng(self.seed)
        for agent in self.agents:
            agent.start(meta)

    def update(self, block: Block) -> None:
        frames = block.frames
        heads = self._rng.binomial(frames, 0.5).astype(frames.dtype)
        for agent, half in zip(self.agents, (heads, frames - heads), strict=True):
            agent.update(FrameBlock(half, block.pixel))

    def result(self) -> Reconstruction:
        """Return the first image of each half."""
        images: dict[str, Image] = {}
        for word, agent in zip(("first", "second"), self.agents, strict=True):
            images[word] = next(iter(agent.result().images.values()))
        return Reconstruction(images)
