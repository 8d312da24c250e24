"""Fully convolutional network that marks single-atom defects, and its weights file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, map_coordinates
from torch import Tensor, nn

from agents.defects.sheet import KINDS
from learning.weights_file import Coefficients, WeightsFile
from twin.arrays import Floats
from twin.optics import Optics

GRID_NM = 0.03
"""Distance of the pixels that the network takes."""
CELL = 2
"""Pixels along each side of one place of its answer."""
LEVEL_NM = 0.6
"""Rms width of the Gaussian whose mean is taken off, as thickness and dirt vary slowly."""
CLIPPED = 4.0
RARE = (0.0, -4.5, -6.0, -6.0)
"""Logits of nothing and each kind before the network has learned anything: defects are rare."""
MULTIPLE = 8
"""Sides of the image are filled up to a multiple of this."""
FORMAT = "stemtwin-defects-1"
SHIPPED = Path(__file__).parents[1] / "weights"


def prepared(image: Floats, step_nm: float) -> Floats:
    """The image on the network's grid, without its slowly varying level, in units of its rms.

    The first pixel stays where it is.

    Args:
        image: any units, (rows, columns), without NaN.
        step_nm: distance of its pixels.
    """
    ratio = GRID_NM / step_nm
    if ratio > 1:
        image = gaussian_filter(image, 0.45 * np.sqrt(ratio**2 - 1), mode="mirror")
    rows, columns = (int((side - 1) / ratio) + 1 for side in image.shape)
    places = np.meshgrid(np.arange(rows) * ratio, np.arange(columns) * ratio, indexing="ij")
    even = map_coordinates(np.asarray(image, np.float64), places, order=1, mode="mirror")
    even -= gaussian_filter(even, LEVEL_NM / GRID_NM, mode="mirror")
    return np.asarray(np.clip(even / max(float(even.std()), 1e-12), -CLIPPED, CLIPPED))


class DefectNetwork(nn.Module):
    """A U-Net on cells of 2 x 2 pixels: (B, 1, H, W) to logits of nothing and each kind, (B, 4, H / 2, W / 2).

    Args:
        width: channels of the first level; the next two have one and a half times and twice as many.

    Attributes:
        scale, offset: of the logistic curve from a score to a probability.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        second, third = width * 3 // 2, width * 2
        self.width = width
        self.cells = nn.PixelUnshuffle(CELL)
        self.first = _pair(CELL**2, width)
        self.second = _pair(width, second)
        self.third = _pair(second, third)
        self.up_second = _pair(third + second, second)
        self.up_first = _pair(second + width, width)
        self.last = nn.Conv2d(width, 1 + len(KINDS), 1)
        self.last.bias = nn.Parameter(torch.tensor(RARE))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("offset", torch.zeros(()))

    def forward(self, image: Tensor) -> Tensor:
        """Logits; sides must be multiples of `MULTIPLE`."""
        fine = self.first(self.cells(image))
        middle = self.second(nn.functional.max_pool2d(fine, 2))
        coarse = self.third(nn.functional.max_pool2d(middle, 2))
        middle = self.up_second(torch.cat([_twice(coarse), middle], 1))
        fine = self.up_first(torch.cat([_twice(middle), fine], 1))
        logits: Tensor = self.last(fine)
        return logits


def _pair(before: int, after: int) -> nn.Sequential:
    """Two convolutions, each normalised over groups of channels."""
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers += [nn.Conv2d(channels, after, 3, padding=1), nn.GroupNorm(4, after), nn.ReLU()]
    return nn.Sequential(*layers)


def _twice(values: Tensor) -> Tensor:
    return nn.functional.interpolate(values, scale_factor=2.0, mode="nearest")


def probabilities(network: DefectNetwork, image: Floats) -> Floats:
    """Probability of nothing and of each kind at every cell of a prepared image, (4, rows, columns)."""
    rows, columns = image.shape
    filled = np.pad(image, [(0, -rows % MULTIPLE), (0, -columns % MULTIPLE)], mode="reflect")
    with torch.no_grad():
        logits = network.eval()(torch.from_numpy(filled).float()[None, None])[0]
    whole = torch.softmax(logits, 0).double().numpy()
    return np.asarray(whole[:, : -(-rows // CELL), : -(-columns // CELL)])


@dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
        network: with the calibration of its probabilities.
        optics: beam of the images.
        provenance: settings and figures of the training.
    """

    network: DefectNetwork
    optics: Optics
    provenance: Mapping[str, Any]


def _contents(trained: Trained) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
    return trained.network.state_dict(), {"width": trained.network.width}


def _rebuild(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Trained:
    network = DefectNetwork(metadata["width"])
    network.load_state_dict(tensors)
    return Trained(network.eval(), metadata["optics"], metadata["provenance"])


WEIGHTS: WeightsFile[Trained] = WeightsFile(
    FORMAT, "defects", SHIPPED, _contents, _rebuild, lambda _, space: Coefficients(space.names, space.range_nm)
)
