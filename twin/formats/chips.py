"""Where the pixels of each chip of a Timepix3 camera lie in the image.

A chip counts its 256 x 256 pixels from its own corner; in a quad the lower chips are turned by 180 degrees.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from twin.errors import check_known
from twin.formats.dataset import FormatError

SIDE = 256
PIXELS = SIDE * SIDE

Place = tuple[int, int, bool]
"""Row and column of a chip among the chips, and whether it is turned by 180 degrees."""

LAYOUTS: dict[str, tuple[Place, ...]] = {
    "single": ((0, 0, False),),
    "quad": ((0, 1, False), (1, 1, True), (1, 0, True), (0, 0, False)),
}
"""Chips by their number. The quad is that of Serval, the server of Amsterdam Scientific Instruments' cameras."""


@dataclass(frozen=True)
class ChipLayout:
    """Places of the chips in the image.

    Attributes:
        places: of each chip, by its number.
        gap_px: pixels between neighbouring chips that nothing counts; the chips of a quad are 4 pixels apart.

    Raises:
        FormatError: no chip, two in one place, or a negative gap.

    Example:
        >>> ChipLayout.named("quad", gap_px=4).camera
        (516, 516)
    """

    places: tuple[Place, ...]
    gap_px: int = 0

    def __post_init__(self) -> None:
        where = [place[:2] for place in self.places]
        if not where or len(set(where)) < len(where) or min(min(place) for place in where) < 0 or self.gap_px < 0:
            raise FormatError(f"chips need places of their own, and gap_px from 0; got {self.places}, {self.gap_px}")
        if max(max(place) for place in where) >= 16 or self.gap_px > SIDE:
            raise FormatError(f"at most 16 chips side by side, {SIDE} pixels apart; got {self.places}, {self.gap_px}")

    @classmethod
    def named(cls, chips: str | Sequence[Place], gap_px: int = 0) -> "ChipLayout":
        """Return a layout by its name, or by the place of each chip.

        Raises:
            FormatError: no layout has that name.
        """
        if not isinstance(chips, str):
            return cls(tuple((int(row), int(column), bool(turned)) for row, column, turned in chips), gap_px)
        check_known(chips, LAYOUTS, "an arrangement of chips", FormatError)
        return cls(LAYOUTS[chips], gap_px)

    @property
    def camera(self) -> tuple[int, int]:
        """(H, W) of the image."""
        rows, columns = (1 + max(place[k] for place in self.places) for k in (0, 1))
        return rows * SIDE + (rows - 1) * self.gap_px, columns * SIDE + (columns - 1) * self.gap_px

    def table(self) -> NDArray[np.uint32]:
        """Return the pixel of the image, y W + x, of each pixel of each chip, (chips * 65536,), read-only."""
        return _table(self)

    def dead(self) -> NDArray[np.bool_]:
        """Return True for the pixels of the image that belong to no chip, (H, W)."""
        nothing = np.ones(self.camera, bool)
        nothing.ravel()[self.table()] = False
        return nothing


@lru_cache(maxsize=8)
def _table(layout: ChipLayout) -> NDArray[np.uint32]:
    width = layout.camera[1]
    own = np.arange(PIXELS).reshape(SIDE, SIDE)
    parts = []
    for row, column, turned in layout.places:
        y, x = np.divmod(own[::-1, ::-1] if turned else own, SIDE)
        step = SIDE + layout.gap_px
        parts.append(((y + row * step) * width + x + column * step).ravel())
    table = np.concatenate(parts).astype(np.uint32)
    table.flags.writeable = False
    return table
