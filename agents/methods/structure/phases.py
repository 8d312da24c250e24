"""Phases of a scan without labels: groups of the codes of its patterns, as a map with probabilities."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from agents.base import Agent, Image, Reconstruction, StreamMeta
from agents.block import Block
from agents.codes.base import Code, load
from agents.codes.clusters import Groups, grouped, numbers, silhouette
from agents.codes.features import FeatureMap, FeatureOptions
from twin.arrays import Floats
from twin.options import Count, Seed, checked_options, validated

NAME = "phases"
LEAST = 16
"""Positions before phases are sought."""


@validated
class Options(FeatureOptions):
    """Settings.

    Attributes:
        code: method of the codes.
        size: numbers of a code; fewer where there are few positions.
        method: "mixture" of Gaussians with full covariances, or "kmeans".
        count: number of phases; None: by the rule.
        rule: "silhouette", "elbow" or "bic" chooses the number.
        most: largest number of phases that is tried.
        seed: seed of codes and groups.
    """

    code: Literal["pca", "autoencoder", "denoising", "vae"] = "pca"
    size: Count = 4
    method: Literal["mixture", "kmeans"] = "mixture"
    count: Count | None = None
    rule: Literal["silhouette", "elbow", "bic"] = "silhouette"
    most: Count = 6
    seed: Seed = 0


class PhaseAgent:
    """Keeps the counts in a few bins of every pattern, and groups their codes when asked.

    Example:
        >>> from agents import load
        >>> load("phases", {"count": 3, "method": "kmeans"}).options.count
        3
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self._features = FeatureMap(NAME, options)

    def start(self, meta: StreamMeta) -> None:
        """Begin a new stream."""
        self._features.start(meta)
        self._code: Code | None = None
        self._groups: Groups | None = None
        self._codes: Floats | None = None

    def update(self, block: Block) -> None:
        """Keep the features of the positions."""
        self._features.update(block)
        self._groups = None

    def result(self) -> Reconstruction:
        """Number of the phase at each position (the most frequent is 0), its probability, and that of every phase."""
        features = self._features
        if features.known.sum() < LEAST:
            empty = {name: Image(features.missing(), "1") for name in (NAME, "probability")}
            return Reconstruction(empty, notes=(f"phases are sought from {LEAST} positions on",))
        groups = self._grouped()
        images = {
            NAME: Image(features.image(groups.label.astype(np.float64)), "1"),
            "probability": Image(features.image(groups.responsibility.max(axis=1)), "1"),
        }
        for number, part in enumerate(groups.responsibility.T):
            images[f"probability_{number}"] = Image(features.image(part), "1")
        assert self._codes is not None
        figures = {NAME: float(len(groups)), "silhouette": silhouette(self._codes, groups.label)}
        figures |= {f"share_{number}": float(np.mean(groups.label == number)) for number in range(len(groups))}
        shares = ", ".join(f"{100 * figures[f'share_{number}']:.0f}" for number in range(len(groups)))
        return Reconstruction(images, figures, notes=(f"{len(groups)} phases, of {shares} % of the positions",))

    def centroids(self) -> Floats:
        """Expected counts in the bins for the centre of each phase, decoded, (K, D).

        Raises:
            ValueError: too few positions have arrived.
        """
        if self._features.known.sum() < LEAST:
            raise ValueError(
                f"phases are sought from {LEAST} positions on; {int(self._features.known.sum())} are there"
            )
        groups = self._grouped()
        assert self._code is not None
        return self._features.counts_of(self._code.decode(groups.centres))

    def _grouped(self) -> Groups:
        """Groups of the positions so far; kept until more arrive."""
        if self._groups is None:
            options, examples = self.options, self._features.examples()
            size = min(options.size, examples.shape[1], len(examples) // 4)
            self._code = load(options.code, {"size": size, "seed": options.seed}).fit(examples)
            self._codes = self._code.encode(examples)
            count = options.count
            if count is None:
                tried = numbers(self._codes, options.most, options.seed, mixtures=options.rule == "bic")
                count = tried.best(options.rule)
            self._groups = grouped(self._codes, min(count, len(examples)), options.method, options.seed)
        return self._groups


def make(options: Mapping[str, Any]) -> Agent:
    """Build the agent; see `agents.load`."""
    return PhaseAgent(checked_options(Options, options))
