"""The simulated prior of the latent map: axes, prior mean, day modes, and what it knows of the noise."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from controller.vae_em import latent_map
from controller.vae_em.hyperparameters import RADIAL_KNOTS
from controller.vae_em.latent_gp import KERNEL_CODES
from controller.vae_em.latent_map import LatentMap
from twin.arrays import Array
from twin.state import FIRST_ORDER

MakeMap = Callable[..., LatentMap]

RANGE_NM = np.array([120.0, 60.0])


def mode_shape(x: Array) -> Array:
    """How one hidden quantity of a day changes two latents, (N, 2)."""
    return np.column_stack([np.cos(x[:, 0] / 60.0), 0.6 + 0.4 * np.cos(x[:, 1] / 30.0)])


def mean_shape(x: Array) -> Array:
    q = x / RANGE_NM
    return np.column_stack([2 * np.exp(-4 * np.sum(q**2, 1)), 3 * q[:, 0] * q[:, 1]])


def simulated(days: int, frames: int, mode_std: float, seed: int) -> tuple[Array, Array, Array, Array, Array]:
    """States, floors, encoder latents, day numbers, and each day's true mode weight."""
    rng = np.random.default_rng(seed)
    day = np.repeat(np.arange(days), frames)
    x = rng.uniform(-1, 1, (days * frames, 2)) * RANGE_NM
    floors = np.exp(rng.normal(0.5, 0.8, days))[day]
    weight = rng.standard_normal(days)
    clean = mean_shape(x) + 0.2 * np.log(floors)[:, None] + mode_std * weight[day, None] * mode_shape(x)
    noisy = clean + 0.1 * rng.standard_normal(clean.shape)
    mix = np.array([[1.0, 0.5], [-0.3, 2.0]])  # the encoder's latents are no independent axes
    return x, floors, noisy @ mix.T + [3.0, -1.0], day, weight


@pytest.fixture(scope="module")
def fitted() -> tuple[LatentMap, tuple[Array, ...]]:
    data = simulated(150, 12, 0.4, 1)
    return latent_map.fit(*data[:4], RANGE_NM, rank=1, steps=60), data


# --- evaluation ------------------------------------------------------------------------------------


def test_moments_have_the_papers_parts(make_map: MakeMap):
    prior = make_map(modes=(lambda x: np.ones((len(x), 6)), lambda x: np.full((len(x), 6), -2.0)))
    assert prior.rank == 2
    values = prior.node_values.copy()
    values[:, 6:12] = 0.7  # slope in the log floor
    log_noise = np.log(0.01 * (1 + np.asarray(RADIAL_KNOTS)))[:, None] * np.ones((1, 6))
    h = replace(prior.hyperparameters, log_noise=log_noise, noise_slope=np.full_like(log_noise, 0.5))
    prior = replace(prior, node_values=values, log_floor=0.3, hyperparameters=h)
    x = np.random.default_rng(2).uniform(-60, 60, (9, 3))
    mean, noise, modes = prior.moments(x, np.full(9, np.exp(0.3)))
    shifted, louder, _ = prior.moments(x, np.full(9, np.exp(1.3)))
    assert mean.shape == noise.shape == (6, 9)
    assert modes.shape == (6, 2, 9)
    np.testing.assert_allclose(mean.T, prior.grid.evaluate(values[:, :6], x))
    np.testing.assert_allclose(shifted - mean, 0.7)
    np.testing.assert_allclose(louder / noise, np.exp(0.5))
    np.testing.assert_allclose(noise[0], h.noise_variance(x / prior.range_nm, np.zeros(9))[:, 0])
    np.testing.assert_allclose(modes[:, 0], 1.0)
    np.testing.assert_allclose(modes[:, 1], -2.0)


def test_everything_expected_is_even(make_map: MakeMap):
    prior = make_map(modes=(lambda x: np.cos(x @ np.ones((3, 6)) / 40),))
    x, floors = np.random.default_rng(3).uniform(-120, 120, (50, 3)), np.full(50, 1.7)
    for one, other in zip(prior.moments(x, floors), prior.moments(-x, floors), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


def test_the_kernel_counts_lengths_in_nm(make_map: MakeMap):
    prior = make_map(lengthscale=0.5, kernel="matern52", signal_variance=0.3, offset_variance=0.2, freedom=9.0)
    kernel = prior.kernel()
    assert kernel.code == KERNEL_CODES["matern52"]
    np.testing.assert_allclose(1 / kernel.inverse_lengthscale, [60.0, 30.0, 30.0])
    np.testing.assert_allclose(kernel.signal_variance, 0.3)
    np.testing.assert_allclose(kernel.offset_variance, 0.2)
    assert kernel.freedom == 9.0


def test_a_known_map_keeps_its_mean_and_noise_and_nothing_else(make_map: MakeMap):
    prior = make_map(modes=(lambda x: np.ones((len(x), 6)),))
    still = latent_map.known(prior)
    assert still.rank == 0
    assert np.all(still.kernel().signal_variance == 0)
    assert np.all(still.kernel().offset_variance == 0)
    x = np.random.default_rng(4).uniform(-60, 60, (5, 3))
    for one, other in zip(still.moments(x, np.ones(5))[:2], prior.moments(x, np.ones(5))[:2], strict=True):
        np.testing.assert_array_equal(one, other)


# --- axes ------------------------------------------------------------------------------------------


def test_independent_axes_whiten_the_noise_and_decorrelate_the_days():
    rng = np.random.default_rng(5)
    days = np.repeat(np.arange(300), 10)
    mix_noise, mix_day = rng.standard_normal((3, 3)), rng.standard_normal((3, 3))
    residuals = rng.standard_normal((3000, 3)) @ mix_noise.T + (rng.standard_normal((300, 3)) @ mix_day.T)[days]
    turned = residuals @ latent_map.independent_axes(residuals, days).T
    means = turned.reshape(300, 10, 3).mean(1)
    np.testing.assert_allclose(np.cov((turned - means[days]).T), np.eye(3), atol=1e-9)
    between = np.cov(means.T)
    np.testing.assert_allclose(between, np.diag(np.diag(between)), atol=1e-9 * between.max())


def test_observe_turns_latents_onto_the_axes(make_map: MakeMap):
    axes = np.random.default_rng(6).standard_normal((6, 6))
    prior = replace(make_map(), axes=axes, origin=np.arange(6.0))
    latents = np.random.default_rng(7).standard_normal((4, 6))
    for one, latent in zip(prior.observe(latents), latents, strict=True):
        np.testing.assert_allclose(one, axes @ (latent - np.arange(6.0)))


# --- fit -------------------------------------------------------------------------------------------


def test_a_fit_explains_the_latents_down_to_their_noise(fitted: tuple[LatentMap, tuple[Array, ...]]):
    prior, (x, floors, latents, day, _) = fitted
    mean, noise, modes = prior.moments(x, floors)
    left = prior.observe(latents).T - mean
    # With the day's weight by least squares, what is left is noise of the size that the prior states.
    for axis in range(2):
        weights = np.array([modes[axis, 0, day == k] @ left[axis, day == k] for k in range(150)])
        norm = np.array([np.sum(modes[axis, 0, day == k] ** 2) for k in range(150)])
        rest = left[axis] - (weights / norm)[day] * modes[axis, 0]
        assert np.mean(rest**2 / noise[axis]) == pytest.approx(1.0, abs=0.3)


def test_a_fit_finds_the_day_mode_and_its_weights(fitted: tuple[LatentMap, tuple[Array, ...]]):
    prior, (x, floors, latents, day, weight) = fitted
    mean, noise, modes = prior.moments(x, floors)
    left = prior.observe(latents).T - mean
    found = np.empty(150)
    for k in range(150):
        phi, y, s = modes[:, 0, day == k].ravel(), left[:, day == k].ravel(), noise[:, day == k].ravel()
        found[k] = np.sum(phi * y / s) / (1 + np.sum(phi**2 / s))
    assert abs(np.corrcoef(found, weight)[0, 1]) > 0.98
    assert found.std() == pytest.approx(1.0, abs=0.1)
    # Once the mode is known, hardly any deviation is left for the kernel: noise is one on these axes.
    assert np.all(prior.hyperparameters.signal_variance < 0.5)


def test_without_modes_the_deviation_goes_to_the_kernel():
    x, floors, latents, day, _ = simulated(100, 10, 0.4, 8)
    prior = latent_map.fit(x, floors, latents, day, RANGE_NM, rank=0, steps=60)
    h = prior.hyperparameters
    assert prior.rank == 0
    assert np.max(h.signal_variance + h.offset_variance) > 3.0


def test_day_labels_need_not_be_in_order():
    x, floors, latents, day, _ = simulated(40, 6, 0.4, 9)
    order = np.random.default_rng(10).permutation(len(x))
    one = latent_map.fit(x, floors, latents, day, RANGE_NM, rank=1, steps=5)
    other = latent_map.fit(x[order], floors[order], latents[order], 3 * day[order] + 7, RANGE_NM, rank=1, steps=5)
    query, ones = np.random.default_rng(11).uniform(-1, 1, (30, 2)) * RANGE_NM, np.full(30, 1.5)
    back = [np.linalg.solve(p.axes, p.moments(query, ones)[0]).T + p.origin for p in (one, other)]
    np.testing.assert_allclose(back[0], back[1], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(one.hyperparameters.freedom, other.hyperparameters.freedom, rtol=1e-3)


def test_days_of_unequal_size_are_refused():
    x, floors, latents, day, _ = simulated(10, 4, 0.4, 12)
    with pytest.raises(ValueError, match="equally many frames; got 3 to 4"):
        latent_map.fit(x[1:], floors[1:], latents[1:], day[1:], RANGE_NM, rank=0, steps=1)


def test_there_are_at_most_as_many_day_modes_as_latents() -> None:
    rng = np.random.default_rng(5)
    states = rng.uniform(-1, 1, (80, 3)) * FIRST_ORDER.range_nm
    fitted = latent_map.fit(
        states,
        np.ones(80),
        rng.normal(size=(80, 2)),
        np.repeat(np.arange(20), 4),
        FIRST_ORDER.range_nm,
        rank=4,
        steps=2,
    )
    assert fitted.rank == 2
