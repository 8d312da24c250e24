"""Gaussian processes over the latent map, one per candidate initial state: E-step and M-step (section IV-B).

Candidate x0 has visited the states x0 + U, so each candidate has its own covariance. Cholesky factors are
kept and grown by a row per observation; candidates run along the last, contiguous axis.
"""

import math
from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from twin.arrays import Array

KERNEL_CODES = {"rbf": 0, "matern52": 1, "matern32": 2, "rational_quadratic": 3}


class Kernel(NamedTuple):
    """Symmetrised stationary kernel with a constant, per latent axis (eqs 14-15).

    Attributes:
        code: entry of `KERNEL_CODES`.
        inverse_lengthscale: 1/nm, shape (n,).
        signal_variance, offset_variance: shape (d,).
        freedom: degrees of freedom of the day's own variance scale; infinite is the paper's Gaussian.
        correlation: intra-class correlation of a run's observations beyond the model; zero is the paper's.
    """

    code: int
    inverse_lengthscale: Array
    signal_variance: Array
    offset_variance: Array
    freedom: float
    correlation: float = 0.0


class Residuals(NamedTuple):
    """The T observations relative to the prior at the states that each of M candidates has visited.

    Attributes:
        residual: z - m(x0 + U), (d, T, M).
        noise: noise variance at these states, (d, T, M).
        modes: day modes at these states, (d, r, T, M); r may be zero.
    """

    residual: Array
    noise: Array
    modes: Array

    def chosen(self, keep: NDArray[np.int64]) -> "Residuals":
        """Select candidates."""
        return Residuals(*(a[..., keep] for a in self))

    def joined(self, other: "Residuals", axis: int) -> "Residuals":
        """Concatenate along observations (-2) or candidates (-1)."""
        return Residuals(*(np.concatenate(pair, axis=axis) for pair in zip(self, other, strict=True)))


class Factors(NamedTuple):
    """Cholesky factors of the marginal covariance (eq 19), for M candidates and d latent axes.

    The r day modes, common to all axes, enter as a linear model on top. Their whitened columns and normal
    equations suffice: no axis needs the covariance of another.

    Attributes:
        lower: packed rows of the factor, (d, T (T + 1) / 2, M).
        whitened: factor^-1 (z - mean), (d, T, M).
        modes: factor^-1 modes, (d, r, T, M).
        normal: modes' modes summed over axes and observations, (r, r, M).
        projection: modes' whitened summed over axes and observations, (r, M).
        quadratic: squared length of `whitened`, (M,).
        log_determinant: of the covariance, all axes, (M,).
    """

    lower: Array
    whitened: Array
    modes: Array
    normal: Array
    projection: Array
    quadratic: Array
    log_determinant: Array

    @classmethod
    def empty(cls, latents: int, modes: int, candidates: int) -> "Factors":
        """Return the factors before the first observation."""
        none, zero = np.zeros((latents, 0, candidates)), np.zeros(candidates)
        return cls(
            none, none, np.zeros((latents, modes, 0, candidates)), np.zeros((modes, modes, candidates)),
            np.zeros((modes, candidates)), zero, zero,
        )  # fmt: skip

    @property
    def observations(self) -> int:
        """Number of observations absorbed, T."""
        return self.whitened.shape[1]


def chosen(factors: Factors, keep: NDArray[np.int64]) -> Factors:
    """Select the factors of some candidates."""
    return Factors(*(a[..., keep] for a in factors))


def joined(first: Factors, second: Factors) -> Factors:
    """Concatenate the factors of two groups of candidates after equally many observations."""
    return Factors(*(np.concatenate(pair, axis=-1) for pair in zip(first, second, strict=True)))


def mode_posterior(factors: Factors) -> tuple[Array, Array]:
    """Mean (M, r) and covariance (M, r, r) of the day's mode weights, prior standard normal."""
    precision = np.eye(len(factors.normal)) + np.moveaxis(factors.normal, -1, 0)
    covariance = np.linalg.inv(precision)
    return np.einsum("mij,jm->mi", covariance, factors.projection), covariance


def _residual_quadratic(factors: Factors) -> Array:
    mean, _ = mode_posterior(factors)
    return factors.quadratic - np.einsum("mi,im->m", mean, factors.projection)


def log_likelihood(factors: Factors, kernel: Kernel) -> Array:
    """Marginal log-likelihood of each candidate over all latent axes, (M,) (eq 23).

    The weights of the day modes and the day's own scale of all residuals are integrated out (Student's t
    process, Shah et al. 2014). Model errors are correlated between the observations of a run, which lie close
    together: the log-likelihood is divided by the design effect `1 + (T - 1) correlation` (Kish, Survey Sampling,
    1965), a power posterior. No modes, infinite degrees of freedom and no correlation give eq 23 itself.
    """
    count = factors.observations * len(factors.lower)
    quadratic = _residual_quadratic(factors)
    precision = np.eye(len(factors.normal)) + np.moveaxis(factors.normal, -1, 0)
    half_determinant = 0.5 * (factors.log_determinant + np.linalg.slogdet(precision)[1])
    nu = kernel.freedom
    if math.isinf(nu):
        density = -0.5 * quadratic - half_determinant - 0.5 * count * math.log(2 * math.pi)
    else:
        constant = float(gammaln((nu + count) / 2) - gammaln(nu / 2)) - 0.5 * count * math.log(math.pi * nu)
        density = constant - half_determinant - 0.5 * (nu + count) * np.log1p(quadratic / nu)
    return density / (1.0 + max(0, factors.observations - 1) * kernel.correlation)


def scale(factors: Factors, kernel: Kernel) -> Array:
    """Posterior mean of each candidate's variance scale, (M,); 1 for a Gaussian."""
    nu, count = kernel.freedom, factors.observations * len(factors.lower)
    if math.isinf(nu):
        return np.ones(factors.lower.shape[-1])
    return (nu + _residual_quadratic(factors)) / (nu + count - 2)


@numba.njit(cache=True, inline="always")
def _profile(code: int, r2: float) -> float:
    if code == 0:
        return np.exp(-0.5 * r2)
    if code == 3:
        return 1.0 / (1.0 + 0.5 * r2)
    r = np.sqrt(r2)
    if code == 1:
        a = np.sqrt(5.0) * r
        return (1.0 + a + a * a / 3.0) * np.exp(-a)
    a = np.sqrt(3.0) * r
    return (1.0 + a) * np.exp(-a)


@numba.njit(cache=True, fastmath=True)
def _kernel_row(kernel, candidates, from_inputs, to_input, out):  # type: ignore[no-untyped-def]
    """Base kernel between x0 + to_input and x0 + each of from_inputs, for every candidate; out (T, M)."""
    code, inverse = kernel.code, kernel.inverse_lengthscale
    axes, count = candidates.shape
    for s in range(from_inputs.shape[0]):
        near = 0.0
        for a in range(axes):
            near += ((to_input[a] - from_inputs[s, a]) * inverse[a]) ** 2
        direct = 0.5 * _profile(code, near)
        for i in range(count):
            far = 0.0
            for a in range(axes):
                far += ((2.0 * candidates[a, i] + to_input[a] + from_inputs[s, a]) * inverse[a]) ** 2
            out[s, i] = direct + 0.5 * _profile(code, far)


@numba.njit(cache=True, fastmath=True)
def _solve_row(packed, row, total):  # type: ignore[no-untyped-def]
    """Forward substitution of `row` (T, M) by the packed factor of one axis, in place."""
    count = row.shape[1]
    for s in range(total):
        before = s * (s + 1) // 2
        for q in range(s):
            for i in range(count):
                row[s, i] -= row[q, i] * packed[before + q, i]
        for i in range(count):
            row[s, i] /= packed[before + s, i]


@numba.njit(cache=True, fastmath=True)
def _append(kernel, candidates, inputs, residuals, factors, start):  # type: ignore[no-untyped-def]
    """Write the rows start..T-1 of `factors`; candidates (n, M), inputs (T, n)."""
    signal, offset = kernel.signal_variance, kernel.offset_variance
    residual, noise, features = residuals
    lower, whitened, modes, normal, projection, quadratic, log_determinant = factors
    latents, count = residual.shape[0], candidates.shape[1]
    total, rank = inputs.shape[0], features.shape[1]
    base = np.empty((total, count))
    row = np.empty((total, count))
    pivot = np.empty(count)
    for t in range(start, total):
        _kernel_row(kernel, candidates, inputs[: t + 1], inputs[t], base)
        first = t * (t + 1) // 2
        for j in range(latents):
            packed = lower[j]
            for s in range(t):
                for i in range(count):
                    row[s, i] = signal[j] * base[s, i] + offset[j]
            _solve_row(packed, row, t)
            for i in range(count):
                pivot[i] = signal[j] * base[t, i] + offset[j] + noise[j, t, i]
                whitened[j, t, i] = residual[j, t, i]
            for s in range(t):
                for i in range(count):
                    packed[first + s, i] = row[s, i]
                    pivot[i] -= row[s, i] * row[s, i]
                    whitened[j, t, i] -= row[s, i] * whitened[j, s, i]
            for i in range(count):
                pivot[i] = np.sqrt(max(pivot[i], 1e-12))
                packed[first + t, i] = pivot[i]
                whitened[j, t, i] /= pivot[i]
                quadratic[i] += whitened[j, t, i] * whitened[j, t, i]
                log_determinant[i] += 2.0 * np.log(pivot[i])
            for r in range(rank):
                column = modes[j, r]
                for i in range(count):
                    column[t, i] = features[j, r, t, i]
                for s in range(t):
                    for i in range(count):
                        column[t, i] -= row[s, i] * column[s, i]
                for i in range(count):
                    column[t, i] /= pivot[i]
                    projection[r, i] += column[t, i] * whitened[j, t, i]
                for q in range(r + 1):
                    for i in range(count):
                        normal[r, q, i] += column[t, i] * modes[j, q, t, i]
                        normal[q, r, i] = normal[r, q, i]


def absorb(factors: Factors, kernel: Kernel, candidates_nm: Array, inputs_nm: Array, residuals: Residuals) -> Factors:
    """E-step: grow the factors to the last observation; earlier rows are reused.

    Args:
        factors: of these candidates, up to some earlier observation.
        kernel: of the deviation.
        candidates_nm: (M, n).
        inputs_nm: cumulative inputs U, (T, n).
        residuals: all T observations relative to the prior at these candidates' states.
    """
    latents, total, count = residuals.residual.shape
    rank, done = residuals.modes.shape[1], factors.observations
    lower = np.empty((latents, total * (total + 1) // 2, count))
    whitened = np.empty((latents, total, count))
    modes = np.empty((latents, rank, total, count))
    lower[:, : factors.lower.shape[1]] = factors.lower
    whitened[:, :done] = factors.whitened
    modes[:, :, :done] = factors.modes
    grown = Factors(lower, whitened, modes, *(a.copy() for a in factors[3:]))
    # Contiguous arrays: another layout would be compiled again, and run slower.
    compact = np.ascontiguousarray
    _append(kernel, compact(candidates_nm.T), compact(inputs_nm), Residuals(*map(compact, residuals)), grown, done)
    return grown


@numba.njit(cache=True, fastmath=True)
def _predict(kernel, candidates, inputs, factors, weights, query_inputs, features, mean, variance):  # type: ignore[no-untyped-def]
    """Write mean and variance of f at every query (Q, n); `weights` as from `mode_posterior`."""
    signal, offset = kernel.signal_variance, kernel.offset_variance
    lower, whitened, modes = factors.lower, factors.whitened, factors.modes
    weight, spread = weights
    latents, total, count = whitened.shape
    rank = modes.shape[1]
    base = np.empty((total + 1, count))
    row = np.empty((total, count))
    remainder = np.empty((rank, count))
    points = np.empty((total + 1, inputs.shape[1]))
    points[:total] = inputs
    for q in range(query_inputs.shape[0]):
        points[total] = query_inputs[q]
        _kernel_row(kernel, candidates, points, query_inputs[q], base)
        for j in range(latents):
            for s in range(total):
                for i in range(count):
                    row[s, i] = signal[j] * base[s, i] + offset[j]
            _solve_row(lower[j], row, total)
            for i in range(count):
                mean[j, q, i] = 0.0
                variance[j, q, i] = signal[j] * base[total, i] + offset[j]
                for r in range(rank):
                    remainder[r, i] = features[j, r, q, i]
            for s in range(total):
                for i in range(count):
                    mean[j, q, i] += row[s, i] * whitened[j, s, i]
                    variance[j, q, i] -= row[s, i] * row[s, i]
                for r in range(rank):
                    for i in range(count):
                        remainder[r, i] -= row[s, i] * modes[j, r, s, i]
            for r in range(rank):
                for i in range(count):
                    mean[j, q, i] += remainder[r, i] * weight[i, r]
                for p in range(rank):
                    for i in range(count):
                        variance[j, q, i] += remainder[r, i] * spread[i, r, p] * remainder[p, i]


def predict(
    factors: Factors, kernel: Kernel, candidates_nm: Array, inputs_nm: Array, query_inputs_nm: Array, query_modes: Array
) -> tuple[Array, Array]:
    """M-step: return the posterior of f at x0 + query input for every candidate (eqs 21 and 24).

    Args:
        factors: of these candidates, up to date; see `chosen`.
        kernel: of the deviation.
        candidates_nm: (K, n).
        inputs_nm: (T, n), those absorbed.
        query_inputs_nm: cumulative inputs to predict at, (Q, n).
        query_modes: day modes there, (d, r, Q, K).

    Returns:
        Mean of the deviation from the prior mean and its variance, each (d, Q, K).
    """
    shape = (len(factors.lower), len(query_inputs_nm), len(candidates_nm))
    mean, variance = np.empty(shape), np.empty(shape)
    compact = np.ascontiguousarray
    weights = tuple(map(compact, mode_posterior(factors)))
    _predict(
        kernel, compact(candidates_nm.T), compact(inputs_nm), Factors(*map(compact, factors)), weights,
        compact(query_inputs_nm), compact(query_modes), mean, variance,
    )  # fmt: skip
    return mean, np.maximum(variance, 1e-12)


def mixture(mean: Array, variance: Array, weights: Array) -> tuple[Array, Array]:
    """Mix the posterior of f over candidates (eq 22): moments (d, Q, K) and weights (K,) to moments (d, Q)."""
    average = mean @ weights
    return average, variance @ weights + (mean**2) @ weights - average**2


def evidence_lower_bound(log_likelihood: Array, log_prior: Array, probability: Array) -> float:
    """ELBO of the candidates' distribution (eq 20): expected log-likelihood minus KL to the prior, nats."""
    used = probability > 0
    kl = np.sum(probability[used] * (np.log(probability[used]) - log_prior[used]))
    return float(np.sum(probability[used] * log_likelihood[used]) - kl)
