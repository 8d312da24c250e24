"""Gaussian sum filter: follows a drifting state through measurements of ambiguous sign.

After Alspach & Sorenson, IEEE Trans. Autom. Control 17 (1972) 439, with one frame's amortised posterior per step: an
even mixture, divided by the density of the training states. Inputs are known, so that the filter runs on the effective
initial state, the state minus the cumulative input, which only drift moves.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from controller.dataset import StateMixture
from twin.arrays import Array
from twin.state import StateSpace

NEGLIGIBLE = 1e-4
"""Hypotheses below this probability are dropped."""
ALIKE = 0.5
"""Squared Mahalanobis distance below which two hypotheses are merged."""
FARTHEST = 9.0
"""Squared Mahalanobis distance within which hypotheses belong to one mode."""
LEAST_PRECISION = -0.5
"""The division by the training density removes at most half of a posterior's precision along any axis."""


@dataclass(frozen=True)
class Motion:
    """Drift of the state: a random walk and, optionally, a velocity of finite correlation time (Singer, 1970).

    Attributes:
        rate_nm_per_sqrt_s: rate of the walk, (n,).
        speed_nm_per_s: rms velocity per component; 0 for no velocity.
        persistence_s: correlation time of a velocity.
    """

    rate_nm_per_sqrt_s: Array
    speed_nm_per_s: float = 0.0
    persistence_s: float = 600.0

    def initial(self, mean_nm: Array, cov_nm2: Array) -> tuple[Array, Array]:
        """Mean and covariance of the filter's state, (m,) and (m, m): positions, then velocities if there are any."""
        if not self.speed_nm_per_s:
            return mean_nm, cov_nm2
        n = len(mean_nm)
        cov = np.zeros((2 * n, 2 * n))
        cov[:n, :n], cov[n:, n:] = cov_nm2, np.eye(n) * self.speed_nm_per_s**2
        return np.concatenate([mean_nm, np.zeros(n)]), cov

    def transition(self, seconds: float) -> tuple[Array, Array]:
        """Transition matrix and process noise over an interval, (m, m) each.

        An Ornstein-Uhlenbeck velocity integrated exactly: Singer, IEEE Trans. Aerosp. Electron. Syst. 6 (1970) 473.
        """
        n = len(self.rate_nm_per_sqrt_s)
        walk = np.diag(self.rate_nm_per_sqrt_s**2 * seconds)
        if not self.speed_nm_per_s:
            return np.eye(n), walk
        t, variance, eye = self.persistence_s, self.speed_nm_per_s**2, np.eye(n)
        decay = np.exp(-seconds / t)
        place = variance * t**2 * (2 * seconds / t - 3 + 4 * decay - decay**2)
        both = variance * t * (1 - decay) ** 2 * eye
        matrix = np.block([[eye, t * (1 - decay) * eye], [np.zeros((n, n)), decay * eye]])
        return matrix, np.block([[walk + place * eye, both], [both, variance * (1 - decay**2) * eye]])


@dataclass(frozen=True)
class GaussianSum:
    """Hypotheses about the filter's state; replaced, never changed.

    Attributes:
        log_weight: (H,), normalised.
        mean: (H, m), nm; velocities, if any, nm/s.
        cov: (H, m, m).
    """

    log_weight: Array
    mean: Array
    cov: Array

    @property
    def probability(self) -> Array:
        """Probability of each hypothesis, (H,)."""
        return np.exp(self.log_weight)

    def draw(self, count: int, rng: np.random.Generator) -> Array:
        """Draw random states, (count, m)."""
        roots = np.linalg.cholesky(self.cov)
        chosen = rng.choice(len(self.mean), count, p=self.probability / self.probability.sum())
        return self.mean[chosen] + np.einsum("kij,kj->ki", roots[chosen], rng.standard_normal((count, len(roots[0]))))


@dataclass(frozen=True)
class Measurement:
    """Likelihood of one frame in the state at which it was taken: a Gaussian mixture over a power of a density.

    Attributes:
        log_weight: (J,), normalised.
        mean_nm, cov_nm2: (J, n) and (J, n, n).
        exponent: power of the training density that divides the mixture.
    """

    log_weight: Array
    mean_nm: Array
    cov_nm2: Array
    exponent: float = 1.0


def measurement(packed: NDArray[np.floating], space: StateSpace, inflation: float) -> Measurement:
    """Make a measurement of both signs of one frame's mixture, in nm.

    Args:
        packed: mixture of the scaled state, see `posterior.network.packed`, (K, 1 + n + n n).
        space: supplies the range of the state.
        inflation: factor on every covariance; posterior and training density are tempered alike.
    """
    n = space.dimension
    values = np.asarray(packed, np.float64)
    white = values[:, 1 + n :].reshape(-1, n, n) / space.range_nm
    half_log_det = np.log(np.abs(np.diagonal(values[:, 1 + n :].reshape(-1, n, n), axis1=1, axis2=2))).sum(1)
    log_weight = values[:, 0] - half_log_det + 0.5 * n * np.log(2 * np.pi)
    mean = values[:, 1 : 1 + n] * space.range_nm
    root = np.linalg.inv(white)
    cov = inflation * root @ np.swapaxes(root, 1, 2)
    return Measurement(
        np.concatenate([log_weight, log_weight]), np.concatenate([mean, -mean]), np.concatenate([cov, cov]),
        1.0 / inflation,
    )  # fmt: skip


def log_density_expansion(states: StateMixture, space: StateSpace, at_nm: Array) -> tuple[Array, Array, Array]:
    """Log density of the training states at (N, n): value (N,), gradient (N, n) and Hessian (N, n, n), per nm."""
    scaled = at_nm / space.range_nm
    total = np.exp(states.log_density(space, scaled.T))
    gradient, hessian = np.zeros_like(scaled), np.zeros((*scaled.shape, scaled.shape[1]))
    for fraction, width in states.near:
        norm = fraction * (2 * np.pi * width**2) ** (-space.dimension / 2)
        part = norm * np.exp(-0.5 * np.sum(scaled**2, axis=1) / width**2) / total
        gradient -= part[:, None] * scaled / width**2
        outer = scaled[:, :, None] * scaled[:, None, :] / width**4 - np.eye(space.dimension) / width**2
        hessian += part[:, None, None] * outer
    hessian -= gradient[:, :, None] * gradient[:, None, :]
    unit = space.range_nm
    return np.log(total) - np.log(unit).sum(), gradient / unit, hessian / (unit[:, None] * unit)


def predict(belief: GaussianSum, motion: Motion, seconds: float) -> GaussianSum:
    """Propagate over an interval."""
    matrix, noise = motion.transition(seconds)
    return GaussianSum(belief.log_weight, belief.mean @ matrix.T, matrix @ belief.cov @ matrix.T + noise)


@dataclass(frozen=True)
class Products:
    """Products of every hypothesis with every component of a measurement, N = H J pairs.

    Attributes:
        sum: the products; log weights not normalised.
        innovation2: squared Mahalanobis distance of the measured from the predicted state, (N,).
    """

    sum: GaussianSum
    innovation2: Array


def multiply(belief: GaussianSum, measured: Measurement, input_nm: Array) -> Products:
    """Kalman update of each hypothesis by each component, for a frame at cumulative input (n,)."""
    n = measured.mean_nm.shape[1]
    prior, prior_cov = belief.mean[:, None], belief.cov[:, None]
    offset = measured.mean_nm - input_nm - prior[..., :n]
    spread = prior_cov[..., :n, :n] + measured.cov_nm2
    gain = np.swapaxes(np.linalg.solve(spread, np.swapaxes(prior_cov[..., :n], -1, -2)), -1, -2)
    mean = prior + np.einsum("hjab,hjb->hja", gain, offset)
    cov = prior_cov - gain @ prior_cov[..., :n, :]
    cov = 0.5 * (cov + np.swapaxes(cov, -1, -2))
    distance2 = np.einsum("hja,hja->hj", offset, np.linalg.solve(spread, offset[..., None])[..., 0])
    log_likelihood = -0.5 * (distance2 + np.linalg.slogdet(spread)[1] + n * np.log(2 * np.pi))
    log_weight = belief.log_weight[:, None] + measured.log_weight + log_likelihood
    m = mean.shape[-1]
    products = GaussianSum(log_weight.ravel(), mean.reshape(-1, m), cov.reshape(-1, m, m))
    return Products(products, distance2.ravel())


def divide(belief: GaussianSum, states: StateMixture, space: StateSpace, input_nm: Array, power: float) -> GaussianSum:
    """Divide by a power of the training density, expanded to second order about each mean."""
    n = space.dimension
    value, slope, curvature = log_density_expansion(states, space, belief.mean[:, :n] + input_nm)
    root = np.linalg.cholesky(belief.cov[:, :n, :n])
    added, axes = np.linalg.eigh(power * np.swapaxes(root, 1, 2) @ curvature @ root)
    kept = 1.0 / (1.0 + np.maximum(added, LEAST_PRECISION))
    # In the whitened axes of the positions; velocities follow by their correlation with these.
    to_state = belief.cov[:, :, :n] @ np.linalg.inv(np.swapaxes(root, 1, 2)) @ axes
    pull = -power * np.einsum("nba,nb->na", root @ axes, slope)
    mean = belief.mean + np.einsum("nab,nb->na", to_state, kept * pull)
    cov = belief.cov - (to_state * (1.0 - kept)[:, None]) @ np.swapaxes(to_state, 1, 2)
    log_ratio = -power * value + 0.5 * np.sum(kept * pull**2, axis=1) + 0.5 * np.log(kept).sum(1)
    return GaussianSum(belief.log_weight + log_ratio, mean, cov)


@dataclass(frozen=True)
class Step:
    """Result of a filter step, and the agreement of the frame with the prediction.

    Attributes:
        belief: posterior, pruned.
        innovation2: of the most probable product; chi-square with n degrees of freedom.
        missed: probability that the frame is uninformative.
    """

    belief: GaussianSum
    innovation2: float
    missed: float


def update(
    belief: GaussianSum, measured: Measurement, states: StateMixture, space: StateSpace, input_nm: Array, doubt: float,
    limit: int,
) -> Step:  # fmt: skip
    """Update by a frame, which with probability `doubt` is uninformative and leaves the prediction unchanged.

    Args:
        belief: predicted to the time of the frame.
        measured: likelihood of the frame.
        states: training density contained in the frame's posterior.
        space: the task.
        input_nm: cumulative input at the frame, (n,).
        doubt: bounds the influence of one bad frame.
        limit: maximum number of hypotheses.
    """
    products = multiply(belief, measured, input_nm)
    updated = divide(products.sum, states, space, input_nm, measured.exponent)
    log_weight = np.concatenate([updated.log_weight + np.log1p(-doubt), belief.log_weight + np.log(doubt)])
    log_weight -= logsumexp(log_weight)
    joined = GaussianSum(
        log_weight, np.concatenate([updated.mean, belief.mean]), np.concatenate([updated.cov, belief.cov])
    )
    missed = float(np.exp(log_weight[len(updated.log_weight) :]).sum())
    return Step(reduce(joined, limit), float(products.innovation2[np.argmax(updated.log_weight)]), missed)


def reduce(belief: GaussianSum, limit: int) -> GaussianSum:
    """Keep at most `limit` hypotheses: drop the improbable, merge similar ones (moments are kept)."""
    order = np.argsort(-belief.log_weight)
    order = order[belief.probability[order] > NEGLIGIBLE * belief.probability.max()]
    merged: list[tuple[float, Array, Array]] = []
    while len(order) and len(merged) < limit:
        lead = order[0]
        offset = belief.mean[order] - belief.mean[lead]
        distance2 = np.sum(offset * np.linalg.solve(belief.cov[lead], offset.T).T, axis=1)
        alike = order[distance2 < ALIKE]
        merged.append(_merged(belief, alike))
        order = order[distance2 >= ALIKE]
    weights, means, covs = zip(*merged, strict=True)
    return GaussianSum(np.log(np.array(weights) / sum(weights)), np.array(means), np.array(covs))


def _merged(belief: GaussianSum, chosen: NDArray[np.int64]) -> tuple[float, Array, Array]:
    """Joint weight, mean and covariance of some hypotheses."""
    weights = belief.probability[chosen]
    relative = weights / weights.sum()
    mean = relative @ belief.mean[chosen]
    offset = belief.mean[chosen] - mean
    cov = np.einsum("h,hij->ij", relative, belief.cov[chosen]) + (offset * relative[:, None]).T @ offset
    return float(weights.sum()), mean, cov


def summarise(belief: GaussianSum) -> tuple[float, Array, Array]:
    """Probability, mean (m,) and covariance (m, m) of the mode about the most probable hypothesis.

    Of all hypotheses, with probability 1, if that mode holds less than half of the probability.
    """
    lead = int(np.argmax(belief.log_weight))
    offset = belief.mean - belief.mean[lead]
    pooled = belief.cov + belief.cov[lead]
    near = np.einsum("hi,hi->h", offset, np.linalg.solve(pooled, offset[..., None])[..., 0]) < FARTHEST
    probability = belief.probability[near].sum()
    chosen = np.flatnonzero(near) if probability >= 0.5 else np.arange(len(near))
    _, mean, cov = _merged(belief, chosen)
    return (min(1.0, float(probability)) if probability >= 0.5 else 1.0), mean, cov


def from_particles(states_nm: Array, probability: Array, motion: Motion, space: StateSpace) -> GaussianSum:
    """One hypothesis for each of the two signs, with the moments of the weighted particles (M, n)."""
    axis = states_nm[np.argmax(probability)] / space.start
    side = (states_nm / space.start) @ axis >= 0
    parts = []
    for chosen in (side, ~side):
        total = float(probability[chosen].sum())
        if total > NEGLIGIBLE:
            weight = probability[chosen] / total
            mean = weight @ states_nm[chosen]
            offset = states_nm[chosen] - mean
            cov = (offset * weight[:, None]).T @ offset + np.diag((1e-2 * space.tolerance) ** 2)
            parts.append((total, *motion.initial(mean, cov)))
    weights, means, covs = zip(*parts, strict=True)
    return GaussianSum(np.log(np.array(weights) / sum(weights)), np.array(means), np.array(covs))
