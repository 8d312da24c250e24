"""Single-atom defects of a dark-field image by a trained network, once the scan is complete.

The image is that of a ring detector; `stemtwin train defects` trains the network, `stemtwin adapt` fits it to a day.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from agents.base import Agent, Image, Reconstruction, StreamMeta
from agents.defects.detection import DefectImageError, Defects, find
from agents.defects.network import WEIGHTS, Trained
from agents.defects.sheet import KINDS
from agents.methods.detectors import _ring_image
from agents.methods.detectors._ring_image import RingAgent
from learning.weights_file import find as found_file
from twin.arrays import Floats
from twin.options import Probability, checked_options, validated

NAME = "defects"


@validated
class Options(_ring_image.Options):
    """Settings of the ring and of the network.

    Attributes:
        layout: usual radii of the ring, multiples of the convergence angle.
        weights: shipped weights by name, or a file of `stemtwin train defects` or `stemtwin adapt`.
        least_probability: places with a smaller probability are left out.
    """

    weights: str = "defects"
    least_probability: Probability = 0.5


class DefectAgent(RingAgent[tuple[Defects | None, tuple[int, ...], tuple[str, ...]]]):
    """Sums the ring's counts as they arrive, and looks for defects when asked after the last position.

    Raises:
        WeightsError: the weights are missing or damaged.

    Example:
        >>> from agents import load
        >>> load("defects", {"least_probability": 0.9}).options.weights
        'defects'
    """

    def __init__(self, options: Options) -> None:
        super().__init__(NAME, options)
        self.options = options
        # Now, not at the end of the scan.
        self._trained: Trained = WEIGHTS.load(found_file(options.weights, WEIGHTS.shipped))

    def start(self, meta: StreamMeta) -> None:
        """Begin a new stream.

        Raises:
            MetaError: a list of positions, or a stream that lacks the step or an angle.
            AngleError: the ring lies beyond the camera.
        """
        super().start(meta)
        self._step_nm = meta.need("step_nm", NAME)
        self._energy_kev = meta.metadata.energy_kev

    def result(self) -> Reconstruction:
        """Probability of a defect at its nearest position, 0 elsewhere, and the numbers of each kind."""
        (found, shape, notes), of_ring = self.made()
        notes = (*of_ring, *notes)
        if found is None:
            return Reconstruction({NAME: Image(np.full(shape, np.nan), "1")}, notes=notes)
        drawn = np.zeros(shape)
        np.maximum.at(drawn, self._places(found, shape), found.probability)
        figures = {name: float(np.sum(found.kind == number)) for number, name in enumerate(KINDS)}
        figures["expected"] = float(found.probability.sum())
        counted = ", ".join(f"{figures[name]:.0f} {name}" for name in KINDS)
        return Reconstruction({NAME: Image(drawn, "1")}, figures, notes=(f"found: {counted}", *notes))

    def _places(self, found: Defects, shape: tuple[int, ...]) -> tuple[Any, Any]:
        row = np.clip(np.rint(found.y_nm / self._step_nm), 0, shape[0] - 1).astype(np.int64)
        return row, np.clip(np.rint(found.x_nm / self._step_nm), 0, shape[1] - 1).astype(np.int64)

    def make(self, image: Floats) -> tuple[Defects | None, tuple[int, ...], tuple[str, ...]]:
        """Defects, the shape of the image, and notes, also on what is missing."""
        unknown = int(np.count_nonzero(np.isnan(image)))
        if unknown:
            return (
                None,
                image.shape,
                (f"defects are sought when the scan is complete: {unknown} positions are missing",),
            )
        trained_kev = self._trained.optics.energy_kev
        notes: tuple[str, ...] = ()
        if self._energy_kev is not None and abs(self._energy_kev - trained_kev) > 1.0:
            notes = (f"the network was trained at {trained_kev:g} keV; this scan has {self._energy_kev:g} keV",)
        try:
            found = find(self._trained.network, image, self._step_nm)
        except DefectImageError as error:
            return None, image.shape, (*notes, str(error))
        return found.above(self.options.least_probability), image.shape, notes


def make(options: Mapping[str, Any]) -> Agent:
    """Build the agent; see `agents.load`."""
    return DefectAgent(checked_options(Options, options))
