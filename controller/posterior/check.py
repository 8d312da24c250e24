"""Whether the frames of a run look as frames of a training day would: a posterior predictive check.

A network predicts the principal components of a frame's features from state and nuisances; what is left over is, on a
training day, noise and what no nuisance names. On another kind of day it has a mean. Learnt beside the posterior.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from controller.posterior.network import EVEN, NUISANCES, STRETCH, even_features

Array = NDArray[np.floating]

COMPONENTS = 24
HIDDEN = 96
STEPS = 3000
BATCH = 512
LEARNING_RATE = 3e-3


class FrameCheck(nn.Module):
    """Features of a frame against what state and nuisances let expect.

    Attributes:
        centre, basis: to principal components, (F,) and (F, D).
        whitening: of what is left over, (D, D).
    """

    centre: Tensor
    basis: Tensor
    whitening: Tensor

    def __init__(self, dimension: int, features: int) -> None:
        super().__init__()
        pairs = dimension * (dimension + 1)
        # C30 changes sign with the state: only its products with it are even.
        inputs = pairs + len(EVEN) + dimension + 2
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("basis", torch.zeros(features, COMPONENTS))
        self.register_buffer("whitening", torch.eye(COMPONENTS))
        self.layers = nn.Sequential(
            nn.Linear(inputs, HIDDEN),
            nn.SiLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.SiLU(),
            nn.Linear(HIDDEN, COMPONENTS),
        )

    def left_over(self, features: Tensor, states: Tensor, nuisances: Tensor) -> Tensor:
        """Components of features (N, F), the last of them the log floor, beyond what is expected, (N, D)."""
        spherical = nuisances[:, len(EVEN) : len(NUISANCES)]
        known = [
            even_features(states, torch.asinh(STRETCH * states)),
            nuisances[:, : len(EVEN)],
            spherical * states,
            spherical.square(),
            features[:, -1:],
        ]
        expected: Tensor = self.layers(torch.cat(known, 1))
        return (features - self.centre) @ self.basis - expected

    def strangeness(self, features: Tensor, states: Array, nuisances: Array) -> float:
        """How far the mean of what T frames leave over lies from zero, chi-square-like with D degrees for noise alone.

        Args:
            features: (T, F).
            states: scaled, where each frame was taken if the estimate is right, (T, n).
            nuisances: of the day, as estimated, (C,).
        """
        hidden = torch.from_numpy(np.tile(nuisances, (len(states), 1))).float()
        with torch.no_grad():
            mean = self.left_over(features, torch.from_numpy(states).float(), hidden).mean(0) @ self.whitening
        return len(states) * float(mean @ mean)


def fit_check(features: Tensor, states: Tensor, nuisances: Tensor, seed: int) -> FrameCheck:
    """Least squares on frames whose state and nuisances are known.

    Args:
        features: (N, F), see `PosteriorNetwork.summarise`.
        states: scaled, (N, n).
        nuisances: (N, C).
        seed: of weights and batches.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        check = FrameCheck(states.shape[1], features.shape[1])
    check.centre.copy_(features.mean(0))
    _, scales, directions = torch.linalg.svd(features - check.centre, full_matrices=False)
    check.basis.copy_(directions[:COMPONENTS].T / scales[:COMPONENTS] * len(features) ** 0.5)
    optimiser = torch.optim.Adam(check.layers.parameters())
    generator = torch.Generator().manual_seed(seed)
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * (1 - step / STEPS)
        chosen = torch.randint(len(features), (BATCH,), generator=generator)
        loss = check.left_over(features[chosen], states[chosen], nuisances[chosen]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        rest = check.left_over(features, states, nuisances)
        check.whitening.copy_(torch.linalg.inv(torch.linalg.cholesky(torch.cov(rest.T))).T)
    return check.eval()
