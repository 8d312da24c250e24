"""Gaussian-process surrogate of noisy figures of merit over the input box, and the posterior of its optimum.

Modelling and acquisition are botorch's (Balandat et al. 2020). All strategies share: inputs in the unit cube,
standardised outputs, estimated noise, random numbers from the caller's generator.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from botorch.acquisition.acquisition import AcquisitionFunction
from botorch.acquisition.analytic import PosteriorMean
from botorch.acquisition.objective import ScalarizedPosteriorTransform
from botorch.exceptions.warnings import BotorchWarning
from botorch.models.gp_regression import SingleTaskGP
from botorch.models.model_list_gp_regression import ModelListGP
from botorch.optim.fit import fit_gpytorch_mll_scipy
from botorch.optim.optimize import optimize_acqf
from gpytorch.constraints import GreaterThan
from gpytorch.kernels import Kernel, ProductKernel, RBFKernel, ScaleKernel
from gpytorch.mlls import ExactMarginalLogLikelihood
from gpytorch.priors import GammaPrior, LogNormalPrior
from linear_operator.utils.warnings import NumericalWarning
from numpy.typing import NDArray
from torch import Tensor

from twin.aberrations import TERMS, index
from twin.arrays import Array
from twin.state import StateSpace

FIT_ITERATIONS = 60
"""Iterations of L-BFGS over lengthscales, noise and mean; more change the posterior by nothing visible."""
SHORTEST = 0.025
"""Lower bound of the lengthscales, as a fraction of the unit cube; botorch's."""
RESTARTS, RAW_SAMPLES, ASCENT_ITERATIONS = 4, 128, 40
"""Multi-start ascent of an acquisition: starts, Sobol points from which they are chosen, L-BFGS iterations."""
CANDIDATES = 128
"""Points of each kind in the candidate set on which the distribution of the optimum is drawn."""


@contextmanager
def seeded(rng: np.random.Generator) -> Iterator[None]:
    """Seed torch's global generator from `rng` inside the block, and restore it afterwards.

    botorch draws from the global generator. Its warnings (few points, hard fits) are suppressed.
    """
    seed = int(rng.integers(2**31))
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", BotorchWarning)
        warnings.simplefilter("ignore", NumericalWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        torch.manual_seed(seed)
        yield


def orders(space: StateSpace) -> NDArray[np.integer]:
    """Radial order of each coefficient, (n,)."""
    return np.array([TERMS[index(name)].n for name in space.names])


def scale_nm(space: StateSpace) -> Array:
    """Half a unit of the surrogate's coordinates in nm, (n,): the widest input of the same radial order.

    One scale per order, because a nanometre of defocus and one of astigmatism bend the phase equally. They share a
    lengthscale, and a surrogate that learns one lengthscale instead of three from a few frames is much sharper.
    """
    order, reach = orders(space), space.input
    return np.array([reach[order == n].max() for n in order])


def to_unit(inputs_nm: Array, space: StateSpace) -> Tensor:
    """Convert cumulative inputs (..., n), nm, to the surrogate's coordinates: the input box lies in the unit cube."""
    return torch.from_numpy(0.5 + np.asarray(inputs_nm) / (2 * scale_nm(space)))


def from_unit(points: Tensor, space: StateSpace) -> Array:
    """Convert points (..., n) of the surrogate's coordinates to cumulative inputs, nm."""
    return cast(Array, (2 * points.detach().numpy() - 1) * scale_nm(space))


def box(half_nm: Array, space: StateSpace) -> Tensor:
    """Return the inputs within +-half_nm (n,) as bounds (2, n)."""
    return to_unit(np.stack([-half_nm, half_nm]), space)


def sobol(count: int, bounds: Tensor) -> Tensor:
    """Draw scrambled Sobol points in a box (2, n), shape (count, n); call within `seeded`."""
    seed = int(torch.randint(2**31, ()).item())
    engine = torch.quasirandom.SobolEngine(bounds.shape[1], scramble=True, seed=seed)
    return bounds[0] + (bounds[1] - bounds[0]) * engine.draw(count, dtype=bounds.dtype)


def kernel(order: NDArray[np.integer]) -> Kernel:
    """Squared exponential with an amplitude and one lengthscale per radial order, from the coordinates' orders (n,).

    Lengthscale prior: log-normal, scaled with the dimension (Hvarfner et al. 2024), botorch's default. The amplitude is
    free, with botorch's former wide prior, so that long lengthscales can model the bowl shape of a figure of merit:
    with unit amplitude the optimum of an almost noiseless bowl was 2 nm off.
    """
    prior = LogNormalPrior(math.sqrt(2) + math.log(len(order)) / 2, math.sqrt(3))
    parts = [
        RBFKernel(
            active_dims=tuple(int(i) for i in np.flatnonzero(order == n)),
            lengthscale_prior=prior,
            lengthscale_constraint=GreaterThan(SHORTEST, transform=None, initial_value=prior.mode),
        )
        for n in np.unique(order)
    ]
    product = parts[0] if len(parts) == 1 else ProductKernel(*parts)
    return ScaleKernel(product, outputscale_prior=GammaPrior(2.0, 0.15))


def fit(points: Tensor, values: Array, order: NDArray[np.integer]) -> ModelListGP:
    """Fit a surrogate to values (N, m), larger is better, at points (N, n) with the radial orders `order`; N >= 2.

    One Gaussian process per standardised column, with constant mean and estimated noise variance.
    """
    spread = values.std(0)
    standard = (values - values.mean(0)) / np.where(spread > 0, spread, 1.0)
    models = []
    for column in standard.T:
        model = SingleTaskGP(
            points, torch.from_numpy(column)[:, None], covar_module=kernel(order), outcome_transform=None
        )
        likelihood = ExactMarginalLogLikelihood(model.likelihood, model)
        fit_gpytorch_mll_scipy(likelihood, options={"maxiter": FIT_ITERATIONS})
        models.append(model.eval())
    return ModelListGP(*models)


def lengthscales(model: ModelListGP, dimension: int) -> Tensor:
    """Lengthscale of the first output along each coordinate, (dimension,)."""
    whole = cast(Any, model.models[0].covar_module).base_kernel
    scales = torch.ones(dimension).double()
    for part in whole.kernels if isinstance(whole, ProductKernel) else [whole]:
        scales[part.active_dims] = part.lengthscale.detach().flatten()
    return scales


def scalarised(model: ModelListGP) -> ScalarizedPosteriorTransform:
    """Average all standardised outputs with equal weight."""
    return ScalarizedPosteriorTransform(torch.full((model.num_outputs,), 1.0 / model.num_outputs).double())


def best_mean(model: ModelListGP, points: Tensor) -> tuple[Tensor, float]:
    """Return the observed point (n,) of highest posterior mean, and that mean: the incumbent under noise."""
    with torch.no_grad():
        means = model.posterior(points, posterior_transform=scalarised(model)).mean.squeeze(-1)
    best = int(means.argmax())
    return points[best], float(means[best])


def ascend(acquisition: AcquisitionFunction, bounds: Tensor) -> Tensor:
    """Maximise an acquisition in a box (2, n) by multi-start L-BFGS; return (n,); call within `seeded`."""
    point, _ = optimize_acqf(
        acquisition,
        bounds,
        q=1,
        num_restarts=RESTARTS,
        raw_samples=RAW_SAMPLES,
        options={"maxiter": ASCENT_ITERATIONS},
        retry_on_optimization_warning=False,
    )
    return point[0].detach()


@dataclass(frozen=True)
class Optimum:
    """Posterior of the maximiser, in the unit cube.

    Attributes:
        point: argmax of the posterior mean, (n,).
        draws: argmax of posterior draws, (count, n).
    """

    point: Tensor
    draws: Tensor


def optimum(model: ModelListGP, bounds: Tensor, draws: int) -> Optimum:
    """Draw the posterior of the maximiser in a box (2, n); call within `seeded`.

    Joint posterior draws on a finite set are maximised twice: on Sobol points of the box, then also on a cloud of
    points with the spread of the first maximisers, because the Sobol points are too sparse near the optimum.
    """
    point = ascend(PosteriorMean(model, scalarised(model)), bounds)
    cover = sobol(CANDIDATES, bounds)
    wide = torch.cat([cover, _cloud(point, 0.1 * torch.eye(len(point)).double(), bounds), point[None]])
    first = argmax_draws(model, wide, draws)
    spread = torch.linalg.cholesky(_second_moment(first - point) + 1e-6 * torch.eye(len(point)).double())
    local = torch.cat([cover, first, _cloud(point, spread, bounds), point[None]])
    return Optimum(point, argmax_draws(model, local, draws))


def _second_moment(offsets: Tensor) -> Tensor:
    return offsets.mT @ offsets / len(offsets)


def _cloud(centre: Tensor, spread: Tensor, bounds: Tensor) -> Tensor:
    """Draw normal points about a centre (n,) at half and full `spread` (a Cholesky factor), clipped to the box."""
    noise = torch.randn(CANDIDATES, len(centre), dtype=torch.float64)
    noise[::2] *= 0.5
    return torch.clamp(centre + noise @ spread.mT, bounds[0], bounds[1])


def argmax_draws(model: ModelListGP, candidates: Tensor, count: int) -> Tensor:
    """Return the maximisers among candidates (M, n) of `count` joint posterior draws, (count, n)."""
    with torch.no_grad():
        posterior = model.posterior(candidates, posterior_transform=scalarised(model))
        mean, covariance = posterior.mean.squeeze(-1), posterior.mvn.covariance_matrix
        # Draw through the eigenvectors: the Cholesky factor fails for nearly coincident candidates.
        power, vectors = torch.linalg.eigh(covariance)
        noise = torch.randn(count, len(power), dtype=torch.float64)
        values = mean + (noise * power.clamp(min=0).sqrt()) @ vectors.mT
    return candidates[values.argmax(-1)]
