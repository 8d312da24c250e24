"""Common base of controllers on the spectrum model: tables, places of the first order, the cumulative input."""

from typing import Any

import numpy as np

from controller import preprocess
from controller.base import StopsInSpec
from controller.spectrum import fit as spectrum_fit
from controller.spectrum import model as spectrum_model
from controller.spectrum.model import Periodogram
from twin.arrays import Array
from twin.optics import Optics
from twin.state import StateSpace
from twin.types import Frame


class SpectrumController(StopsInSpec):
    """Base of the controllers on the spectrum model; subclasses fit, propose and estimate."""

    def __init__(self, optics: Optics, space: StateSpace, options: Any) -> None:
        self.options = options
        self.grid = spectrum_model.grid(optics)
        self.pixels = optics.camera_pixels
        self.reset(space, np.random.default_rng(0))

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        """Forget everything.

        Raises:
            ValueError: `space` lacks one of C10, C12a, C12b.
        """
        self.space, self.rng = space, rng
        self.places = spectrum_fit.first_order(space)
        self.cumulative_nm: Array = space.zero

    def measure(self, delta_nm: Array, frame: Frame) -> Periodogram:
        """Add an input to the cumulative one and return the periodogram of the frame that followed.

        Raises:
            ValueError: a frame of another shape than the camera's, or without signal.
        """
        self.cumulative_nm = self.cumulative_nm + delta_nm
        preprocess.check_shape(frame, self.pixels)
        return spectrum_model.periodogram(frame)

    def input_to(self, target_nm: Array) -> Array:
        """Return the input (n,) that leads to a cumulative input, clipped to the corrector's range."""
        return np.clip(target_nm, -self.space.input, self.space.input) - self.cumulative_nm
