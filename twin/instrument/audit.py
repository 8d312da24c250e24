"""An append-only log of commands to an instrument and their results: JSON lines, on disc before the command is sent.

Nothing is ever rewritten. A line that a crash truncated stays as it is and is skipped by `read`.
"""

import json
import math
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

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


class AuditLog:
    """An audit log in a file; every entry is on disc (fsync) when `write` returns.

    Args:
        path: created with its folders, or continued; never overwritten.
        now: returns the time stamp of an entry.

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
        """Append one entry: its number, the time, the event and its details.

        Raises:
            TypeError: a detail that is not plain data.
            OSError: the disc is full or gone; an action that is logged before it is then not taken.
        """
        entry = {"n": self._count, "time": self._now(), "event": event, **details}
        self._append(json.dumps(_plain(entry)) + "\n")
        self._count += 1

    def _append(self, text: str) -> None:
        # O_APPEND: two writers append whole lines instead of overwriting each other's.
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            # A truncated line, after a crash or on a full disc, stays a line of its own.
            rest = ("\n" + text if self._torn else text).encode()
            self._torn = bool(rest)
            while rest:
                # A nearly full disc takes a part; the next call raises.
                rest = rest[os.write(file, rest) :]
            os.fsync(file)
            self._torn = False
        finally:
            os.close(file)


def read(path: Path) -> list[Mapping[str, Any]]:
    """Return the complete entries of a log, in order; skip lines that a crash truncated.

    Raises:
        OSError: the file cannot be read.
    """
    entries: list[Mapping[str, Any]] = []
    for line in path.read_bytes().splitlines():
        try:
            entry = json_text.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and "event" in entry:
            entries.append(entry)
    return entries
