"""Centre of mass of every diffraction pattern, along the scan's axes: the deflection of the beam by the specimen.

For a thin specimen it is the gradient of the phase, convolved with the probe's intensity (thesis eqs 3.1-3.2).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from agents.base import Agent, Image, Reconstruction, StreamMeta
from agents.com.agent import ComAgent
from agents.com.centre_map import ComOptions
from twin.arrays import Floats
from twin.options import checked_options, validated

NAME = "com"


@validated
class Options(ComOptions):
    """Options of the centre of mass, see `ComOptions`."""


class Com(ComAgent[Options]):
    """Map of the centres of mass, in mrad if the angle of a camera pixel is known, else in pixels.

    Example:
        >>> import numpy as np
        >>> from agents import load
        >>> from agents.base import StreamMeta
        >>> from agents.block import FrameBlock
        >>> from twin.formats.dataset import Layout
        >>> agent = load("com", {"reference": "centre"})
        >>> agent.start(StreamMeta(Layout((1, 3), (8, 8))))
        >>> frames = np.zeros((3, 8, 8), np.uint16)
        >>> frames[[0, 1, 2], 4, [3, 4, 6]] = 100  # the beam moves along the columns, from (4, 4)
        >>> agent.update(FrameBlock(frames, np.array([[0, 0], [0, 1], [0, 2]])))
        >>> agent.result().images["com_x"].values
        array([[-1.,  0.,  2.]])
    """

    name = NAME

    def start(self, meta: StreamMeta) -> None:
        """Begin a new stream; shifts are in mrad where the stream states the angle of a pixel."""
        super().start(meta)
        pixel_mrad = meta.metadata.pixel_mrad
        self.scale, self.unit = (1.0, "px") if pixel_mrad is None else (pixel_mrad, "mrad")

    def result(self) -> Reconstruction:
        """Shift of the centre of mass along x and y and its magnitude, with the noise of the first two."""
        shift, noise = self.map.shift_px() * self.scale, np.sqrt(self.map.variance_px2()) * self.scale
        return Reconstruction(
            images={
                "com_x": Image(shift[..., 0], self.unit, noise),
                "com_y": Image(shift[..., 1], self.unit, noise),
                "magnitude": Image(np.hypot(shift[..., 0], shift[..., 1]), self.unit),
            },
            figures=_figures(shift, noise, self.map.electrons, self.unit),
            notes=self.map.notes,
        )


def _figures(shift: Floats, noise: Floats, electrons: Floats, unit: str) -> dict[str, float]:
    """Root mean square of the shift and of its noise per component, and mean electrons per position, where known."""
    figures = {}
    for name, values, power in (
        (f"shift_rms_{unit}", shift, 2),
        (f"noise_rms_{unit}", noise, 2),
        ("electrons_e", electrons, 1),
    ):
        known = values[np.isfinite(values)]
        if len(known):
            figures[name] = float(np.mean(known**power) ** (1 / power))
    return figures


def make(options: Mapping[str, Any]) -> Agent:
    """Build the agent; see `agents.load`."""
    return Com(checked_options(Options, options))
