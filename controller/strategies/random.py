"""Baseline that learns nothing: random inputs, and the prior as its estimate."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controller.base import Estimate, uniform_prior
from twin.optics import Optics
from twin.options import OptionError
from twin.state import StateSpace
from twin.types import Frame

Array = NDArray[np.floating]

SAMPLES = 500
"""Draws from the prior that an estimate carries, for pictures."""


class Random:
    """What every controller has to beat."""

    def __init__(self, space: StateSpace) -> None:
        self.reset(space, np.random.default_rng(0))

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        """Forget the inputs applied so far."""
        self.space = space
        self.rng = rng
        self.cumulative_nm: Array = space.zero
        self.belief = uniform_prior(space, rng, SAMPLES)

    def propose(self) -> Array:
        """To a point drawn uniformly from the input box."""
        return self.rng.uniform(-1.0, 1.0, self.space.dimension) * self.space.input - self.cumulative_nm

    def update(self, delta_nm: Array, frame: Frame) -> None:
        """Remember where the input led; the frame goes unread."""
        self.cumulative_nm = self.cumulative_nm + delta_nm

    def estimate(self) -> Estimate:
        """The prior, whatever was seen."""
        return self.belief

    @property
    def done(self) -> bool:
        """Never: nothing is learnt."""
        return False


def make(optics: Optics, space: StateSpace, options: Mapping[str, Any]) -> Random:
    """Build the baseline; it has no options.

    Raises:
        OptionError: any option is given.
    """
    if options:
        raise OptionError(f"random takes no options, got {', '.join(options)}")
    return Random(space)
