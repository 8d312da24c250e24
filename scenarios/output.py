"""What a command prints beside its result: silenced by `--quiet`, copied by `--log`."""

import errno
import io
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

BARS = "TQDM_DISABLE"
"""Variable that turns progress bars off, in worker processes, too; tqdm reads it when it is first imported."""


def silence() -> Callable[[], None]:
    """Turn progress bars off; return a function that turns them on again."""
    before = os.environ.get(BARS)
    os.environ[BARS] = "1"

    def undo() -> None:
        if before is None:
            os.environ.pop(BARS, None)
        else:
            os.environ[BARS] = before

    return undo


class Copied(io.TextIOBase):
    """A stream whose complete lines go into a log, too, with the time; progress bars, which rewrite a line, do not."""

    def __init__(self, stream: TextIO, log: TextIO) -> None:
        self.stream, self.log, self.line = stream, log, ""

    def write(self, text: str) -> int:
        self.stream.write(text)
        *complete, self.line = (self.line + text).split("\n")
        for line in complete:
            shown = line.rpartition("\r")[2]
            if shown.strip():
                note(self.log, shown)
        return len(text)

    def flush(self) -> None:
        self.stream.flush()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # of the stream, so that nobody looks for its bytes
        return self.stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self.stream.errors

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def note(log: TextIO, text: str) -> None:
    """Write one line with the time; a log on a full disc is given up, the command goes on."""
    try:
        log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        log.flush()
    except (OSError, ValueError):
        return


def copy_to(path: Path, arguments: list[str]) -> Callable[[], None]:
    """Append the command line, everything that goes to stderr, and the end to a log; return a function that ends it.

    Raises:
        OSError: the file cannot be opened, or is a pipe, which would be waited for.
    """
    if path.is_fifo():
        raise OSError(errno.EINVAL, "a file is expected, this is a pipe", str(path))
    log = path.open("a", encoding="utf-8")
    note(log, f"stemtwin {shlex.join(arguments)}")
    before, copied = sys.stderr, Copied(sys.stderr, log)
    sys.stderr = copied

    def undo() -> None:
        if sys.stderr is copied:
            sys.stderr = before
        note(log, _ending(sys.exc_info()[1]))
        log.close()

    return undo


def _ending(error: BaseException | None) -> str:
    """Return the exit code in words; the end of a command is an exception for click, too."""
    code = 0 if error is None else getattr(error, "exit_code", getattr(error, "code", None))
    return f"exit {code}" if isinstance(code, int) else f"exit 1, {type(error).__name__}: {error}"
