"""U-Net on the scan plane: corrects the linear phase from 34 segments and the two linear images.

The conditions of the scan enter by a factor and an offset for every channel (FiLM, Perez et al.
2018). Its output is added to the single-sideband phase; before training it is zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from agents.segmented.linear import Linear
from agents.segmented.segments import COUNT
from agents.weights import SHIPPED
from learning.weights_file import Coefficients, WeightsFile
from twin.arrays import Floats
from twin.optics import Optics
from twin.state import StateSpace

CHANNELS = COUNT + 2
WIDTHS = (32, 64, 96)
CONDITIONS = 5
REACH = 24
"""Positions beyond which the network does not look; its linear input sees the whole scan."""
STRIDE = 2 ** (len(WIDTHS) - 1)
LEAST = 1e-6


@dataclass(frozen=True, eq=False)
class Inputs:
    """One scan as the network takes it.

    Attributes:
        maps: whitened segments and both linear images, scaled to about one, (36, R, C).
        conditions: (5,), each of about one: electrons in a resolution element, sampling, resolution element,
            strength of
            the sideband and of the integrated phase.
        scale_rad: the output times this is the phase.
    """

    maps: Tensor
    conditions: Tensor
    scale_rad: float

    @classmethod
    def of(cls, linear: Linear, sampling: float, resolution_nm: float) -> "Inputs":
        """Scale what the linear reconstruction gave."""
        weight = float(np.sqrt(np.mean(linear.whitened**2))) + LEAST
        sideband, integrated = (
            float(np.sqrt(np.mean(image**2))) + LEAST for image in (linear.sideband, linear.integrated)
        )
        scale = float(np.hypot(sideband, integrated)) / np.sqrt(2)
        maps = np.concatenate(
            [linear.whitened / weight, linear.sideband[None] / scale, linear.integrated[None] / scale]
        )
        conditions = (
            (np.log10(max(linear.beam_e, LEAST) / sampling**2) - 3.0) / 1.5,
            (np.log10(sampling) + 0.5) / 0.25,
            (np.log10(resolution_nm) + 1.3) / 0.2,
            np.clip(np.log10(sideband / integrated), -2.0, 2.0),
            np.clip(np.log10(scale) + 1.0, -3.0, 2.0),
        )
        return cls(torch.from_numpy(maps).float(), torch.tensor(conditions, dtype=torch.float32), scale)


class _Layer(nn.Module):
    """Convolution, factor and offset by the conditions, activation."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.film = nn.Linear(32, 2 * outputs)
        for parameter in self.film.parameters():
            nn.init.zeros_(parameter)

    def forward(self, maps: Tensor, told: Tensor) -> Tensor:
        """Maps (B, C, R, C) and the conditions' features (B, 32)."""
        factor, offset = self.film(told)[..., None, None].chunk(2, dim=1)
        return functional.silu(self.convolution(maps) * (1 + factor) + offset)


class _Pair(nn.Module):
    """Two layers at one width."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first, self.second = _Layer(inputs, outputs, stride), _Layer(outputs, outputs)

    def forward(self, maps: Tensor, told: Tensor) -> Tensor:
        """As a layer's."""
        found: Tensor = self.second(self.first(maps, told), told)
        return found


class SegmentNetwork(nn.Module):
    """The U-Net: strided convolutions down, nearest neighbours up, two layers at each width."""

    def __init__(self) -> None:
        super().__init__()
        self.told = nn.Sequential(nn.Linear(CONDITIONS, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU())
        inputs = (CHANNELS, *WIDTHS[:-1])
        self.down = nn.ModuleList(
            _Pair(a, b, 1 if i == 0 else 2) for i, (a, b) in enumerate(zip(inputs, WIDTHS, strict=True))
        )
        self.up = nn.ModuleList(
            _Pair(deep + wide, wide) for deep, wide in zip(WIDTHS[:0:-1], WIDTHS[-2::-1], strict=True)
        )
        self.last = nn.Conv2d(WIDTHS[0], 1, 3, padding=1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, maps: Tensor, conditions: Tensor) -> Tensor:
        """Phase over its scale, (B, R, C), of maps (B, 36, R, C) and conditions (B, 5)."""
        rows, columns = maps.shape[-2:]
        padded = functional.pad(maps, (0, -columns % STRIDE, 0, -rows % STRIDE), mode="replicate")
        told, found, kept = self.told(conditions), padded, []
        for narrower in self.down:
            found = narrower(found, told)
            kept.append(found)
        for wider, beside in zip(self.up, kept[-2::-1], strict=True):
            found = functional.interpolate(found, scale_factor=2.0, mode="nearest")
            found = wider(torch.cat([found, beside], dim=1), told)
        return maps[:, COUNT] + self.last(found)[:, 0, :rows, :columns]


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network.

    Attributes:
        network: in evaluation mode.
        optics: of the scenario that the training was called with; each scan has its own energy and angle.
        provenance: settings and figures of the training.
    """

    network: SegmentNetwork
    optics: Optics
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def phase(self, inputs: Inputs) -> Floats:
        """Phase of a scan, rad, (R, C), with mean zero."""
        with torch.inference_mode():
            found = self.network(inputs.maps[None], inputs.conditions[None])[0].double().numpy()
        return np.asarray((found - found.mean()) * inputs.scale_rad, np.float64)


def _contents(trained: Trained) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return trained.network.state_dict(), {}


def _rebuild(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Trained:
    network = SegmentNetwork()
    network.load_state_dict(tensors)
    return Trained(network.eval(), metadata["optics"], metadata["provenance"])


def _any_space(_: Trained, space: StateSpace) -> Coefficients:
    return Coefficients(space.names, space.range_nm)


WEIGHTS: WeightsFile[Trained] = WeightsFile(
    "segment_net-1", "segment_net", SHIPPED, _contents, _rebuild, coefficients=_any_space
)
