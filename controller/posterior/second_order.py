"""Coma and three-fold astigmatism from the spectra of sub-areas, by a Whittle likelihood that frames add to.

Fisher scoring on the composite likelihood of overlapping sub-areas (Varin, Reid & Firth, Statistica Sinica 21, 2011):
every frame adds a Gaussian, expanded about the estimate of the time; stale expansions are renewed as the estimate
moves. The sandwich covariance corrects for the overlap. The first order is given: only antisymmetric differences
between sub-areas determine the second.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import norm

from controller import preprocess
from controller.dataset import DayRanges
from controller.posterior.network import NUISANCES
from controller.spectrum import areas as area_spectrum
from controller.spectrum import model as spectrum_model
from controller.spectrum.model import NodePower, Nuisance
from twin.arrays import Array
from twin.optics import Optics
from twin.types import Frame

STEP_NM = 20.0
"""Step of finite differences in the second order: a few tenths of a nm of local defocus."""
AMPLITUDE_STD = 0.3
"""Prior standard deviation of the log of the film's power, which is fitted, too."""
RENEWED = 4
"""Maximum number of expansions renewed with every frame, the stalest first."""
STALE_NM, STALE_FIRST_NM = 8.0, 0.3
"""An expansion is stale when the second or first order has moved by this much, or the number of frames has doubled."""
LEAST_FRAMES = 8
"""Frames needed for an estimate: with fewer the 90 % regions cover the truth in half of the runs."""
INFLATION = 1.3
"""Variance inflation for the error of the first order: without it the coverage of 90 % regions was 80 to 88 %."""


def film_and_camera(nuisances: Array) -> Nuisance:
    """Film and camera for nuisance parameters (C,) of the amortised posterior.

    Standard normal values map to uniform ones in `DayRanges`. The camera's rotation turns the spectrum the other way.
    """
    quantile = dict(zip(NUISANCES, norm.cdf(nuisances), strict=True))
    ranges = DayRanges()

    def value(name: str) -> float:
        low, high = getattr(ranges, name)
        return float(low + (high - low) * quantile[name])

    return Nuisance(
        log_scale=math.log(value("scale")),
        rotation_rad=-math.radians(value("rotation_deg")),
        focal_spread_nm=value("focal_spread_nm"),
        source_size_nm=value("source_size_nm"),
        thickness_nm=value("thickness_nm"),
    )


@dataclass(frozen=True)
class Term:
    """Gaussian expansion of one frame's log-likelihood in the second order and the log amplitude, (5,).

    Attributes:
        curvature: (5, 5).
        pull: curvature times the point plus gradient, (5,).
        score: covariance of the gradient, (5, 5).
        point: second order and log amplitude of the expansion, (5,).
        first_nm: first order of the expansion, (3,).
        frames: number of frames at the time.
    """

    curvature: Array
    pull: Array
    score: Array
    point: Array
    first_nm: Array
    frames: int

    def staleness(self, point: Array, first_nm: Array, frames: int) -> float:
        """Movement of the estimate since the expansion; renew above 1."""
        second = np.abs(point - self.point)[:4].max() / STALE_NM
        first = np.abs(first_nm - self.first_nm).max() / STALE_FIRST_NM
        return max(float(second), float(first), frames / self.frames - 1.0)


@dataclass
class SecondOrderFit:
    """Fit of (C21a, C21b, C23a, C23b) at the start of a run, given the first order.

    Attributes:
        optics: of the instrument.
        start_nm: half width of the start box of the second order, (4,).
    """

    optics: Optics
    start_nm: Array
    _counts: list[Array] = field(default_factory=list)
    _inputs_nm: list[Array] = field(default_factory=list)
    _terms: list[Term] = field(default_factory=list)
    _total: Array = field(default_factory=lambda: np.zeros(()))
    _point: Array = field(default_factory=lambda: np.zeros(5))

    def add(self, frame: Frame, input_nm: Array) -> None:
        """Add a frame and its cumulative input, first order before second, (7,)."""
        counts = preprocess.signal(frame)
        self._counts.append(counts.astype(np.float32))
        self._inputs_nm.append(input_nm)
        self._total = self._total + counts / counts.sum()

    def renew(self, first_nm: Array, nuisance: Nuisance) -> int:
        """Expand new frames and renew stale expansions.

        Args:
            first_nm: estimate of the first order at the start, (3,).
            nuisance: film and camera of the day; the fit of the log amplitude starts from its value.

        Returns:
            Number of expansions renewed.
        """
        frames = len(self._counts)
        if frames < 2:
            return 0
        staleness = [term.staleness(self._point, first_nm, frames) for term in self._terms]
        renewed = [int(k) for k in np.argsort(staleness)[::-1][:RENEWED] if staleness[k] > 1.0]
        grid = area_spectrum.area_grid(self.optics)
        power = area_spectrum.node_power(grid, nuisance)
        for k in [*renewed, *range(len(self._terms), frames)]:
            observed = area_spectrum.periodograms(self._counts[k], self._total / frames, frames, grid)
            terms = expand(self._point, first_nm, self._inputs_nm[k], observed, nuisance, grid, power)
            self._terms[k : k + 1] = [Term(*terms, self._point, first_nm, frames)]
        self._point = self._posterior()[0]
        return len(renewed)

    def estimate(self) -> tuple[Array, Array] | None:
        """Mean (4,) and covariance (4, 4), nm; None before `LEAST_FRAMES`."""
        if len(self._terms) < LEAST_FRAMES:
            return None
        mean, cov = self._posterior()
        return np.clip(mean[:4], -self.start_nm, self.start_nm), cov[:4, :4]

    def _posterior(self) -> tuple[Array, Array]:
        """Mean and covariance of the second order and the log amplitude, (5,) and (5, 5)."""
        prior = np.diag(np.append(3.0 / self.start_nm**2, AMPLITUDE_STD**-2))
        curvature = sum((t.curvature for t in self._terms), np.zeros((5, 5)))
        score = sum((t.score for t in self._terms), np.zeros((5, 5)))
        # Godambe (sandwich) information, so that overlapping sub-areas are not counted twice.
        weight = np.linalg.solve(score, curvature).T / INFLATION
        information = weight @ curvature
        cov = np.linalg.inv(information + prior)
        return cov @ (weight @ sum((t.pull for t in self._terms), np.zeros(5))), (cov + cov.T) / 2


def expand(
    point: Array, first_nm: Array, input_nm: Array, observed: area_spectrum.AreaPeriodograms, nuisance: Nuisance,
    grid: area_spectrum.AreaGrid, power: NodePower,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Curvature, pull and score (see `Term`) of one frame's Whittle likelihood about a point (5,)."""
    first, second = first_nm + input_nm[:3], point[:4] + input_nm[3:]
    levels, amplitude = observed.levels[:, None], float(np.exp(point[4] - nuisance.log_amplitude))

    def mean(second_nm: Array) -> Array:
        return 1.0 + amplitude * area_spectrum.expected_signal(first, second_nm, nuisance, grid, power) / levels

    centre = mean(second)
    slopes = np.empty((5, *centre.shape))
    for axis, step in enumerate(STEP_NM * np.eye(4)):
        slopes[axis] = np.log(mean(second + step) / mean(second - step)) / (2 * STEP_NM)
    slopes[4] = 1.0 - 1.0 / centre
    residual = observed.values / centre - 1.0
    flat = slopes.reshape(5, -1)
    curvature = flat @ flat.T / spectrum_model.CORRELATION
    gradient = flat @ residual.ravel() / spectrum_model.CORRELATION
    shared = np.einsum("pr,urf->upf", grid.correlation, slopes).reshape(5, -1)
    score = flat @ shared.T / spectrum_model.CORRELATION
    return curvature, curvature @ point + gradient, (score + score.T) / 2
