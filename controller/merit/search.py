"""Base of the searches that compare frames by a figure of merit, as an operator does."""

from abc import ABC, abstractmethod

import numpy as np

from controller.base import Estimate
from controller.merit import contrast as quality
from twin.arrays import Array
from twin.optics import Optics
from twin.options import NonNegative, Positive, validated
from twin.state import StateSpace
from twin.types import Frame


@validated
class SearchOptions:
    """Options of every search.

    Attributes:
        contrast: see `merit.contrast.Contrast`.
        bias_nm: standard deviation, per component, of the optimum of the figure of merit about the null.
        stop_nm: done when the search is narrower than this along every coefficient.
    """

    contrast: quality.Contrast = "gradient"
    bias_nm: NonNegative = 5.0
    stop_nm: Positive = 3.0


class MeritSearch(ABC):
    """Measures the figure of merit at cumulative inputs; subclasses choose the inputs and say where the optimum is."""

    def __init__(self, optics: Optics, space: StateSpace, options: SearchOptions) -> None:
        self.optics, self.options = optics, options
        self.reset(space, np.random.default_rng(0))

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        """Begin at zero input."""
        self.space = space
        self.cumulative_nm: Array = space.zero
        self.begin()

    def measure(self, delta_nm: Array, frame: Frame) -> float:
        """Add an input to the cumulative one and return the figure of merit of the frame that followed."""
        self.cumulative_nm = self.cumulative_nm + delta_nm
        return quality.contrast(frame, self.optics, self.options.contrast)

    @abstractmethod
    def begin(self) -> None:
        """Begin a new search in `space`."""

    @abstractmethod
    def estimate(self) -> Estimate:
        """Return minus the best input so far."""
