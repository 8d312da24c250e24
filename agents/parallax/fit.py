"""Search for the most likely aberrations of a defocused scan, from low spatial frequencies to high ones."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from agents.parallax.likelihood import DiscImages, band, log_likelihood, signal_share
from twin.aberrations import Aberrations
from twin.arrays import Floats

FIRST_ORDER = ("C10", "C12a", "C12b")
BANDS = (0.1, 0.2, 0.4, 1.0)
"""Highest frequency of each stage, in units of the convergence angle."""
PEAK = 0.25
"""Width of the peak of the likelihood: the wave aberration at the edge that displaces a frequency by this many
periods."""
EVALUATIONS = 200


@dataclass(frozen=True, eq=False)
class Fitted:
    """Most likely aberrations.

    Attributes:
        names: fitted coefficients.
        values_nm: their values, (n,).
        covariance_nm2: of Laplace's approximation, (n, n); NaN if the likelihood has no maximum there.
        log_likelihood: over that of an empty image, nats.
        all: with those that were told.
    """

    names: tuple[str, ...]
    values_nm: Floats
    covariance_nm2: Floats
    log_likelihood: float
    all: Aberrations

    @property
    def sigma_nm(self) -> Floats:
        """Standard errors, (n,)."""
        return np.sqrt(np.diag(self.covariance_nm2))


def fit(images: DiscImages, names: Sequence[str], told: Aberrations, reach_nm: float) -> Fitted:
    """Find the coefficients `names`, the first order first, starting from those told.

    Args:
        images: of the parts of the disc.
        names: Krivanek coefficients; they begin with `FIRST_ORDER`, or there are none.
        told: starting values, and values of the others.
        reach_nm: largest difference of defocus from the one told.
    """
    edge = images.experiment.convergence_mrad
    if not names:
        weights = signal_share(images, told)
        return Fitted((), np.zeros(0), np.zeros((0, 0)), log_likelihood(images, told, weights), told)

    def climbed(start: Floats, weights: Floats, step: Floats) -> Floats:
        simplex = np.vstack([start, *(start + row for row in np.diag(step))])
        options = {"initial_simplex": simplex, "xatol": 0.05 * step.min(), "fatol": 0.1, "maxfev": EVALUATIONS}
        found = minimize(
            lambda values: -log_likelihood(images, _with(told, names, values), weights),
            start, method="Nelder-Mead", options=options,
        )  # fmt: skip
        return np.asarray(found.x)

    bands = _bands(images)
    lowest = band(images, bands[0] * edge)
    starts = _first_search(
        lambda values: log_likelihood(images, _with(told, names, values), lowest),
        len(names), float(_steps(images, FIRST_ORDER, bands[0])[0]), reach_nm,
    )  # fmt: skip
    ends = []
    for start in starts:
        best = start
        for share in bands:
            limited = band(images, share * edge) * signal_share(images, _with(told, names, best))
            best = climbed(best, limited if limited.any() else lowest, _steps(images, names, share))
        found = _with(told, names, best)
        ends.append((log_likelihood(images, found, signal_share(images, found)), best))
    best = max(ends, key=lambda end: end[0])[1]
    step = 0.2 * _steps(images, names, bands[-1])
    weights = signal_share(images, _with(told, names, best))
    best = climbed(best, weights, step)
    return _described(images, names, _with(told, names, best), weights, step)


def _described(images: DiscImages, names: Sequence[str], found: Aberrations, weights: Floats, step: Floats) -> Fitted:
    """Values with the covariance of Laplace's approximation."""
    curvature = -_curvature(
        lambda offset: log_likelihood(images, _with(found, names, offset), weights), np.zeros(len(names)), step
    )
    peaked = np.linalg.eigvalsh(curvature).min() > 0
    covariance = np.asarray(np.linalg.inv(curvature) if peaked else np.full(curvature.shape, np.nan))
    values = np.array([found[name] for name in names])
    return Fitted(tuple(names), values, covariance, log_likelihood(images, found, weights), found)


FIRST_RINGS = 8
"""Frequencies from zero to the end of the first band: fewer decide nothing at a low dose."""


def _bands(images: DiscImages) -> list[float]:
    """Highest frequency of each stage, in units of the convergence angle: the first has `FIRST_RINGS` frequencies."""
    experiment = images.experiment
    first = max(BANDS[0], FIRST_RINGS * max(experiment.lowest_mrad) / experiment.convergence_mrad)
    return [first, *(share for share in BANDS if share > first)] if first < BANDS[-1] else [BANDS[-1]]


def _with(told: Aberrations, names: Sequence[str], offset_nm: Floats) -> Aberrations:
    """Return the aberrations told, changed by offsets."""
    return told + Aberrations.of(dict(zip(names, offset_nm.tolist(), strict=True)))


def _steps(images: DiscImages, names: Sequence[str], band: float) -> Floats:
    """Width of the peak of the likelihood in each coefficient, nm, when frequencies up to a band are used."""
    experiment = images.experiment
    alpha = 1e-3 * experiment.convergence_mrad
    highest = min(band * experiment.convergence_mrad, experiment.frequency_mrad / 2)
    order = np.array([int(name[1]) for name in names])
    return np.asarray(PEAK * experiment.wavelength_nm / (alpha**order * 1e-3 * highest))


ASTIGMATIC = 2
"""Steps of the first search in each component of astigmatism, either way."""
KEPT = 6
"""Values of defocus, at least a peak apart, around which astigmatism is searched."""
CANDIDATES = 3
"""Starting points that are followed to the end."""


def _first_search(score: Callable[[Floats], float], count: int, step_nm: float, reach_nm: float) -> Floats:
    """Search defocus on a line, then astigmatism about its best values; return offsets (CANDIDATES, count)."""
    number = math.ceil(reach_nm / step_nm)
    line = np.zeros((2 * number + 1, count))
    line[:, 0] = np.arange(-number, number + 1) * step_nm
    kept: list[int] = []
    for i in np.argsort([-score(values) for values in line]).tolist():
        if len(kept) < KEPT and all(abs(i - j) > 1 for j in kept):
            kept.append(i)
    turns = np.arange(-ASTIGMATIC, ASTIGMATIC + 1) * step_nm
    offsets = np.zeros((turns.size**2, count))
    offsets[:, 1], offsets[:, 2] = (turn.ravel() for turn in np.meshgrid(turns, turns))
    best = [max((line[i] + offset for offset in offsets), key=score) for i in kept]
    return np.array(sorted(best, key=lambda values: -score(values))[:CANDIDATES])


def _curvature(value: Callable[[Floats], float], at: Floats, step: Floats) -> Floats:
    """Second derivatives by central differences, (n, n)."""
    hessian = np.empty((len(at), len(at)))
    rows = np.diag(step)
    for i, row in enumerate(rows):
        for j, other in enumerate(rows[: i + 1]):
            corners = [s * t * value(at + s * row + t * other) for s in (1, -1) for t in (1, -1)]
            hessian[i, j] = hessian[j, i] = sum(corners) / (4 * step[i] * step[j])
    return hessian
