"""Calibrating the posterior itself: closed-loop runs on simulated days tell how wrong it is about its own error.

Inputs chosen for information bring a run's observations close together, where the day's deviation from every
model is the same for all of them. Their errors then do not average as independent ones do.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from controller.artefact import Artefact
from controller.dataset import DayRanges, DaySource, draw_day
from controller.strategies.vae_em import Options, VaeEm
from twin.state import StateSpace

OBSERVATIONS = 20
CANDIDATES = 500


def squared_distance(trained: Artefact, space: StateSpace, source: DaySource, rng: np.random.Generator) -> float:
    """Squared Mahalanobis distance of the truth after one closed-loop run of `OBSERVATIONS` frames; n if calibrated."""
    controller = VaeEm(space, trained, Options(candidates=CANDIDATES))
    truth = space.draw_start(rng)
    controller.reset(space, rng)
    total = space.zero
    for _ in range(OBSERVATIONS):
        delta = controller.propose()
        total = total + delta
        controller.update(delta, source.frame(truth + total))
    estimate = controller.estimate()
    offset = truth - estimate.mean_nm
    return float(offset @ np.linalg.solve(estimate.cov_nm2, offset))


def with_correlation(
    trained: Artefact,
    space: StateSpace,
    ranges: DayRanges,
    days: int,
    seed: int,
    report: Callable[[int], None] | None = None,
) -> Artefact:
    """The artefact with the intra-class correlation that makes its posterior honest on simulated days.

    Runs as if observations were independent; the mean squared distance over its expectation n is the design
    effect `1 + (T - 1) correlation`. A tenth of the runs, the worst, is cut at the next worst (winsorised).

    Args:
        trained: with any correlation; it is not used.
        space: task.
        ranges: where the days come from; other seeds than the training's.
        days: number of runs.
        seed: of days, films and noise.
        report: called with the number of runs done.
    """
    fitted = replace(trained.prior.hyperparameters, correlation=0.0)
    independent = replace(trained, prior=replace(trained.prior, hyperparameters=fitted))
    distances = []
    for index in range(days):
        rng = np.random.default_rng([seed, 1_000_000 + index])
        source = DaySource(draw_day(ranges, rng), trained.optics, space, rng)
        distances.append(squared_distance(independent, space, source, rng))
        if report is not None:
            report(index + 1)
    cut = np.minimum(distances, np.quantile(distances, 0.9))
    effect = float(np.mean(cut)) / space.dimension
    honest = replace(fitted, correlation=max(0.0, effect - 1.0) / (OBSERVATIONS - 1))
    return replace(trained, prior=replace(trained.prior, hyperparameters=honest))
