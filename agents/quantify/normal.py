"""Normal equations of columns and what all of them share: sparse columns are eliminated, lines remain (Schur)."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu

from agents.quantify.columns import PARAMETERS, Expectation
from twin.arrays import Floats

AT_ONCE = 512
"""Right-hand sides of one solution."""


@dataclass(frozen=True, eq=False)
class Normal:
    """Normal equations after the elimination of the columns.

    The border is the shifts along x and y of all lines, if they are fitted, then the shared parameters.

    Attributes:
        factor: LU factors of the columns' block.
        pull: right-hand side of the columns, (n,).
        influence: solution of the columns' block for the border, (n, b).
        reduced: Schur complement of the columns, (b, b).
        reduced_pull: its right-hand side, (b,).
        jacobian: derivative of the image over the standard deviation of each pixel by the columns' parameters, sparse,
            and by the border's, (pixels, n) and (pixels, b).
    """

    factor: Any
    pull: Floats
    influence: Floats
    reduced: Floats
    reduced_pull: Floats
    jacobian: tuple[Any, Any]

    def columns_step(self, border_step: Floats) -> Floats:
        """Step of the columns' parameters that goes with one of the border, (n,)."""
        return np.asarray(self.factor.solve(self.pull)) - self.influence @ border_step

    def explained(self, image: Floats, border_covariance: Floats) -> Floats:
        """Part of an image, over the standard deviation of each pixel, that the fit takes up, (pixels,)."""
        columns, border = self.jacobian
        own = np.asarray(self.factor.solve(columns.T @ image))
        against = border.T @ image - self.influence.T @ (columns.T @ image)
        step = border_covariance @ against
        return np.asarray(columns @ (own - self.influence @ step) + border @ step)

    def columns_covariance(self, border_covariance: Floats, size: int) -> Floats:
        """Covariance of each column's own parameters, (n / size, size, size)."""
        count = len(self.pull)
        blocks = np.empty((count // size, size, size))
        chunk = max(AT_ONCE // size, 1) * size
        for begin in range(0, count, chunk):
            end = min(begin + chunk, count)
            unit = np.zeros((count, end - begin))
            unit[np.arange(begin, end), np.arange(end - begin)] = 1.0
            inverse = self.factor.solve(unit)
            for k in range(begin, end, size):
                blocks[k // size] = inverse[k : k + size, k - begin : k - begin + size]
        rows = self.influence.reshape(count // size, size, -1)
        return blocks + rows @ border_covariance @ rows.transpose(0, 2, 1)


def column_jacobian(expected: Expectation, fitted: int) -> Any:
    """Derivative of the image by the first `fitted` parameters of each column, CSC, (pixels, fitted N)."""
    count = np.diff(expected.first)
    within = np.arange(expected.first[-1]) - np.repeat(expected.first[:-1], count)
    start = fitted * np.repeat(expected.first[:-1], count)
    length = np.repeat(count, count)
    index = np.empty(fitted * expected.first[-1], np.int32)
    data = np.empty(len(index))
    for parameter in range(fitted):
        place = start + parameter * length + within
        index[place], data[place] = expected.pixel, expected.derivative[parameter]
    pointer = np.concatenate([[0], np.cumsum(np.repeat(count, fitted))]).astype(np.int32)
    return sparse.csc_matrix((data, index, pointer), shape=(expected.values.size, fitted * len(count)))


def line_jacobian(expected: Expectation) -> Any:
    """Derivative of the image by the shift of each line along x, then along y, CSC, (pixels, 2 lines)."""
    rows, across = expected.values.shape
    index = np.tile(np.arange(rows * across, dtype=np.int32), 2)
    data = np.concatenate([expected.by_line_x.ravel(), expected.by_line_y.ravel()])
    pointer = np.arange(0, 2 * rows * across + 1, across, dtype=np.int32)
    return sparse.csc_matrix((data, index, pointer), shape=(rows * across, 2 * rows))


def normal_equations(
    expected: Expectation,
    residual: Floats,
    weight: Floats,
    shared: Floats,
    prior: tuple[Floats, Floats],
    *,
    lines: bool,
    fitted: int = PARAMETERS,
) -> Normal:
    """Linearise a weighted least-squares fit and eliminate its columns.

    Args:
        expected: expected image with its derivatives.
        residual: measured minus expected image, (rows, columns).
        weight: inverse variance of each pixel, (rows, columns).
        shared: derivative of the image by each shared parameter, (g, rows, columns).
        prior: precision and its product with the distance still to go, of each column's parameters, (n,) each.
        lines: fit shifts of the lines; their prior is not part of the equations.
        fitted: parameters of each column that are fitted.
    """
    root = np.sqrt(weight).ravel()
    columns = _weighted(column_jacobian(expected, fitted), root)
    border: Any = sparse.csc_matrix((shared.reshape(len(shared), -1) * root).T)
    if lines:
        border = sparse.hstack([_weighted(line_jacobian(expected), root), border], format="csc")
    against = residual.ravel() * root
    transposed = columns.T
    block = (transposed @ columns + sparse.diags(prior[0])).tocsc()
    pull = transposed @ against + prior[1]
    coupling = np.ascontiguousarray((transposed @ border).toarray())
    own, border_pull = (border.T @ border).toarray(), border.T @ against
    factor = splu(block, permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True}, diag_pivot_thresh=0.0)
    influence = np.asarray(factor.solve(coupling))
    reduced, reduced_pull = own - coupling.T @ influence, border_pull - influence.T @ pull
    return Normal(factor, pull, influence, reduced, reduced_pull, (columns, border))


def _weighted(jacobian: Any, root: Floats) -> Any:
    """Scale the rows of a sparse matrix in place."""
    jacobian.data *= root[jacobian.indices]
    return jacobian
