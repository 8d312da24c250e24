"""Candidates: a discrete set of initial states with weights, and its refinement (section IV-C2)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from controller.base import Estimate
from twin.arrays import Array
from twin.state import StateSpace

SEPARATED = 9.0
"""Squared Mahalanobis distance of the mean from zero beyond which the two signs count as separate modes."""


@dataclass(frozen=True)
class Refinement:
    """Composition of a refined set of candidates; those neither kept nor drawn uniformly are perturbed.

    Attributes:
        keep: fraction of the set that is kept, the most probable candidates first.
        explore: fraction drawn uniformly in the start box.
        perturb_nm: standard deviation of the perturbation (eq 26); None: the width of the posterior.
        minimum_nm: least perturbation when it follows the posterior.
        correct_density: importance weights, likelihood over the density of candidates;
            False gives the paper's uniform weights on the refined set, which count crowded regions twice.
        rounds: refinements per observation, at most; more than one only while few candidates carry the weight.
            The paper's is 1.
    """

    keep: float = 0.2
    explore: float = 0.1
    perturb_nm: float | None = None
    minimum_nm: float = 0.25
    correct_density: bool = True
    rounds: int = 3

    def __post_init__(self) -> None:
        if not (0 <= self.keep and 0 < self.explore and self.keep + self.explore < 1):
            raise ValueError(f"keep {self.keep} and explore {self.explore} must leave a share to perturb")
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}")
        for label in ("perturb_nm", "minimum_nm"):
            value = getattr(self, label)
            if value is not None and not value > 0:
                raise ValueError(f"{label} must be positive, got {value}")


@dataclass(frozen=True)
class Candidates:
    """Candidate initial states with the log density they were drawn from.

    Attributes:
        states_nm: (M, n).
        log_density: log of the sampling density times the box volume, (M,); zero where uniform.
        kept: index in the previous set of the first `len(kept)` candidates.
    """

    states_nm: Array
    log_density: Array
    kept: NDArray[np.int64]


def initial(space: StateSpace, count: int, rng: np.random.Generator) -> Candidates:
    """Draw a low-discrepancy uniform set in the start box."""
    unit = qmc.Sobol(space.dimension, rng=rng).random(2 ** int(np.ceil(np.log2(count))))[:count]
    return Candidates((2 * unit - 1) * space.start, np.zeros(count), np.zeros(0, np.int64))


def weigh(candidates: Candidates, log_likelihood: Array) -> Array:
    """Return the importance weights: likelihood times the uniform prior over the sampling density (eq 23 on)."""
    log_weight = log_likelihood - candidates.log_density
    weight = np.exp(log_weight - log_weight.max())
    return weight / weight.sum()


def effective_count(probability: Array) -> float:
    """Effective sample size of the weights."""
    return float(1.0 / np.sum(probability**2))


def _side(states_nm: Array, space: StateSpace, reference_nm: Array) -> NDArray[np.bool_]:
    return (states_nm / space.start) @ (reference_nm / space.start) >= 0


def _moments(states_nm: Array, probability: Array) -> tuple[Array, Array]:
    mean = probability @ states_nm
    centred = states_nm - mean
    return mean, (centred * probability[:, None]).T @ centred


def summarise(candidates: Candidates, probability: Array, space: StateSpace) -> Estimate:
    """Return mean and covariance within the more probable sign, and that sign's probability.

    A posterior without two separate modes (it straddles the null) is taken as a whole.
    """
    states = candidates.states_nm
    best = states[np.argmax(probability)]
    side = _side(states, space, best)
    mass = min(1.0, float(probability[side].sum()))  # rounding may exceed one
    mean, cov = _moments(states[side], probability[side] / mass)
    if mass < 0.5:
        side, mass = ~side, 1.0 - mass
        mean, cov = _moments(states[side], probability[side] / mass)
    floor = np.diag((1e-3 * space.tolerance) ** 2)
    if mean @ np.linalg.solve(cov + floor, mean) < SEPARATED:
        mean, cov = _moments(states, probability)
        mass = 1.0
    return Estimate(mean, cov + floor, mass, states, probability)


def perturbation(states_nm: Array, probability: Array, space: StateSpace, refinement: Refinement) -> Array:
    """Cholesky factor (n, n) of the perturbation (eq 26): given, or of the covariance within the more probable sign."""
    if refinement.perturb_nm is not None:
        return np.eye(space.dimension) * refinement.perturb_nm
    side = _side(states_nm, space, states_nm[np.argmax(probability)])
    _, cov = _moments(states_nm[side], probability[side] / probability[side].sum())
    return np.linalg.cholesky(cov + np.eye(space.dimension) * refinement.minimum_nm**2)


class Weighed(Protocol):
    """A set of candidates with probabilities, (M,)."""

    @property
    def probability(self) -> Array:
        """Probabilities of the candidates; their sum is one."""
        ...


WeighedSet = TypeVar("WeighedSet", bound=Weighed)

ENOUGH = 0.1
"""Effective sample size, as a fraction of the candidates, from which on refinement stops."""


def until_enough(weighed: WeighedSet, refined: Callable[[WeighedSet], WeighedSet], rounds: int) -> WeighedSet:
    """Refine once, and again until the effective sample size is large enough, at most `rounds` times."""
    for _ in range(rounds):
        weighed = refined(weighed)
        if effective_count(weighed.probability) > ENOUGH * len(weighed.probability):
            break
    return weighed


SCALES = np.array([0.35, 1.0])
"""Fractions of the perturbation, one of which moves each child: fine and coarse search together."""


def refine(
    candidates: Candidates, probability: Array, space: StateSpace, refinement: Refinement, rng: np.random.Generator,
    count: int | None = None,
) -> Candidates:  # fmt: skip
    """Keep the best, perturb parents drawn by weight (eq 26), explore uniformly; all candidates stay inside the box.

    Returns as many candidates as before, or `count`.
    """
    states, total = candidates.states_nm, count or len(probability)
    kept = np.argsort(probability)[::-1][: int(refinement.keep * total)]
    explorers = max(1, int(refinement.explore * total))
    children = total - len(kept) - explorers
    factor = perturbation(states, probability, space, refinement)
    parents = states[rng.choice(len(probability), children, p=probability)]
    scales = SCALES if refinement.perturb_nm is None else SCALES[-1:]
    moved = parents + rng.choice(scales, (children, 1)) * (rng.standard_normal(parents.shape) @ factor.T)
    # A child outside the box is replaced by a uniform draw.
    outside = np.any(np.abs(moved) > space.start, axis=1)
    moved[outside] = space.draw_start(rng, int(outside.sum()))
    new = np.concatenate([states[kept], moved, space.draw_start(rng, explorers)])
    if not refinement.correct_density:
        return Candidates(new, np.zeros(total), kept)
    # Expected number of candidates about each centre, by scale; kept candidates count at the finest scale.
    expected = np.where(np.isin(SCALES, scales)[:, None], children / len(scales) * probability, 0.0)
    expected[0, kept] += 1.0
    used = expected.max(axis=0) > 1e-7 * expected.max()
    density = _mixture_density(new, states[used], expected[:, used] / total, np.linalg.inv(factor), SCALES)
    uniform = (explorers + int(outside.sum())) / total
    return Candidates(new, np.log(uniform + density * float(np.prod(2 * space.start))), kept)


def _mixture_density(points: Array, centres: Array, weights: Array, inverse_factor: Array, scales: Array) -> Array:
    """Density of the perturbed candidates at `points`: Gaussians about `centres`, with weights (scales, centres).

    In single precision, accurate enough for a weight and several times faster.
    """
    axes = points.shape[1]
    norm = abs(np.linalg.det(inverse_factor)) / (2 * np.pi) ** (axes / 2)
    middle = centres.mean(0)  # differences of large coordinates would lose precision
    ours = ((points - middle) @ inverse_factor.T).astype(np.float32)
    theirs = ((centres - middle) @ inverse_factor.T).astype(np.float32)
    distance2 = (ours**2).sum(1)[:, None] + (theirs**2).sum(1)[None, :] - 2 * ours @ theirs.T
    half = -0.5 * np.maximum(distance2, 0.0)
    out = np.zeros(len(points))
    for weight, width in zip(weights, scales, strict=True):
        out += np.exp(half / np.float32(width**2)) @ weight.astype(np.float32) * norm / width**axes
    return out
