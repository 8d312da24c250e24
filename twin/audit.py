"""An append-only log of what was asked of an instrument and what came of it: JSON lines, on disc before the command.

Nothing is ever rewritten. A line that a crash cut short stays as it is and is passed over when reading.
"""

import json
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np


def utc_now() -> str:
    """The time of day, ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _plain(value: Any) -> Any:
    """For what JSON does not know: arrays and numpy's numbers.

    Raises:
        TypeError: anything else.
    """
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"an audit line holds plain values; got {type(value).__name__}")


class AuditLog:
    """Appends to a file; every entry is on disc (fsync) when `write` returns.

    Args:
        path: made if it is not there, with its folders; otherwise continued, never overwritten.
        now: gives the time stamp of an entry.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, now: Callable[[], str] = utc_now) -> None:
        self.path, self._now = path, now
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_bytes() if path.exists() else b""
        self._append("" if before.endswith(b"\n") or not before else "\n")
        self._count = before.count(b"\n") + (1 if before and not before.endswith(b"\n") else 0)

    def write(self, event: str, **details: Any) -> None:
        """One entry: its number, the time, the event and whatever belongs to it.

        Raises:
            TypeError: a detail that is not plain data.
            OSError: the disc is full or gone; whoever logs before acting then does not act.
        """
        entry = {"n": self._count, "time": self._now(), "event": event, **details}
        line = json.dumps(entry, default=_plain) + "\n"
        self._append(line)
        self._count += 1

    def _append(self, text: str) -> None:
        # O_APPEND: two writers would put whole lines after each other rather than overwrite any.
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(file, text.encode())
            os.fsync(file)
        finally:
            os.close(file)


def read(path: Path) -> list[Mapping[str, Any]]:
    """Every whole entry of a log, in order. Lines that a crash cut short are left out.

    Raises:
        OSError: the file cannot be read.
    """
    entries: list[Mapping[str, Any]] = []
    for line in path.read_bytes().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and "event" in entry:
            entries.append(entry)
    return entries
