"""The guard between a controller and a real instrument: limits, dose budget, checks, and the way back.

`SafeMicroscope` wraps any backend. Every command is in the audit log before it is sent. A lasting fault ends the
session with the last good state restored; the log gives the reason. No knowledge of any kind of instrument.
"""

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np

from twin.arrays import Array
from twin.errors import NoSession
from twin.instrument import dose
from twin.instrument.abilities import HasRegion, OutlivesPrograms, RepeatsSessions, TellsDose
from twin.instrument.audit import AuditLog, read
from twin.instrument.faults import BadFrame, MicroscopeFault, NotThere, OutOfReach, StaleFrame, Stopped, as_fault
from twin.instrument.guarded_corrector import Guard, GuardedCorrector
from twin.instrument.limits import DoseBudget, Limits, check_frame, spent_budget
from twin.types import Capabilities, Frame, Microscope

ONE_REGION = "the region of this session"


@dataclass
class _Session:
    """State of a session, from `reset` or `resume` to the next.

    Attributes:
        good_nm: cumulative input of the latest good frame, shape (n,).
        clock_s: instrument clock of that frame.
        budget: electrons spent.
        digest: of that frame's counts.
        stopped: why the session was stopped; None while it goes on.
    """

    good_nm: Array
    clock_s: float
    budget: DoseBudget
    digest: str = ""
    stopped: str | None = None


class SafeMicroscope:
    """Any instrument, within limits, with an audit log and a way back.

    An input beyond a limit is refused (ValueError) and nothing moves. A fault is retried where that is safe. A lasting
    fault ends the session: the corrector goes back, and every further call raises `Stopped` until `reset`. A good state
    is one that gave a good frame, or the start. Used in a `with`, an exception or an interrupt also goes back.

    Args:
        inner: the instrument. Its `twin.instrument.abilities` are used where it has them.
        limits: limits, dose budget, retries; see `Limits`.
        audit: the log; None keeps none, for tests.
        sleep: waits for a number of seconds.

    Raises:
        ValueError: a limit for a coefficient that is not calibrated.

    Example:
        >>> import numpy as np
        >>> from twin.day import Day
        >>> from twin.optics import Optics
        >>> from twin.simulated import SimulatedMicroscope
        >>> from twin.state import FIRST_ORDER
        >>> inner = SimulatedMicroscope(Optics(), FIRST_ORDER, Day())
        >>> with SafeMicroscope(inner, Limits(total_nm={"C10": 50.0})) as microscope:
        ...     microscope.reset(np.random.default_rng(0))
        ...     microscope.apply(np.array([60.0, 0.0, 0.0]))
        Traceback (most recent call last):
        ValueError: safety.total_nm.C10 allows +-50 nm; got +60 nm
    """

    def __init__(
        self,
        inner: Microscope,
        limits: Limits | None = None,
        audit: AuditLog | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._inner, self._space = inner, inner.capabilities.space
        self._limits = limits or Limits()
        self._guard = Guard(self._limits, audit, sleep)
        self._corrector = GuardedCorrector(inner, self._guard)
        self._session: _Session | None = None

    @property
    def capabilities(self) -> Capabilities:
        return self._inner.capabilities

    def reset(self, rng: np.random.Generator) -> None:
        """Begin a session: the present state of the instrument is the start, and the first good state.

        Raises:
            MicroscopeFault: it cannot be reached.
        """
        self._session = None
        self._guard.log("reset", instrument=self.capabilities.name, names=self._space.names)
        self._connect(lambda: self._inner.reset(rng))
        self._begin(self._space.zero, -np.inf, DoseBudget(self._limits))

    def apply(self, delta_nm: Array) -> None:
        """Send an input, as several commands if it is larger than the limit of one.

        Raises:
            ValueError: wrong shape, not finite or beyond a limit; nothing has moved.
            Stopped: after a lasting fault; the message says whether the last good state was restored.
        """
        session = self._running("apply")
        commands = self._corrector.commands(np.asarray(delta_nm, dtype=np.float64))
        sent = 0
        try:
            for command in commands:
                self._corrector.command(command)
                sent += 1
        except ValueError as error:
            self._guard.log("refused", delta_nm=commands[sent], reason=str(error))
            if sent == 0:
                raise
            self._stop(session, OutOfReach(f"refused in the middle of a ramp: {error}"))
        except MicroscopeFault as fault:
            self._stop(session, fault)

    def acquire(self) -> Frame:
        """Take one good frame.

        Raises:
            Stopped: the dose is spent, or no attempt gave a good frame; the last good state was restored.
        """
        session = self._running("acquire")
        try:
            frame = self._guard.retried("acquire", lambda: self._expose(session))
        except MicroscopeFault as fault:
            self._stop(session, fault)
        session.good_nm, session.clock_s = self._corrector.sent_nm.copy(), frame.clock_s
        return frame

    def abort(self, reason: str) -> None:
        """Go back to the last good state and end the session, by an operator or a program. Raises nothing."""
        if self._session is not None and self._session.stopped is None:
            self._guard.try_log("abort", reason=reason)
            self._session.stopped = self._go_back(self._session, reason)

    @property
    def repeats_sessions(self) -> bool:
        """Whether the instrument repeats sessions (`RepeatsSessions`)."""
        return isinstance(self._inner, RepeatsSessions) and self._inner.repeats_sessions

    @property
    def can_resume(self) -> bool:
        """Whether a session that another program began can be continued."""
        return self.repeats_sessions or isinstance(self._inner, OutlivesPrograms)

    def session(self) -> dict[str, Any]:
        """As `Resumable.session`; empty for an instrument that cannot be resumed."""
        return self._inner.session() if isinstance(self._inner, OutlivesPrograms) else {}

    def resume(self, session: Mapping[str, Any], cumulative_nm: Array, clock_s: float) -> None:
        """Continue a session that another program began, at its last good state. The dose spent is read from the log.

        The corrector goes there from its present position by commands within the limits, as for any input.

        Raises:
            ValueError: the instrument cannot be resumed.
            MicroscopeFault: it cannot be reached, or no allowed input leads back from its present position.
            Stopped: that state was not reached.
        """
        inner, audit = self._inner, self._guard.audit
        if not isinstance(inner, OutlivesPrograms):
            raise ValueError(f"{self.capabilities.name} cannot take up a session: it has no take_up()")
        self._session = None
        budget = spent_budget([] if audit is None else read(audit.path), self._limits)
        details = {"cumulative_nm": cumulative_nm, "clock_s": clock_s, "spent_e": budget.spent_e}
        self._guard.log("resume", instrument=self.capabilities.name, **details)
        self._connect(lambda: inner.take_up(session, clock_s))
        position = self._corrector.read_back()
        if position is None:
            raise NotThere("the corrector does not report its position")
        resumed = self._begin(position, clock_s, budget)
        try:
            # Moved since by another program: do not drive back from beyond the limits.
            self._corrector.check_total(position)
            self.apply(np.asarray(cumulative_nm, dtype=np.float64) - position)
        except ValueError as error:
            resumed.stopped = f"not resumed: something else moved it to {self._space.named(position)}: {error}"
            raise OutOfReach(resumed.stopped) from error
        resumed.good_nm = self._corrector.sent_nm.copy()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if error is not None:
            self.abort(f"{type(error).__name__}: {error}")
        elif self._session is not None and self._session.stopped is None:
            self._guard.log("end", cumulative_nm=self._corrector.sent_nm)

    def _connect(self, begin: Callable[[], None]) -> None:
        """Make the first call of a session; any error of a driver becomes a fault.

        Raises:
            MicroscopeFault: with the driver's message.
        """
        try:
            self._guard.watch.call(begin)
        except Exception as error:
            self._guard.log("fault", kind=type(error).__name__, reason=str(error), outcome="no session")
            raise as_fault(error) from error

    def _begin(self, cumulative_nm: Array, clock_s: float, budget: DoseBudget) -> _Session:
        self._corrector = GuardedCorrector(self._inner, self._guard)
        self._corrector.sent_nm = cumulative_nm.copy()
        self._session = _Session(cumulative_nm.copy(), clock_s, budget)
        return self._session

    def _expose(self, session: _Session) -> Frame:
        """Take one frame within the budget and check it."""
        inner, watch = self._inner, self._guard.watch
        region, told_next = ONE_REGION, None
        try:
            region = watch.call(inner.region) if isinstance(inner, HasRegion) else region
            told_next = watch.call(inner.next_dose_e) if isinstance(inner, TellsDose) else None
        except Exception as error:
            raise as_fault(error) from error
        budgeted = self._limits.dose_e is not None or self._limits.region_dose_e is not None
        planned = dose.planned_e(told_next, self._limits.exposure_e, session.budget.largest_e, budgeted)
        session.budget.check(region, planned)
        self._guard.log("exposure", planned_e=planned, region=region)
        try:
            frame = watch.call(inner.acquire)
        except Exception as error:
            # The shutter may have been open: book the dose as if it was.
            session.budget.book(region, planned)
            raise as_fault(error, BadFrame) from error
        booked = dose.booked_e(planned, frame.dose_e)
        session.budget.book(region, booked)
        try:
            dose.check_told(planned, frame.dose_e)
        except MicroscopeFault:
            self._guard.try_log("dose", dose_e=booked, spent_e=session.budget.spent_e)
            raise
        check_frame(frame, self.capabilities, session.clock_s)
        digest = counts_digest(frame)
        if digest == session.digest:
            # The clock is often the program's own and always advances; noise never repeats.
            raise StaleFrame("the frame equals the previous one, byte for byte")
        session.digest = digest
        self._guard.log("frame", clock_s=frame.clock_s, dose_e=booked, spent_e=session.budget.spent_e, counts=digest)
        return frame

    def _stop(self, session: _Session, fault: MicroscopeFault) -> NoReturn:
        """End the session.

        Raises:
            Stopped: always.
        """
        self._guard.try_log("fault", kind=type(fault).__name__, reason=str(fault), outcome="the session ends")
        session.stopped = self._go_back(session, f"{type(fault).__name__}: {fault}")
        raise Stopped(session.stopped) from fault

    def _go_back(self, session: _Session, reason: str) -> str:
        goal = session.good_nm if self._limits.rollback == "last_good" else self._space.zero
        return self._corrector.restore(goal, reason)

    def _running(self, verb: str) -> _Session:
        """Return the session.

        Raises:
            NoSession: before `reset`.
            Stopped: it has ended.
        """
        if self._session is None:
            raise NoSession(verb)
        if self._session.stopped is not None:
            raise Stopped(self._session.stopped)
        return self._session


def counts_digest(frame: Frame) -> str:
    """Return the digest by which the log identifies a frame."""
    return hashlib.sha256(frame.counts.tobytes()).hexdigest()[:16]
