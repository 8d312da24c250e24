"""Kernel and noise of the latent map by marginal likelihood over simulated days (section IV-B1).

Every training day is one draw of the map f: its residual from the prior mean is a Gaussian process
whose variance *is* the reality gap. The kernels are gpytorch's; `latent_gp.py` evaluates them online.
"""

from collections.abc import Callable
from dataclasses import dataclass

import gpytorch
import numpy as np
import torch
from torch import Tensor

from twin.arrays import Array
from twin.errors import check_known

RADIAL_KNOTS = (0.0, 0.04, 0.1, 0.2, 0.4, 0.7, 1.1, 1.8)
"""Knots of the noise level in |x / range|; the corners of the state box lie at sqrt(n)."""


def _rational_quadratic(axes: int) -> gpytorch.kernels.Kernel:
    """Rational quadratic kernel with its exponent fixed at 1, `1 / (1 + r^2 / 2)`: lengths of every size."""
    kernel = gpytorch.kernels.RQKernel(ard_num_dims=axes)
    kernel.alpha = 1.0
    kernel.raw_alpha.requires_grad_(False)
    return kernel


KERNELS: dict[str, Callable[[int], gpytorch.kernels.Kernel]] = {
    "rbf": lambda n: gpytorch.kernels.RBFKernel(ard_num_dims=n),
    "matern52": lambda n: gpytorch.kernels.MaternKernel(nu=2.5, ard_num_dims=n),
    "matern32": lambda n: gpytorch.kernels.MaternKernel(nu=1.5, ard_num_dims=n),
    "rational_quadratic": _rational_quadratic,
}


class SymmetrisedKernel(gpytorch.kernels.Kernel):
    """`k(x, x') = [k0(x, x') + k0(x, -x')] / 2`: every draw is even (eq 14 for a stationary, even k0)."""

    has_lengthscale = False

    def __init__(self, base: gpytorch.kernels.Kernel) -> None:
        super().__init__()
        self.base = base

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: bool) -> Tensor:
        """Covariance between two sets of states, each scaled by their range."""
        return (self.base(x1, x2, diag=diag, **params) + self.base(x1, -x2, diag=diag, **params)) / 2


@dataclass(frozen=True)
class Hyperparameters:
    """Kernel and noise of the latent map.

    Attributes:
        kernel: name in `KERNELS`.
        lengthscale: per state axis, in units of the state's half-range, shape (n,).
        signal_variance: of the state-dependent deviation, per latent axis, shape (d,).
        offset_variance: of a deviation common to all states of a day, shape (d,).
        log_noise: log variance of the noise at `RADIAL_KNOTS`, shape (knots, d).
        noise_slope: change of `log_noise` with the log shot-noise floor, shape (knots, d).
        freedom: degrees of freedom of the day's own variance scale, common to all axes; large means Gaussian.
        correlation: intra-class correlation of a run's observations beyond the model, see `calibration.py`.
    """

    kernel: str
    lengthscale: Array
    signal_variance: Array
    offset_variance: Array
    log_noise: Array
    noise_slope: Array
    freedom: float
    correlation: float = 0.0

    def noise_variance(self, scaled_states: Array, log_floor: Array) -> Array:
        """Interpolate the noise variance to states / range (N, n) and centred log floor (N,), (N, d)."""
        weights = radial_weights(scaled_states)
        return np.exp(weights @ self.log_noise + log_floor[:, None] * (weights @ self.noise_slope))


def radial_weights(scaled_states: Array) -> Array:
    """Linear interpolation weights of |x / range| on `RADIAL_KNOTS`, (N, n) to (N, knots)."""
    knots = np.asarray(RADIAL_KNOTS)
    radius = np.clip(np.linalg.norm(scaled_states, axis=-1), 0.0, knots[-1])
    low = np.clip(np.searchsorted(knots, radius, side="right") - 1, 0, len(knots) - 2)
    fraction = (radius - knots[low]) / (knots[low + 1] - knots[low])
    weights = np.zeros((len(radius), len(knots)))
    rows = np.arange(len(radius))
    weights[rows, low] = 1 - fraction
    weights[rows, low + 1] += fraction
    return weights


def student_log_density(quadratic: Tensor, log_determinant: Tensor, count: int, freedom: Tensor) -> Tensor:
    """Log density of a multivariate t with scale matrix K: quadratic y' K^-1 y, log det K, `count` dimensions."""
    half = (freedom + count) / 2
    constant = torch.lgamma(half) - torch.lgamma(freedom / 2) - count / 2 * torch.log(np.pi * freedom)
    return constant - log_determinant / 2 - half * torch.log1p(quadratic / freedom)


def fit(
    scaled_states: Array,
    log_floor: Array,
    residuals: Array,
    kernel: str = "rbf",
    steps: int = 200,
    report: Callable[[int, float], None] | None = None,
) -> Hyperparameters:
    """Maximise the marginal likelihood of the residuals of many days.

    A day's residuals are Gaussian given the day's own scale. Integrating over the scale makes them Student's t (Shah,
    Wilson & Ghahramani, AISTATS 2014), whose degrees of freedom are fitted as well.

    Args:
        scaled_states: states / range, (days, frames, n).
        log_floor: centred log shot-noise floor, (days, frames).
        residuals: latent minus prior mean, (days, frames, d).
        kernel: name in `KERNELS`.
        steps: Adam steps.
        report: called with (step, negative log-likelihood per observation).

    Raises:
        ValueError: unknown kernel; names the nearest.
    """
    check_known(kernel, KERNELS, "a kernel")
    x = torch.from_numpy(scaled_states).double()
    y = torch.from_numpy(residuals).double().permute(2, 0, 1)
    floor = torch.from_numpy(log_floor).double()[..., None]
    latents, frames = y.shape[0], y.shape[2]
    symmetrised = SymmetrisedKernel(KERNELS[kernel](x.shape[-1])).double()
    symmetrised.base.lengthscale = 0.5
    weights = torch.from_numpy(radial_weights(scaled_states.reshape(-1, x.shape[-1]))).reshape(*x.shape[:2], -1)
    variance = y.var((1, 2))
    log_signal = (0.2 * variance).log().requires_grad_()
    log_offset = (0.2 * variance).log().requires_grad_()
    log_noise = (0.5 * variance).log().repeat(len(RADIAL_KNOTS), 1).requires_grad_()
    noise_slope = torch.zeros_like(log_noise).requires_grad_()
    log_freedom = torch.tensor(3.0, dtype=torch.float64).requires_grad_()
    learned = [*symmetrised.parameters(), log_signal, log_offset, log_noise, noise_slope, log_freedom]
    optimiser = torch.optim.Adam(learned, lr=0.05)
    for step in range(steps):
        optimiser.zero_grad()
        base = symmetrised(x).to_dense()
        noise = (weights @ log_noise + floor * (weights @ noise_slope)).exp().permute(2, 0, 1)
        covariance = log_signal.exp().view(-1, 1, 1, 1) * base + log_offset.exp().view(-1, 1, 1, 1)
        lower = torch.linalg.cholesky(covariance + torch.diag_embed(noise + 1e-8))
        white = torch.linalg.solve_triangular(lower, y[..., None], upper=False)[..., 0]
        log_determinant = 2 * torch.diagonal(lower, dim1=-2, dim2=-1).log().sum(-1)
        freedom = 2.5 + log_freedom.clamp(max=5.0).exp()
        density = student_log_density(white.square().sum((0, -1)), log_determinant.sum(0), frames * latents, freedom)
        # A weak prior for smooth noise levels that do not depend on the floor.
        penalty = 0.1 * (log_noise[1:] - log_noise[:-1]).square().sum() + 0.1 * noise_slope.square().sum()
        loss = (penalty - density.sum()) / y.numel()
        loss.backward()
        optimiser.step()
        if report is not None:
            report(step, loss.item())
    return Hyperparameters(
        kernel,
        symmetrised.base.lengthscale.detach().numpy().reshape(-1),
        log_signal.exp().detach().numpy(),
        log_offset.exp().detach().numpy(),
        log_noise.detach().numpy(),
        noise_slope.detach().numpy(),
        freedom.item(),
    )
