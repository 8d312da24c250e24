"""Calibrating the posterior itself: closed-loop runs on simulated days tell how wrong it is about its own error.

Inputs chosen for information bring a run's observations close together, where the day's deviation from every
model is the same for all of them. Their errors then do not average as independent ones do.
"""

from collections.abc import Callable

import numpy as np

from controller.base import Controller
from controller.dataset import DayRanges, DaySource, draw_day
from twin.optics import Optics
from twin.state import StateSpace

OBSERVATIONS = 20


def squared_distance(
    controller: Controller,
    space: StateSpace,
    source: DaySource,
    rng: np.random.Generator,
    watch: Callable[[], None] | None = None,
) -> float:
    """Squared Mahalanobis distance of the truth after one closed-loop run of `OBSERVATIONS` frames; n if calibrated.

    `watch` is called after every frame.
    """
    truth = space.draw_start(rng)
    controller.reset(space, rng)
    total = space.zero
    for _ in range(OBSERVATIONS):
        delta = controller.propose()
        total = total + delta
        controller.update(delta, source.frame(truth + total))
        if watch is not None:
            watch()
    estimate = controller.estimate()
    offset = truth - estimate.mean_nm
    return float(offset @ np.linalg.solve(estimate.cov_nm2, offset))


def intra_class_correlation(
    controller: Controller,
    optics: Optics,
    space: StateSpace,
    ranges: DayRanges,
    days: int,
    seed: int,
    report: Callable[[int], None] | None = None,
    watch: Callable[[], None] | None = None,
) -> float:
    """The correlation of a run's errors that makes a controller's posterior honest on simulated days.

    The controller takes its observations for independent; the mean squared distance over its expectation n is the
    design effect `1 + (T - 1) correlation`. A tenth of the runs, the worst, is cut at the next worst (winsorised).

    Args:
        controller: with no correlation in its posterior.
        optics, space: instrument and task.
        ranges: where the days come from; other seeds than the training's.
        days: number of runs.
        seed: of days, films and noise.
        report: called with the number of runs done.
        watch: called after every frame of every run, to look at the controller.
    """
    distances = []
    for index in range(days):
        rng = np.random.default_rng([seed, 1_000_000 + index])
        source = DaySource(draw_day(ranges, rng), optics, space, rng)
        distances.append(squared_distance(controller, space, source, rng, watch))
        if report is not None:
            report(index + 1)
    cut = np.minimum(distances, np.quantile(distances, 0.9))
    effect = float(np.mean(cut)) / space.dimension
    return max(0.0, effect - 1.0) / (OBSERVATIONS - 1)
