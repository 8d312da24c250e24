"""Posterior predictive check of the frames of a run against those of training days.

A network predicts the principal components of a frame's features from state and nuisance parameters. On a training day
the residual is zero-mean noise; on another kind of day it has a mean. Trained beside the posterior.
"""

import numpy as np
import torch
from torch import Tensor, nn

from controller.posterior.network import EVEN, NUISANCES, STRETCH, TOLD, even_features
from twin.arrays import Array

COMPONENTS = 24
HIDDEN = 96
STEPS = 3000
BATCH = 512
LEARNING_RATE = 3e-3


class FrameCheck(nn.Module):
    """Predicts the features of a frame from state and nuisance parameters.

    Attributes:
        centre, basis: map features to principal components, (F,) and (F, D).
        whitening: scales the residual to unit covariance, (D, D).
    """

    centre: Tensor
    basis: Tensor
    whitening: Tensor

    def __init__(self, dimension: int, features: int) -> None:
        super().__init__()
        pairs = dimension * (dimension + 1)
        # C30 changes sign with the state, so that only products of the two are even.
        inputs = pairs + len(EVEN) + dimension + 1 + TOLD
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

    def residual(self, features: Tensor, states: Tensor, nuisances: Tensor) -> Tensor:
        """Principal components of features (N, F) minus their prediction, (N, D)."""
        spherical = nuisances[:, len(EVEN) : len(NUISANCES)]
        known = [
            even_features(states, torch.asinh(STRETCH * states)),
            nuisances[:, : len(EVEN)],
            spherical * states,
            spherical.square(),
            features[:, -TOLD:],
        ]
        expected: Tensor = self.layers(torch.cat(known, 1))
        return (features - self.centre) @ self.basis - expected

    def strangeness(self, features: Tensor, states: Array, nuisances: Array) -> float:
        """Squared distance of the mean residual of T frames from zero; chi-square with D degrees for noise alone.

        Args:
            features: (T, F).
            states: scaled states at which the frames were taken if the estimate is right, (T, n).
            nuisances: estimated nuisance parameters of the day, (C,).
        """
        hidden = torch.from_numpy(np.tile(nuisances, (len(states), 1))).float()
        with torch.no_grad():
            mean = self.residual(features, torch.from_numpy(states).float(), hidden).mean(0) @ self.whitening
        return len(states) * float(mean @ mean)


def fit_check(features: Tensor, states: Tensor, nuisances: Tensor, seed: int) -> FrameCheck:
    """Fit by least squares to frames of known state and nuisance parameters.

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
        loss = check.residual(features[chosen], states[chosen], nuisances[chosen]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        residual = check.residual(features, states, nuisances)
        check.whitening.copy_(torch.linalg.inv(torch.linalg.cholesky(torch.cov(residual.T))).T)
    return check.eval()
