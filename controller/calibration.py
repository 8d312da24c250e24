"""Calibration of a posterior's coverage from closed-loop runs on simulated days.

Inputs chosen for information bring the observations of a run close together, where the day's deviation from the model
is nearly the same for all. Their errors are correlated and average out less than independent ones.
"""

from collections.abc import Callable

import numpy as np
from scipy.stats import chi2

from controller.base import Controller
from controller.dataset import PLAIN_FRAMES, DayJob, DayRanges, DaySource, Recipe
from twin.arrays import Array
from twin.optics import Optics
from twin.state import StateSpace

OBSERVATIONS = 20
"""Frames per run."""

HELD_AT = (5, 10, 15, 20)
"""Frames after which the coverage of the credible regions is calibrated."""
HELD = 0.9
"""Probability of these credible regions."""


def squared_distances(
    controller: Controller,
    space: StateSpace,
    source: DaySource,
    rng: np.random.Generator,
    watch: Callable[[], None] | None = None,
) -> Array:
    """Squared Mahalanobis distance of the truth after each of `OBSERVATIONS` frames of a run, (T,).

    Its expectation is n for a calibrated posterior. `watch` is called after every frame.
    """
    truth = space.draw_start(rng)
    controller.reset(space, rng)
    total, distances = space.zero, np.empty(OBSERVATIONS)
    for k in range(OBSERVATIONS):
        delta = controller.propose()
        total = total + delta
        controller.update(delta, source.prepared(truth + total))
        estimate = controller.estimate()
        offset = truth - estimate.mean_nm
        distances[k] = offset @ np.linalg.solve(estimate.cov_nm2, offset)
        if watch is not None:
            watch()
    return distances


def closed_loop(
    controller: Controller,
    optics: Optics,
    space: StateSpace,
    ranges: DayRanges,
    days: int,
    seed: int,
    report: Callable[[int], None] | None = None,
    watch: Callable[[], None] | None = None,
    recipe: Recipe = PLAIN_FRAMES,
) -> Array:
    """Run once on each of a number of simulated days; return `squared_distances`, (R, T).

    Args:
        controller: without correlation in its posterior.
        optics, space: instrument and task.
        ranges: ranges of the days, drawn with other seeds than in training.
        days: number of runs.
        seed: of days, films and noise.
        report: called with the number of runs done.
        watch: called after every frame of every run, to inspect the controller.
        recipe: of the frames.
    """
    distances = []
    for index in range(days):
        job = DayJob(optics, space, ranges, 1, seed, 1_000_000 + index, recipe=recipe)
        day, beam, rng = job.draw()
        source = DaySource(day, optics, space, rng, beam, recipe.renderer)
        distances.append(squared_distances(controller, space, source, rng, watch))
        if report is not None:
            report(index + 1)
    return np.array(distances)


def intra_class_correlation(distances: Array, dimension: int) -> float:
    """Intra-class correlation of a run's errors, from their mean square on simulated days.

    The controller takes its observations as independent; the mean squared distance over its expectation n is then the
    design effect `1 + (T - 1) correlation`. The largest tenth of the distances is winsorised.

    Args:
        distances: from `closed_loop`, (R, T); the last of each run is used.
        dimension: n.
    """
    last = distances[:, -1]
    winsorised = np.minimum(last, np.quantile(last, 0.9))
    design_effect = float(np.mean(winsorised)) / dimension
    return max(0.0, design_effect - 1.0) / (OBSERVATIONS - 1)


def holding_correlation(distances: Array, dimension: int) -> float:
    """Least correlation for which credible regions of probability `HELD` have that coverage, over `HELD_AT`.

    Like `intra_class_correlation`, from the coverage instead of the mean square, which few runs dominate.

    Args:
        distances: from `closed_loop`, (R, T).
        dimension: n.
    """
    frames = np.array(HELD_AT)
    chosen = distances[:, frames - 1] / chi2.ppf(HELD, dimension)
    # The correlation from which on each region contains the truth; its quantile gives the coverage HELD.
    needed = np.maximum(0.0, chosen - 1.0) / (frames - 1)
    return float(np.quantile(needed, HELD))
