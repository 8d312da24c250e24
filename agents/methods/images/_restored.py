"""What all restorations of a ring's image share: the sum of the ring, gaps filled, mean and deviation reported."""

from collections.abc import Callable

import numpy as np

from agents.base import Image, Reconstruction
from agents.methods.detectors._ring_image import Options, RingAgent
from twin.arrays import Floats

Restore = Callable[[Floats], tuple[Floats, Floats | None]]
"""Image in counts, (rows, columns), to the restored one and the standard deviation of each pixel, if known."""


class RestoredRing(RingAgent[Reconstruction]):
    """Sums the ring's counts as they arrive, and restores the image when asked.

    Args:
        name: name of the agent.
        options: the ring.
        restore: how; None restores nothing, and `missing` says why.
        missing: what `restore` lacks.

    Example:
        >>> from agents import load
        >>> load("wiener", {"layout": "haadf"}).name
        'wiener'
    """

    def __init__(self, name: str, options: Options, restore: Restore | None, missing: str = "") -> None:
        super().__init__(name, options)
        self._restore, self._missing = restore, missing

    def result(self) -> Reconstruction:
        """The restored image; positions that have not arrived are unknown, and taken for the mean meanwhile."""
        found, notes = self.made()
        (image,) = found.images.values()
        spread = None if image.spread is None else image.spread.copy()
        copied = Image(image.values.copy(), image.unit, spread)
        return Reconstruction({self.name: copied}, found.figures, notes=(*notes, *found.notes))

    def make(self, image: Floats) -> Reconstruction:
        """The restored image, without notes of the ring."""
        known = np.isfinite(image)
        if self._restore is None or not known.any():
            notes = (self._missing,) if self._missing else ()
            return Reconstruction({self.name: Image(np.full(image.shape, np.nan), "counts")}, notes=notes)
        values, spread = self._restore(np.where(known, image, image[known].mean()))
        values = np.where(known, values, np.nan)
        spread = None if spread is None else np.where(known, spread, np.nan)
        figures = {
            "mean": float(values[known].mean()),
            "mean_before": float(image[known].mean()),
            "deviation": float(values[known].std()),
            "deviation_before": float(image[known].std()),
        }
        return Reconstruction({self.name: Image(values, "counts", spread)}, figures)
