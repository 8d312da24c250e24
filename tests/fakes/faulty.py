"""An instrument that fails on request: busy, no answer, no effect, wrong read-back, invalid frames."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twin.optics import Optics
from twin.state import StateSpace
from twin.types import Capabilities, Frame

OPTICS = Optics(convergence_mrad=14.0, grid=256, sampling_nm=0.05, camera_pixels=64, binning=4)
SPACE = StateSpace()


class Faulty:
    """A corrector that integrates what it is sent, and a camera that counts its frames.

    Attributes:
        position: true position of the corrector, from an origin of its own.
        gain: of every command.
        on_apply, on_acquire: behaviour of the next calls, in order: None works, an exception is raised, a function of
            the instrument is called, a frame is returned. An exception in a tuple is raised after the move.
    """

    def __init__(self) -> None:
        self.capabilities = Capabilities("faulty", OPTICS, SPACE, (64, 64), 4000)
        self.position: NDArray[np.float64] = np.array([7.0, -8.0, 9.0])
        self.origin = self.position
        self.gain, self.clock, self.exposures, self.dose_e = 1.0, 0.0, 0, 100.0
        self.sent: list[NDArray[np.float64]] = []
        self.on_apply: list[Any] = []
        self.on_acquire: list[Any] = []

    def reset(self, rng: np.random.Generator) -> None:
        self.origin, self.clock = self.position, 0.0

    def apply(self, delta_nm: NDArray[np.float64]) -> None:
        fault = self.on_apply.pop(0) if self.on_apply else None
        if isinstance(fault, Exception):
            raise fault
        if callable(fault):
            fault(self)
        self.sent.append(np.array(delta_nm))
        self.position = self.position + self.gain * delta_nm
        if isinstance(fault, tuple):
            raise fault[0]

    def acquire(self) -> Frame:
        self.exposures += 1
        self.clock += 1.0
        fault = self.on_acquire.pop(0) if self.on_acquire else None
        if isinstance(fault, BaseException):
            raise fault
        if isinstance(fault, Frame):
            return fault
        if callable(fault):
            fault(self)
        return self.frame()

    def frame(self, counts: Any = None, clock_s: float | None = None) -> Frame:
        if counts is None:
            counts = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) % 50 + self.exposures
        return Frame(counts, self.dose_e, 0.5, self.clock if clock_s is None else clock_s)

    @property
    def moved(self) -> NDArray[np.float64]:
        """Return the cumulative input of the session."""
        return self.position - self.origin


class Honest(Faulty):
    """Reports its position; `says` may report another one."""

    says: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None

    def read_back_nm(self) -> NDArray[np.float64]:
        return self.moved if self.says is None else self.says(self.moved)


class Absolute(Honest):
    """Set to absolute values; after a missing answer inputs continue from the reading, as in `twin.instrument.base`."""

    def reset(self, rng: np.random.Generator) -> None:
        super().reset(rng)
        self.account = np.zeros(3)

    def apply(self, delta_nm: NDArray[np.float64]) -> None:
        wanted = self.account + delta_nm
        try:
            super().apply(self.origin + wanted - self.position)
        except Exception:
            self.account = self.moved
            raise
        self.account = wanted


def hang(instrument: Faulty) -> None:
    """Hang a little longer than a test takes."""
    time.sleep(1.0)
