"""Downhill simplex on a measured figure of merit (Nelder and Mead 1965).

Assumes that the figure of merit is best where the aberrations vanish; does not model noise. The estimate is minus the
best input so far; its covariance is the spread of the simplex plus an assumed bias of the figure of merit.
"""

from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from controller.base import Estimate, prior_variance, uniform_prior
from controller.merit.merit_centre import merit_centre
from controller.merit.search import MeritSearch, SearchOptions
from twin.arrays import Array
from twin.optics import Optics
from twin.options import NonNegative, Positive, checked_options, validated
from twin.state import StateSpace
from twin.types import Frame

Simplex = list[tuple[float, Array]]


@validated
class Options(SearchOptions):
    """Settings of `nelder_mead`.

    Attributes:
        edge: first edge along each coefficient, as a fraction of the input range.
    """

    edge: Positive = 0.6
    bias_nm: NonNegative = 8.0
    stop_nm: Positive = 2.0


def fold(point: Array, limit: Array) -> Array:
    """Mirror a point (n,) outside +-limit at the edge: clipping would flatten the simplex onto the edge for good."""
    over = np.maximum(np.abs(point) - limit, 0.0)
    return np.asarray(np.clip(point - 2 * np.sign(point) * over, -limit, limit))


def simplex_search(start: Array, edges: Array, limit: Array, simplex: Simplex) -> Generator[Array, float, None]:
    """Yield points (n,) within +-limit and receive their values by `send`, larger is better; never return.

    `simplex` is sorted best first. Coefficients 1, 2, 1/2, 1/2 as published; points outside are folded back.
    """
    simplex.append(((yield start), start))
    for i, edge in enumerate(edges):
        point = start.copy()
        point[i] += edge
        point = fold(point, limit)
        simplex.append(((yield point), point))
    while True:
        simplex.sort(key=lambda vertex: -vertex[0])
        worst_value, worst = simplex[-1]
        centroid = np.mean([point for _, point in simplex[:-1]], axis=0)
        reflected = fold(2 * centroid - worst, limit)
        value = yield reflected
        if value > simplex[0][0]:
            expanded = fold(3 * centroid - 2 * worst, limit)
            further = yield expanded
            simplex[-1] = (further, expanded) if further > value else (value, reflected)
        elif value > simplex[-2][0]:
            simplex[-1] = (value, reflected)
        else:
            towards = reflected if value > worst_value else worst
            contracted = (centroid + towards) / 2
            contracted_value = yield contracted
            if contracted_value > max(value, worst_value):
                simplex[-1] = (contracted_value, contracted)
                continue
            for i in range(1, len(simplex)):
                point = (simplex[0][1] + simplex[i][1]) / 2
                simplex[i] = ((yield point), point)


class NelderMead(MeritSearch):
    """Answer the search with the figure of merit of each frame."""

    options: Options

    def begin(self) -> None:
        """Begin a new simplex at the present alignment."""
        self.simplex: Simplex = []
        self.visited: list[Array] = []
        self.values: list[float] = []
        self.best: tuple[float, Array] | None = None
        space = self.space
        self.search = simplex_search(space.zero, self.options.edge * space.input, space.input, self.simplex)
        self.asked: Array = next(self.search)

    def propose(self) -> Array:
        """Return the input to the next point of the search."""
        return self.asked - self.cumulative_nm

    def update(self, delta_nm: Array, frame: Frame) -> None:
        """Measure the frame and continue the search; a point that was not asked for only counts as a possible best."""
        value = self.measure(delta_nm, frame)
        self.visited.append(self.cumulative_nm)
        self.values.append(value)
        if self.best is None or value > self.best[0]:
            self.best = (value, self.cumulative_nm)
        if np.allclose(self.cumulative_nm, self.asked, rtol=0, atol=1e-6):
            self.asked = self.search.send(value)

    def estimate(self) -> Estimate:
        """Return minus the best input, with the uniform prior's covariance until the first simplex is complete."""
        prior = uniform_prior(self.space)
        if self.best is None:
            return prior
        centre = self.best[1]
        if len(self.simplex) <= self.space.dimension:
            centre = merit_centre(np.array(self.visited), np.array(self.values))
        mean = np.clip(-centre, -self.space.start, self.space.start)
        if len(self.simplex) <= self.space.dimension:
            return replace(prior, mean_nm=mean)
        points = np.array([point for _, point in self.simplex])
        spread = np.mean((points - self.best[1]) ** 2, axis=0) + self.options.bias_nm**2
        variance = np.minimum(spread, prior_variance(self.space))
        return Estimate(mean, np.diag(variance))

    @property
    def done(self) -> bool:
        """Whether the simplex is narrower than `stop_nm` along every coefficient."""
        if len(self.simplex) <= self.space.dimension:
            return False
        return bool(np.all(np.ptp([point for _, point in self.simplex], axis=0) < self.options.stop_nm))


def make(optics: Optics, space: StateSpace, options: Mapping[str, Any]) -> NelderMead:
    """Build the controller; see `controller.load`.

    Example:
        >>> from twin.state import FIRST_ORDER
        >>> controller = make(Optics(), FIRST_ORDER, {"edge": 0.5})
        >>> counts = np.random.default_rng(0).poisson(60.0, (128, 128))
        >>> controller.update(controller.propose(), Frame(counts, dose_e=1e6, exposure_s=0.5, clock_s=0.0))
        >>> controller.propose().tolist()  # the second vertex
        [30.0, 0.0, 0.0]
    """
    return NelderMead(optics, space, checked_options(Options, options))


def reads_ronchigrams(options: Mapping[str, Any]) -> bool:
    """Unless the contrast is that of scanned images."""
    return checked_options(Options, options).contrast != "scan"
