"""The surrogate against closed forms: it finds a known optimum, and its spread shrinks with the data."""

import numpy as np
import pytest
import torch

from controller.merit import surrogate
from twin.state import FIRST_ORDER, SECOND_ORDER

torch.set_num_threads(1)

PEAK_NM = np.array([20.0, -10.0, 15.0])


def bowl(inputs_nm: np.ndarray) -> np.ndarray:
    """A figure of merit, (N, 1), largest at `PEAK_NM`."""
    return -np.sum(((inputs_nm - PEAK_NM) / 30) ** 2, axis=1, keepdims=True)


def optimum(count: int, noise: float, seed: int = 3) -> surrogate.Optimum:
    """Of a surrogate fitted to `count` noisy values of the bowl at random inputs."""
    rng = np.random.default_rng(seed)
    inputs = rng.uniform(-1, 1, (count, 3)) * FIRST_ORDER.input
    values = bowl(inputs) + noise * rng.standard_normal((count, 1))
    with surrogate.seeded(rng):
        points = surrogate.to_unit(inputs, FIRST_ORDER)
        model = surrogate.fit(points, values, surrogate.orders(FIRST_ORDER))
        return surrogate.optimum(model, surrogate.box(FIRST_ORDER.start, FIRST_ORDER), 128)


def test_coordinates_there_and_back_and_one_scale_per_order():
    inputs = np.random.default_rng(0).uniform(-1, 1, (5, 7)) * SECOND_ORDER.input
    points = surrogate.to_unit(inputs, SECOND_ORDER)
    assert points.dtype == torch.float64
    assert np.allclose(surrogate.from_unit(points, SECOND_ORDER), inputs)
    assert surrogate.scale_nm(SECOND_ORDER).tolist() == [60.0] * 3 + [150.0] * 4
    bounds = surrogate.box(SECOND_ORDER.input, SECOND_ORDER)
    assert bounds[:, 0].tolist() == [0.0, 1.0]
    assert bounds[:, 1].tolist() == [0.25, 0.75]  # astigmatism reaches half as far as defocus
    assert bool(((points >= bounds[0]) & (points <= bounds[1])).all())


def test_the_posterior_mean_is_largest_at_a_known_peak():
    found = optimum(30, noise=0.01)
    assert np.linalg.norm(surrogate.from_unit(found.point, FIRST_ORDER) - PEAK_NM) < 1.0


def test_draws_spread_about_the_peak_and_close_in_with_less_noise():
    spread = {}
    for noise in (0.01, 0.5):
        found = optimum(30, noise)
        offsets = surrogate.from_unit(found.draws, FIRST_ORDER) - PEAK_NM
        spread[noise] = float(np.sqrt(np.mean(np.sum(offsets**2, axis=1))))
    assert spread[0.01] < 3.0
    assert 3 * spread[0.01] < spread[0.5]


def test_noise_is_estimated():
    # Standardised values: the truth is noise variance over total variance; within a factor of two for 60 points.
    rng = np.random.default_rng(5)
    inputs = rng.uniform(-1, 1, (60, 3)) * FIRST_ORDER.input
    values = bowl(inputs) + 0.4 * rng.standard_normal((60, 1))
    with surrogate.seeded(rng):
        model = surrogate.fit(surrogate.to_unit(inputs, FIRST_ORDER), values, surrogate.orders(FIRST_ORDER))
    share = model.models[0].likelihood.noise.item() * values.var() / 0.4**2
    assert 0.5 < share < 2.0


def test_lengthscales_are_one_per_order():
    rng = np.random.default_rng(6)
    inputs = rng.uniform(-1, 1, (20, 7)) * SECOND_ORDER.input
    values = np.sum((inputs[:, :3] / 20) ** 2, axis=1, keepdims=True)  # the second order does not matter
    with surrogate.seeded(rng):
        model = surrogate.fit(surrogate.to_unit(inputs, SECOND_ORDER), values, surrogate.orders(SECOND_ORDER))
    lengths = surrogate.lengthscales(model, 7)
    assert len(set(lengths[:3].tolist())) == len(set(lengths[3:].tolist())) == 1
    assert lengths[3] > lengths[0]


def test_torch_generator_is_as_it_was_and_a_seed_gives_the_same_result():
    before = torch.random.get_rng_state()
    first, second, other = optimum(8, 0.1), optimum(8, 0.1), optimum(8, 0.1, seed=4)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.draws, second.draws)
    assert torch.equal(first.point, second.point)
    assert not torch.equal(first.point, other.point)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_equal_values_do_not_divide_by_zero(count: int):
    inputs = np.random.default_rng(7).uniform(-1, 1, (count + 1, 3)) * FIRST_ORDER.input
    with surrogate.seeded(np.random.default_rng(1)):
        model = surrogate.fit(
            surrogate.to_unit(inputs, FIRST_ORDER), np.ones((count + 1, 1)), surrogate.orders(FIRST_ORDER)
        )
        found = surrogate.optimum(model, surrogate.box(FIRST_ORDER.start, FIRST_ORDER), 32)
    assert bool(torch.isfinite(found.draws).all())
