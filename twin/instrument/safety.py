"""What stands between a controller and an instrument that is not the simulator: limits, budget, checks, the way back.

`SafeMicroscope` wraps any backend. Every command is in the audit log before it is sent. Whatever fails ends the session
with the last good state restored, and the log says which and why. Nothing here knows what kind of instrument it is.
"""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, Protocol, Self, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from twin.errors import NoSession
from twin.instrument.audit import AuditLog, read
from twin.instrument.faults import (
    ActuatorBusy,
    BadFrame,
    DoseExhausted,
    MicroscopeFault,
    NotThere,
    OutOfReach,
    StaleFrame,
    Stopped,
)
from twin.instrument.limits import DoseBudget, Limits, check_frame
from twin.instrument.recording import RepeatsSessions
from twin.instrument.watch import Watch
from twin.interrupt import held
from twin.types import Capabilities, Frame, Microscope

Array = NDArray[np.floating]
Given = TypeVar("Given")

SLACK_NM = 1e-9
ONE_REGION = "the region of this session"


@runtime_checkable
class ReadsBack(Protocol):
    """An instrument that can tell where its corrector stands."""

    def read_back_nm(self) -> Array:
        """The cumulative input of this session as the instrument reports it, nm, shape (n,)."""
        ...


@runtime_checkable
class TellsDose(Protocol):
    """An instrument that knows what the next exposure will cost."""

    def next_dose_e(self) -> float:
        """Electrons of the next exposure."""
        ...


@runtime_checkable
class HasRegion(Protocol):
    """An instrument that knows which specimen region is under the beam; one that does not is taken to stay on one."""

    def region(self) -> str:
        """Equal while the same specimen is exposed."""
        ...


@runtime_checkable
class OutlivesPrograms(ReadsBack, Protocol):
    """An instrument whose session can be taken up by another program than the one that began it."""

    def session(self) -> dict[str, Any]:
        """What that takes, as plain JSON: the settings that the inputs are counted from."""
        ...

    def take_up(self, session: Mapping[str, Any], clock_s: float) -> None:
        """Instead of `reset`: inputs and clock of this session go on. Nothing moves."""
        ...


class SafeMicroscope:
    """Any instrument, within limits, with a log and a way back.

    An input beyond a limit is refused (ValueError) and nothing moves. A fault is retried where that is safe; one that
    stays ends the session: the corrector goes back, every further call raises `Stopped` until `reset`. A good state is
    one that gave a good frame; the start is one. In a `with`, an exception or an interrupt does the same.

    Args:
        inner: the instrument. `ReadsBack`, `TellsDose`, `HasRegion` and `OutlivesPrograms` are used where it has them.
        limits: see there.
        audit: the log; None keeps none, for tests.
        sleep: waits that many seconds.

    Raises:
        ValueError: a limit for a coefficient that is not calibrated.
    """

    def __init__(
        self,
        inner: Microscope,
        limits: Limits | None = None,
        audit: AuditLog | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._inner, self._audit, self._sleep = inner, audit, sleep
        self._limits = limits or Limits()
        self._space = inner.capabilities.space
        self._total_nm = np.minimum(self._limits.of("total_nm", self._space), self._space.input)
        self._step_nm = self._limits.of("step_nm", self._space)
        self._watch = Watch(self._limits.timeout_s)
        self._stopped: str | None = "before reset"
        self._begun = False

    @property
    def capabilities(self) -> Capabilities:
        return self._inner.capabilities

    def reset(self, rng: np.random.Generator) -> None:
        """A new session: what the instrument shows now is the start, and the first good state.

        Raises:
            MicroscopeFault: it cannot be reached.
        """
        self._begun = False
        self._log("reset", instrument=self.capabilities.name, names=self._space.names)
        self._reach(lambda: self._inner.reset(rng))
        self._begin(self._space.zero, -np.inf, DoseBudget(self._limits))

    def apply(self, delta_nm: Array) -> None:
        """Send an input, in several commands if it is larger than one may be.

        Raises:
            ValueError: wrong shape, not finite or beyond a limit; nothing has moved.
            Stopped: a fault that stayed; the last good state was restored, or the message says why not.
        """
        self._check_session("apply")
        parts = self._checked_commands(np.asarray(delta_nm, dtype=np.float64))
        sent = 0
        try:
            for part in parts:
                self._command(part)
                sent += 1
        except ValueError as error:
            self._log("refused", delta_nm=parts[sent], reason=str(error))
            if sent == 0:
                raise
            self._stop(OutOfReach(f"refused in the middle of a ramp: {error}"))
        except MicroscopeFault as fault:
            self._stop(fault)

    def acquire(self) -> Frame:
        """One good frame.

        Raises:
            Stopped: the dose is spent, or no attempt gave a good frame; the last good state was restored.
        """
        self._check_session("acquire")
        try:
            frame = self._retried("acquire", self._expose)
        except MicroscopeFault as fault:
            self._stop(fault)
        self._good_nm, self._clock_s = self._sent_nm.copy(), frame.clock_s
        return frame

    def abort(self, reason: str) -> None:
        """Back to the last good state, and no further: an operator's or a program's way out. Raises nothing."""
        if self._begun and self._stopped is None:
            self._note("abort", reason=reason)
            self._stopped = self._go_back(reason)

    @property
    def repeats_sessions(self) -> bool:
        """As the instrument's, see `recording.RepeatsSessions`; most do not."""
        return isinstance(self._inner, RepeatsSessions) and self._inner.repeats_sessions

    @property
    def can_resume(self) -> bool:
        """Whether a session that another program began can be taken up."""
        return self.repeats_sessions or isinstance(self._inner, OutlivesPrograms)

    def session(self) -> dict[str, Any]:
        """As `recording.Resumable`; empty for an instrument that is none."""
        return self._inner.session() if isinstance(self._inner, OutlivesPrograms) else {}

    def resume(self, session: Mapping[str, Any], cumulative_nm: Array, clock_s: float) -> None:
        """Take up a session that another program began, at its last good state. The log says what dose is spent.

        The corrector goes there from where it stands by commands within the limits, as any input.

        Raises:
            ValueError: the instrument cannot.
            MicroscopeFault: it cannot be reached, or stands where no allowed input leads back from.
            Stopped: it did not come to that state.
        """
        inner = self._inner
        if not isinstance(inner, OutlivesPrograms):
            raise ValueError(f"{self.capabilities.name} cannot take up a session: it has no take_up()")
        self._begun = False
        budget = spent_budget([] if self._audit is None else read(self._audit.path), self._limits)
        told = {"cumulative_nm": cumulative_nm, "clock_s": clock_s, "spent_e": budget.spent_e}
        self._log("resume", instrument=self.capabilities.name, **told)
        self._reach(lambda: inner.take_up(session, clock_s))
        there = self._read_back()
        if there is None:
            raise NotThere("the corrector does not say where it stands")
        self._begin(there, clock_s, budget)
        try:
            # Somebody else has been at it: not ours to drive back from there.
            self._check_limit("total_nm", there, self._total_nm)
            self.apply(np.asarray(cumulative_nm, dtype=np.float64) - there)
        except ValueError as error:
            self._stopped = f"not taken up from {self._space.named(there)}, where somebody else brought it: {error}"
            raise OutOfReach(self._stopped) from error
        self._good_nm = self._sent_nm.copy()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if error is not None:
            self.abort(f"{type(error).__name__}: {error}")
        elif self._begun and self._stopped is None:
            self._log("end", cumulative_nm=self._sent_nm)

    def _reach(self, begin: Callable[[], None]) -> None:
        """The first call of a session; whatever a driver raises is a fault.

        Raises:
            MicroscopeFault: with the driver's words.
        """
        try:
            self._watch.call(begin)
        except Exception as error:
            self._log("fault", kind=type(error).__name__, reason=str(error), outcome="no session")
            raise error if isinstance(error, MicroscopeFault) else MicroscopeFault(_words(error)) from error

    # --- inputs ----------------------------------------------------------------------------------

    def _begin(self, cumulative_nm: Array, clock_s: float, budget: DoseBudget) -> None:
        self._begun, self._stopped, self._unsure = True, None, False
        self._sent_nm, self._good_nm, self._clock_s = cumulative_nm.copy(), cumulative_nm.copy(), clock_s
        self._budget, self._latest = budget, ""

    def _checked_commands(self, delta_nm: Array) -> list[Array]:
        """The commands that make up an input.

        Raises:
            ValueError: beyond a limit; the refusal is in the log.
        """
        try:
            total = self._space.check_input(delta_nm, self._sent_nm)
            self._check_limit("total_nm", total, self._total_nm)
            if not self._limits.ramp:
                self._check_limit("step_nm", delta_nm, self._step_nm)
        except ValueError as error:
            self._log("refused", delta_nm=delta_nm, reason=str(error))
            raise
        return self._pieces(delta_nm)

    def _check_limit(self, label: str, values_nm: Array, limits_nm: Array) -> None:
        excess = np.abs(values_nm) - limits_nm
        worst = int(np.argmax(excess))
        if excess[worst] > SLACK_NM:
            raise ValueError(
                f"safety.{label}.{self._space.names[worst]} allows +-{limits_nm[worst]:g} nm;"
                f" got {values_nm[worst]:+g} nm"
            )

    def _command(self, delta_nm: Array) -> None:
        """One command, logged before it is sent, settled and verified after."""
        target = self._sent_nm + delta_nm
        self._log("command", delta_nm=delta_nm, target_nm=target)
        self._retried("apply", lambda: self._send(delta_nm, target))
        self._sent_nm, self._unsure = target, False
        found = self._settle_and_verify()
        self._log("moved", cumulative_nm=target, read_back_nm=found)

    def _send(self, delta_nm: Array, target_nm: Array) -> None:
        """Once. After silence the corrector is asked where it stands; one that cannot say must not be sent again."""
        self._unsure = True
        try:
            self._watch.call(lambda: self._inner.apply(delta_nm))
        except (ActuatorBusy, OutOfReach, ValueError):
            self._unsure = False
            raise
        except Exception as error:
            read = self._read_back()
            if read is None:
                raise NotThere(f"{_words(error)}; whether it moved is not known") from error
            if self._is_at(read, target_nm):
                self._log("fault", kind=type(error).__name__, reason=str(error), outcome="it had moved nevertheless")
            elif self._is_at(read, self._sent_nm):
                self._unsure = False
                raise ActuatorBusy(f"{_words(error)}; nothing has moved") from error
            else:
                raise NotThere(f"{_words(error)}; it stands at {_listed(read)} nm") from error

    def _settle_and_verify(self) -> Array | None:
        """What the corrector reads, None if it cannot tell.

        Raises:
            NotThere: it is off by more than `read_back_nm`, also after waiting.
        """
        self._sleep(self._limits.settle_s)
        if not isinstance(self._inner, ReadsBack):
            return None
        for attempt in range(self._limits.retries + 1):
            read = self._read_back()
            if read is not None and self._is_at(read, self._sent_nm):
                return read
            if attempt < self._limits.retries:
                self._sleep(self._limits.retry_wait_s)
        if read is None:
            raise NotThere("the corrector does not say where it stands")
        worst = int(np.argmax(np.abs(read - self._sent_nm)))
        raise NotThere(
            f"{self._space.names[worst]} was sent to {self._sent_nm[worst]:+.3f} nm and reads {read[worst]:+.3f} nm;"
            f" safety.read_back_nm allows {self._limits.read_back_nm:g} nm"
        )

    def _read_back(self) -> Array | None:
        inner = self._inner
        if not isinstance(inner, ReadsBack):
            return None
        try:
            told = np.asarray(self._watch.call(inner.read_back_nm), dtype=np.float64)
            if told.shape != (self._space.dimension,) or not np.all(np.isfinite(told)):
                raise NotThere(f"{told.tolist()} is no position of {', '.join(self._space.names)}")
        except Exception as error:
            self._note("fault", kind=type(error).__name__, reason=f"read-back: {error}")
            return None
        return told

    def _is_at(self, read_nm: Array, target_nm: Array) -> bool:
        return bool(np.all(np.abs(read_nm - target_nm) <= self._limits.read_back_nm))

    # --- exposures -------------------------------------------------------------------------------

    def _expose(self) -> Frame:
        inner = self._inner
        region, planned = ONE_REGION, self._budget.largest_e
        try:
            region = self._watch.call(inner.region) if isinstance(inner, HasRegion) else region
            planned = self._watch.call(inner.next_dose_e) if isinstance(inner, TellsDose) else planned
        except Exception as error:
            raise error if isinstance(error, MicroscopeFault) else MicroscopeFault(_words(error)) from error
        if not (np.isfinite(planned) and planned >= 0):
            raise MicroscopeFault(
                f"the next exposure is said to cost {planned!r} e, which no budget can be held against"
            )
        self._budget.check(region, planned)
        self._log("exposure", planned_e=planned, region=region)
        try:
            frame = self._watch.call(inner.acquire)
        except Exception as error:
            # Nobody knows whether the shutter was open: booked as if it was.
            self._budget.book(region, planned)
            raise error if isinstance(error, MicroscopeFault) else BadFrame(_words(error)) from error
        booked = max(frame.dose_e, 0.0) if np.isfinite(frame.dose_e) else planned
        self._budget.book(region, booked)
        check_frame(frame, self.capabilities, self._clock_s)
        digest = counts_digest(frame)
        if digest == self._latest:
            # The clock of most instruments is ours and always advances; noise never comes twice.
            raise StaleFrame("the frame is the one before, byte for byte")
        self._latest = digest
        self._log("frame", clock_s=frame.clock_s, dose_e=booked, spent_e=self._budget.spent_e, counts=digest)
        return frame

    # --- faults ----------------------------------------------------------------------------------

    def _retried(self, verb: str, act: Callable[[], Given]) -> Given:
        """`act`, again after a fault that may pass and left nothing moved.

        Raises:
            MicroscopeFault: the last attempt's.
        """
        attempt = 1
        while True:
            try:
                return act()
            except (NotThere, OutOfReach, DoseExhausted):
                raise
            except MicroscopeFault as fault:
                self._log("fault", verb=verb, kind=type(fault).__name__, reason=str(fault), attempt=attempt)
                if attempt > self._limits.retries:
                    raise
            attempt += 1
            self._sleep(self._limits.retry_wait_s)

    def _stop(self, fault: MicroscopeFault) -> NoReturn:
        """End the session.

        Raises:
            Stopped: always.
        """
        self._note("fault", kind=type(fault).__name__, reason=str(fault), outcome="the session ends")
        self._stopped = self._go_back(f"{type(fault).__name__}: {fault}")
        raise Stopped(self._stopped) from fault

    def _go_back(self, reason: str) -> str:
        """Restore a good state as far as the instrument lets us; what happened, in words. Ctrl-C waits for its end."""
        with held():
            return self._restore(reason)

    def _restore(self, reason: str) -> str:
        goal = self._good_nm if self._limits.rollback == "last_good" else self._space.zero
        problem = ""
        # Two at least: what was sent is undone first, and what the corrector then says it lacks comes second.
        for _ in range(max(self._limits.retries, 1) + 1):
            problem = self._one_step_back(goal)
            if not problem:
                self._note("restored", cumulative_nm=goal, reason=reason)
                return f"{reason}; restored to {self._space.named(goal)}"
            self._sleep(self._limits.retry_wait_s)
        self._note("not restored", goal_nm=goal, believed_nm=self._sent_nm, reason=reason, problem=problem)
        return f"{reason}; NOT restored to {self._space.named(goal)}: {problem}"

    def _one_step_back(self, goal_nm: Array) -> str:
        """Towards the goal, by what was sent, then by what is read; empty when there, else what is in the way."""
        read = self._read_back()
        if read is not None and self._is_at(read, goal_nm):
            return ""
        # The commands that led here, undone, lead back also for a corrector of a wrong gain. Only when that was done
        # and it is still off does its own word count. After a command of unknown outcome a zero is sent: a corrector
        # that is set to absolute values is then where it was before.
        by_reading = (
            read is not None and not self._unsure and np.allclose(self._sent_nm, goal_nm, rtol=0, atol=SLACK_NM)
        )
        delta = goal_nm - (read if read is not None and by_reading else self._sent_nm)
        self._note("restoring", delta_nm=delta, goal_nm=goal_nm, read_back_nm=read)
        try:
            for part in self._pieces(delta) if np.any(delta) or self._unsure else ():
                self._watch.call(partial(self._inner.apply, part))
                self._sleep(self._limits.settle_s)
        except Exception as error:
            self._note("fault", verb="restore", kind=type(error).__name__, reason=str(error))
            return _words(error)
        self._sent_nm = goal_nm.copy()
        if not isinstance(self._inner, ReadsBack):
            return "whether the last command moved the corrector is not known" if self._unsure else ""
        self._unsure, read = False, self._read_back()
        return "" if read is not None and self._is_at(read, goal_nm) else f"reads {_listed(read)} nm"

    def _pieces(self, delta_nm: Array) -> list[Array]:
        """An input as commands that are each within the limit."""
        count = max(1, int(np.ceil(np.max(np.abs(delta_nm) / self._step_nm) - SLACK_NM)))
        return [delta_nm] if count == 1 else [delta_nm / count] * count

    def _check_session(self, verb: str) -> None:
        if not self._begun:
            raise NoSession(verb)
        if self._stopped is not None:
            raise Stopped(self._stopped)

    def _note(self, event: str, **details: Any) -> None:
        """As `_log`; but a full disc is no reason to leave the corrector where it is."""
        with suppress(OSError):
            self._log(event, **details)

    def _log(self, event: str, **details: Any) -> None:
        if self._audit is not None:
            self._audit.write(event, **details)


def counts_digest(frame: Frame) -> str:
    """By which the log knows a frame again."""
    return hashlib.sha256(frame.counts.tobytes()).hexdigest()[:16]


def spent_budget(log: Sequence[Mapping[str, Any]], limits: Limits) -> DoseBudget:
    """What the latest session of a log has spent; an exposure that gave no frame counts as it was planned."""
    budget = DoseBudget(limits)
    pending: tuple[str, float] | None = None
    for entry in log:
        if entry["event"] in ("exposure", "frame", "reset") and pending is not None:
            region, planned = pending
            told = float(entry["dose_e"]) if entry["event"] == "frame" else planned
            budget.book(region, max(told, 0.0) if np.isfinite(told) else planned)
            pending = None
        if entry["event"] == "reset":
            budget = DoseBudget(limits)
        elif entry["event"] == "exposure":
            pending = (str(entry["region"]), float(entry["planned_e"]))
    if pending is not None:
        budget.book(*pending)
    return budget


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _listed(values_nm: Array | None) -> str:
    return "nothing" if values_nm is None else ", ".join(f"{value:+.3f}" for value in values_nm)
