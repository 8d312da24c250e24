"""Downhill simplex on a measured figure of merit (Nelder and Mead 1965), as ask and tell.

Assumes that the contrast is best where the aberrations vanish; noise is not modelled. The estimate is minus the best
input so far; its covariance is the spread of the simplex plus a stated bias of the figure of merit.
"""

from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.base import Estimate, prior_variance, uniform_prior
from controller.merit import contrast as quality
from controller.merit.merit_centre import merit_centre
from twin.optics import Optics
from twin.options import NonNegative, Positive, checked_options, validated
from twin.state import StateSpace
from twin.types import Frame

Array = NDArray[np.floating]
Simplex = list[tuple[float, Array]]


@validated
class Options:
    """Settings of `nelder_mead`.

    Attributes:
        edge: first edge along each coefficient, as a share of the input range.
        contrast: normalised variance of the image's "gradient" or of the "image" itself.
        bias_nm: standard deviation of the best point of the figure of merit about the null, per component.
        stop_nm: done when the simplex is narrower than this along every coefficient.
    """

    edge: Positive = 0.6
    contrast: quality.Contrast = "gradient"
    bias_nm: NonNegative = 8.0
    stop_nm: Positive = 2.0


def fold(point: Array, limit: Array) -> Array:
    """A point (n,) outside +-limit is mirrored at the edge: clipping would flatten the simplex onto it for good."""
    over = np.maximum(np.abs(point) - limit, 0.0)
    return np.asarray(np.clip(point - 2 * np.sign(point) * over, -limit, limit))


def simplex_search(start: Array, edges: Array, limit: Array, simplex: Simplex) -> Generator[Array, float, None]:
    """Yields points (n,) to measure within +-limit and is sent their values, larger is better; never returns.

    `simplex` is kept best first. Coefficients 1, 2, 1/2, 1/2 as published; points outside are folded back.
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


class NelderMead:
    """Feeds the search: a frame's figure of merit for the point asked for."""

    def __init__(self, optics: Optics, space: StateSpace, options: Options) -> None:
        self.optics, self.options = optics, options
        self.reset(space, np.random.default_rng(0))

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        """A new simplex at the present alignment."""
        self.space = space
        self.cumulative_nm: Array = space.zero
        self.simplex: Simplex = []
        self.visited: list[Array] = []
        self.values: list[float] = []
        self.best: tuple[float, Array] | None = None
        # Away from the nearer limit is unknown at the start: upwards along each coefficient.
        self.search = simplex_search(space.zero, self.options.edge * space.input, space.input, self.simplex)
        self.asked: Array = next(self.search)

    def propose(self) -> Array:
        """To the point the simplex wants next."""
        return self.asked - self.cumulative_nm

    def update(self, delta_nm: Array, frame: Frame) -> None:
        """Tell the search, unless the instrument was elsewhere than asked; the best point counts either way.

        Raises:
            ValueError: a frame of another shape than the camera's, or without signal.
        """
        self.cumulative_nm = self.cumulative_nm + delta_nm
        value = quality.contrast(frame, self.optics, self.options.contrast)
        self.visited.append(self.cumulative_nm)
        self.values.append(value)
        if self.best is None or value > self.best[0]:
            self.best = (value, self.cumulative_nm)
        if np.allclose(self.cumulative_nm, self.asked, rtol=0, atol=1e-6):
            self.asked = self.search.send(value)

    def estimate(self) -> Estimate:
        """Minus the best input; with the uniform prior's spread until the first simplex is complete."""
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
        """The simplex has shrunk."""
        if len(self.simplex) <= self.space.dimension:
            return False
        return bool(np.all(np.ptp([point for _, point in self.simplex], axis=0) < self.options.stop_nm))


def make(optics: Optics, space: StateSpace, options: Mapping[str, Any]) -> NelderMead:
    """Build the controller for an instrument and a task.

    Raises:
        OptionError: an unknown option or a bad value.
    """
    return NelderMead(optics, space, checked_options(Options, options))
