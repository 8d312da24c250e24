"""A rehearsal: what would be sent is shown, and a stand-in answers."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from twin.types import Capabilities, Frame, Microscope

Array = NDArray[np.floating]


class DryRun:
    """Says what would be sent to an instrument and sends it to a stand-in; the instrument is not touched.

    Args:
        inner: the instrument; only asked for its capabilities.
        stand_in: gives the frames, for example the simulator.
        show: takes a line of text.

    Raises:
        ValueError: the stand-in has another camera or space.
    """

    def __init__(self, inner: Microscope, stand_in: Microscope, show: Callable[[str], None] = print) -> None:
        told, given = inner.capabilities, stand_in.capabilities
        if (told.space, told.camera_shape) != (given.space, given.camera_shape):
            raise ValueError(
                f"the stand-in has {given.space}, {given.camera_shape}, not {told.space}, {told.camera_shape}"
            )
        self._stand_in, self._show = stand_in, show
        self._told = replace(told, name=f"{told.name}, dry run", max_count=given.max_count)

    @property
    def capabilities(self) -> Capabilities:
        return self._told

    def reset(self, rng: np.random.Generator) -> None:
        """Resets the stand-in."""
        self._stand_in.reset(rng)
        self._show(f"{self._told.name}: would begin a session")

    def apply(self, delta_nm: Array) -> None:
        self._stand_in.apply(delta_nm)
        self._show(f"{self._told.name}: would add {self._told.space.named(np.asarray(delta_nm))}")

    def acquire(self) -> Frame:
        """The stand-in's frame."""
        frame = self._stand_in.acquire()
        self._show(f"{self._told.name}: would expose {frame.exposure_s:g} s, {frame.dose_e:.3g} e")
        return frame
