"""A network that reads one scalar quality, the size of the aberrations, from a Ronchigram's power spectrum.

The scalar representation of van Hulst et al. (IEEE Access 13, 2025), the predecessor of the VAE: trained on simulated
random days, so that film, dose and camera matter little. What is left is one number per frame.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from controller import weights_file
from controller.dataset import Dataset
from controller.symmetry import mirrored
from controller.training.frames import Progress, simulated
from controller.training.optimisation import one_epoch
from controller.training.vae import TrainConfig
from controller.weights_file import Purpose
from twin.optics import Optics
from twin.state import StateSpace

Array = NDArray[np.floating]

FORMAT = "stemtwin-quality-1"
KNEE_NM = 5.0
"""The network works on log(1 + |x| / knee): relative accuracy far off, absolute near the null."""
CHANNELS = (12, 24, 48, 96, 128)
HIDDEN = 64
NEGATIVE_SLOPE = 0.2


class QualityNetwork(nn.Module):
    """Spectra (N, H, W) to log(1 + |x| / knee), (N,)."""

    offset: Tensor
    spread: Tensor

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((1, *CHANNELS)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs)]
            layers += [nn.LeakyReLU(NEGATIVE_SLOPE)]
        flat = CHANNELS[-1] * (height // 32) * (width // 32)
        self.register_buffer("offset", torch.zeros(height, width))
        self.register_buffer("spread", torch.ones(()))
        self.layers = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(flat, HIDDEN), nn.LeakyReLU(NEGATIVE_SLOPE), nn.Linear(HIDDEN, 1)
        )

    def forward(self, spectra: Tensor) -> Tensor:
        values: Tensor = self.layers(((spectra - self.offset) / self.spread)[:, None])
        return values[:, 0]


@dataclass(frozen=True)
class Quality:
    """A trained network and what it was trained for.

    Attributes:
        network: in evaluation mode.
        optics, names, range_nm: instrument, calibrated coefficients and their half-ranges in training.
        provenance: training configuration and figures, plain values.
    """

    network: QualityNetwork
    optics: Optics
    names: tuple[str, ...]
    range_nm: tuple[float, ...]
    provenance: Mapping[str, Any]

    def size_nm(self, spectra: NDArray[np.floating], batch: int = 256) -> Array:
        """Predicted |x| of spectra (N, H, W), nm, shape (N,)."""
        with torch.no_grad():
            parts = [
                self.network(torch.from_numpy(np.asarray(spectra[i : i + batch], np.float32)))
                for i in range(0, len(spectra), batch)
            ]
        return cast(Array, KNEE_NM * np.expm1(torch.cat(parts).double().numpy()))


def target(states_nm: Array) -> Array:
    """What the network is fitted to, from states (N, n): log(1 + |x| / knee), (N,)."""
    return cast(Array, np.log1p(np.linalg.norm(states_nm, axis=1) / KNEE_NM))


def fit(data: Dataset, config: TrainConfig, progress: Progress) -> QualityNetwork:
    """Least squares on the training days' frames; seeded; shows R^2 on the held-out days."""
    held = data.days >= config.days - config.held_out_days
    training, test = data.subset(~held), data.subset(held)
    spectra = torch.from_numpy(training.spectra)
    wanted = torch.from_numpy(target(training.states_nm)).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = QualityNetwork(spectra.shape[1], spectra.shape[2])
    network.offset.copy_(spectra.float().mean(0))
    network.spread.fill_((spectra[::4].float() - network.offset).std())

    def loss(chosen: Tensor, generator: torch.Generator, _: float) -> Tensor:
        chunk = mirrored(spectra[chosen].float(), torch.rand(len(chosen), generator=generator) < 0.5)
        return nn.functional.mse_loss(network(chunk), wanted[chosen])

    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=1e-3)
    for epoch in range(config.epochs):
        one_epoch(network, optimiser, config, epoch, len(spectra), loss)
        score = held_out_r2(network.eval(), test)
        progress("fitting the quality network", epoch + 1, config.epochs, f"held-out R2 {score:.4f}")
    return network.eval()


def held_out_r2(network: QualityNetwork, data: Dataset) -> float:
    """Share of the variance of log(1 + |x| / knee) that the network explains."""
    with torch.no_grad():
        found = torch.cat([network(torch.from_numpy(part).float()) for part in np.array_split(data.spectra, 8)])
    wanted = target(data.states_nm)
    return float(1 - np.mean((found.numpy() - wanted) ** 2) / wanted.var())


def train_quality(config: TrainConfig, out: Path, frames: Path, progress: Progress, workers: int = 0) -> Quality:
    """From nothing, or from what `frames` already holds, to one weights file at `out`.

    The fit takes minutes and starts over after an interruption; the simulation, which takes longer, does not.
    """
    data = simulated(config.frame_set, frames, progress, workers)
    network = fit(data, config, progress)
    held = data.subset(data.days >= config.days - config.held_out_days)
    provenance = {
        "training": config.plain(),
        "ranges": asdict(config.ranges),
        "held_out_r2": round(held_out_r2(network, held), 4),
        "versions": {name: version(name) for name in ("torch", "numpy")},
    }
    range_nm = tuple(float(r) for r in config.space.range_nm)
    trained = Quality(network, config.optics, config.space.names, range_nm, provenance)
    save(trained, out)
    return trained


def save(quality: Quality, path: Path) -> None:
    """Write one safetensors file; everything that is not a tensor goes into its metadata as JSON."""
    metadata = {
        "format": FORMAT,
        "optics": asdict(quality.optics),
        "names": quality.names,
        "range_nm": quality.range_nm,
        "provenance": dict(quality.provenance),
    }
    weights_file.write(path, quality.network.state_dict(), metadata)


def load(path: Path) -> Quality:
    """Read what `save` wrote.

    Raises:
        WeightsError: missing, damaged or of another format.
    """
    return weights_file.load(path, FORMAT, _assembled)


def _assembled(tensors: dict[str, Tensor], metadata: dict[str, str]) -> Quality:
    network = QualityNetwork(*tensors["offset"].shape)
    network.load_state_dict(tensors)
    names, range_nm = (tuple(json.loads(metadata[key])) for key in ("names", "range_nm"))
    optics = Optics(**json.loads(metadata["optics"]))
    return Quality(network.eval(), optics, names, range_nm, json.loads(metadata["provenance"]))


def load_for(name_or_path: str, optics: Optics, space: StateSpace) -> Quality:
    """Load and make sure that the weights fit the instrument and the task.

    Raises:
        WeightsError: other optics, other coefficients, or a wider range than trained; says how to retrain.
    """
    path = weights_file.find(name_or_path)
    quality = load(path)
    purpose = Purpose(quality.optics, quality.names, np.asarray(quality.range_nm), "stemtwin train quality")
    weights_file.check_fit(path, purpose, optics, space)
    return quality
