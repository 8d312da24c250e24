"""A rehearsal: inputs are printed instead of sent, and a stand-in gives the frames."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from twin.arrays import Array
from twin.types import Capabilities, Frame, Microscope


class DryRun:
    """Prints what would be sent to an instrument and sends it to a stand-in; the instrument is not touched.

    Args:
        inner: the instrument; only its capabilities are read.
        stand_in: gives the frames; for example the simulator.
        show: prints a line of text.

    Raises:
        ValueError: the stand-in has another camera or space.
    """

    def __init__(self, inner: Microscope, stand_in: Microscope, show: Callable[[str], None] = print) -> None:
        real, stand = inner.capabilities, stand_in.capabilities
        if (real.space, real.camera_shape) != (stand.space, stand.camera_shape):
            raise ValueError(
                f"the stand-in has {stand.space}, {stand.camera_shape}, not {real.space}, {real.camera_shape}"
            )
        self._stand_in, self._show = stand_in, show
        self._capabilities = replace(real, name=f"{real.name}, dry run", max_count=stand.max_count)

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def reset(self, rng: np.random.Generator) -> None:
        """Reset the stand-in."""
        self._stand_in.reset(rng)
        self._show(f"{self._capabilities.name}: would begin a session")

    def apply(self, delta_nm: Array) -> None:
        delta = np.array(delta_nm, dtype=np.float64)
        self._stand_in.apply(delta.copy())
        self._show(f"{self._capabilities.name}: would add {self._capabilities.space.named(delta)}")

    def acquire(self) -> Frame:
        """Return a frame of the stand-in."""
        frame = self._stand_in.acquire()
        self._show(f"{self._capabilities.name}: would expose {frame.exposure_s:g} s, {frame.dose_e:.3g} e")
        return frame
