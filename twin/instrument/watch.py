"""Time-outs for calls into a vendor's driver, which may never return."""

import threading
from collections.abc import Callable
from typing import TypeVar

from twin.instrument.faults import CommandTimeout

Result = TypeVar("Result")


class Watch:
    """Calls with a time-out: the caller goes on after it, and further calls wait for the one that hangs."""

    def __init__(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        self._hung: threading.Thread | None = None

    def call(self, act: Callable[[], Result]) -> Result:
        """Return what `act` returns, raise what it raises.

        Raises:
            CommandTimeout: it did not return in time, or an earlier call has not returned.
        """
        if self._timeout_s is None:
            return act()
        if self._hung is not None:
            self._hung.join(self._timeout_s)
            if self._hung.is_alive():
                raise CommandTimeout(f"an earlier command has not returned; waited {self._timeout_s:g} s more")
        results: list[Result] = []
        raised: list[BaseException] = []

        def run() -> None:
            try:
                results.append(act())
            except BaseException as error:  # of any kind: raised again in the caller's thread
                raised.append(error)

        # A daemon thread: a driver that hangs must not keep the program from ending.
        thread = threading.Thread(target=run, daemon=True)
        self._hung = thread
        thread.start()
        thread.join(self._timeout_s)
        if thread.is_alive():
            raise CommandTimeout(f"no answer within {self._timeout_s:g} s")
        self._hung = None
        if raised:
            raise raised[0]
        return results[0]
