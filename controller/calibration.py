"""Calibrating the posterior itself: closed-loop runs on simulated days tell how wrong it is about its own error.

Inputs chosen for information bring a run's observations close together, where the day's deviation from every
model is the same for all of them. Their errors then do not average as independent ones do.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from controller.base import Controller
from controller.dataset import DayRanges, DaySource, draw_day
from twin.optics import Optics
from twin.state import StateSpace

Array = NDArray[np.floating]

OBSERVATIONS = 20


HELD_AT = (5, 10, 15, 20)
"""Frames after which regions are to hold the truth as often as they say."""
HELD = 0.9


def squared_distances(
    controller: Controller,
    space: StateSpace,
    source: DaySource,
    rng: np.random.Generator,
    watch: Callable[[], None] | None = None,
) -> Array:
    """Squared Mahalanobis distance of the truth after each of `OBSERVATIONS` frames of a run, (T,); n if calibrated.

    `watch` is called after every frame.
    """
    truth = space.draw_start(rng)
    controller.reset(space, rng)
    total, found = space.zero, np.empty(OBSERVATIONS)
    for k in range(OBSERVATIONS):
        delta = controller.propose()
        total = total + delta
        controller.update(delta, source.frame(truth + total))
        estimate = controller.estimate()
        offset = truth - estimate.mean_nm
        found[k] = offset @ np.linalg.solve(estimate.cov_nm2, offset)
        if watch is not None:
            watch()
    return found


def closed_loop(
    controller: Controller,
    optics: Optics,
    space: StateSpace,
    ranges: DayRanges,
    days: int,
    seed: int,
    report: Callable[[int], None] | None = None,
    watch: Callable[[], None] | None = None,
) -> Array:
    """`squared_distances` of one run on each of so many simulated days, (R, T).

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
        distances.append(squared_distances(controller, space, source, rng, watch))
        if report is not None:
            report(index + 1)
    return np.array(distances)


def intra_class_correlation(distances: Array, dimension: int) -> float:
    """The correlation of a run's errors that makes a controller's posterior honest on simulated days.

    The controller takes its observations for independent; the mean squared distance over its expectation n is the
    design effect `1 + (T - 1) correlation`. A tenth of the runs, the worst, is cut at the next worst (winsorised).

    Args:
        distances: from `closed_loop`, (R, T); the last of each run counts.
        dimension: n.
    """
    last = distances[:, -1]
    cut = np.minimum(last, np.quantile(last, 0.9))
    effect = float(np.mean(cut)) / dimension
    return max(0.0, effect - 1.0) / (OBSERVATIONS - 1)


def holding_correlation(distances: Array, dimension: int) -> float:
    """The least correlation with which regions of probability `HELD` hold the truth that often, over `HELD_AT`.

    Like `intra_class_correlation`, from the share that counts instead of the mean, which few runs decide.

    Args:
        distances: from `closed_loop`, (R, T).
        dimension: n.
    """
    frames = np.array(HELD_AT)
    chosen = distances[:, frames - 1] / chi2.ppf(HELD, dimension)
    # The correlation from which on each of them is held; a share HELD of these is to be reached.
    needed = np.maximum(0.0, chosen - 1.0) / (frames - 1)
    return float(np.quantile(needed, HELD))
