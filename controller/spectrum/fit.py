"""Maximum a posteriori fit of the spectrum model to several frames at once: initial state and nuisance parameters.

Fisher scoring on the Whittle likelihood (its information is J^T J with J the derivative of the log spectrum). The
+-x ambiguity leaves separate modes; each is fitted, and their weights follow from Laplace's approximation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from controller.spectrum import model as spectrum_model
from controller.spectrum.model import Grid, Nuisance, Periodogram
from twin.arrays import Array
from twin.state import StateSpace

COEFFICIENTS = ("C10", "C12a", "C12b")
FILMS = len(spectrum_model.STRUCTURE_PER_NM)
PRIOR_MEAN = np.array([0.0, 0.0, 0.0, np.log(1.6), np.log(0.04), np.log(5.0), *[0.0] * FILMS])
"""Log amplitude, log scale, rotation [rad], log focal spread [nm], log source size [nm], log thickness [nm], and
`Nuisance.log_structure`."""
CARBON, ANY_FILM = (np.array([0.15, 0.02, 0.05, 0.4, 0.35, 0.35, *[film] * FILMS]) for film in (0.0, 0.8))
"""Standard deviations of the prior; 0 holds a parameter. Films without order, of germanium, SiN or SiO2 differ from
carbon by 0.3 to 1.7."""
STEPS = np.array([0.3, 0.3, 0.3, 0.02, 0.003, 0.01, 0.05, 0.05, 0.05, *[0.05] * FILMS])
"""Steps of the finite differences: state in nm, then nuisance parameters."""
TILE = 8
"""Side of the tiles of the misfit test, frequency pixels."""
CHUNK = 64
"""States whose spectra are computed together."""
APART_NM = 8.0
"""Least distance between starting points: nearer ones would find the same mode."""
NEGLIGIBLE, MOST_MODES = 12.0, 6
"""Modes so many nats below the best are dropped, and the number kept."""


@dataclass(frozen=True)
class Observation:
    """A frame's periodogram and its cumulative input, nm, shape (3,)."""

    input_nm: Array
    spectrum: Periodogram


@dataclass(frozen=True)
class Mode:
    """One local maximum of the posterior.

    Attributes:
        theta: state [nm] and nuisance parameters, (13,), in the order of `PRIOR_MEAN`.
        covariance: of Laplace's approximation, (13, 13), inflated by `misfit`.
        log_weight: log posterior mass, nats, tempered by `misfit`.
        misfit: variance inflation, see `tile_misfit`.
    """

    theta: Array
    covariance: Array
    log_weight: float
    misfit: float

    @property
    def state_nm(self) -> Array:
        """Estimated initial state, (3,)."""
        return self.theta[:3]


def nuisance(theta: Array) -> Nuisance:
    """Return the nuisance parameters of a parameter vector (13,)."""
    amplitude, scale, rotation, *logs = theta[3:].tolist()
    focal, source, thickness = np.exp(logs[:3]).tolist()
    return Nuisance(amplitude, scale, rotation, focal, source, thickness, tuple(logs[3:]))


def expected(theta: Array, observations: Sequence[Observation], grid: Grid) -> Array:
    """Expected periodograms of all frames, (K, P)."""
    inputs = np.array([o.input_nm for o in observations])
    floors = np.array([o.spectrum.floor for o in observations])
    signal = spectrum_model.expected_signal(theta[:3] + inputs, nuisance(theta), grid)
    return 1.0 + signal[:, spectrum_model.band(grid.pixels)] / floors[:, None]


def log_posterior(theta: Array, mean: Array, measured: Array, prior_std: Array = CARBON) -> float:
    """Whittle log-likelihood of (K, P) plus the log of the nuisance parameters' Gaussian prior, nats."""
    likelihood = float(np.sum(spectrum_model.whittle(measured, mean)))
    return likelihood - 0.5 * float(np.sum((theta[3:] - PRIOR_MEAN) ** 2 * _precision(prior_std)))


def _free(prior_std: Array) -> NDArray[np.bool_]:
    """Which parameters are fitted, (13,)."""
    return np.concatenate([np.full(3, True), prior_std > 0])


def _precision(prior_std: Array) -> Array:
    """Precision of the prior of each nuisance parameter; zero for one that is held."""
    return np.where(prior_std > 0, 1.0 / np.maximum(prior_std, 1e-12) ** 2, 0.0)


def fit(
    theta: Array,
    observations: Sequence[Observation],
    grid: Grid,
    box_nm: Array,
    iterations: int,
    prior_std: Array = CARBON,
) -> Mode:
    """Climb from theta (13,) by damped Fisher scoring; the state stays within +-box_nm."""
    measured = np.array([o.spectrum.values for o in observations])
    theta, damping = theta.copy(), 1e-2
    mean = expected(theta, observations, grid)
    best = log_posterior(theta, mean, measured, prior_std)
    information, score = _curvature(theta, mean, measured, observations, grid, prior_std)
    for _ in range(iterations):
        step = np.linalg.solve(information + damping * np.diag(np.diag(information)), score)
        trial = theta + np.clip(step, -30 * STEPS, 30 * STEPS)
        trial[:3] = np.clip(trial[:3], -box_nm, box_nm)
        trial_mean = expected(trial, observations, grid)
        value = log_posterior(trial, trial_mean, measured, prior_std)
        if value <= best:
            damping *= 10
            continue
        gained, best = value - best, value
        theta, mean, damping = trial, trial_mean, damping / 5
        information, score = _curvature(theta, mean, measured, observations, grid, prior_std)
        if gained < 0.01:
            break
    misfit = tile_misfit(measured / mean, grid.pixels)
    inflation = np.where(_free(prior_std), misfit**0.5, 1.0)
    covariance = np.linalg.inv(information) * np.outer(inflation, inflation)
    weight = best / misfit + 0.5 * float(np.linalg.slogdet(covariance)[1])
    return Mode(theta, (covariance + covariance.T) / 2, weight, misfit)


def _curvature(
    theta: Array, mean: Array, measured: Array, observations: Sequence[Observation], grid: Grid, prior_std: Array
) -> tuple[Array, Array]:
    """Fisher information (13, 13) and score (13,) of the log posterior."""
    slopes, log_mean = np.zeros((len(theta), mean.size)), np.log(mean)
    free = _free(prior_std)
    for i in np.flatnonzero(free):
        up, step = theta.copy(), STEPS[i]
        up[i] += step
        slopes[i] = (np.log(expected(up, observations, grid)) - log_mean).ravel() / step
    precision = np.concatenate([np.full(3, 1e-6), _precision(prior_std)])
    precision[~free] = 1.0  # a parameter that is held has no slope: any value keeps the matrix invertible
    offset = np.concatenate([np.zeros(3), PRIOR_MEAN - theta[3:]])
    residual = (measured / mean - 1).ravel()
    information = slopes @ slopes.T / spectrum_model.CORRELATION + np.diag(precision)
    return information, slopes @ residual / spectrum_model.CORRELATION + precision * offset


def tile_misfit(ratio: Array, pixels: int) -> float:
    """Variance inflation of measured over expected power (K, P): chi-square per tile of the spectrum, at least 1.

    Under a correct model the mean of a tile has variance CORRELATION / number of its frequencies, which gives 1.
    """
    y, x = np.mgrid[0:pixels, 0 : pixels // 2]
    _, tile = np.unique((y // TILE * pixels + x // TILE)[spectrum_model.band(pixels)], return_inverse=True)
    count = np.bincount(tile)
    means = np.array([np.bincount(tile, row) for row in ratio]) / count
    full = count >= TILE**2 // 2
    return max(1.0, float(np.mean(((means - 1) ** 2 * count)[:, full])) / spectrum_model.CORRELATION)


def starting_theta(state_nm: Array) -> Array:
    """Complete a state (3,) with the prior mean of the nuisance parameters, (13,)."""
    return np.concatenate([state_nm, PRIOR_MEAN])


def quasi_random(count: int, half_nm: Array, rng: np.random.Generator) -> Array:
    """Return Halton points within +-half_nm (3,), (count, 3)."""
    return np.asarray((2 * qmc.Halton(3, rng=rng).random(count) - 1) * half_nm)


def separated(states_nm: Array, score: Array, count: int, distance_nm: float) -> list[int]:
    """Return the indices of the best-scoring states (N, 3) that lie at least a distance apart."""
    chosen: list[int] = []
    for i in np.argsort(-score):
        if all(np.linalg.norm(states_nm[i] - states_nm[j]) > distance_nm for j in chosen):
            chosen.append(int(i))
        if len(chosen) == count:
            break
    return chosen


def scanned(states_nm: Array, observations: Sequence[Observation], grid: Grid, count: int) -> list[Array]:
    """Select starting points: the well separated states (N, 3) of highest likelihood on the nominal day.

    Returns:
        At most `count` parameter vectors, as from `starting_theta`.
    """
    day, score = nuisance(starting_theta(states_nm[0])), np.zeros(len(states_nm))
    for chunk in np.array_split(np.arange(len(states_nm)), max(1, len(states_nm) // CHUNK)):
        for o in observations:
            mean = spectrum_model.expected_periodogram(states_nm[chunk] + o.input_nm, day, grid, o.spectrum.floor)
            score[chunk] += spectrum_model.whittle(o.spectrum.values, mean)
    return [starting_theta(states_nm[i]) for i in separated(states_nm, score, count, APART_NM)]


def fit_modes(
    starts: Sequence[Array], observations: Sequence[Observation], grid: Grid, box_nm: Array, iterations: int
) -> list[Mode]:
    """Fit from every start (13,) and drop duplicates of better modes; best first.

    All modes are weighted with the same misfit, the smallest, so that their weights are comparable.
    """
    modes = [fit(start, observations, grid, box_nm, iterations) for start in starts]
    shared = min(mode.misfit for mode in modes)
    weighed = [_reweighted(mode, shared, observations, grid) for mode in modes]
    kept: list[Mode] = []
    for mode in sorted(weighed, key=lambda mode: -mode.log_weight):
        if all(np.linalg.norm(mode.state_nm - other.state_nm) > 2.0 for other in kept):
            kept.append(mode)
    return [mode for mode in kept if mode.log_weight > kept[0].log_weight - NEGLIGIBLE][:MOST_MODES]


def _reweighted(mode: Mode, misfit: float, observations: Sequence[Observation], grid: Grid) -> Mode:
    measured = np.array([o.spectrum.values for o in observations])
    value = log_posterior(mode.theta, expected(mode.theta, observations, grid), measured)
    volume = 0.5 * float(np.linalg.slogdet(mode.covariance)[1])
    return replace(mode, log_weight=value / misfit + volume)


def mirrored(mode: Mode) -> Mode:
    """Return the mirror image of a mode: the model is even in the state."""
    flip = np.repeat([-1.0, 1.0], (3, len(PRIOR_MEAN)))
    return replace(mode, theta=mode.theta * flip, covariance=mode.covariance * np.outer(flip, flip))


def moments(modes: Sequence[Mode]) -> tuple[Array, Array, float]:
    """Mean (3,), covariance (3, 3) and probability of the modes on the best mode's side of the origin."""
    weights = np.exp(np.array([mode.log_weight for mode in modes]) - modes[0].log_weight)
    side = np.array([mode.state_nm @ modes[0].state_nm >= 0 for mode in modes])
    probability = float(weights[side].sum() / weights.sum())
    if probability < 0.5:
        side, probability = ~side, 1 - probability
    weights = np.where(side, weights, 0.0) / weights[side].sum()
    mean = np.sum([w * mode.state_nm for w, mode in zip(weights, modes, strict=True)], axis=0)
    covariance = np.zeros((3, 3))
    for w, mode in zip(weights, modes, strict=True):
        offset = mode.state_nm - mean
        covariance = covariance + w * (mode.covariance[:3, :3] + np.outer(offset, offset))
    return mean, covariance, probability


def first_order(space: StateSpace) -> list[int]:
    """Return the places of C10, C12a, C12b in a state space.

    Raises:
        ValueError: the space lacks one of them.
    """
    missing = [name for name in COEFFICIENTS if name not in space.names]
    if missing:
        raise ValueError(f"the power spectrum gives C10, C12a and C12b; {', '.join(missing)} not in {space.names}")
    return [space.names.index(name) for name in COEFFICIENTS]
