"""The generator: residual dense blocks whose features are joined at the end, and several heads.

After Friedrich 2023, section 2.5 and Fig 2.10 (CGRDN: groups of residual dense blocks, their outputs concatenated and
fused, a residual connection from end to end), at a small size: the image is folded fourfold before the first layer
instead of being sampled down by a convolution, and the connection from end to end begins at the filtered image. The
spread of the heads is that of an ensemble.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from agents.weights import SHIPPED
from learning.weights_file import Coefficients, WeightsFile
from twin.optics import Optics

FOLD = 4
"""Pixels along each axis that become channels of one."""
DENSE, GROWTH = 3, 32
"""Layers of a residual dense block, and channels that each adds."""
HEADS = 3


class ResidualDense(nn.Module):
    """Residual dense block: every layer sees all earlier ones; a layer of single pixels fuses them."""

    def __init__(self, features: int) -> None:
        super().__init__()
        widths = [features + number * GROWTH for number in range(DENSE)]
        self.layers = nn.ModuleList(nn.Conv2d(width, GROWTH, 3, padding=1) for width in widths)
        self.fusion = nn.Conv2d(features + DENSE * GROWTH, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for layer in self.layers:
            seen.append(torch.relu(layer(torch.cat(seen, 1))))
        fused: Tensor = self.fusion(torch.cat(seen, 1))
        return x + fused


class Group(nn.Module):
    """Residual dense blocks one after the other, their outputs fused, with a residual connection over all."""

    def __init__(self, features: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualDense(features) for _ in range(blocks))
        self.fusion = nn.Conv2d(blocks * features, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        outputs, now = [], x
        for block in self.blocks:
            now = block(now)
            outputs.append(now)
        fused: Tensor = self.fusion(torch.cat(outputs, 1))
        return x + fused


class Generator(nn.Module):
    """Images of mean one and their filtered selves, (N, 2, H, W), to restored ones, one per head, (N, HEADS, H, W).

    Sides are multiples of `FOLD`. The filter is `wiener.scale_free_wiener`; the network corrects its result, and does
    not change it before it is trained.
    """

    def __init__(self, features: int = 48, groups: int = 2, blocks: int = 2) -> None:
        super().__init__()
        channels = 3 * FOLD**2
        self.first = nn.Conv2d(channels, features, 3, padding=1)
        self.groups = nn.ModuleList(Group(features, blocks) for _ in range(groups))
        self.fusion = nn.Conv2d((groups + 1) * features, features, 1)
        self.heads = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(features, GROWTH, 3, padding=1), nn.ReLU(), nn.Conv2d(GROWTH, FOLD**2, 3, padding=1)
            )
            for _ in range(HEADS)
        )
        for head in self.heads:
            nn.init.zeros_(head[-1].weight)  # type: ignore[index]
            nn.init.zeros_(head[-1].bias)  # type: ignore[index]

    def forward(self, images: Tensor) -> Tensor:
        image, smooth = images[:, :1], images[:, 1:]
        # The square root makes the width of shot noise the same everywhere.
        root = torch.sqrt(torch.clamp(image, min=0.0))
        folded = nn.functional.pixel_unshuffle(torch.cat([image - smooth, smooth, root], 1), FOLD)
        now = self.first(folded)
        outputs = [now]
        for group in self.groups:
            now = group(now)
            outputs.append(now)
        fused = outputs[0] + self.fusion(torch.cat(outputs, 1))
        corrections = [nn.functional.pixel_shuffle(head(fused), FOLD) for head in self.heads]
        return smooth + torch.cat(corrections, 1)


@dataclass(frozen=True, eq=False)
class Restoration:
    """A trained generator.

    Attributes:
        network: the generator.
        spread_factor: rms error of the mean of the heads over their rms spread, on images it was not trained with.
        optics: of the scenario that the training was called with; pairs have beams of their own.
        provenance: how it was trained.
    """

    network: Generator
    spread_factor: float
    optics: Optics
    provenance: Mapping[str, Any]


def _contents(trained: Restoration) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
    network = trained.network
    shape = {
        "features": network.first.out_channels,
        "groups": len(network.groups),
        "blocks": len(network.groups[0].blocks),  # type: ignore[arg-type]
    }
    return network.state_dict(), {"shape": shape, "spread_factor": trained.spread_factor}


def _rebuild(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Restoration:
    network = Generator(**metadata["shape"])
    network.load_state_dict(tensors)
    return Restoration(network.eval(), float(metadata["spread_factor"]), metadata["optics"], metadata["provenance"])


WEIGHTS: WeightsFile[Restoration] = WeightsFile(
    "stemtwin-restoration-1",
    "restoration",
    SHIPPED,
    _contents,
    _rebuild,
    lambda trained, space: Coefficients(space.names, space.range_nm),  # an image has no state
)
