"""What a run assumes: each of the paper's choices changes what it says, and nothing else."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from controller.vae_em import model
from controller.vae_em.latent_map import LatentMap
from controller.vae_em.model import Model
from twin.arrays import Array
from twin.state import FIRST_ORDER

STATES = np.random.default_rng(0).uniform(-60, 60, (50, 3))


@pytest.fixture
def trained(make_map: Callable[..., LatentMap]) -> LatentMap:
    """Everything the paper does not have: Student's t, a design effect, noise by state and dose, an offset, a mode."""
    prior = make_map(modes=(lambda x: np.cos(x @ np.ones((3, 6)) / 50),), freedom=6.0, offset_variance=0.02)
    h = prior.hyperparameters
    noise = h.log_noise + np.arange(len(h.log_noise))[:, None]
    values = prior.node_values.copy()
    values[:, 6:12] = 0.1
    changed = replace(h, correlation=0.05, log_noise=noise, noise_slope=np.full_like(noise, 0.5))
    return replace(prior, node_values=values, hyperparameters=changed)


def chosen(trained: LatentMap, **options: Any) -> LatentMap:
    return model.chosen(trained, Model(**options), FIRST_ORDER)


def moments(prior: LatentMap, floor: float = 1.0, states_nm: Array = STATES) -> tuple[Array, Array, Array]:
    return prior.moments(states_nm, np.full(len(states_nm), floor))


def test_the_defaults_are_the_trained_prior(trained: LatentMap) -> None:
    same = chosen(trained)
    assert all(np.array_equal(a, b) for a, b in zip(moments(same), moments(trained), strict=True))
    assert same.kernel()[4:] == trained.kernel()[4:] == (6.0, 0.05)


def test_the_likelihood_becomes_that_of_eq_23(trained: LatentMap) -> None:
    kernel = chosen(trained, likelihood="gaussian", design_effect=False).kernel()
    assert np.isinf(kernel.freedom)
    assert kernel.correlation == 0.0


def test_the_offsets_variance_goes_to_the_kernel(trained: LatentMap) -> None:
    before, after = trained.kernel(), chosen(trained, offset=False).kernel()
    assert not after.offset_variance.any()
    np.testing.assert_allclose(after.signal_variance, before.signal_variance + before.offset_variance)


def test_constant_noise_is_one_number_for_all_states_axes_and_doses(trained: LatentMap) -> None:
    still = chosen(trained, noise="constant")
    mean, noise, _ = moments(still)
    other_mean, other_noise, _ = moments(still, floor=5.0)
    assert np.ptp(noise) < 1e-12 * noise.mean()
    np.testing.assert_allclose(other_noise, noise)
    np.testing.assert_allclose(other_mean, mean)
    # It lies between the smallest and the largest noise, and the trained one depends on all of them.
    varied = moments(trained)[1]
    assert varied.min() < noise.mean() < varied.max()
    assert np.abs(moments(trained, floor=5.0)[0] - moments(trained)[0]).max() > 0.1


def test_without_day_modes_the_mean_stays(trained: LatentMap) -> None:
    less = chosen(trained, day_modes=False)
    assert (trained.rank, less.rank) == (1, 0)
    np.testing.assert_array_equal(moments(less)[0], moments(trained)[0])


def test_a_known_map_has_no_deviation(trained: LatentMap) -> None:
    kernel = chosen(trained, model_estimation=False).kernel()
    assert not kernel.signal_variance.any()
    assert not kernel.offset_variance.any()


def test_without_prior_mean_the_kernel_has_the_variance_and_the_slope_of_the_map(
    make_map: Callable[..., LatentMap],
) -> None:
    # u^2 for u uniform in +-1: variance 4/45, mean square slope 4/3, so that the lengthscale is 1 / sqrt(15).
    bowl = make_map(
        features=lambda x: (x[:, :1] / FIRST_ORDER.range_nm[0]) ** 2, nodes=21, signal_variance=0.0, lengthscale=7.0
    )
    blank = model.without_mean(bowl)
    mean, _, _ = moments(blank)
    assert np.ptp(mean) < 1e-12
    h = blank.hyperparameters
    assert h.signal_variance[0] == pytest.approx(4 / 45, rel=0.1)
    assert h.lengthscale[0] == pytest.approx(15**-0.5, rel=0.1)
    assert h.lengthscale[1] > 100 * h.lengthscale[0]  # the map does not change along the other axes
