"""A disc or ring of whole camera pixels, the region of a centre of mass."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Region:
    """Pixels whose centres are at a distance of `inner_px` to `outer_px`, both included, from the centre.

    Attributes:
        centre_px: (row, column); the centre of the first pixel is (0, 0).
        inner_px, outer_px: radii in pixels.

    Raises:
        ValueError: radii that do not rise.
    """

    centre_px: tuple[float, float]
    outer_px: float
    inner_px: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.inner_px < self.outer_px:
            raise ValueError(f"a region needs 0 <= inner_px < outer_px; got {self.inner_px} and {self.outer_px}")

    def mask(self, camera: tuple[int, int]) -> NDArray[np.bool_]:
        """True for the pixels of the region, (H, W)."""
        row, column = np.indices(camera)
        distance = np.hypot(row - self.centre_px[0], column - self.centre_px[1])
        return np.asarray((self.inner_px <= distance) & (distance <= self.outer_px))
