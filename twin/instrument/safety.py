"""The guard between a controller and a real instrument: limits, dose budget, checks, and the way back.

`SafeMicroscope` wraps any backend. Every command is in the audit log before it is sent. A lasting fault ends the
session with the last good state restored; the log gives the reason. No knowledge of any kind of instrument.
"""

import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np

from twin.arrays import Array
from twin.errors import NoSession
from twin.instrument.abilities import OutlivesPrograms, RepeatsSessions, TellsDose
from twin.instrument.audit import AuditLog, read
from twin.instrument.faults import (
    MicroscopeFault,
    NotInTurn,
    NotThere,
    OutOfReach,
    Stopped,
    as_fault,
    described,
    words_of,
)
from twin.instrument.guard.camera import GuardedCamera
from twin.instrument.guard.corrector import GuardedCorrector
from twin.instrument.guard.read_back import ReadBack
from twin.instrument.guard.tools import Tools, check_done
from twin.instrument.limits import DoseBudget, Limits, spent_budget
from twin.interrupt import check, deferred, ended_in_order, held
from twin.types import Capabilities, Frame, Microscope


@dataclass
class _Session:
    """State of a session, from `reset` or `resume` to its last word.

    Attributes:
        corrector, camera: of this session.
        good_nm: cumulative input of the latest good frame, shape (n,).
        stopped: why the session has ended; None while it goes on.
    """

    corrector: GuardedCorrector
    camera: GuardedCamera
    good_nm: Array
    stopped: str | None = None


class SafeMicroscope:
    """Any instrument, within limits, with an audit log and a way back.

    An input beyond a limit is refused (ValueError) and nothing moves. A fault is retried where that is safe. A lasting
    fault ends the session: the corrector goes back, and every further call raises `Stopped` until `reset`. A good state
    is one that gave a good frame, or the start. Used in a `with`, an exception or a signal also goes back: the program
    then ends as the signal wants.

    The driver lives in a thread of its own. Calls from several threads are served in turn; one from within a call is
    refused, and so is one from a process that was forked during the session. Signals wait while a command is under way.

    Args:
        inner: the instrument. Its `twin.instrument.abilities` are used where it has them.
        limits: limits, dose budget, retries; see `Limits`.
        audit: the log; None keeps none, for tests.
        sleep: waits for a number of seconds.

    Raises:
        ValueError: a limit for a coefficient that is not calibrated, or of a dose that nobody knows in advance.

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
        self._inner, self._limits = inner, deepcopy(limits or Limits())
        self._tools = Tools(inner.capabilities, self._limits, audit, sleep)
        self._space = self._tools.capabilities.space
        self._limits.check(self._space, tells_dose=isinstance(inner, TellsDose))
        self._session: _Session | None = None
        self._lock, self._holder = threading.Lock(), 0
        self._signals = ExitStack()
        # A program that ends, or forgets the guard, without a word. Nothing here may refer to the guard itself.
        weakref.finalize(self, self._tools.journal.end, "end", reason="the program ended without a word")

    # --- calls of a controller -------------------------------------------------------------------

    @property
    def capabilities(self) -> Capabilities:
        return self._tools.capabilities

    def reset(self, rng: np.random.Generator) -> None:
        """Begin a session: the present state of the instrument is the start, and the first good state.

        Raises:
            MicroscopeFault: it cannot be reached.
            LogInUse: another session writes to the log.
        """
        with self._turn("reset"):
            begin: Callable[[np.random.Generator], object] = self._inner.reset
            with self._beginning("reset", names=self._space.names):
                self._driver(lambda: check_done("reset", begin(rng)))
            self._begin(self._space.zero, -np.inf, DoseBudget(self._limits))

    def apply(self, delta_nm: Array) -> None:
        """Send an input, as several commands if it is larger than the limit of one.

        Raises:
            ValueError: wrong shape, not finite or beyond a limit; nothing has moved.
            Stopped: after a lasting fault; the message says whether the last good state was restored.
        """
        with self._turn("apply"):
            self._apply(self._running("apply"), delta_nm)

    def acquire(self) -> Frame:
        """Take one good frame.

        Raises:
            Stopped: the dose is spent, or no attempt gave a good frame; the last good state was restored.
        """
        with self._turn("acquire"):
            session = self._running("acquire")
            check()
            try:
                frame = session.camera.acquire()
            except MicroscopeFault as fault:
                self._stop(session, fault)
            session.good_nm = session.corrector.commanded_nm
            return frame

    def abort(self, reason: str) -> str:
        """Go back to the last good state and end the session, by an operator or a program.

        Returns:
            The end of the session in words; empty without a session.

        Raises:
            NotInTurn: from within another call of the guard.
        """
        with held(), self._turn("abort"):
            session = self._session
            if session is not None and session.stopped is None and self._tools.journal.is_open:
                self._tools.journal.note("abort", reason=reason)
                self._go_back(session, reason)
            return "" if session is None else session.stopped or ""

    def end(self) -> None:
        """End the session where it stands; harmless if it has ended."""
        with self._turn("end"):
            self._leave("the session was ended")

    # --- resuming --------------------------------------------------------------------------------

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
        inner = self._inner
        if not isinstance(inner, OutlivesPrograms):
            return {}
        with self._turn("session"):
            return self._driver(inner.session)

    def resume(self, session: Mapping[str, Any], cumulative_nm: Array, clock_s: float) -> None:
        """Continue a session that another program began, at its last good state. The dose spent is read from the log.

        The corrector goes there from its present position by commands within the limits, as for any input.

        Raises:
            ValueError: the instrument cannot be resumed.
            MicroscopeFault: it cannot be reached, or no allowed input leads back from its present position.
            LogInUse: another session writes to the log.
            Stopped: that state was not reached.
        """
        inner, audit = self._inner, self._tools.journal.audit
        if not isinstance(inner, OutlivesPrograms):
            raise ValueError(f"{self.capabilities.name} cannot take up a session: it has no take_up()")
        goal = np.array(cumulative_nm, dtype=np.float64)
        with self._turn("resume"):
            budget = spent_budget([] if audit is None else read(audit.path), self._limits)
            details = {"cumulative_nm": goal, "clock_s": clock_s, "spent_e": budget.spent_e}
            with self._beginning("resume", **details):
                take_up: Callable[..., object] = inner.take_up
                self._driver(lambda: check_done("take_up", take_up(session, clock_s)))
                position = self._position()
            resumed = self._begin(position, clock_s, budget)
            try:
                # Moved since by another program: do not drive back from beyond the limits.
                resumed.corrector.check_total(position)
                self._apply(resumed, goal - position)
            except ValueError as error:
                self._leave(f"not resumed: something else moved it to {self._space.named(position)}: {error}")
                raise OutOfReach(resumed.stopped) from error
            resumed.good_nm = resumed.corrector.commanded_nm

    def _position(self) -> Array:
        position = ReadBack(self._inner, self._tools).read()
        if position is None:
            raise NotThere("the corrector does not report its position")
        return position

    # --- a session -------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._signals.enter_context(ended_in_order())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        with self._signals:
            if self._tools.journal.elsewhere:
                return  # a forked process leaves: the session goes on in the one that began it
            if error is None:
                self.end()
            else:
                self.abort(described(error))

    @contextmanager
    def _turn(self, verb: str) -> Iterator[None]:
        """One call at a time; signals wait for its end.

        Raises:
            NotInTurn: from within another call of the guard, or in a process that was forked during the session.
        """
        here, owner = threading.get_ident(), self._tools.journal.elsewhere
        if owner:
            raise NotInTurn(f"{verb}() was called in a forked process; the session belongs to process {owner}")
        if self._holder == here or self._tools.watch.is_here:
            raise NotInTurn(f"{verb}() was called from within another call of the guard; one has to end first")
        with deferred():
            while not self._lock.acquire(timeout=0.2):
                check()
            self._holder = here
            try:
                yield
            finally:
                self._holder = 0
                self._lock.release()

    @contextmanager
    def _beginning(self, event: str, **details: Any) -> Iterator[None]:
        """The first line of a session, and its only ones if the instrument cannot be reached.

        Raises:
            MicroscopeFault: with the driver's message.
        """
        self._leave("a new session begins")
        self._session = None
        journal = self._tools.journal
        journal.begin()
        self._tools.watch.ending = False
        try:
            journal.write(event, instrument=self.capabilities.name, **details)
            yield
        except BaseException as error:
            journal.end("fault", kind=type(error).__name__, reason=words_of(error), outcome="no session")
            raise

    def _begin(self, cumulative_nm: Array, clock_s: float, budget: DoseBudget) -> _Session:
        corrector = GuardedCorrector(self._inner, self._tools, cumulative_nm)
        camera = GuardedCamera(self._inner, self._tools, budget, clock_s)
        self._session = session = _Session(corrector, camera, corrector.commanded_nm)
        return session

    def _driver(self, act: Callable[[], Any]) -> Any:
        """Call the driver; any error becomes a fault.

        Raises:
            MicroscopeFault: with the driver's message.
        """
        try:
            return self._tools.watch.call(act)
        except Exception as error:
            raise as_fault(error) from error

    def _apply(self, session: _Session, delta_nm: Array) -> None:
        check()
        try:
            session.corrector.apply(delta_nm)
        except MicroscopeFault as fault:
            self._stop(session, fault)

    # --- the end of a session --------------------------------------------------------------------

    def _stop(self, session: _Session, fault: MicroscopeFault) -> NoReturn:
        """End the session.

        Raises:
            Stopped: always.
        """
        self._tools.fault(fault, outcome="the session ends")
        self._go_back(session, f"{type(fault).__name__}: {words_of(fault)}")
        raise Stopped(session.stopped) from fault

    def _go_back(self, session: _Session, reason: str) -> None:
        """Go back and write the last word, whatever happens on the way."""
        corrector = session.corrector
        goal = session.good_nm if self._limits.rollback == "last_good" else self._space.zero
        session.stopped = f"{reason}; on the way back"
        problem = "the way back was cut short"
        try:
            problem = corrector.go_back(goal)
        except BaseException as error:
            problem = f"the way back was cut short by {described(error)}"
            raise
        finally:
            session.stopped = self._said(session, goal, reason, problem)

    def _said(self, session: _Session, goal: Array, reason: str, problem: str) -> str:
        """Write the last word of a session that went back, and return it as a sentence."""
        journal, interval = self._tools.journal, session.corrector.interval
        named = self._space.named(goal)
        if problem:
            if not interval.is_point:
                problem += f"; it may stand at {interval.named(self._space.names)}"
            state = {"goal_nm": goal, "believed_nm": session.corrector.commanded_nm}
            ends = {"low_nm": interval.low_nm, "high_nm": interval.high_nm}
            journal.end("not restored", **state, **ends, reason=reason, problem=problem)
            said = f"{reason}; NOT restored to {named}: {problem}"
        else:
            journal.end("restored", cumulative_nm=goal, reason=reason)
            said = f"{reason}; restored to {named}"
        return said if not journal.unwritten else f"{said}; lines of the audit log are missing: {journal.unwritten}"

    def _leave(self, reason: str) -> None:
        """Write the last word of a session that goes on to no other state."""
        session = self._session
        if session is not None:
            self._tools.journal.end("end", cumulative_nm=session.corrector.commanded_nm, reason=reason)
            session.stopped = session.stopped or reason

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
