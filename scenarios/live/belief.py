"""What may be shown of the aberrations: the truth, or what a calibration has estimated, and how far that reaches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from controller.base import Estimate
from twin.aberrations import Aberrations
from twin.arrays import Array
from twin.optics import Optics
from twin.probe import strehl_ratio
from twin.state import StateSpace


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

        Mean and spread over the 2n points of the cubature rule (Arasaratnam & Haykin 2009, eq 33): a sure estimate of
        zero has a ratio of 1, an unsure one less.
        """
        ratios = [strehl_ratio(self.space.to_aberrations(x + knobs_nm), optics) for x in self._points_nm()]
        mean, spread = float(np.mean(ratios)), float(np.std(ratios))
        return {"strehl": mean, "strehl_std": spread, "covers": list(self.space.names)}

    def _points_nm(self) -> Array:
        """Points with the mean and the covariance of the estimate, (2n, n)."""
        values, vectors = np.linalg.eigh(self.cov_nm2)
        axes = (vectors * np.sqrt(np.maximum(values, 0.0) * self.space.dimension)).T
        points: Array = self.mean_nm + np.concatenate([axes, -axes])
        return points


def true_figures(aberrations: Aberrations, calibrated: Sequence[str], optics: Optics) -> dict[str, Any]:
    """Return the Strehl ratio of every aberration, and that of the calibrated ones alone, as a report has it."""
    alone = Aberrations.of({name: value for name, value in aberrations.nonzero().items() if name in calibrated})
    return {
        "strehl": strehl_ratio(aberrations, optics),
        "strehl_calibrated": strehl_ratio(alone, optics),
        "covers": list(calibrated),
    }
