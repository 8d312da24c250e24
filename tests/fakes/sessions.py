"""Sessions of a microscope: with given inputs, and with those that a controller proposes."""

from collections.abc import Sequence

import numpy as np

from controller.base import Controller
from twin.arrays import Array
from twin.state import StateSpace
from twin.types import Frame, Microscope


def session(microscope: Microscope, inputs: Sequence[Array], seed: int = 1) -> list[Frame]:
    """A frame, then one after every input, nm."""
    microscope.reset(np.random.default_rng(seed))
    frames = [microscope.acquire()]
    for delta in inputs:
        microscope.apply(delta)
        frames.append(microscope.acquire())
    return frames


def observe(controller: Controller, microscope: Microscope, space: StateSpace, observations: int) -> None:
    """Send what the controller proposes, each input within its limits, and show it the frames."""
    total = space.zero
    for _ in range(observations):
        delta = controller.propose()
        total = space.check_input(delta, total)
        microscope.apply(delta)
        controller.update(delta, microscope.acquire())
