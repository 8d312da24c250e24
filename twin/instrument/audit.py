"""An append-only log of commands to an instrument and their results: JSON lines, on disc before the command is sent.

Nothing is ever rewritten. A line that a crash truncated stays as it is and is skipped by `read`.
"""

import json
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from twin.errors import StemtwinError
from twin.text import json_text


def utc_now() -> str:
    """Return the time, ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _plain(value: Any) -> Any:
    """Return plain JSON data: arrays as lists; NaN and infinities as text ("nan", "inf").

    Raises:
        TypeError: not plain data.
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"an audit entry holds plain values; got {type(value).__name__}")


class LogInUse(StemtwinError, OSError):
    """Another session writes to this log."""


class AuditLog:
    """An audit log in a file; every entry is on disc (fsync) when `write` returns.

    One session writes at a time: `begin` takes the log (the lock is a file beside it, NAME.lock), `end` gives it back.
    A line that is written outside a session takes it for that line. Numbers may have gaps and never come twice.

    Args:
        path: created with its folders, or continued; never overwritten.
        now: returns the time stamp of an entry.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, now: Callable[[], str] = utc_now) -> None:
        self.path, self._now = path, now
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(f"{path}.lock", timeout=0, thread_local=False)
        self._taken, self._writing = threading.Lock(), threading.Lock()
        self._torn, self._count, self._size = False, 0, -1
        self._append("")

    def begin(self) -> None:
        """Take the log for a session.

        Raises:
            LogInUse: another session has it.
            OSError: the lock or the log cannot be read.
        """
        # Two locks: the file's, against other programs, does not tell two sessions of one AuditLog apart.
        refusal = LogInUse(f"{self.path} is being written by another session: end that one, or choose another folder")
        if not self._taken.acquire(blocking=False):
            raise refusal
        try:
            self._lock.acquire()
            self._look()
        except Timeout:
            self._taken.release()
            raise refusal from None
        except OSError as error:
            self.end()
            words = f"the log cannot be taken for a session: {error.strerror}"
            raise OSError(error.errno, words, error.filename or self._lock.lock_file) from error
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Give the log back; harmless if no session has it."""
        with suppress(RuntimeError):
            self._lock.release(force=True)
            self._taken.release()

    def write(self, event: str, **details: Any) -> None:
        """Append one entry: its number, the time, the event and its details.

        Raises:
            TypeError: a detail that is not plain data.
            LogInUse: another session has the log.
            OSError: the disc is full or gone; an action that is logged before it is then not taken.
        """
        entry = _plain({"n": 0, "time": self._now(), "event": event, **details})
        if self._taken.locked():
            self._write(entry)
            return
        self.begin()
        try:
            self._write(entry)
        finally:
            self.end()

    def _write(self, entry: dict[str, Any]) -> None:
        with self._writing:
            # Counted before: a line may be whole on disc although fsync failed.
            number, self._count = self._count, self._count + 1
            self._append(json.dumps({**entry, "n": number}) + "\n")

    def _look(self) -> None:
        """Find the next number, and whether the last line was truncated, unless nobody has written since."""
        if self.path.exists() and self.path.stat().st_size == self._size:
            return
        before = self.path.read_bytes() if self.path.exists() else b""
        self._torn = bool(before) and not before.endswith(b"\n")
        numbers = [entry["n"] for entry in _entries(before) if isinstance(entry.get("n"), int)]
        self._count = max([before.count(b"\n") + self._torn, *(number + 1 for number in numbers)])

    def _append(self, text: str) -> None:
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            # A truncated line, after a crash or on a full disc, stays a line of its own.
            rest = ("\n" + text if self._torn and text else text).encode()
            self._torn = self._torn or bool(rest)
            while rest:
                # A nearly full disc takes a part; the next call raises.
                rest = rest[os.write(file, rest) :]
            os.fsync(file)
            self._torn = self._torn and not text
            self._size = os.fstat(file).st_size if text else self._size
        finally:
            os.close(file)


def _entries(data: bytes) -> Iterator[Mapping[str, Any]]:
    for line in data.splitlines():
        try:
            entry = json_text.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and "event" in entry:
            yield entry


def read(path: Path) -> list[Mapping[str, Any]]:
    """Return the complete entries of a log, in order; skip lines that a crash truncated.

    Raises:
        OSError: the file cannot be read.
    """
    return list(_entries(path.read_bytes()))
