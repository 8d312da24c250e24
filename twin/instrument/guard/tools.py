"""What corrector and camera of one guard share: limits, log, driver thread, waiting, retries."""

from collections.abc import Callable
from typing import TypeVar

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
        capabilities: of the instrument, as it tells them first; nothing that it says later widens a limit.
        limits: limits, time-outs, retries.
        audit: the log; None keeps none.
        sleep: waits for a number of seconds.
    """

    def __init__(
        self, capabilities: Capabilities, limits: Limits, audit: AuditLog | None, sleep: Callable[[float], None]
    ) -> None:
        self.capabilities, self.limits, self._sleep = capabilities, limits, sleep
        self.journal, self.watch = Journal(audit), Watch(limits.timeout_s)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        if seconds > 0:
            self._sleep(seconds)

    def fault(self, error: BaseException, **details: object) -> None:
        """Write a fault into the log, if possible."""
        self.journal.note("fault", kind=type(error).__name__, reason=words_of(error), **details)

    def retried(self, verb: str, act: Callable[[], Result]) -> Result:
        """Return the result of `act`; repeat it after a fault that may pass and left nothing moved.

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
            self.sleep(self.limits.retry_wait_s)
