"""An append-only log of what was asked of an instrument and what came of it: JSON lines, on disc before the command.

Nothing is ever rewritten. A line that a crash cut short stays as it is and is passed over when reading.
"""

import json
import math
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
    """As JSON: arrays are lists, and what is no number ("nan", "inf") is a text.

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
        self._torn = bool(before) and not before.endswith(b"\n")
        self._append("")
        self._count = before.count(b"\n") + (1 if before and not before.endswith(b"\n") else 0)

    def write(self, event: str, **details: Any) -> None:
        """One entry: its number, the time, the event and whatever belongs to it.

        Raises:
            TypeError: a detail that is not plain data.
            OSError: the disc is full or gone; whoever logs before acting then does not act.
        """
        entry = {"n": self._count, "time": self._now(), "event": event, **details}
        self._append(json.dumps(_plain(entry)) + "\n")
        self._count += 1

    def _append(self, text: str) -> None:
        # O_APPEND: two writers would put whole lines after each other rather than overwrite any.
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            # A line that was cut short, by a crash or a full disc, stays by itself.
            rest = ("\n" + text if self._torn else text).encode()
            self._torn = bool(rest)
            while rest:
                # A disc that is nearly full takes a part; the next call then says so.
                rest = rest[os.write(file, rest) :]
            os.fsync(file)
            self._torn = False
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
