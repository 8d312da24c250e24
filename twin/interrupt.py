"""Signals that end a program (SIGINT, SIGTERM, SIGHUP): none is lost, none cuts a step that must not be left half done.

In a `session` the first of them is raised once as KeyboardInterrupt, at a place where that does no harm; all later ones
wait for the session's end. SIGQUIT (Ctrl-backslash) and SIGKILL are never handled: they end the program at once.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_ENDS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

_USUAL = (signal.default_int_handler, signal.SIG_DFL)


class Ending:
    """The wish to end a session, as signals express it.

    Attributes:
        signal: the first signal that arrived; None without one.
        asked: whether the session has to end: a signal arrived while it was not ending anyway.
        patient: no signal raises; the program asks by `check`.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.asked = self.patient = self._raised = False

    @property
    def exit_code(self) -> int:
        """Exit code of the program, as a shell reports a signal: 130, 143 or 129."""
        return 128 + (self.signal or signal.SIGINT)

    def check(self) -> None:
        """Raise the wish to end, if there is one; call it between two steps of the work.

        Also after it was raised before: Python swallows what is raised in a destructor or a C callback.

        Raises:
            KeyboardInterrupt: a signal arrived.
        """
        if self.asked and not _held:
            self._raised = True
            raise KeyboardInterrupt

    def note(self, number: int) -> None:
        """Remember a signal."""
        self.signal = self.signal or number
        self.asked = self.asked or not _held

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: the first one raises, unless the session is patient."""
        self.note(number)
        # Once only: a second one would cut short what the first one set going.
        if not (self.patient or self._raised or _held):
            self._raised = True
            raise KeyboardInterrupt


_current: Ending | None = None
_held = 0
"""Depth of `held` blocks of the main thread."""


@contextmanager
def session(patient: bool = False, ends_program: bool = False) -> Iterator[Ending]:
    """Collect the signals from here to the end of the block; a session inside another one shares its signals.

    Signals with a handler of their own are left alone, and so are all signals outside the main thread.

    Args:
        patient: no signal raises in the block, except inside `interruptible`; call `Ending.check` between two steps.
        ends_program: ignore signals after the block: the program ends with its own exit code, come what may.
    """
    outer = _current
    if threading.current_thread() is not threading.main_thread():
        # No signal raises here anyway, and how the main thread takes them is its own affair.
        yield outer or Ending()
        return
    if outer is not None:
        before, outer.patient = outer.patient, outer.patient or patient
        try:
            yield outer
        finally:
            outer.patient = before
        return
    ending = Ending()
    ending.patient = patient
    with _made_current(ending), _handled(ending.receive, lambda handler: handler in _USUAL, ends_program):
        yield ending


@contextmanager
def remembered() -> Iterator[Callable[[], None]]:
    """Yield `Ending.check` of a session in which the first signal raises at once."""
    with session() as ending:
        yield ending.check


@contextmanager
def ended_in_order() -> Iterator[None]:
    """A `session`, after which the program ends by the signal that asked for it, as it would have at once without it.

    For a program that has no session of its own and would leave something half done if SIGTERM or SIGHUP killed it.
    """
    outermost = _current is None
    ending = Ending()
    try:
        with session() as ending:
            yield
    finally:
        # After SIGINT the KeyboardInterrupt that was raised says so; a handler of the program's own has been called.
        if outermost and ending.signal is not None and signal.getsignal(ending.signal) is signal.SIG_DFL:
            signal.raise_signal(ending.signal)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the first signal raise at once, for long work without side effects inside a patient session.

    Raises:
        KeyboardInterrupt: a signal arrived before the block, in it, or was swallowed in it.
    """
    ending = _current
    if ending is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before, ending.patient = ending.patient, False
    try:
        ending.check()
        yield
    finally:
        ending.patient = before
    ending.check()


def requested() -> bool:
    """Return whether a signal asked for the end of the present session or `deferred` block.

    For waiting loops and between two commands, from any thread; false in work that ends the session anyway (`held`).
    """
    return _current is not None and _current.asked and not _held


def check() -> None:
    """Raise the wish to end that `requested` reports.

    Raises:
        KeyboardInterrupt: a signal arrived.
    """
    if _current is not None:
        _current.check()


@contextmanager
def held() -> Iterator[None]:
    """Let no signal raise, during work that ends the session anyway; it still decides the exit code."""
    global _held
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        if _current is not None:
            _current.note(number)

    _held += 1
    try:
        with _handled(note, _ends_or_calls):
            yield
    finally:
        _held -= 1


@contextmanager
def deferred(until_second: bool = False) -> Iterator[None]:
    """Defer all signals to the end of work that must not be left half done; `requested` tells of them meanwhile.

    Args:
        until_second: a second signal raises at once.
    """
    waiting: list[int] = []
    ending = _current or Ending()

    def keep(number: int, frame: FrameType | None) -> None:
        ending.note(number)
        if until_second and waiting:
            raise KeyboardInterrupt
        waiting.append(number)

    try:
        with _made_current(ending), _handled(keep, _ends_or_calls):
            yield
    finally:
        for number in waiting:
            signal.raise_signal(number)


def _ends_or_calls(handler: object) -> bool:
    """Whether a signal's handler is the system's default or a Python function; ignored signals stay ignored."""
    return handler is signal.SIG_DFL or callable(handler)


@contextmanager
def _made_current(ending: Ending) -> Iterator[None]:
    global _current
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, _current = _current, ending
    try:
        yield
    finally:
        _current = before


@contextmanager
def _handled(
    handler: Callable[[int, FrameType | None], None], replaces: Callable[[object], bool], ignore_after: bool = False
) -> Iterator[None]:
    """Install `handler` in place of the handlers that `replaces` accepts."""
    before: list[tuple[int, object]] = []
    try:
        if threading.current_thread() is threading.main_thread():
            for number in _ENDS:
                earlier = signal.getsignal(number)
                if replaces(earlier):
                    before.append((number, signal.SIG_IGN if ignore_after else earlier))
                    signal.signal(number, handler)
        yield
    finally:
        _restore(before)


def _restore(before: list[tuple[int, object]]) -> None:
    """Install the earlier handlers, all of them even if one raises meanwhile."""
    try:
        while before:
            number, earlier = before[-1]
            signal.signal(number, earlier)  # type: ignore[arg-type]
            before.pop()
    except BaseException:
        _restore(before)
        raise
