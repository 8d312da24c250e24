"""Drivers that do what nobody asked for: they answer late, count otherwise, fork, interrupt, or hand out lazy values.

As in `drivers`, a kind is honest in all but its fault.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.guard.drivers import CAMERA, FULL_SCALE, LOST, ODD, OPTICS, Driver
from twin.arrays import Array
from twin.instrument.faults import ActuatorBusy, OutOfReach
from twin.state import StateSpace
from twin.types import Capabilities, Frame

REFUSALS: tuple[type[BaseException], ...] = (ActuatorBusy, ActuatorBusy, OutOfReach, ValueError, *LOST)


class ShownLate(Driver):
    """Refuses or fails after it has moved; the first reading after that shows the old place."""

    without_read_back = False

    def prepare(self) -> None:
        """Nothing is late yet."""
        self.late: list[Array] = []

    def carry_out(self, delta_nm: Array) -> None:
        """Move, and refuse or fail perhaps."""
        before = self.at.copy()
        self.move(delta_nm)
        if self.trouble():
            self.late = [before]
            raise REFUSALS[self.rng.integers(len(REFUSALS))]("ramping")

    def where(self) -> Array:
        """Show where it was, once."""
        return self.late.pop() if self.late else self.at.copy()


class RequestComesLate(Driver):
    """Loses an answer; the request arrives together with the next one, and is carried out before it."""

    def prepare(self) -> None:
        """No request is under way."""
        self.under_way: list[Array] = []

    def carry_out(self, delta_nm: Array) -> None:
        """Carry out what was under way; then lose this request, or move."""
        for late in self.under_way:
            self.move(late)
        self.under_way = [np.array(delta_nm)] if self.trouble() else []
        if self.under_way:
            raise LOST[self.rng.integers(len(LOST))]("gone")
        self.move(delta_nm)


class ReturnsFalse(Driver):
    """Moves by all, a part or nothing, and returns False, or a coroutine that nobody awaits."""

    def carry_out(self, delta_nm: Array) -> Any:
        """Move by some share, and return something."""
        fails = self.trouble()
        self.move(delta_nm * (self.rng.choice([0.0, 0.5, 1.0]) if fails else 1.0))
        if not fails:
            return None
        choice = int(self.rng.integers(3))
        return _nothing() if choice == 2 else [False, np.bool_(False)][choice]


async def _nothing() -> None:
    """Do nothing."""


class Lazy:
    """An array that is made when it is asked for, or fails then."""

    flags = SimpleNamespace(writeable=False)

    def __init__(self, values: Any, error: type[BaseException] | None) -> None:
        self._values, self._error = values, error

    def __array__(self, *arguments: Any, **named: Any) -> Any:
        """Make it."""
        if self._error is not None:
            raise self._error
        return np.array(self._values)


class LazySettings(Mapping[str, float]):
    """Settings of a frame that fail when they are read."""

    def __getitem__(self, name: str) -> float:
        raise SystemExit

    def __iter__(self) -> Iterator[str]:
        raise KeyboardInterrupt

    def __len__(self) -> int:
        return 1


class LazyValues(Driver):
    """Returns positions and frames that are computed when somebody looks at them; that fails in every odd way."""

    def _error(self) -> type[BaseException] | None:
        return ODD[self.rng.integers(len(ODD))] if self.trouble() else None

    def where(self) -> Any:
        """Return a lazy position."""
        return Lazy(self.at, self._error())

    def acquire(self) -> Frame:
        """Return a frame of lazy counts, or lazy settings."""
        good = self.frame()
        settings = LazySettings() if self.rng.random() < 0.2 else {}
        counts: Any = Lazy(good.counts, self._error())
        return Frame(counts, good.dose_e, good.exposure_s, good.clock_s, settings)


class Quantises(Driver):
    """Stands on a grid only: each position, or each step, is rounded to it."""

    without_read_back = False

    def prepare(self) -> None:
        """Choose the grid."""
        self.grid_nm = float(self.rng.choice([0.05, 0.3, 1.5, 6.0]))
        self.rounds_steps = bool(self.rng.random() < 0.5)
        self.told = np.zeros(3)
        self.strays_nm = self.grid_nm

    def carry_out(self, delta_nm: Array) -> None:
        """Move to the grid."""
        self.told = (self.at if self.rounds_steps else self.told) + delta_nm
        self.move(self.grid_nm * np.round(self.told / self.grid_nm) - self.at)


class Drifts(Driver):
    """Drifts a little by itself, before each move and during each exposure."""

    without_read_back = False

    def prepare(self) -> None:
        """Choose how much."""
        self.drift_nm = float(self.rng.choice([0.01, 0.1, 0.5]))
        self.strays_nm = 8.0 * self.drift_nm  # several exposures, and retries, between two readings

    def _drift(self) -> None:
        self.at = self.at + self.rng.uniform(-1, 1, 3) * self.drift_nm

    def carry_out(self, delta_nm: Array) -> None:
        """Drift, and move."""
        self._drift()
        self.move(delta_nm)

    def acquire(self) -> Frame:
        """Drift, and expose."""
        self._drift()
        return self.frame()


class OtherUnits(Driver):
    """Takes an input for metres, picometres or ångströms, or counts it the other way; its read-back is right."""

    without_read_back = False

    def prepare(self) -> None:
        """Choose the unit."""
        self.gain = float(self.rng.choice([1e-9, 1e-3, 0.1, -1.0]))

    def carry_out(self, delta_nm: Array) -> None:
        """Move by another amount."""
        self.move(delta_nm * self.gain)


class ZeroElsewhere(Driver):
    """Its read-back counts from another place than the start of the session, from the first reading on."""

    without_read_back = False

    def prepare(self) -> None:
        """Choose its zero."""
        self.zero = self.rng.uniform(-1, 1, 3) * float(self.rng.choice([0.05, 3.0, 50.0, 5000.0]))

    def where(self) -> Array:
        """Count from there."""
        return self.at + self.zero


class ChangesLimits(Driver):
    """Widens its own capabilities during the session, in place and by new ones."""

    def carry_out(self, delta_nm: Array) -> None:
        """Widen, and move."""
        object.__setattr__(self.capabilities.space, "input_nm", (1e6, 1e6, 1e6))
        space = StateSpace(start_nm=(1e5, 1e5, 1e5), input_nm=(1e6, 1e6, 1e6))
        self.capabilities = Capabilities("wider", OPTICS, space, CAMERA, FULL_SCALE)
        self.move(delta_nm)


class Interrupts(Driver):
    """Sends this program an interrupt, before or after it moves, or while it exposes."""

    def carry_out(self, delta_nm: Array) -> None:
        """Interrupt and move."""
        first = bool(self.rng.random() < 0.5)
        if first and self.trouble():
            signal.raise_signal(signal.SIGINT)
        self.move(delta_nm)
        if not first and self.trouble():
            signal.raise_signal(signal.SIGINT)

    def acquire(self) -> Frame:
        """Interrupt and expose."""
        if self.trouble():
            signal.raise_signal(signal.SIGINT)
        return self.frame()


class Forks(Driver):
    """Forks, and comes back twice."""

    def carry_out(self, delta_nm: Array) -> None:
        """Fork, and move in the process of the session."""
        if self.trouble():
            child = os.fork()
            if child == 0:
                return
            os.waitpid(child, 0)
        self.move(delta_nm)


class AnswersLate(Driver):
    """Moves at once and answers after its time is over; real time, so that there are few of them."""

    timeout_s = 0.02

    def carry_out(self, delta_nm: Array) -> None:
        """Move, and answer late."""
        self.move(delta_nm)
        if self.trouble():
            time.sleep(self.rng.choice([0.03, 0.05]))


class CallsFromThread(Driver):
    """Has a thread of its own call the guard, and waits for it: until the guard gives it up. Real time."""

    timeout_s = 0.02

    def carry_out(self, delta_nm: Array) -> None:
        """Wait for a call that waits for this one, and move."""
        guard = self.guard
        if guard is not None and self.trouble():
            caller = threading.Thread(target=_tries, args=(guard, np.array(delta_nm)), daemon=True)
            caller.start()
            caller.join()
        self.move(delta_nm)


def _tries(guard: Any, delta_nm: Array) -> None:
    try:
        guard.apply(delta_nm)
    except Exception:  # refused, once the session has ended
        return
