"""An analytic, even latent map and a small untrained posterior in place of trained ones; simulation in this process."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from twin.arrays import Array
from twin.optics import Optics
from twin.state import FIRST_ORDER, SECOND_ORDER, StateSpace

# Imported by the fixtures: quick tests of this folder do without torch.
if TYPE_CHECKING:
    from controller.dataset import Dataset, DayJob
    from controller.posterior.artefact import PosteriorArtefact
    from controller.vae_em.latent_map import LatentMap
    from controller.vae_em.prior_mean import SymmetricGrid


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small batched factorisations are slower on two threads, and other jobs share this machine."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


def node_states(grid: "SymmetricGrid") -> Array:
    """States at the grid's nodes, (size, n), by the inverse of the spacing rule (range sinh(s t) / sinh(s))."""
    stretch = np.arccosh(grid.crowding)
    axes = [
        half * np.sinh(stretch * np.linspace(-1, 1, nodes)) / np.sinh(stretch)
        for half, nodes in zip(grid.range_nm, grid.nodes, strict=True)
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))


def even_features(states_nm: Array) -> Array:
    """Six even functions of three states, (N, 3) to (N, 6); together they know the state up to its sign."""
    q = states_nm / 30.0
    r2 = np.sum(q**2, axis=1)
    products = np.stack([q[:, 0] ** 2, q[:, 0] * q[:, 1], q[:, 0] * q[:, 2], q[:, 1] * q[:, 2], q[:, 1] ** 2], 1)
    return np.column_stack([np.log1p(r2), 2 * products / (1 + r2)[:, None]])


@pytest.fixture
def space() -> StateSpace:
    return FIRST_ORDER


@pytest.fixture
def make_map() -> "Callable[..., LatentMap]":
    """A latent map of `even_features` (or of nothing at all) with chosen kernel and noise."""
    from controller.vae_em.hyperparameters import RADIAL_KNOTS, Hyperparameters
    from controller.vae_em.latent_map import LatentMap
    from controller.vae_em.prior_mean import SymmetricGrid

    def make(
        space: StateSpace = FIRST_ORDER,
        features: Callable[[Array], Array] = even_features,
        noise_std: float = 0.05,
        signal_variance: float = 0.01,
        offset_variance: float = 0.01,
        lengthscale: float = 0.5,
        freedom: float = np.inf,
        kernel: str = "rbf",
        nodes: int = 9,
        modes: tuple[Callable[[Array], Array], ...] = (),
    ) -> LatentMap:
        grid = SymmetricGrid(tuple(space.range_nm), (nodes,) * space.dimension)
        level = features(node_states(grid))
        d = level.shape[1]
        fitted = Hyperparameters(
            kernel,
            np.full(space.dimension, lengthscale),
            np.full(d, signal_variance),
            np.full(d, offset_variance),
            np.full((len(RADIAL_KNOTS), d), 2 * np.log(noise_std)),
            np.zeros((len(RADIAL_KNOTS), d)),
            freedom,
        )
        parts = [level, np.zeros_like(level), *(mode(node_states(grid)) for mode in modes)]
        return LatentMap(np.eye(d), np.zeros(d), grid, np.concatenate(parts, axis=1), 0.0, space.range_nm, fitted)

    return make


@pytest.fixture(scope="session")
def posterior() -> "PosteriorArtefact":
    """A small network of random weights for a 64-pixel camera, with numbers of its own for everything fitted."""
    import torch

    from controller.dataset import CLOSED_LOOP
    from controller.posterior.artefact import PosteriorArtefact
    from controller.posterior.check import FrameCheck
    from controller.posterior.misfit import MEASURES
    from controller.posterior.network import PosteriorConfig, PosteriorNetwork
    from controller.posterior.precision import PrecisionMap

    config = PosteriorConfig(
        height=64, width=32, patch_height=24, channels=(4, 4, 8, 8, 8), patch_channels=(4, 4, 8, 8), patch_features=4,
        patch_hidden=8, features=12, hidden=16, nuisance_hidden=16,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network, precision, higher = PosteriorNetwork(config).eval(), PrecisionMap(3).eval(), PrecisionMap(3, 4).eval()
        check = FrameCheck(3, network.read).eval()
    optics = Optics(convergence_mrad=14.0, grid=256, sampling_nm=0.05, camera_pixels=64, binning=4)
    states = replace(CLOSED_LOOP, higher_nm=50.0)
    usual = dict.fromkeys(MEASURES, ((3.0, 6.0), (6.0, 12.0)))
    return PosteriorArtefact(
        network, precision, higher, check, SECOND_ORDER, optics, states, 0.1, 0.6, 0.05, usual, {"seconds": 1},
    )  # fmt: skip


@pytest.fixture
def days_made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Training days are simulated here, not in a pool, three to a shard; the numbers of those made so far."""
    from controller import frame_set
    from controller.dataset import simulate_day

    made: list[int] = []

    def serial(jobs: "Sequence[DayJob]", workers: int = 0) -> "Iterator[Dataset]":
        for job in jobs:
            made.append(job.index)
            yield simulate_day(job)

    monkeypatch.setattr(frame_set, "simulate", serial)
    monkeypatch.setattr(frame_set, "SHARD_DAYS", 3)
    return made
