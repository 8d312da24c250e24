"""Even piecewise-linear functions of the state: the prior mean of the latent map and its noise (section V-A).

One value per node of a grid that is finer near the null, multilinear between nodes, equal at x and -x.
"""

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import cg

from twin.arrays import Array


@dataclass(frozen=True)
class SymmetricGrid:
    """Grid of nodes, per axis `sinh`-spaced in +-range and symmetric about zero.

    Attributes:
        range_nm: half-range per axis, shape (n,).
        nodes: odd number of nodes per axis, shape (n,).
        crowding: approximate ratio of the outermost to the innermost cell.
    """

    range_nm: tuple[float, ...]
    nodes: tuple[int, ...]
    crowding: float = 8.0

    def __post_init__(self) -> None:
        if any(count % 2 == 0 or count < 3 for count in self.nodes):
            raise ValueError(f"a symmetric grid needs an odd number of nodes per axis, at least 3; got {self.nodes}")

    @property
    def size(self) -> int:
        """Total number of nodes."""
        return int(np.prod(self.nodes))

    def position(self, states_nm: Array) -> Array:
        """Fractional node index per axis, clipped to the grid, (N, n) to (N, n)."""
        stretch = np.arccosh(self.crowding)
        scaled = np.clip(states_nm / np.asarray(self.range_nm), -1.0, 1.0)
        half = (np.asarray(self.nodes) - 1) / 2
        return half * (1.0 + np.arcsinh(scaled * np.sinh(stretch)) / stretch)

    def weights(self, states_nm: Array) -> tuple[NDArray[np.int64], Array]:
        """Multilinear interpolation: node numbers and weights, each (N, 2^n)."""
        position = self.position(np.atleast_2d(states_nm))
        low = np.minimum(position.astype(np.int64), np.asarray(self.nodes) - 2)
        fraction = position - low
        count, axes = position.shape
        numbers = np.zeros((count, 1), np.int64)
        weights = np.ones((count, 1))
        for axis in range(axes):
            step = np.stack([low[:, axis], low[:, axis] + 1], 1)
            linear = np.stack([1 - fraction[:, axis], fraction[:, axis]], 1)
            numbers = (numbers[:, :, None] * self.nodes[axis] + step[:, None, :]).reshape(count, -1)
            weights = (weights[:, :, None] * linear[:, None, :]).reshape(count, -1)
        return numbers, weights

    def evaluate(self, values: Array, states_nm: Array) -> Array:
        """Interpolate node values (size, d) to states (N, n), (N, d).

        The function is even if the node values are, as from `fit_even`: node k and its mirror image agree.
        """
        out: Array = _interpolate(self.position(np.atleast_2d(states_nm)), np.asarray(self.nodes), values)
        return out

    def design(self, states_nm: Array) -> sparse.csr_matrix:
        """Sparse matrix (N, size) of interpolation weights, averaged over x and -x."""
        numbers, weights = self.weights(states_nm)
        rows = np.repeat(np.arange(len(numbers)), numbers.shape[1])
        columns = np.concatenate([numbers.ravel(), (self.size - 1 - numbers).ravel()])
        values = np.concatenate([weights.ravel(), weights.ravel()]) / 2
        return sparse.csr_matrix((values, (np.tile(rows, 2), columns)), shape=(len(numbers), self.size))

    def roughness(self) -> sparse.csr_matrix:
        """Second differences along every axis, stacked, (rows, size)."""
        parts = []
        for axis, count in enumerate(self.nodes):
            second = sparse.diags([1.0, -2.0, 1.0], [0, 1, 2], shape=(count - 2, count))
            before = sparse.identity(int(np.prod(self.nodes[:axis], dtype=int)))
            after = sparse.identity(int(np.prod(self.nodes[axis + 1 :], dtype=int)))
            parts.append(sparse.kron(sparse.kron(before, second), after))
        return sparse.vstack(parts).tocsr()


@numba.njit(cache=True)
def _interpolate(position, nodes, values):  # type: ignore[no-untyped-def]
    """Multilinear interpolation of node values (size, d) at fractional indices (N, n)."""
    count, axes = position.shape
    latents = values.shape[1]
    out = np.zeros((count, latents))
    low = np.empty(axes, np.int64)
    fraction = np.empty(axes)
    for i in range(count):
        for a in range(axes):
            low[a] = min(int(position[i, a]), nodes[a] - 2)
            fraction[a] = position[i, a] - low[a]
        for corner in range(1 << axes):
            node, weight = 0, 1.0
            for a in range(axes):
                up = (corner >> a) & 1
                node = node * nodes[a] + low[a] + up
                weight *= fraction[a] if up else 1.0 - fraction[a]
            for j in range(latents):
                out[i, j] += weight * values[node, j]
    return out


def fit_even(
    grid: SymmetricGrid,
    states_nm: Array,
    values: Array,
    covariates: Array,
    smoothing: float = 0.3,
    guess: Array | None = None,
) -> Array:
    """Fit the even functions `a` and `b_c` of `a(x) + sum_c covariate_c b_c(x)` to samples; return their node values.

    Least squares with a penalty on second differences and on the size of the `b_c`; exactly even: nodes at x and -x
    agree.

    Args:
        grid: nodes.
        states_nm: (N, n).
        values: (N, d).
        covariates: centred, (N, C).
        smoothing: weight of the second differences.
        guess: initial node values, as returned.

    Returns:
        (size, (1 + C) d): a, then b_1 to b_C.
    """
    design = grid.design(states_nm)
    both = sparse.hstack([design, *(sparse.diags(c) @ design for c in covariates.T)]).tocsr()
    rough = smoothing * grid.roughness().T @ grid.roughness()
    slopes = covariates.shape[1]
    ridge = [1e-6 * sparse.identity(grid.size), *[0.1 * sparse.identity(grid.size)] * slopes]
    normal = both.T @ both + sparse.block_diag([rough] * (1 + slopes)) + sparse.block_diag(ridge)
    stacked = (1 + slopes, grid.size, values.shape[1])
    begin = np.zeros((normal.shape[0], values.shape[1]))
    if guess is not None:
        begin = guess.reshape(grid.size, 1 + slopes, -1).transpose(1, 0, 2).reshape(begin.shape)
    solution = _conjugate_gradients(normal, np.asarray(both.T @ values), begin)
    parts = solution.reshape(stacked)
    return ((parts + parts[:, ::-1]) / 2).transpose(1, 0, 2).reshape(grid.size, -1)


def _conjugate_gradients(normal: sparse.csr_matrix, right: Array, begin: Array) -> Array:
    """Solve a positive definite system for every column of `right`, preconditioned by its diagonal."""
    scale = sparse.diags(1.0 / normal.diagonal())
    columns = [cg(normal, b, x0, rtol=1e-5, maxiter=1000, M=scale)[0] for b, x0 in zip(right.T, begin.T, strict=True)]
    return np.stack(columns, axis=1)
