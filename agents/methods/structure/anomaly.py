"""Positions of a scan whose pattern is unlike a reference, at a stated rate of false alarms."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray
from pydantic import model_validator

from agents.base import Agent, Image, MetaError, Reconstruction, StreamMeta
from agents.block import Block
from agents.codes.base import load
from agents.codes.features import FeatureMap, FeatureOptions
from agents.codes.outliers import learned
from twin.options import Count, Probability, Seed, checked_options, validated

NAME = "anomaly"
SQUARE = 16
"""Side in positions of the squares that are learned from, and of those that scores are taken from."""
Edge = Annotated[int, Ge(0)]


@validated
class Options(FeatureOptions):
    """Settings.

    Attributes:
        code: method of the codes.
        size: numbers of a code; fewer where there are few positions.
        groups: Gaussians that describe the usual codes: more for a crystal resolved in atoms than for a thick phase.
        reference: (first row, last row, first column, last column) of a usual region, the last ones not included; None
            is the whole scan.
        false_alarms: rate of usual positions that are flagged.
        seed: seed of codes and groups.
    """

    code: Literal["pca", "autoencoder", "denoising", "vae"] = "pca"
    size: Count = 6
    groups: Count = 1
    reference: tuple[Edge, Edge, Edge, Edge] | None = None
    false_alarms: Probability = 0.01
    seed: Seed = 0

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.reference is not None:
            top, bottom, left, right = self.reference
            if bottom <= top or right <= left:
                raise ValueError(f"reference {self.reference} is empty: first row, last row, first column, last column")
        return self


class Found(NamedTuple):
    """A position that is unlike the reference, and the fraction of the reference that is as unlike the rest."""

    row: int
    column: int
    rarity: float


class AnomalyAgent:
    """Keeps the counts in a few bins of every pattern, and compares them with the reference when asked.

    Example:
        >>> from agents import load
        >>> load("anomaly", {"reference": (0, 32, 0, 64)}).options.false_alarms
        0.01
    """

    def __init__(self, options: Options) -> None:
        self.options = options
        self._features = FeatureMap(NAME, options)

    def start(self, meta: StreamMeta) -> None:
        """Begin a new stream.

        Raises:
            MetaError: the reference lies beyond the scan.
        """
        self._features.start(meta)
        self._result: Reconstruction | None = None
        rows, columns = self._features.shape
        top, bottom, left, right = self.options.reference or (0, rows, 0, columns)
        if bottom > rows or right > columns:
            raise MetaError(f"{NAME}: reference {self.options.reference} lies beyond the scan of {rows} x {columns}")
        self._usual = np.zeros((rows, columns), np.bool_)
        self._usual[top:bottom, left:right] = True

    def update(self, block: Block) -> None:
        """Keep the features of the positions."""
        self._features.update(block)
        self._result = None

    def result(self) -> Reconstruction:
        """Flags, and what they are made of: rarity, error of the reconstruction, distance of the code."""
        if self._result is None:
            self._result = self._compared()
        images = {name: Image(image.values.copy(), image.unit) for name, image in self._result.images.items()}
        return Reconstruction(images, self._result.figures, notes=self._result.notes)

    def _checked_squares(self) -> NDArray[np.bool_]:
        """Every other square of the reference, as on a chessboard: pooled neighbours share noise."""
        row, column = np.nonzero(self._usual)
        height, width = np.ptp(row) + 1, np.ptp(column) + 1
        side = max(1, min(SQUARE, height // 2 if height > 1 else SQUARE, width // 2))
        rows, columns = np.indices(self._usual.shape)
        squares: NDArray[np.bool_] = (rows // side + columns // side) % 2 == 0
        return squares

    def found(self) -> list[Found]:
        """The positions that are flagged, the rarest first."""
        images = self.result().images
        row, column = np.nonzero(images[NAME].values == 1)
        rarity = images["rarity"].values[row, column]
        order = np.lexsort([column, row, rarity])
        return [Found(int(row[i]), int(column[i]), float(rarity[i])) for i in order]

    def _compared(self) -> Reconstruction:
        features, options = self._features, self.options
        usual, squares = self._usual[features.known], self._checked_squares()[features.known]
        first, second = usual & squares, usual & ~squares
        there, needed = int(min(first.sum(), second.sum())), max(4, 2 * options.groups)
        if there < needed:
            empty = {name: Image(features.missing(), "1") for name in (NAME, "rarity", "error", "distance")}
            return Reconstruction(
                empty, notes=(f"each half of the reference needs {needed} positions; one has {there}",)
            )
        examples = features.examples()
        size = max(1, min(options.size, examples.shape[1], there // 4))
        code = load(options.code, {"size": size, "seed": options.seed})
        reference = learned(code, examples[first], examples[second], options.groups, options.seed)
        scores, rarity = reference.scores(examples), reference.rarity(examples)
        flagged = rarity <= options.false_alarms
        images = {
            NAME: Image(features.image(flagged.astype(np.float64)), "1"),
            "rarity": Image(features.image(rarity), "1"),
            "error": Image(features.image(scores.error), "1"),
            "distance": Image(features.image(scores.distance), "1"),
        }
        finest = 2 / (len(reference.errors) + 1)
        notes = [f"{np.count_nonzero(flagged)} of {len(flagged)} positions are unlike the reference"]
        if finest > options.false_alarms:
            notes.append(
                f"the reference is too small for a rate of {options.false_alarms:g}: it tells {finest:.2g} at best"
            )
        return Reconstruction(images, {"flagged": float(flagged.sum())}, notes=tuple(notes))


def make(options: Mapping[str, Any]) -> Agent:
    """Build the agent; see `agents.load`."""
    return AnomalyAgent(checked_options(Options, options))
