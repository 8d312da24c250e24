"""Warnings at a bounded rate: a client that causes one after the other cannot fill a disc, and each is counted."""

import logging
import threading
from collections.abc import Callable
from time import monotonic

MOST = 20
"""Warnings per period that are written out."""
PERIOD_S = 60.0


class BoundedLog:
    """A log of warnings about clients; threads may share it.

    Args:
        log: where they go.
        name: of the service, in front of each.
        most: written out per period; further ones are counted, and the number is logged at the end of the period.
        period_s: a new period begins with the first warning after the last one ended.
        clock: seconds.
    """

    def __init__(
        self,
        log: logging.Logger,
        name: str,
        most: int = MOST,
        period_s: float = PERIOD_S,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._log, self._name, self._most, self._period_s, self._clock = log, name, most, period_s, clock
        self._begun, self._count = -period_s, 0
        self._lock = threading.Lock()

    def warning(self, text: str, *values: object, trace: bool = False) -> None:
        """Log a warning, or count it.

        Args:
            text: with the places of the values, as for `logging`.
            values: of the text.
            trace: an error of ours: with the traceback of the exception that is handled now.
        """
        self.tell()
        with self._lock:
            now = self._clock()
            if now - self._begun > self._period_s:
                self._begun, self._count = now, 0
            self._count += 1
            written = self._count <= self._most
        if written:
            level = logging.ERROR if trace else logging.WARNING
            self._log.log(level, f"%s: {text}", self._name, *values, exc_info=trace or None)

    def tell(self, at_once: bool = False) -> None:
        """Log how many warnings were only counted, once their period is over, or at once."""
        with self._lock:
            left_out = self._count - self._most
            if left_out <= 0 or not (at_once or self._clock() - self._begun > self._period_s):
                return
            self._count = 0
        self._log.warning("%s: %d further warnings within %g s", self._name, left_out, self._period_s)
