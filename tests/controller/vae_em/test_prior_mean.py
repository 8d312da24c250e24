"""Even piecewise-linear functions on a symmetric grid."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from controller.vae_em.prior_mean import SymmetricGrid, fit_even

GRIDS = (
    SymmetricGrid((120.0,), (25,)),
    SymmetricGrid((120.0, 60.0), (7, 11)),
    SymmetricGrid((120.0, 60.0, 60.0), (7, 5, 9)),
)


def states_in(grid: SymmetricGrid, count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, len(grid.nodes))) * grid.range_nm


def nodes_of(grid: SymmetricGrid) -> np.ndarray:
    """Node indices of every node, (size, n), last axis fastest."""
    return np.stack(np.meshgrid(*(np.arange(k) for k in grid.nodes), indexing="ij"), -1).reshape(grid.size, -1)


@pytest.mark.parametrize("grid", GRIDS)
def test_positions_are_monotonic_centred_and_reach_both_ends(grid: SymmetricGrid):
    half = (np.asarray(grid.nodes) - 1) / 2
    ends = np.asarray(grid.range_nm)
    np.testing.assert_allclose(grid.position(np.stack([-ends, 0 * ends, ends])), [0 * half, half, 2 * half], atol=1e-12)
    line = np.linspace(-1, 1, 101)[:, None] * ends
    assert np.all(np.diff(grid.position(line), axis=0) > 0)
    np.testing.assert_allclose(grid.position(line) + grid.position(-line), np.broadcast_to(2 * half, line.shape))


def test_cells_are_finer_near_the_null_by_the_crowding():
    grid = SymmetricGrid((100.0,), (2001,), crowding=8.0)
    line = np.array([[0.0], [0.05], [99.95], [100.0]])
    cells_per_nm = np.diff(grid.position(line), axis=0)[[0, 2], 0]
    assert cells_per_nm[0] / cells_per_nm[1] == pytest.approx(8.0, rel=0.01)


@pytest.mark.parametrize("grid", GRIDS)
def test_multilinear_functions_of_the_position_are_exact(grid: SymmetricGrid):
    rng = np.random.default_rng(1)
    axes = len(grid.nodes)
    slopes, product = rng.standard_normal((axes, 2)), rng.standard_normal(2)

    def function(position: np.ndarray) -> np.ndarray:
        return 0.7 + position @ slopes + np.prod(position, axis=1)[:, None] * product

    states = states_in(grid, 300, 2)
    np.testing.assert_allclose(
        grid.evaluate(function(nodes_of(grid).astype(float)), states),
        function(grid.position(states)),
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize("grid", GRIDS)
def test_weights_are_shares_of_the_cell_around_the_state(grid: SymmetricGrid):
    states = states_in(grid, 200, 3)
    numbers, shares = grid.weights(states)
    assert np.all(shares >= 0)
    np.testing.assert_allclose(shares.sum(1), 1.0)
    # The mean node index, weighed, is the position.
    centre = np.einsum("nk,nka->na", shares, nodes_of(grid)[numbers])
    np.testing.assert_allclose(centre, grid.position(states), atol=1e-9)


@pytest.mark.parametrize("grid", GRIDS)
def test_evaluate_equals_the_design_matrix_on_even_values(grid: SymmetricGrid):
    values = np.random.default_rng(4).standard_normal((grid.size, 3))
    even = (values + values[::-1]) / 2
    states = states_in(grid, 200, 5)
    np.testing.assert_allclose(grid.evaluate(even, states), grid.design(states) @ even, atol=1e-12)
    # The design averages over both signs, so that it sees any values as even.
    np.testing.assert_allclose(grid.design(states) @ values, grid.design(states) @ even, atol=1e-12)


@pytest.mark.parametrize("grid", GRIDS)
def test_outside_the_range_the_edge_counts(grid: SymmetricGrid):
    values = np.random.default_rng(6).standard_normal((grid.size, 2))
    edge = np.asarray(grid.range_nm) * np.where(np.arange(len(grid.nodes)) % 2, 1.0, -1.0)
    np.testing.assert_array_equal(grid.evaluate(values, 3.0 * edge), grid.evaluate(values, edge))


@pytest.mark.parametrize("grid", GRIDS)
def test_roughness_is_blind_to_straight_lines_and_sees_curvature(grid: SymmetricGrid):
    index = nodes_of(grid).astype(float)
    assert np.abs(grid.roughness() @ (index @ np.arange(1.0, index.shape[1] + 1))).max() < 1e-9
    bent = grid.roughness() @ (index**2).sum(1)
    np.testing.assert_allclose(bent, 2.0)
    assert len(bent) == sum(grid.size // k * (k - 2) for k in grid.nodes)


@pytest.mark.parametrize("nodes", [(4,), (1,), (5, 6)])
def test_even_or_too_few_nodes_are_refused(nodes: tuple[int, ...]):
    with pytest.raises(ValueError, match="odd number of nodes"):
        SymmetricGrid((1.0,) * len(nodes), nodes)


# --- fitting ---------------------------------------------------------------------------------------


def even_function(states: np.ndarray) -> np.ndarray:
    q = states / np.array([40.0, 25.0])
    return np.column_stack([np.exp(-0.5 * np.sum(q**2, 1)), np.tanh(q[:, 0] * q[:, 1] / 4)])


def fitted(noise: float = 0.0, odd: float = 0.0) -> tuple[SymmetricGrid, np.ndarray, np.ndarray]:
    """A fit to `even_function + covariate * 0.4 cos`, with noise and an odd part."""
    grid = SymmetricGrid((120.0, 60.0), (21, 21))
    rng = np.random.default_rng(7)
    states = states_in(grid, 6000, 8)
    covariate = rng.uniform(-1, 1, 6000)
    covariate -= covariate.mean()
    values = even_function(states) + covariate[:, None] * slope_function(states)
    values = values + odd * states[:, :1] / 120.0 + noise * rng.standard_normal(values.shape)
    level, slope = np.split(fit_even(grid, states, values, covariate[:, None], smoothing=0.01), 2, axis=1)
    return grid, level, slope


def slope_function(states: np.ndarray) -> np.ndarray:
    return 0.4 * np.cos(states[:, :1] / 60.0) * np.array([1.0, -0.5])


def test_an_even_function_and_its_slope_in_the_covariate_are_recovered():
    # On 21 sinh-spaced nodes an axis, linear interpolation misses these curves by about a hundredth.
    grid, level, slope = fitted()
    states = states_in(grid, 1000, 9)
    assert np.sqrt(np.mean((grid.evaluate(level, states) - even_function(states)) ** 2)) < 0.012
    assert np.sqrt(np.mean((grid.evaluate(slope, states) - slope_function(states)) ** 2)) < 0.03


def test_noise_and_an_odd_part_average_out():
    # 6000 frames for some 220 free nodes: noise of 0.3 comes down to about 0.06.
    grid, level, _ = fitted(noise=0.3, odd=0.3)
    states = states_in(grid, 1000, 10)
    assert np.sqrt(np.mean((grid.evaluate(level, states) - even_function(states)) ** 2)) < 0.09


def test_each_covariate_finds_its_own_slope():
    grid = SymmetricGrid((120.0, 60.0), (9, 9))
    rng = np.random.default_rng(11)
    states, covariates = states_in(grid, 3000, 12), rng.standard_normal((3000, 3))
    values = 1.0 + covariates @ np.array([[0.5, 0.0], [0.0, -0.8], [0.3, 0.3]])
    parts = fit_even(grid, states, values, covariates).reshape(grid.size, 4, 2)
    np.testing.assert_allclose(parts[:, 0], 1.0, atol=0.02)
    for slope, expected in zip(parts[:, 1:].swapaxes(0, 1), [[0.5, 0.0], [0.0, -0.8], [0.3, 0.3]], strict=True):
        np.testing.assert_allclose(np.median(slope, axis=0), expected, atol=0.03)


def test_the_fit_minimises_its_penalised_squares():
    # The gradient of the objective vanishes at the solution; even parts only, for the rest is averaged away.
    grid = SymmetricGrid((120.0, 60.0), (5, 7))
    rng = np.random.default_rng(13)
    states, covariate = states_in(grid, 400, 14), rng.standard_normal((400, 1))
    values = rng.standard_normal((400, 1))
    nodes = fit_even(grid, states, values, covariate, smoothing=0.3)
    design, rough = grid.design(states).toarray(), grid.roughness().toarray()

    def objective(nodes: np.ndarray) -> float:
        level, slope = nodes.T
        left = values[:, 0] - design @ level - covariate[:, 0] * (design @ slope)
        curved = sum(np.sum((rough @ part) ** 2) for part in (level, slope))
        return float(np.sum(left**2) + 0.3 * curved + 1e-6 * np.sum(level**2) + 0.1 * np.sum(slope**2))

    best = objective(nodes)
    for _ in range(20):
        step = rng.standard_normal(nodes.shape)
        assert objective(nodes + 1e-2 * (step + step[::-1])) > best


# Latents are of order one: nothing is nearer to zero than a millionth of that, where squares would underflow.
LATENT = st.floats(-10, 10).map(lambda value: round(value, 6))


@settings(max_examples=60, deadline=None)
@given(
    values=arrays(np.float64, (40, 2), elements=LATENT),
    covariates=arrays(np.float64, (40, 2), elements=st.floats(-2, 2)),
    seed=st.integers(0, 2**31),
)
def test_a_fit_is_exactly_even_whatever_the_data(values: np.ndarray, covariates: np.ndarray, seed: int):
    grid = SymmetricGrid((120.0, 60.0), (5, 7))
    nodes = fit_even(grid, states_in(grid, 40, seed), values, covariates)
    assert nodes.shape == (grid.size, 3 * 2)
    np.testing.assert_array_equal(nodes, nodes[::-1])
    queries = states_in(grid, 50, seed + 1)
    tolerance = 1e-10 * (1 + abs(nodes).max())
    np.testing.assert_allclose(grid.evaluate(nodes, -queries), grid.evaluate(nodes, queries), atol=tolerance)
