"""The simulated prior of the latent map f: axes, even prior mean, noise and day-to-day kernel (section IV-B1)."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from controller.vae_em import hyperparameters
from controller.vae_em.hyperparameters import Hyperparameters
from controller.vae_em.latent_gp import KERNEL_CODES, Kernel
from controller.vae_em.prior_mean import SymmetricGrid, fit_even
from twin.arrays import Array

NODES = {1: 25, 2: 21, 3: 13}
MODE_ROUNDS = 5
FLOOR_REACH = 2.5
"""Half-range of the log floor over the training days; frames beyond are clipped to it."""


@dataclass(frozen=True)
class LatentMap:
    """Prior of z = f(x) + e with independent latent axes.

    Attributes:
        axes: map from the encoder's latents to independent axes, `z = axes @ (latent - origin)`, (d, n_z).
        origin: shape (n_z,).
        grid: nodes of the prior mean.
        node_values: at the nodes, in groups of d columns: prior mean, its slope in the centred log floor,
            and the r day modes, (nodes, (2 + r) d).
        log_floor: mean log shot-noise floor of the training frames, the origin of the centred log floor.
        range_nm: half-range of the state, shape (n,).
        hyperparameters: kernel and noise.
    """

    axes: Array
    origin: Array
    grid: SymmetricGrid
    node_values: Array
    log_floor: float
    range_nm: Array
    hyperparameters: Hyperparameters

    def observe(self, latents: Array) -> Array:
        """Map encoder means (N, n_z) to independent axes (N, d)."""
        return (latents - self.origin) @ self.axes.T

    @property
    def rank(self) -> int:
        """Number of day modes, r."""
        return self.node_values.shape[1] // len(self.axes) - 2

    def moments(self, states_nm: Array, floors: Array) -> tuple[Array, Array, Array]:
        """Return the prior's moments at states (N, n) and shot-noise floors (N,).

        Returns:
            Prior mean m(x) (eq 18), (d, N); noise variance, (d, N); day modes, (d, r, N).
        """
        covariate = np.clip(np.log(floors) - self.log_floor, -FLOOR_REACH, FLOOR_REACH)
        values = self.grid.evaluate(self.node_values, states_nm).T.reshape(2 + self.rank, len(self.axes), -1)
        noise = self.hyperparameters.noise_variance(states_nm / self.range_nm, covariate)
        return values[0] + covariate * values[1], noise.T, np.ascontiguousarray(values[2:].swapaxes(0, 1))

    def kernel(self) -> Kernel:
        """Return the kernel of the deviation that the day modes do not explain."""
        h = self.hyperparameters
        return Kernel(
            KERNEL_CODES[h.kernel],
            1.0 / (h.lengthscale * self.range_nm),
            h.signal_variance,
            h.offset_variance,
            h.freedom,
            h.correlation,
        )


def independent_axes(residuals: Array, days: NDArray[np.int64]) -> Array:
    """Linear map after which noise is white and day-to-day offsets are uncorrelated, (d, d).

    Noise is the scatter about each day's mean residual, the offset is the scatter of these means: one generalised
    eigenproblem diagonalises both.

    Args:
        residuals: latents minus prior mean, (N, d).
        days: day of each, (N,).
    """
    labels, inverse, counts = np.unique(days, return_inverse=True, return_counts=True)
    means = np.zeros((len(labels), residuals.shape[1]))
    np.add.at(means, inverse, residuals)
    means /= counts[:, None]
    within = np.cov((residuals - means[inverse]).T)
    between = np.cov(means.T)
    white = np.linalg.inv(np.linalg.cholesky(np.atleast_2d(within)))
    _, vectors = np.linalg.eigh(white @ np.atleast_2d(between) @ white.T)
    return vectors.T @ white


def _day_weights(residual: Array, modes: Array, days: NDArray[np.int64], noise_variance: Array) -> Array:
    """Posterior mean weights of the modes on each day, with a standard normal prior, (days, r).

    Args:
        residual: (N, d).
        modes: mode functions at the frames, (r, N, d).
        days: consecutive labels from 0, (N,).
        noise_variance: of the residual about the modes, (d,).
    """
    rank, count = len(modes), int(days.max()) + 1
    normal, right = np.zeros((count, rank, rank)), np.zeros((count, rank))
    scaled = modes / noise_variance
    np.add.at(normal, days, np.einsum("rnd,qnd->nrq", scaled, modes))
    np.add.at(right, days, np.einsum("rnd,nd->nr", scaled, residual))
    return np.linalg.solve(normal + np.eye(rank), right[:, :, None])[:, :, 0]


def _first_weights(residual: Array, days: NDArray[np.int64], rank: int) -> Array:
    """Principal components of the days' mean residuals, unit variance, (days, rank)."""
    means = np.zeros((int(days.max()) + 1, residual.shape[1]))
    np.add.at(means, days, residual)
    means /= np.bincount(days)[:, None]
    left, _, _ = np.linalg.svd(means - means.mean(0), full_matrices=False)
    return left[:, :rank] * math.sqrt(len(means))


def fit_modes(
    grid: SymmetricGrid, states_nm: Array, covariate: Array, values: Array, days: NDArray[np.int64], rank: int
) -> tuple[Array, Array]:
    """Prior mean, floor slope and `rank` day modes by alternating least squares.

    f_day(x) = a(x) + c b(x) + sum_r w_r(day) phi_r(x), all even, w standard normal. The modes phi_r describe the
    differences between days that act on all latents at once, such as thickness, focal spread and source size.

    Args:
        grid: nodes.
        states_nm: (N, n).
        covariate: centred log floor, (N,).
        values: latents on independent axes, (N, d).
        days: consecutive labels from 0, (N,).
        rank: number of modes; may be zero.

    Returns:
        Node values (nodes, (2 + rank) d) and residuals of the values, (N, d).
    """
    covariates = covariate[:, None]
    nodes = fit_even(grid, states_nm, values, covariates)

    def parts(nodes: Array) -> Array:
        return grid.evaluate(nodes, states_nm).reshape(len(values), -1, values.shape[1]).transpose(1, 0, 2)

    def residual(nodes: Array, covariates: Array) -> Array:
        level, *slopes = parts(nodes)
        return values - level - sum(c[:, None] * s for c, s in zip(covariates.T, slopes, strict=True))

    if rank == 0:
        return nodes, residual(nodes, covariates)
    weights = _first_weights(residual(nodes, covariates), days, rank)
    nodes = np.concatenate([nodes, np.zeros((grid.size, rank * values.shape[1]))], axis=1)
    for _ in range(MODE_ROUNDS):
        covariates = np.column_stack([covariate, weights[days]])
        nodes = fit_even(grid, states_nm, values, covariates, guess=nodes)
        level, slope, *modes = parts(nodes)
        variance = residual(nodes, covariates).var(0)
        weights = _day_weights(values - level - covariate[:, None] * slope, np.stack(modes), days, variance)
        weights = (weights - weights.mean(0)) / weights.std(0)
    covariates = np.column_stack([covariate, weights[days]])
    nodes = fit_even(grid, states_nm, values, covariates, guess=nodes)
    return nodes, residual(nodes, covariates)


def fit(
    states_nm: Array,
    floors: Array,
    latents: Array,
    days: NDArray[np.int64],
    range_nm: Array,
    rank: int = 3,
    kernel: str = "rbf",
    steps: int = 200,
    report: Callable[[int, float], None] | None = None,
) -> LatentMap:
    """Fit prior mean and day modes by even least squares, then hyperparameters by marginal likelihood over days.

    Args:
        states_nm: (N, n).
        floors: shot-noise floor of each frame, (N,).
        latents: encoder means, (N, n_z).
        days: (N,), every day with equally many frames.
        range_nm: half-range of the states, (n,).
        rank: number of day modes, at most n_z; zero if all days have the same conditions.
        kernel: name in `hyperparameters.KERNELS`.
        steps: optimiser steps.
        report: progress, called with (step, loss).

    Raises:
        ValueError: days of unequal size, or an unknown kernel.
    """
    _, days, counts = np.unique(days, return_inverse=True, return_counts=True)
    if len(set(counts)) != 1:
        raise ValueError(f"every day needs equally many frames; got {counts.min()} to {counts.max()}")
    grid = SymmetricGrid(tuple(float(r) for r in range_nm), (NODES.get(len(range_nm), 5),) * len(range_nm))
    origin, log_floor = latents.mean(0), float(np.log(floors).mean())
    covariate = np.log(floors) - log_floor
    axes = np.eye(latents.shape[1])
    rank = min(rank, len(axes))
    for _ in range(2):  # first to find the axes, then on them
        values = (latents - origin) @ axes.T
        nodes, residual = fit_modes(grid, states_nm, covariate, values, days, rank)
        turn = independent_axes(residual, days)
        axes = turn @ axes
    residual = residual @ turn.T
    nodes = (nodes.reshape(grid.size, -1, len(axes)) @ turn.T).reshape(grid.size, -1)
    order = np.argsort(days, kind="stable")
    shape = (len(counts), counts[0])
    fitted = hyperparameters.fit(
        (states_nm / range_nm)[order].reshape(*shape, -1),
        covariate[order].reshape(shape),
        residual[order].reshape(*shape, -1),
        kernel,
        steps,
        report,
    )
    return LatentMap(axes, origin, grid, nodes, log_floor, np.asarray(range_nm, float), fitted)


def widened(
    prior: LatentMap,
    states_nm: Array,
    floors: Array,
    latents: Array,
    days: NDArray[np.int64],
    steps: int = 200,
    report: Callable[[int, float], None] | None = None,
) -> LatentMap:
    """Refit the kernel of a prior to frames of other days; its mean and noise stay.

    A map trained on days of the same conditions needs a kernel (section IV-B1) as wide as the deviation of other days.

    Args:
        prior: trained on days of the same conditions, without modes.
        states_nm, floors, latents, days: frames of other days, as in `fit`.
        steps, report: as in `fit`.
    """
    h = prior.hyperparameters
    shape = (len(np.unique(days)), -1)
    covariate = np.clip(np.log(floors) - prior.log_floor, -FLOOR_REACH, FLOOR_REACH)
    residual = prior.observe(latents) - prior.moments(states_nm, floors)[0].T
    order = np.argsort(days, kind="stable")
    wide = hyperparameters.fit(
        (states_nm / prior.range_nm)[order].reshape(*shape, states_nm.shape[1]),
        covariate[order].reshape(shape),
        residual[order].reshape(*shape, residual.shape[1]),
        h.kernel,
        steps,
        report,
    )
    kernel = {name: getattr(wide, name) for name in ("lengthscale", "signal_variance", "offset_variance")}
    return replace(prior, hyperparameters=replace(h, **kernel))


def known(prior: LatentMap) -> LatentMap:
    """Take the prior mean as the true map: no deviation, no day modes (the paper's case of a known map)."""
    h, d = prior.hyperparameters, len(prior.axes)
    still = replace(h, signal_variance=np.zeros(d), offset_variance=np.zeros(d))
    return replace(prior, node_values=prior.node_values[:, : 2 * d], hyperparameters=still)
