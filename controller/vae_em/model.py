"""The model that a run starts from: the trained prior of the latent map, or parts of it as in the paper."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Literal

import numpy as np

from controller.dataset import StateMixture
from controller.vae_em import latent_map
from controller.vae_em.hyperparameters import RADIAL_KNOTS
from controller.vae_em.latent_map import LatentMap
from twin.arrays import Array
from twin.options import validated
from twin.state import StateSpace

STATES = 4096
"""Training states over which the noise variance is averaged."""


@validated
class Model:
    """What the latent observations are assumed to follow; each value that is not the default is the paper's.

    Attributes:
        likelihood: "student_t" (the day's own variance scale is unknown) or "gaussian" (eqs 16 to 23).
        design_effect: divide the log-likelihood by the design effect of a run's correlated errors.
        noise: "by_state" (variance and prior mean follow |x| and the shot noise of the frame) or "constant" (eq 8).
        offset: a deviation common to all states of a day, beside the kernel of eq 14; False adds its variance to
            that of the kernel.
        day_modes: the differences between training days that act on all latents at once; a nominal training has none.
        prior_mean: the simulated map as prior mean; False starts from a constant, with a kernel as wide as the map.
        model_estimation: learn the map during the run; False takes the prior mean as known (section III-B).
    """

    likelihood: Literal["student_t", "gaussian"] = "student_t"
    design_effect: bool = True
    noise: Literal["by_state", "constant"] = "by_state"
    offset: bool = True
    day_modes: bool = True
    prior_mean: bool = True
    model_estimation: bool = True


def chosen(prior: LatentMap, model: Model, space: StateSpace) -> LatentMap:
    """Return the trained prior with the parts that `model` asks for."""
    h = prior.hyperparameters
    if model.likelihood == "gaussian":
        h = replace(h, freedom=np.inf)
    if not model.design_effect:
        h = replace(h, correlation=0.0)
    if not model.offset:
        h = replace(h, signal_variance=h.signal_variance + h.offset_variance, offset_variance=0 * h.offset_variance)
    prior = replace(prior, hyperparameters=h)
    if model.noise == "constant":
        prior = with_constant_noise(prior, space)
    if not model.day_modes:
        prior = replace(prior, node_values=prior.node_values[:, : 2 * len(prior.axes)])
    if not model.prior_mean:
        prior = without_mean(prior)
    return prior if model.model_estimation else latent_map.known(prior)


def with_constant_noise(prior: LatentMap, space: StateSpace) -> LatentMap:
    """Give all states, frames and latent axes one noise variance, its mean over the training states (eq 8)."""
    h, d = prior.hyperparameters, len(prior.axes)
    states = StateMixture().draw(space, STATES, np.random.default_rng(0)) / prior.range_nm
    level = np.log(h.noise_variance(states, np.zeros(STATES)).mean())
    still = replace(h, log_noise=np.full((len(RADIAL_KNOTS), d), level), noise_slope=np.zeros((len(RADIAL_KNOTS), d)))
    values = prior.node_values.copy()
    values[:, d : 2 * d] = 0.0  # the prior mean's slope in the shot noise
    return replace(prior, node_values=values, hyperparameters=still)


def without_mean(prior: LatentMap) -> LatentMap:
    """Replace the prior mean by a constant, and let the kernel describe the whole map.

    Its variance is that of the map over the grid, its lengthscales are those of a process with the map's mean square
    slope: for a squared exponential kernel `E (df/dx)^2 = variance / lengthscale^2` (Rasmussen & Williams 2006, 4.1).
    """
    h, d, grid = prior.hyperparameters, len(prior.axes), prior.grid
    axes = [(np.arange(2 * count) + 0.5) / count - 1 for count in grid.nodes]
    states = np.array(list(product(*axes))) * prior.range_nm
    values = grid.evaluate(prior.node_values[:, :d], states).reshape(*map(len, axes), d)
    variance = values.reshape(-1, d).var(0)
    level = np.zeros_like(prior.node_values)
    level[:, :d] = values.reshape(-1, d).mean(0)
    kernel = replace(h, lengthscale=_lengthscales(values, axes), signal_variance=h.signal_variance + variance)
    return replace(prior, node_values=level, hyperparameters=kernel)


def _lengthscales(values: Array, axes: Sequence[Array]) -> Array:
    """Lengthscale along each axis of a grid, (n,), in its units, for values (..., d) on the grid."""
    slopes = np.gradient(values, *axes, axis=tuple(range(len(axes))))
    slopes = slopes if isinstance(slopes, (list, tuple)) else [slopes]
    steepness = np.array([(slope**2).mean() for slope in slopes])
    return np.sqrt(values.reshape(-1, values.shape[-1]).var(0).mean() / steepness)
