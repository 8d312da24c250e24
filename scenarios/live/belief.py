"""What may be shown of the aberrations: the truth, or what a calibration has estimated, and how far that reaches."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from controller.base import Estimate
from twin.aberrations import Aberrations
from twin.arrays import Array
from twin.optics import Optics
from twin.probe import strehl_ratio
from twin.state import StateSpace

DRAWS = 20
"""States over which the Strehl ratio of an estimate is averaged: 0.02 from the mean of many, 8 ms a picture."""


@dataclass(frozen=True, eq=False)
class Belief:
    """An estimate of the state before any input.

    Attributes:
        space: the calibrated coefficients; of the others it knows nothing.
        mean_nm, cov_nm2: of the state, (n,) and (n, n).
    """

    space: StateSpace
    mean_nm: Array
    cov_nm2: Array

    @classmethod
    def of(cls, space: StateSpace, estimate: Estimate) -> "Belief":
        """Return the belief of a controller."""
        return cls(space, np.asarray(estimate.mean_nm), np.asarray(estimate.cov_nm2))

    def aberrations(self, knobs_nm: Array) -> Aberrations:
        """Return the aberrations that the mean and the knobs, (n,), leave."""
        return self.space.to_aberrations(self.mean_nm + knobs_nm)

    def figures(self, knobs_nm: Array, optics: Optics) -> dict[str, Any]:
        """Return the expected Strehl ratio and its standard deviation, for the calibrated coefficients alone.

        Mean and spread over `DRAWS` states of the estimate: a sure estimate that is corrected has a ratio of 1, an
        unsure one less.
        """
        values, vectors = np.linalg.eigh(self.cov_nm2)
        axes = vectors * np.sqrt(np.maximum(values, 0.0))
        left_nm = self.mean_nm + knobs_nm + _standard(self.space.dimension) @ axes.T
        ratios = [strehl_ratio(self.space.to_aberrations(state), optics) for state in left_nm]
        return {
            "strehl": float(np.mean(ratios)),
            "strehl_std": float(np.std(ratios)),
            "covers": list(self.space.names),
        }


@lru_cache(maxsize=8)
def _standard(dimension: int) -> Array:
    """Fixed draws with a mean of exactly 0 and a covariance of exactly 1, (DRAWS, n): the page must not flicker."""
    draws = np.random.default_rng(0).standard_normal((DRAWS, dimension))
    draws -= draws.mean(axis=0)
    standard: Array = draws @ np.linalg.inv(np.linalg.cholesky(draws.T @ draws / DRAWS)).T
    return standard


def true_figures(aberrations: Aberrations, calibrated: Sequence[str], optics: Optics) -> dict[str, Any]:
    """Return the Strehl ratio of every aberration, and that of the calibrated ones alone, as a report has it."""
    alone = Aberrations.of({name: value for name, value in aberrations.nonzero().items() if name in calibrated})
    return {
        "strehl": strehl_ratio(aberrations, optics),
        "strehl_calibrated": strehl_ratio(alone, optics),
        "covers": list(calibrated),
    }
