"""Drivers that fail, one class a kind. Each knows where its corrector truly stands; the guard only has its words.

A kind is honest in all but its fault. Excluded, because nobody behind the driver's words can know:

- a corrector without read-back that moves elsewhere than it says (partly, not at all, with a wrong gain);
- a driver and a read-back that err together: a lie about a move and a read-back that confirms it, a lost answer and a
  read-back that is frozen;
- a move that begins after two readings, `retry_wait_s` apart, have shown the same position;
- "busy" from a corrector that has moved, without read-back;
- something else that moves the corrector between two commands, by more than a reading is good for.
"""

import time
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from twin.arrays import Array
from twin.instrument.faults import ActuatorBusy, BadFrame, CommandTimeout, MicroscopeFault, OutOfReach
from twin.instrument.safety import SafeMicroscope
from twin.optics import Optics
from twin.state import StateSpace
from twin.types import Capabilities, Frame

OPTICS = Optics(convergence_mrad=14.0, grid=256, sampling_nm=0.05, camera_pixels=64, binning=4)
CAMERA = (8, 8)
FULL_SCALE = 4000


class Unprintable(Exception):
    """An error whose message cannot be had."""

    def __str__(self) -> str:
        raise ValueError("no words")


class End(BaseException):
    """Not an Exception."""


ODD: tuple[type[BaseException], ...] = (
    SystemExit,
    KeyboardInterrupt,
    GeneratorExit,
    StopIteration,
    MemoryError,
    Unprintable,
    End,
    AssertionError,
)
LOST: tuple[type[BaseException], ...] = (CommandTimeout, ConnectionResetError, OSError, KeyError, MicroscopeFault)


class Driver:
    """An honest corrector without read-back, and a camera.

    Args:
        rng: decides when something fails.
        seen: is told of each command that arrives and each movement: (what, from, to).

    Attributes:
        at: where the corrector truly stands, nm from the start of the session.
    """

    without_read_back = True
    """Whether there are sessions of this kind without read-back."""
    with_read_back = True
    timeout_s: ClassVar[float | None] = 20.0
    strays_nm = 0.0
    """How far it strays from what it was told before a reading can show it; no guard can be better."""

    def __init__(self, rng: np.random.Generator, seen: Callable[[str, Array, Array], None]) -> None:
        self.capabilities = Capabilities("random", OPTICS, StateSpace(), CAMERA, FULL_SCALE)
        self.rng, self.seen, self.rate = rng, seen, float(rng.choice([0.05, 0.2, 0.6]))
        self.at = np.zeros(3)
        self.exposures = 0
        self.guard: SafeMicroscope | None = None
        self.prepare()

    def prepare(self) -> None:
        """Choose what the kind needs."""

    def trouble(self) -> bool:
        """Whether something fails now."""
        return bool(self.rng.random() < self.rate)

    def reset(self, rng: np.random.Generator) -> None:
        """Begin."""

    def apply(self, delta_nm: Array) -> Any:
        """Receive a command."""
        self.seen("command", self.at, np.array(delta_nm, dtype=np.float64))
        return self.carry_out(delta_nm)

    def carry_out(self, delta_nm: Array) -> Any:
        """Move, or not."""
        self.move(delta_nm)

    def move(self, delta_nm: Array) -> None:
        """Move the corrector by this."""
        before, self.at = self.at, self.at + delta_nm
        self.seen("move", before, self.at)

    def acquire(self) -> Any:
        """Expose."""
        return self.frame()

    def frame(self) -> Frame:
        """A good frame."""
        self.exposures += 1
        counts = (np.arange(64, dtype=np.uint16).reshape(CAMERA) + self.exposures % 1000).astype(np.uint16)
        return Frame(counts, 100.0, 0.1, float(self.exposures))

    def where(self) -> Any:
        """What the read-back says, of a kind that has one."""
        return self.at.copy()


def reading(kind: type[Driver]) -> type[Driver]:
    """Return a kind with read-back."""
    return type(f"{kind.__name__}ReadingBack", (kind,), {"read_back_nm": lambda self: self.where()})


class Busy(Driver):
    """Refuses because it is busy; nothing has moved."""

    def carry_out(self, delta_nm: Array) -> None:
        """Refuse, or move."""
        if self.trouble():
            raise ActuatorBusy("ramping")
        self.move(delta_nm)


class BusyThoughMoved(Driver):
    """Says that it is busy after it has moved, by all or a part."""

    without_read_back = False

    def carry_out(self, delta_nm: Array) -> None:
        """Move and refuse."""
        fails = self.trouble()
        self.move(delta_nm * (self.rng.choice([1.0, 0.4]) if fails else 1.0))
        if fails:
            raise ActuatorBusy("ramping")


class OutOfRange(Driver):
    """Refuses values beyond a range of its own."""

    def carry_out(self, delta_nm: Array) -> None:
        """Refuse, or move."""
        if self.trouble():
            raise OutOfReach("the lens ends here")
        self.move(delta_nm)


class LostAnswer(Driver):
    """Moves, and its answer is lost."""

    def carry_out(self, delta_nm: Array) -> None:
        """Move and raise."""
        self.move(delta_nm)
        if self.trouble():
            raise LOST[self.rng.integers(len(LOST))]("gone")


class LostRequest(Driver):
    """Does not move, and says nothing."""

    def carry_out(self, delta_nm: Array) -> None:
        """Raise, or move."""
        if self.trouble():
            raise LOST[self.rng.integers(len(LOST))]("gone")
        self.move(delta_nm)


class LostEitherWay(Driver):
    """Loses requests, answers, or stops on the way, at random."""

    def carry_out(self, delta_nm: Array) -> None:
        """Move by some share, and raise."""
        fails = self.trouble()
        self.move(delta_nm * (self.rng.choice([0.0, 1.0, self.rng.random()]) if fails else 1.0))
        if fails:
            raise LOST[self.rng.integers(len(LOST))]("gone")


class PartThenSilence(Driver):
    """Stops on its way, with an error."""

    def carry_out(self, delta_nm: Array) -> None:
        """Move by a part and raise."""
        fails = self.trouble()
        self.move(delta_nm * (self.rng.random(3) if fails else 1.0))
        if fails:
            raise CommandTimeout("did not arrive")


class PartInSilence(Driver):
    """Stops on its way and says that it arrived."""

    without_read_back = False

    def carry_out(self, delta_nm: Array) -> None:
        """Move by a part."""
        self.move(delta_nm * (self.rng.random() if self.trouble() else 1.0))


class StandsStill(Driver):
    """Says that it moved, and did not: once in a while, or never moves."""

    without_read_back = False

    def carry_out(self, delta_nm: Array) -> None:
        """Move, or not."""
        if not self.trouble():
            self.move(delta_nm)


class WrongGain(Driver):
    """Moves by some per cent more or less than told."""

    without_read_back = False

    def prepare(self) -> None:
        """Choose the gain."""
        self.gain = self.rng.choice([0.0, 0.5, 0.9, 0.97, 1.0])

    def carry_out(self, delta_nm: Array) -> None:
        """Move by another amount."""
        self.move(delta_nm * self.gain)


class ValueErrorAfterMoving(Driver):
    """Raises ValueError, which promises that nothing has moved, after moving by all or a part; or before."""

    def carry_out(self, delta_nm: Array) -> None:
        """Move and raise."""
        fails = self.trouble()
        self.move(delta_nm * (self.rng.choice([0.0, 0.5, 1.0]) if fails else 1.0))
        if fails:
            raise ValueError("not like this")


class OddErrors(Driver):
    """Raises what no driver should, before, on the way or after."""

    def carry_out(self, delta_nm: Array) -> None:
        """Move by some share, and raise."""
        fails = self.trouble()
        self.move(delta_nm * (self.rng.choice([0.0, 0.3, 1.0]) if fails else 1.0))
        if fails:
            raise ODD[self.rng.integers(len(ODD))]

    def acquire(self) -> Frame:
        """Raise, or expose."""
        if self.trouble():
            raise ODD[self.rng.integers(len(ODD))]
        return self.frame()


class InPlace(Driver):
    """Scales the array that it is given to metres, keeps it, fills it later; gives its own arrays away."""

    def prepare(self) -> None:
        """Keep what it is given."""
        self.kept: list[NDArray[Any]] = []
        self.buffer = np.zeros(CAMERA, np.uint16)

    def carry_out(self, delta_nm: Array) -> Array:
        """Move and scale."""
        for array in self.kept:
            array.flags.writeable = True
            array.fill(1e6)
        self.move(delta_nm)
        delta_nm *= 1e-9
        self.kept = [delta_nm]
        return delta_nm

    def acquire(self) -> Frame:
        """Expose into one buffer."""
        frame = self.frame()
        self.buffer.flags.writeable = True
        self.buffer[...] = frame.counts
        return Frame(self.buffer, frame.dose_e, frame.exposure_s, frame.clock_s)

    def where(self) -> Array:
        """Give its own array away."""
        told = self.at.copy()
        self.kept.append(told)
        return told


class Lying(Driver):
    """Moves as told; from some moment on its read-back freezes, jumps, scales, lags by a command or is anything."""

    without_read_back = False

    def prepare(self) -> None:
        """Choose the lie and its moment."""
        self.lie = str(self.rng.choice(["frozen", "jumps", "jumps far", "scales", "lags", "anything", "goal"]))
        self.honest = int(self.rng.integers(1, 8))
        self.offset = self.rng.uniform(-1, 1, 3) * (5000.0 if self.lie == "jumps far" else 15.0)
        self.told, self.before = np.zeros(3), np.zeros(3)

    def carry_out(self, delta_nm: Array) -> None:
        """Move as told."""
        self.before = self.at.copy()
        self.move(delta_nm)

    def where(self) -> Array:
        """Say something."""
        self.honest -= 1
        if self.honest >= 0:
            self.told = self.at.copy()
            return self.told
        lies = {
            "frozen": self.told,
            "jumps": self.at + self.offset,
            "jumps far": self.at + self.offset,
            "scales": self.at * 1.3,
            "lags": self.before,
            "anything": self.rng.uniform(-60, 60, 3),
            "goal": np.zeros(3),
        }
        return lies[self.lie]


class NoPosition(Driver):
    """Its read-back is no position: NaN, complex, text, nothing, another shape, masked, an error."""

    without_read_back = False

    def where(self) -> Any:
        """Say something that is no position."""
        if not self.trouble():
            return self.at.copy()
        choice = int(self.rng.integers(10))
        if choice == 9:
            raise ODD[self.rng.integers(len(ODD))]
        return [
            np.full(3, np.nan),
            np.array([0.0, np.inf, 0.0]),
            self.at + 1e-3j,
            "here",
            None,
            self.at[:2],
            [[1, 2, 3]],
            np.array(["1", "2", "3"]),
            np.ma.masked_array(np.zeros(3), [True, False, False]),
        ][choice]


class Slow(Driver):
    """Its read-back shows a move late, after one reading or two."""

    without_read_back = False

    def prepare(self) -> None:
        """Nothing is late yet."""
        self.late: list[Array] = []

    def carry_out(self, delta_nm: Array) -> None:
        """Move, shown later."""
        before: Array = self.at.copy()
        self.move(delta_nm)
        on_its_way: list[Array] = [before + 0.2 * (self.at - before), before + 0.7 * (self.at - before)]
        self.late = on_its_way[: self.rng.integers(3)]

    def where(self) -> Array:
        """Show where it was on its way."""
        return self.late.pop(0) if self.late else self.at.copy()


class BadFrames(Driver):
    """Gives frames that no exposure can give."""

    def acquire(self) -> Any:
        """Expose, badly."""
        good = self.frame()
        if not self.trouble():
            return good
        counts: list[Any] = [
            good.counts.astype(np.complex128),
            np.full(CAMERA, np.nan),
            np.zeros((16, 16), np.uint16),
            np.zeros(CAMERA, np.uint16),
            good.counts.astype(object),
            good.counts + np.uint16(60000),
            np.ma.masked_less(good.counts, 20),
        ]
        frames: list[Any] = [
            None,
            3.0,
            "frame",
            good.counts,
            Frame(good.counts.copy(), float("nan"), 0.1, 1e9),
            Frame(good.counts.copy(), 100.0, 0.1, -1.0),
            Frame(good.counts.copy(), None, 0.1, 1.0),  # type: ignore[arg-type]
            Frame(good.counts.copy(), 100.0, 0.1, 1e9, {"a": "b"}),  # type: ignore[dict-item]
            *(Frame(each, 100.0, 0.1, good.clock_s) for each in counts),
        ]
        choice = int(self.rng.integers(len(frames) + 1))
        if choice == len(frames):
            raise BadFrame("the shutter is stuck")
        return frames[choice]


class DeadOnTheWayBack(Driver):
    """The camera fails for good, and from then on the corrector, too: in silence, or half way."""

    def prepare(self) -> None:
        """Alive yet."""
        self.dead, self.share = False, float(self.rng.choice([0.0, 0.5, 1.0]))

    def carry_out(self, delta_nm: Array) -> None:
        """Move, or move by a share and raise."""
        self.move(delta_nm * (self.share if self.dead else 1.0))
        if self.dead:
            self.share = 0.0
            raise ConnectionResetError("gone")

    def acquire(self) -> Frame:
        """Expose, or die."""
        self.dead = self.dead or self.trouble()
        if self.dead:
            raise BadFrame("the shutter is stuck")
        return self.frame()


class Absolute(Driver):
    """Is set to absolute values; after a failure it counts from where it stands, from the new value or the old one."""

    def prepare(self) -> None:
        """Choose what it counts from."""
        self.account = np.zeros(3)
        self.counts_from = str(self.rng.choice(["where it stands", "the new value", "the old value"]))

    def carry_out(self, delta_nm: Array) -> None:
        """Go to a value, perhaps not all the way."""
        wanted, fails = self.account + delta_nm, self.trouble()
        share = self.rng.choice([0.0, 0.5, 1.0]) if fails else 1.0
        self.move(share * (wanted - self.at))
        if not fails:
            self.account = wanted
            return
        if self.counts_from != "the old value":
            self.account = wanted if self.counts_from == "the new value" else self.at.copy()
        raise CommandTimeout("no answer")


class CallsItsGuard(Driver):
    """Calls the guard from within a call of the guard."""

    def carry_out(self, delta_nm: Array) -> None:
        """Call back, and move."""
        if self.trouble() and self.guard is not None:
            self.guard.apply(delta_nm)
        self.move(delta_nm)


class Hangs(Driver):
    """Does not return in time, and moves then; real time, so that there are few of them."""

    timeout_s = 0.02

    def carry_out(self, delta_nm: Array) -> None:
        """Move, late."""
        if self.trouble():
            time.sleep(self.rng.choice([0.03, 0.05]))
        self.move(delta_nm)


class DiscFull(Driver):
    """An honest instrument, whose log is on a disc that takes some lines and refuses others."""


class ProgramErrors(Driver):
    """An honest instrument, in a program that fails in the middle of a call."""
