"""Threads for calls that may never return: a vendor's driver, a disc. They live in one thread and are called in turn.

Whoever waits asks the event that a call sets at its end, never the thread: an interrupted `Thread.join` takes a running
thread for an ended one in CPython 3.11 and 3.12.
"""

import os
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from time import monotonic
from typing import Any, Generic, TypeVar

from twin.instrument.faults import CommandTimeout, MicroscopeFault, NotInTurn, StillBusy, described
from twin.interrupt import requested

Result = TypeVar("Result")

GRACE_S = 60.0
"""Without a time-out: how long a call is waited for once the session is to end."""
_SLICE_S = 0.1


class Call(Generic[Result]):
    """A call that was handed to a thread.

    Attributes:
        done: set at the end of the call, by the call.
        error: what it raised, of any kind.
    """

    def __init__(self, act: Callable[[], Result]) -> None:
        self._act: Callable[[], Result] | None = act
        self._results: list[Result] = []
        self.done = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Make the call, and keep what it returns or raises."""
        act, self._act = self._act, None
        try:
            assert act is not None
            self._results.append(act())
        except BaseException as error:  # a driver may raise anything, SystemExit too
            self.error = error
        finally:
            self.done.set()

    def result(self) -> Result:
        """Return what the call returned; raise what it raised.

        Raises:
            MicroscopeFault: it raised what would end the program, SystemExit for example.
        """
        if isinstance(self.error, Exception):
            raise self.error
        if self.error is not None:
            raise MicroscopeFault(described(self.error))
        return self._results[0]


class Worker:
    """A thread that makes calls in the order in which they are handed over; it ends with its owner.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name, self._calls = name, SimpleQueue[Call[Any] | None]()
        self._thread: threading.Thread | None = None
        self._process = 0
        weakref.finalize(self, self._calls.put, None)

    def hand_over(self, act: Callable[[], Result]) -> Call[Result]:
        """Hand over a call; it is made after the earlier ones."""
        if self._process != os.getpid():  # a thread does not follow into a forked process
            # A daemon: a driver that hangs must not keep the program from ending.
            self._process = os.getpid()
            arguments = self._calls, self._process
            self._thread = threading.Thread(target=_serve, args=arguments, daemon=True, name=self._name)
            self._thread.start()
        call = Call(act)
        self._calls.put(call)
        return call

    @property
    def is_here(self) -> bool:
        """Whether the caller is a call of this worker."""
        return threading.current_thread() is self._thread


def _serve(calls: "SimpleQueue[Call[Any] | None]", process: int) -> None:
    while (call := calls.get()) is not None:
        call.run()
        if os.getpid() != process:
            os._exit(1)  # a call forked and came back twice: there is nobody in the copy who waits for it
        del call  # a call keeps its arguments alive, and with them the worker's owner


class Watch:
    """A driver: one call at a time, each with a time-out.

    Args:
        timeout_s: longest time for a call; None: no limit while the session goes on, `GRACE_S` once it is to end.

    Attributes:
        ending: set when the session is to end.
    """

    def __init__(self, timeout_s: float | None) -> None:
        self._timeout_s, self._worker = timeout_s, Worker("driver")
        self._latest: Call[Any] | None = None
        self.ending = False

    @property
    def is_here(self) -> bool:
        """Whether the caller is the driver itself."""
        return self._worker.is_here

    def call(self, act: Callable[[], Result]) -> Result:
        """Return what `act` returns, raise what it raises.

        Raises:
            StillBusy: an earlier call has not returned; this one was not made.
            CommandTimeout: it did not return in time.
            NotInTurn: a driver calls itself through its guard.
        """
        self.check_idle()
        return self.outcome(self.begin(act)).result()

    def check_idle(self) -> None:
        """Wait for an earlier call that timed out.

        Raises:
            StillBusy, NotInTurn: as `call`.
        """
        if self.is_here:
            raise NotInTurn("the driver calls its guard from within a call of the guard: that would wait for itself")
        if self._latest is not None and not self._ends(self._latest):
            raise StillBusy(f"an earlier command has not returned; waited {self._limit_s:g} s more")

    def begin(self, act: Callable[[], Result]) -> Call[Result]:
        """Begin a call after `check_idle`, and return at once."""
        self._latest = call = self._worker.hand_over(act)
        return call

    def outcome(self, call: Call[Result]) -> Call[Result]:
        """Return a call when it has ended.

        Raises:
            CommandTimeout: it has not, in time.
        """
        if not self._ends(call):
            raise CommandTimeout(f"no answer within {self._limit_s:g} s")
        return call

    @property
    def _limit_s(self) -> float:
        return GRACE_S if self._timeout_s is None else self._timeout_s

    def _ends(self, call: Call[Any]) -> bool:
        """Wait for the end of a call; no signal cuts this short."""
        began = monotonic()
        while not call.done.wait(min(_SLICE_S, self._limit_s)):
            if self._timeout_s is None and not (self.ending or requested()):
                began = monotonic()
            elif monotonic() - began >= self._limit_s and not call.done.is_set():
                return False
        self._latest = None  # what a call raised keeps everything alive that it knew
        return True
