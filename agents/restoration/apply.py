"""Apply a trained generator to an image of any size: mean kept, spread of the heads, large images in tiles."""

from dataclasses import dataclass

import numpy as np
import torch

from agents.restoration.network import FOLD, Restoration
from agents.restoration.wiener import scale_free_wiener
from twin.arrays import Floats

TILE, OVERLAP = 512, 64
"""Side of a tile and of what it shares with the next, px; multiples of `FOLD`."""
LEAST_LEVEL = 1e-12


@dataclass(frozen=True, eq=False)
class Restored:
    """A restored image.

    Attributes:
        values: estimate of the image without noise and errors of the scan, in the units of the image, (rows, columns).
        spread: standard deviation of each pixel, or None.
    """

    values: Floats
    spread: Floats | None = None


def restored(image: Floats, trained: Restoration) -> Restored:
    """Restore an image; its sum is that of the image given.

    Args:
        image: electrons, or a number proportional to them, zero without electrons, lines along rows; finite.
        trained: the network.

    Returns:
        Mean of the heads, and their spread times the factor that gave it the size of the error in the training. An
        error that all heads share is not in it.
    """
    level = max(float(np.mean(image)), LEAST_LEVEL)
    rows, columns = image.shape
    both = np.stack([image, scale_free_wiener(image)]) / level
    wide = np.pad(both, [(0, 0), *((0, -n % FOLD) for n in image.shape)], mode="symmetric")
    heads = np.maximum(_in_tiles(wide, trained)[:, :rows, :columns], 0.0) * level
    values = heads.mean(axis=0)
    kept = float(np.mean(image)) / max(float(values.mean()), LEAST_LEVEL)
    return Restored(values * kept, heads.std(axis=0, ddof=1) * trained.spread_factor)


@torch.no_grad()
def _in_tiles(images: Floats, trained: Restoration) -> Floats:
    """Outputs of all heads, (heads, rows, columns); tiles overlap, and half of the overlap of each is dropped."""
    rows, columns = images.shape[1:]
    whole = torch.from_numpy(images).float()[None]
    result, half = None, OVERLAP // 2
    for top in range(0, max(rows - OVERLAP, 1), TILE - OVERLAP):
        for left in range(0, max(columns - OVERLAP, 1), TILE - OVERLAP):
            part = whole[..., top : top + TILE, left : left + TILE]
            found = trained.network(part)[0].double().numpy()
            if result is None:
                result = np.empty((found.shape[0], rows, columns))
            up, across = (half if top else 0), (half if left else 0)
            result[:, top + up : top + TILE, left + across : left + TILE] = found[:, up:, across:]
    assert result is not None
    return result
