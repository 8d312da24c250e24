"""Defects found by the network: places, kinds, calibrated probabilities; comparison with the true ones."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, uniform_filter
from scipy.optimize import linear_sum_assignment
from scipy.special import expit, logit

from agents.defects.network import CELL, GRID_NM, DefectNetwork, prepared, probabilities
from twin.arrays import Floats
from twin.errors import StemtwinError

LEAST = 0.02
"""Mean probability over 3 x 3 cells below which a place is no candidate."""
REACH_NM = 0.1
"""Largest distance between a defect found and the true one."""


class DefectImageError(StemtwinError, ValueError):
    """An image in which defects cannot be sought."""


@dataclass(frozen=True, eq=False)
class Defects:
    """Places that may be defects, in the order of the image's rows.

    Attributes:
        x_nm, y_nm: places from the first pixel on, (N,).
        kind: index of `agents.defects.sheet.KINDS`, (N,).
        probability: of a defect of that kind there, (N,).
    """

    x_nm: Floats
    y_nm: Floats
    kind: NDArray[np.int64]
    probability: Floats

    def above(self, least: float) -> "Defects":
        """Those with at least this probability."""
        kept = self.probability >= least
        return Defects(self.x_nm[kept], self.y_nm[kept], self.kind[kept], self.probability[kept])


def find(network: DefectNetwork, image: Floats, step_nm: float) -> Defects:
    """Find the candidates in an image.

    Args:
        network: trained.
        image: any units, (rows, columns).
        step_nm: distance of its pixels.

    Raises:
        DefectImageError: too small, without contrast, or with values that are no numbers.
    """
    check_image(image, step_nm)
    whole = probabilities(network, prepared(image, step_nm))
    each = np.stack([uniform_filter(part, 3, mode="constant") for part in whole[1:]])
    score = each.sum(0)
    row, column = np.nonzero((score == maximum_filter(score, 5)) & (score > LEAST))
    places = np.stack([_centroids(1 - whole[0], row, column, along) for along in (0, 1)])
    kind = each[:, row, column].argmax(0)
    chance = expit(
        float(network.scale) * logit(np.clip(each[kind, row, column], 1e-6, 1 - 1e-6)) + float(network.offset)
    )
    y_nm, x_nm = (places * CELL + (CELL - 1) / 2) * GRID_NM
    return Defects(x_nm, y_nm, kind.astype(np.int64), chance)


def check_image(image: Floats, step_nm: float, label: str = "") -> None:
    """Refuse an image in which defects cannot be sought.

    Args:
        image: (rows, columns).
        step_nm: distance of pixels.
        label: opens the message.

    Raises:
        DefectImageError: says why.
    """
    if not (math.isfinite(step_nm) and step_nm > 0):
        raise DefectImageError(f"step_nm is the distance of pixels, a positive number, got {step_nm:g}")
    if not np.isfinite(image).all():
        broken = np.count_nonzero(~np.isfinite(image))
        raise DefectImageError(f"{label}{broken} of {image.size} pixels are not finite numbers")
    size_nm = min(image.shape) * step_nm
    if size_nm < 1.0:
        raise DefectImageError(
            f"{label}the image is {size_nm:.2g} nm wide; at least 1 nm is expected: is step_nm {step_nm:g} right?"
        )
    if step_nm > 2 * GRID_NM:
        raise DefectImageError(
            f"{label}pixels are {step_nm:.3g} nm apart; at most {2 * GRID_NM:g} nm show single atoms"
        )
    if float(np.ptp(image)) == 0:
        raise DefectImageError(f"{label}all pixels have the value {image.flat[0]:g}: there is nothing to see")


def _centroids(weight: Floats, row: NDArray[np.int64], column: NDArray[np.int64], along: int) -> Floats:
    """Centre of the weights in the 3 x 3 cells about each place along one axis, in cells."""
    padded = np.pad(weight, 1)
    near = np.stack([[padded[row + i, column + j] for j in range(3)] for i in range(3)])
    moved = np.arange(-1.0, 2.0).reshape((3, 1, 1) if along == 0 else (1, 3, 1))
    shift = (near * moved).sum((0, 1)) / np.maximum(near.sum((0, 1)), 1e-12)
    return np.asarray((row if along == 0 else column) + shift, np.float64)


def matches(found: Defects, x_nm: Floats, y_nm: Floats, kind: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index of the true defect of each one found, or -1: of the same kind, within `REACH_NM`, each taken once."""
    index = np.full(len(found.kind), -1, np.int64)
    if not len(index) or not len(kind):
        return index
    distance = np.hypot(found.x_nm[:, None] - x_nm, found.y_nm[:, None] - y_nm)
    distance[(distance > REACH_NM) | (found.kind[:, None] != kind)] = 1e3
    one, other = linear_sum_assignment(distance)
    near = distance[one, other] < 1e3
    index[one[near]] = other[near]
    return index


@dataclass(frozen=True)
class Score:
    """Precision, recall and their harmonic mean."""

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Harmonic mean of both."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total > 0 else 0.0


def score(right: int, found: int, true: int) -> Score:
    """Score of `right` defects among those found and the true ones.

    Example:
        >>> round(score(80, 100, 100).f1, 3)
        0.8
    """
    return Score(right / found if found else 0.0, right / true if true else 0.0)


def calibration_error(probability: Floats, right: NDArray[np.bool_], bins: int = 10) -> float:
    """Expected calibration error (Naeini, Cooper and Hauskrecht 2015): mean gap between probability and frequency.

    Example:
        >>> chance = np.repeat([0.2, 0.8], 100)
        >>> happened = np.tile(np.arange(100) < 50, 2)
        >>> round(calibration_error(chance, happened), 3)
        0.3
    """
    if not len(probability):
        return 0.0
    place = np.minimum((probability * bins).astype(np.int64), bins - 1)
    gap = np.abs(np.bincount(place, probability, bins) - np.bincount(place, right.astype(np.float64), bins))
    return float(gap.sum() / len(probability))
