"""The audit log of one session, written by a thread of its own: a disc that hangs holds up no way back."""

import errno
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from twin.errors import printable
from twin.instrument.audit import AuditLog
from twin.instrument.faults import words_of
from twin.instrument.watch import Call, Worker

FORWARD_S = 10.0
"""How long the line before a command or an exposure is waited for; the action is not taken without it."""
PATIENCE_S = 5.0
"""How long any other line is waited for. A line that takes longer is still written, in its turn."""


class Journal:
    """Lines of a session, in order.

    Args:
        audit: the log; None keeps none.

    Attributes:
        unwritten: why lines are missing on disc; empty if none are.
    """

    def __init__(self, audit: AuditLog | None) -> None:
        self.audit, self.unwritten = audit, ""
        self._worker, self._open, self._hangs = Worker("audit log"), False, False
        self._process = os.getpid()

    def begin(self) -> None:
        """Take the log for a session.

        Raises:
            LogInUse: another session has it.
            OSError: the log cannot be written.
        """
        if self.audit is not None:
            self.audit.begin()
        self.unwritten, self._open, self._hangs, self._process = "", True, False, os.getpid()

    def write(self, event: str, **details: Any) -> None:
        """Write the line before an action; it is on disc when this returns.

        Raises:
            OSError: it is not; the action must not be taken.
        """
        call = self._post(event, details)
        if call is None:
            return
        if not call.done.wait(FORWARD_S):
            self._hangs = True
            error: BaseException = OSError(
                errno.ETIMEDOUT, f"the disc of the audit log did not answer within {FORWARD_S:g} s"
            )
        elif call.error is not None:
            error = call.error
        else:
            return
        self._note(words_of(error))
        # The line may be on disc yet, or come to be.
        self.note("not done", line=event, reason=self.unwritten)
        raise error

    def note(self, event: str, **details: Any) -> None:
        """Write a line if possible: nothing that happens to the log keeps the corrector from going back."""
        call = self._post(event, details)
        if call is not None:
            self._await(call)

    def end(self, event: str, **details: Any) -> None:
        """Write the last word and give the log back; only once, and only in the process that has the session."""
        if not self._open or self.elsewhere:
            return
        self._open = False
        self.note(event, **details)
        if self.audit is not None:
            self._await(self._worker.hand_over(self.audit.end))

    @property
    def is_open(self) -> bool:
        """Whether a session has begun and has no last word yet."""
        return self._open

    @property
    def elsewhere(self) -> int:
        """The process that has the session, if this one was forked from it since; otherwise 0."""
        return self._process if self._open and self._process != os.getpid() else 0

    def _post(self, event: str, details: dict[str, Any]) -> Call[None] | None:
        audit = self.audit
        if audit is None:
            return None
        # Copies: the line is written later, and what is sent is nobody's to change.
        copies = {key: value.copy() if isinstance(value, np.ndarray) else value for key, value in details.items()}
        return self._worker.hand_over(_line(audit, event, copies))

    def _await(self, call: Call[None]) -> None:
        """Wait for a line, not for ever; once the disc hung, not at all."""
        if self._worker.is_here or not call.done.wait(0.0 if self._hangs else PATIENCE_S):
            self._hangs = True
            self._note(f"the disc did not answer within {PATIENCE_S:g} s")
        elif call.error is not None:
            self._note(words_of(call.error))

    def _note(self, reason: str) -> None:
        self.unwritten = self.unwritten or printable(reason)


def _line(audit: AuditLog, event: str, details: dict[str, Any]) -> Callable[[], None]:
    return lambda: audit.write(event, **details)
