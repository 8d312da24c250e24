"""Two reconstructions of one scan at half its dose each: what both show was in the specimen."""

from collections.abc import Callable

import numpy as np

from agents.base import Agent, Image, Reconstruction, StreamMeta
from agents.block import Block, FrameBlock


class Halves:
    """An agent that deals every count to one of two others by the toss of a coin.

    Poisson counts so dealt are two independent exposures of half the dose. A camera that does more to its counts than
    count electrons makes halves that share what it did.

    Args:
        make: builds one of the two.
        seed: of the coin.
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
        """The first image of each half."""
        images: dict[str, Image] = {}
        for word, agent in zip(("first", "second"), self.agents, strict=True):
            images[word] = next(iter(agent.result().images.values()))
        return Reconstruction(images)
