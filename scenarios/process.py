"""The process of a command, up to its exit code: signals, full discs, closed output, lack of memory."""

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, TextIO

from scenarios.commands.refusal import FAILED, INTERRUPTED, exhausted
from twin.interrupt import session

NO_OUTPUT = "the result could not be printed: {}; what the command wrote is in its files"

UNSEEN = "interrupted before the command began"
NO_MEMORY = b"stemtwin: out of memory: a smaller grid, camera or scan needs less\n"


class LastStep:
    """Last step of a process: it ends with `code`, and Python does not take itself apart.

    Taking apart takes most of a second, many on a busy machine. And a thread that still computes, such as that of a
    served client, then comes back into a Python that is no more: C++ libraries abort the program (exit code 134).

    Attributes:
        code: exit code, as of `SystemExit`.
    """

    def __init__(self) -> None:
        self.code: object = FAILED  # that of a program error

    def __call__(self) -> None:
        """Write what is left in the standard streams, and end."""
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                if stream is not None:
                    stream.flush()
        os._exit(self.code if isinstance(self.code, int) else int(self.code is not None))


def run_program(app: Callable[[], object]) -> NoReturn:
    """Call a command-line application and exit.

    A signal that arrives before the end decides the exit code, and none can change it afterwards: a program that is
    told twice to end still ends in its own way.

    Raises:
        SystemExit: always, unless the program has an error.
    """
    _fill_closed_streams()
    with session(ends_program=True) as ending:
        try:
            code = _told(app)
        except MemoryError:  # too little even for the sentence: this one exists already
            code = FAILED
            with suppress(OSError):
                os.write(2, NO_MEMORY)
        except KeyboardInterrupt:  # while the last words were printed
            code = INTERRUPTED
        if ending.signal is not None:
            code = ending.exit_code
    raise SystemExit(code)


def _told(app: Callable[[], object]) -> int:
    """Call the application, say what is still to be said, and return the exit code."""
    code, words = _outcome(app)
    code, words = _flushed(sys.stdout, code, words)
    if words:
        with suppress(OSError):
            print(f"stemtwin: {words}", file=sys.stderr)  # noqa: T201
    return _flushed(sys.stderr, code, "")[0]


def _fill_closed_streams() -> None:
    """Open nothing in place of a closed standard stream: a file of the run would get its number, and its text."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _outcome(app: Callable[[], object]) -> tuple[int, str]:
    """Return exit code and, if something is still to be said, one sentence."""
    try:
        app()
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
        cause = stopped.__context__
        if isinstance(cause, OSError) and cause.errno == errno.EPIPE:  # click ends silently
            return code, NO_OUTPUT.format("its reader is gone")
        # An interrupt that no command caught; one that `refusals` caught has been told.
        unseen = cause is not None and isinstance(cause.__cause__, KeyboardInterrupt)
        return code, UNSEEN if unseen else ""
    except KeyboardInterrupt:  # while the commands are put together: outside of what click catches
        return INTERRUPTED, UNSEEN
    except Exception as error:
        words = exhausted(error)
        if words is None:
            raise
        on_disc = isinstance(error, OSError) and error.errno is not None and not error.filename
        return FAILED, NO_OUTPUT.format(error.strerror or error) if on_disc else words  # type: ignore[attr-defined]
    return 0, ""


def _flushed(stream: TextIO | None, code: int, words: str) -> tuple[int, str]:
    """Write what is left in a stream; one that cannot take it is replaced by nothing, which Python flushes at exit."""
    try:
        if stream is not None:
            stream.flush()
    except OSError as error:
        nothing = os.open(os.devnull, os.O_WRONLY)
        with suppress(OSError, ValueError):
            os.dup2(nothing, stream.fileno())  # type: ignore[union-attr]
        return code or FAILED, words or NO_OUTPUT.format(error.strerror or error)
    except ValueError:  # closed by the program
        pass
    return code, words
