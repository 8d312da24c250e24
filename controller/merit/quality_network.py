"""A network that predicts one scalar quality, the size of the aberrations, from a Ronchigram's power spectrum.

The scalar representation of van Hulst et al. (IEEE Access 13, 2025), the predecessor of the VAE. Trained on random
days, it depends little on film, dose and camera.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from controller.vae_em.network import NEGATIVE_SLOPE, downsampling
from controller.weights import SHIPPED
from learning.weights_file import Coefficients, WeightsFile
from twin.arrays import Array
from twin.optics import Optics
from twin.state import StateSpace

FORMAT = "stemtwin-quality-1"
KNEE_NM = 5.0
"""The network predicts log(1 + |x| / knee): relative accuracy far from the null, absolute accuracy near it."""
CHANNELS = (12, 24, 48, 96, 128)
HIDDEN = 64


class QualityNetwork(nn.Module):
    """Spectra (N, H, W) to log(1 + |x| / knee), (N,)."""

    offset: Tensor
    spread: Tensor

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        flat = CHANNELS[-1] * (height // 32) * (width // 32)
        self.register_buffer("offset", torch.zeros(height, width))
        self.register_buffer("spread", torch.ones(()))
        self.layers = nn.Sequential(
            *downsampling(CHANNELS),
            nn.Flatten(),
            nn.Linear(flat, HIDDEN),
            nn.LeakyReLU(NEGATIVE_SLOPE),
            nn.Linear(HIDDEN, 1),
        )

    def forward(self, spectra: Tensor) -> Tensor:
        values: Tensor = self.layers(((spectra - self.offset) / self.spread)[:, None])
        return values[:, 0]


@dataclass(frozen=True)
class Quality:
    """A trained network.

    Attributes:
        network: in evaluation mode.
        optics, names, range_nm: instrument, calibrated coefficients and their half-ranges in training.
        provenance: training settings and figures, plain values.
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
    """Regression target of states (N, n): log(1 + |x| / knee), (N,)."""
    return cast(Array, np.log1p(np.linalg.norm(states_nm, axis=1) / KNEE_NM))


def _contents(quality: Quality) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return quality.network.state_dict(), {"names": quality.names, "range_nm": quality.range_nm}


def _rebuild(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Quality:
    network = QualityNetwork(*tensors["offset"].shape)
    network.load_state_dict(tensors)
    names, range_nm = tuple(metadata["names"]), tuple(metadata["range_nm"])
    return Quality(network.eval(), metadata["optics"], names, range_nm, metadata["provenance"])


def _coefficients(quality: Quality, _: StateSpace) -> Coefficients:
    return Coefficients(quality.names, np.asarray(quality.range_nm))


WEIGHTS = WeightsFile(FORMAT, "quality", SHIPPED, _contents, _rebuild, _coefficients)
save, load, load_for = WEIGHTS.save, WEIGHTS.load, WEIGHTS.load_for
