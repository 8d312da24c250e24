"""A disc or ring of whole camera pixels: what a centre of mass is taken over."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Region:
    """Pixels whose middle lies at a distance of `inner_px` to `outer_px`, both included, from the centre.

    Attributes:
        centre_px: (row, column); the middle of the first pixel is (0, 0).
        inner_px, outer_px: radii in pixels.

    Raises:
        ValueError: radii that hold nothing.
    """

    centre_px: tuple[float, float]
    outer_px: float
    inner_px: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.inner_px < self.outer_px:
            raise ValueError(f"a region needs 0 <= inner_px < outer_px; got {self.inner_px} and {self.outer_px}")
