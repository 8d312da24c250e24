"""The discrete set of initial states that EM weighs, and its refinement (section IV-C2)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from controller.base import Estimate
from twin.state import StateSpace

Array = NDArray[np.floating]

SEPARATED = 9.0
"""Squared Mahalanobis distance of the mean from zero beyond which a posterior counts as two-signed."""


@dataclass(frozen=True)
class Refinement:
    """How the next candidate set is made; the rest after keeping and exploring is perturbed.

    Attributes:
        keep: share of the set kept, the most probable first.
        explore: share drawn uniformly in the start box.
        perturb_nm: standard deviation of the perturbation (eq 26); None follows the posterior's own width.
        minimum_nm: least perturbation when it follows the posterior.
        correct_density: weigh by likelihood over the density of candidates (a posterior);
            False gives the paper's uniform weights on the refined set, which counts crowded regions twice.
    """

    keep: float = 0.2
    explore: float = 0.1
    perturb_nm: float | None = None
    minimum_nm: float = 0.25
    correct_density: bool = True

    def __post_init__(self) -> None:
        if not (0 <= self.keep and 0 < self.explore and self.keep + self.explore < 1):
            raise ValueError(f"keep {self.keep} and explore {self.explore} must leave a share to perturb")
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
    """A low-discrepancy uniform set in the start box."""
    unit = qmc.Sobol(space.dimension, rng=rng).random(2 ** int(np.ceil(np.log2(count))))[:count]
    return Candidates((2 * unit - 1) * space.start, np.zeros(count), np.zeros(0, np.int64))


def weigh(candidates: Candidates, log_likelihood: Array) -> Array:
    """Probability of each candidate: likelihood times the uniform prior over the sampling density (eq 23 on)."""
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
    """Mean and covariance within the more probable sign, and that sign's probability.

    When the posterior is not two separate modes (it straddles the null), it is taken whole.
    """
    states = candidates.states_nm
    best = states[np.argmax(probability)]
    side = _side(states, space, best)
    share = min(1.0, float(probability[side].sum()))  # a sum of shares may round above one
    mean, cov = _moments(states[side], probability[side] / share)
    if share < 0.5:
        side, share = ~side, 1.0 - share
        mean, cov = _moments(states[side], probability[side] / share)
    floor = np.diag((1e-3 * space.tolerance) ** 2)
    if mean @ np.linalg.solve(cov + floor, mean) < SEPARATED:
        mean, cov = _moments(states, probability)
        share = 1.0
    return Estimate(mean, cov + floor, share, states, probability)


def perturbation(states_nm: Array, probability: Array, space: StateSpace, refinement: Refinement) -> Array:
    """Cholesky factor (n, n) of the perturbation of eq 26: given, or the posterior's width about its best side."""
    if refinement.perturb_nm is not None:
        return np.eye(space.dimension) * refinement.perturb_nm
    side = _side(states_nm, space, states_nm[np.argmax(probability)])
    _, cov = _moments(states_nm[side], probability[side] / probability[side].sum())
    return np.linalg.cholesky(cov + np.eye(space.dimension) * refinement.minimum_nm**2)


class Weighed(Protocol):
    """Anything that gives its candidates probabilities, (M,)."""

    @property
    def probability(self) -> Array:
        """Adds up to one."""
        ...


Belief = TypeVar("Belief", bound=Weighed)

ENOUGH = 0.1
"""Refinement goes on while the effective share of the candidates is below this ..."""
ROUNDS = 3
"""... for at most so many rounds per observation."""


def until_enough(belief: Belief, refined: Callable[[Belief], Belief]) -> Belief:
    """Refine once, and again until enough candidates carry weight."""
    for _ in range(ROUNDS):
        belief = refined(belief)
        if effective_count(belief.probability) > ENOUGH * len(belief.probability):
            break
    return belief


SCALES = np.array([0.35, 1.0])
"""A child moves by one of these fractions of the perturbation: fine search and coarse search together."""


def refine(
    candidates: Candidates, probability: Array, space: StateSpace, refinement: Refinement, rng: np.random.Generator,
    count: int | None = None,
) -> Candidates:  # fmt: skip
    """Keep the best, perturb by weight (eq 26), explore uniformly; every candidate stays inside the box.

    As many candidates as there were, or `count`.
    """
    states, total = candidates.states_nm, count or len(probability)
    kept = np.argsort(probability)[::-1][: int(refinement.keep * total)]
    explorers = max(1, int(refinement.explore * total))
    children = total - len(kept) - explorers
    factor = perturbation(states, probability, space, refinement)
    parents = states[rng.choice(len(probability), children, p=probability)]
    scales = SCALES if refinement.perturb_nm is None else SCALES[-1:]
    moved = parents + rng.choice(scales, (children, 1)) * (rng.standard_normal(parents.shape) @ factor.T)
    # Outside the box nothing is known: a child that leaves it explores instead.
    left = np.any(np.abs(moved) > space.start, axis=1)
    moved[left] = space.draw_start(rng, int(left.sum()))
    new = np.concatenate([states[kept], moved, space.draw_start(rng, explorers)])
    if not refinement.correct_density:
        return Candidates(new, np.zeros(total), kept)
    # Expected candidates about each centre, by scale; the kept ones stand within the narrowest of it.
    about = np.where(np.isin(SCALES, scales)[:, None], children / len(scales) * probability, 0.0)
    about[0, kept] += 1.0
    used = about.max(axis=0) > 1e-7 * about.max()
    density = _mixture_density(new, states[used], about[:, used] / total, np.linalg.inv(factor), SCALES)
    uniform = (explorers + int(left.sum())) / total
    return Candidates(new, np.log(uniform + density * float(np.prod(2 * space.start))), kept)


def _mixture_density(points: Array, centres: Array, weights: Array, inverse_factor: Array, scales: Array) -> Array:
    """Density of the perturbed candidates at `points`: Gaussians about `centres`, with weights (scales, centres).

    In single precision, which is plenty for a weight and several times faster.
    """
    axes = points.shape[1]
    norm = abs(np.linalg.det(inverse_factor)) / (2 * np.pi) ** (axes / 2)
    middle = centres.mean(0)  # differences of large coordinates would cost the precision
    ours = ((points - middle) @ inverse_factor.T).astype(np.float32)
    theirs = ((centres - middle) @ inverse_factor.T).astype(np.float32)
    distance2 = (ours**2).sum(1)[:, None] + (theirs**2).sum(1)[None, :] - 2 * ours @ theirs.T
    half = -0.5 * np.maximum(distance2, 0.0)
    out = np.zeros(len(points))
    for share, width in zip(weights, scales, strict=True):
        out += np.exp(half / np.float32(width**2)) @ share.astype(np.float32) * norm / width**axes
    return out
