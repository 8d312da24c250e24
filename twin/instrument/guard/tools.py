"""What corrector and camera of one guard share: limits, log, driver thread, waiting, retries."""

import inspect
from collections.abc import Callable
from copy import deepcopy
from typing import TypeVar

import numpy as np

from twin.instrument.audit import AuditLog
from twin.instrument.faults import DoseExhausted, MicroscopeFault, NotThere, OutOfReach, words_of
from twin.instrument.guard.journal import Journal
from twin.instrument.limits import Limits
from twin.instrument.watch import Watch
from twin.interrupt import check
from twin.types import Capabilities

Result = TypeVar("Result")


class Tools:
    """Tools of a guard.

    Args:
        capabilities: of the instrument, as it tells them first: copied, so that nothing that it does or says later
            widens a limit.
        limits: limits, time-outs, retries.
        audit: the log; None keeps none.
        sleep: waits for a number of seconds.
    """

    def __init__(
        self, capabilities: Capabilities, limits: Limits, audit: AuditLog | None, sleep: Callable[[float], None]
    ) -> None:
        self.capabilities, self.limits, self._sleep = deepcopy(capabilities), limits, sleep
        self.journal, self.watch = Journal(audit), Watch(limits.timeout_s)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        if seconds > 0:
            self._sleep(seconds)

    def fault(self, error: BaseException, **details: object) -> None:
        """Write a fault into the log, if possible."""
        self.journal.note("fault", kind=type(error).__name__, reason=words_of(error), **details)

    def retried(self, verb: str, act: Callable[[], Result], waits: bool = False) -> Result:
        """Return the result of `act`; repeat it after a fault that may pass and left nothing moved.

        Args:
            verb: for the log.
            act: called once, and after each fault.
            waits: `act` itself waits `retry_wait_s` before it raises.

        Raises:
            MicroscopeFault: of the last attempt.
            KeyboardInterrupt: a signal asked for the end between two attempts.
        """
        attempt = 1
        while True:
            try:
                return act()
            except (NotThere, OutOfReach, DoseExhausted):
                raise
            except MicroscopeFault as fault:
                self.fault(fault, verb=verb, attempt=attempt)
                if attempt > self.limits.retries:
                    raise
            attempt += 1
            check()
            if not waits:
                self.sleep(self.limits.retry_wait_s)


def check_done(verb: str, told: object) -> None:
    """Refuse what a driver returns instead of an exception.

    Args:
        verb: the driver's method.
        told: what it returned; None is right, and anything else is passed over but False and a coroutine.

    Raises:
        MicroscopeFault: False, or a coroutine, which nobody runs: nothing has been done, or only a part.
    """
    if isinstance(told, bool | np.bool_) and not told:
        raise MicroscopeFault(f"{verb}() returned False; a driver returns nothing, and raises a fault if it failed")
    if inspect.isawaitable(told) or inspect.isgenerator(told) or inspect.isasyncgen(told):
        if inspect.iscoroutine(told):
            told.close()
        raise MicroscopeFault(f"{verb}() returned a {type(told).__name__}, which nobody runs: make it a plain function")
