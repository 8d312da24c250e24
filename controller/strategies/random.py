"""Baseline that learns nothing: random inputs, with the prior as estimate."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from controller.base import Estimate, uniform_prior
from twin.arrays import Array
from twin.optics import Optics
from twin.options import OptionError
from twin.state import StateSpace
from twin.types import Frame

SAMPLES = 500
"""Draws from the prior in an estimate, for pictures."""


class Random:
    """The baseline that every controller has to beat."""

    def __init__(self, space: StateSpace) -> None:
        self.reset(space, np.random.default_rng(0))

    def reset(self, space: StateSpace, rng: np.random.Generator) -> None:
        """Forget the inputs applied so far."""
        self.space = space
        self.rng = rng
        self.cumulative_nm: Array = space.zero
        self.belief = uniform_prior(space, rng, SAMPLES)

    def propose(self) -> Array:
        """Return the input to a point drawn uniformly from the input box."""
        return self.rng.uniform(-1.0, 1.0, self.space.dimension) * self.space.input - self.cumulative_nm

    def update(self, delta_nm: Array, frame: Frame) -> None:
        """Add the input to the cumulative one; the frame is ignored."""
        self.cumulative_nm = self.cumulative_nm + delta_nm

    def estimate(self) -> Estimate:
        """Return the prior."""
        return self.belief

    @property
    def done(self) -> bool:
        """Never: nothing is learnt."""
        return False


def make(optics: Optics, space: StateSpace, options: Mapping[str, Any]) -> Random:
    """Build the baseline; it has no options.

    Raises:
        OptionError: any option is given.

    Example:
        >>> from twin.state import FIRST_ORDER
        >>> controller = make(Optics(), FIRST_ORDER, {})
        >>> controller.update(controller.propose(), Frame(np.ones((128, 128)), dose_e=1e6, exposure_s=0.5, clock_s=0.0))
        >>> controller.estimate().mean_nm.tolist()  # the prior's
        [0.0, 0.0, 0.0]
    """
    if options:
        raise OptionError(f"random takes no options, got {', '.join(options)}")
    return Random(space)


def reads_ronchigrams(options: Mapping[str, Any]) -> bool:
    """Never: frames are ignored."""
    return False
