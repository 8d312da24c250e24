"""Codes of the patterns of a scan, without labels: a few numbers at every position, as maps."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from agents.base import Agent, Image, Reconstruction, StreamMeta
from agents.block import Block
from agents.codes.base import load
from agents.codes.features import FeatureMap, FeatureOptions
from twin.options import Count, Seed, checked_options, validated

NAME = "codes"
SPARE = 4
"""Positions more than numbers of a code before one is learned."""


@validated
class Options(FeatureOptions):
    """Settings.

    Attributes:
        method: of the code.
        size: numbers of a code.
        seed: seed of the method.
    """

    method: Literal["pca", "autoencoder", "denoising", "vae"] = "pca"
    size: Count = 4
    seed: Seed = 0


class CodeAgent:
    """Keeps the counts in a few bins of every pattern, and learns the code when asked.

    Example:
        >>> from agents import load
        >>> load("codes", {"size": 2}).options.method
        'pca'
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self._features = FeatureMap(NAME, options)

    def start(self, meta: StreamMeta) -> None:
        """Begin a new stream."""
        self._features.start(meta)
        self._found: Reconstruction | None = None

    def update(self, block: Block) -> None:
        """Keep the features of the positions."""
        self._features.update(block)
        self._found = None

    def result(self) -> Reconstruction:
        """One map of each number of the code, and the error of the reconstruction in units of the noise."""
        if self._found is None:
            self._found = self._learned()
        images = {name: Image(image.values.copy(), image.unit) for name, image in self._found.images.items()}
        return Reconstruction(images, self._found.figures, notes=self._found.notes)

    def _learned(self) -> Reconstruction:
        features, options = self._features, self.options
        names = [f"code_{number + 1}" for number in range(options.size)]
        if features.known.sum() < options.size + SPARE:
            empty = {name: Image(features.missing(), "1") for name in (*names, "error")}
            return Reconstruction(empty, notes=(f"a code needs at least {options.size + SPARE} positions",))
        examples = features.examples()
        code = load(options.method, {"size": options.size, "seed": options.seed}).fit(examples)
        codes = code.encode(examples)
        error = ((code.decode(codes) - examples) ** 2).mean(axis=1)
        images = {name: Image(features.image(values), "1") for name, values in zip(names, codes.T, strict=True)}
        images["error"] = Image(features.image(error), "1")
        return Reconstruction(images, {"error": float(np.mean(error))})


def make(options: Mapping[str, Any]) -> Agent:
    """Build the agent; see `agents.load`."""
    return CodeAgent(checked_options(Options, options))
