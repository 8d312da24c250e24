"""Expected precision of the posterior of a Ronchigram, as a function of the state it is taken at.

Fitted to the trained network's posteriors of simulated frames; input selection plans with it.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from twin.arrays import Array

HIDDEN = 48
STEPS = 1500
BATCH = 1024


class PrecisionMap(nn.Module):
    """Map scaled states (N, n) to the matrix logarithm of a precision (m, m), packed (N, m (m + 1) / 2).

    Even in the state. m is n unless another `size` is given.
    """

    def __init__(self, dimension: int, size: int | None = None) -> None:
        super().__init__()
        self.size = size or dimension
        self.layers = nn.Sequential(
            nn.Linear(dimension, HIDDEN),
            nn.SiLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.SiLU(),
            nn.Linear(HIDDEN, self.size * (self.size + 1) // 2),
        )

    def forward(self, states: Tensor) -> Tensor:
        # asinh resolves the neighbourhood of the null, where the precision changes fastest.
        stretched = torch.asinh(8.0 * states)
        packed: Tensor = self.layers(stretched) + self.layers(-stretched)
        return packed

    def precision(self, states: NDArray[np.floating]) -> Array:
        """Expected precision at scaled states (N, n), (N, m, m)."""
        with torch.no_grad():
            packed = self(torch.from_numpy(np.asarray(states, np.float32))).double().numpy()
        return symmetric_exponential(unpacked(packed, self.size))


def unpacked(packed: Array, dimension: int) -> Array:
    """Unpack lower triangles (N, n (n + 1) / 2) to symmetric matrices (N, n, n)."""
    rows, columns = np.tril_indices(dimension)
    matrices = np.zeros((len(packed), dimension, dimension))
    matrices[:, rows, columns] = packed
    matrices[:, columns, rows] = packed
    return matrices


def symmetric_exponential(matrices: Array) -> Array:
    """Matrix exponential of symmetric matrices (N, n, n)."""
    values, vectors = np.linalg.eigh(matrices)
    return np.einsum("nij,nj,nkj->nik", vectors, np.exp(values), vectors)


def symmetric_logarithm(matrices: Array) -> Array:
    """Matrix logarithm of positive definite matrices (N, n, n)."""
    values, vectors = np.linalg.eigh(matrices)
    return np.einsum("nij,nj,nkj->nik", vectors, np.log(values), vectors)


def fit_precision(states: NDArray[np.float32], precisions: Array, seed: int) -> PrecisionMap:
    """Fit by least squares in the matrix logarithm, that is to the geometric mean of the precisions at a state.

    Args:
        states: scaled, (N, n).
        precisions: of the posteriors of frames taken there, scaled, (N, m, m).
        seed: of weights and batches.
    """
    dimension, size = states.shape[1], precisions.shape[1]
    rows, columns = np.tril_indices(size)
    target = torch.from_numpy(symmetric_logarithm(precisions)[:, rows, columns]).float()
    inputs = torch.from_numpy(states)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = PrecisionMap(dimension, size)
    optimiser = torch.optim.Adam(network.parameters())
    generator = torch.Generator().manual_seed(seed)
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = 5e-3 * (1 - step / STEPS)
        chosen = torch.randint(len(inputs), (BATCH,), generator=generator)
        loss = nn.functional.huber_loss(network(inputs[chosen]), target[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network.eval()
