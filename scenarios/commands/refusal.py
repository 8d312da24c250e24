"""Refusals of the command line: one line on stderr, and one set of exit codes."""

import errno
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import typer

from scenarios.folders import NotWritten, sentence
from twin.errors import StemtwinError
from twin.interrupt import Ending, session

FAILED = 1
"""A run failed, an instrument stopped, a stream was incomplete, or an agent failed."""
BAD_INPUT = 2
"""The command line, a scenario or a file cannot be used."""
GAVE_OUT = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
"""Errors of the system by which the computer gives out, and not what it was asked for."""
INTERRUPTED = 130
"""Ctrl-C, as a shell reports it; SIGTERM gives 143 and SIGHUP 129 (`twin.interrupt.Ending.exit_code`)."""


def stop(message: str, code: int = BAD_INPUT) -> NoReturn:
    """Print `stemtwin: message` as one line on stderr and exit with `code`."""
    with suppress(OSError):  # stderr may be closed, or on a full disc: the code tells
        typer.echo(f"stemtwin: {' '.join(message.split())}", err=True)
    raise typer.Exit(code)


@contextmanager
def refusals(interrupted: str = "interrupted", *others: type[Exception]) -> Iterator[Ending]:
    """Exit with BAD_INPUT on a refusal, with FAILED when the computer gives out, and by its signal after an interrupt.

    A program error keeps its traceback. The first signal in the block raises KeyboardInterrupt, later ones wait.

    Args:
        interrupted: message after an interrupt; it says what is kept on disc.
        others: errors that count as refusals beside `StemtwinError`.
    """
    kinds: tuple[type[Exception], ...] = (StemtwinError, *others)
    with session() as ending:
        try:
            yield ending
        except NotWritten as error:
            stop(str(error), FAILED)
        except kinds as error:
            code = FAILED if isinstance(error, OSError) and error.errno in GAVE_OUT else BAD_INPUT
            stop(sentence(error) if isinstance(error, OSError) else str(error), code)
        except KeyboardInterrupt:
            stop(interrupted, ending.exit_code)
        except Exception as error:
            words = exhausted(error)
            if words is None:
                raise
            stop(words, FAILED)


@contextmanager
def resumable(work: Path) -> Iterator[None]:
    """Say, where the computer gives out, that the same command resumes.

    Raises:
        NotWritten: instead of the error.
    """
    try:
        yield
    except StemtwinError:
        raise
    except Exception as error:
        words = exhausted(error)
        if words is None or (isinstance(error, OSError) and error.errno not in GAVE_OUT):
            raise
        raise NotWritten(f"{words}; the same command resumes from {work}") from error


def exhausted(error: BaseException) -> str | None:
    """Return in words what the computer ran out of; None for any other error.

    Example:
        >>> exhausted(OSError(28, "No space left on device", "scan.zarr"))
        'scan.zarr: No space left on device'
        >>> exhausted(MemoryError())
        'out of memory: a smaller grid, camera or scan needs less'
    """
    if isinstance(error, BrokenExecutor):
        return "a worker process is gone: out of memory, or killed; fewer --workers need less"
    text = " ".join(str(error).split())
    if "find/load shared object file" in text:  # llvmlite, which gives no cause
        library = text.partition(" from ")[0]
        return f"a library could not be loaded, for lack of memory or because it is damaged: {library}"
    if isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY):
        detail = f" ({text})" if text else ""
        return f"out of memory{detail}: a smaller grid, camera or scan needs less"
    return sentence(error) if isinstance(error, OSError) else None


_NO_MEMORY = (
    "Cannot allocate memory", "can't allocate memory", "cannot allocate memory", "failed to map segment",
    "bad_alloc", "can't start new thread", "error return without exception set",
    "could not create a primitive", "could not execute a primitive", "could not create a memory object",
)  # fmt: skip
"""How those that have no MemoryError say so: torch and its oneDNN, the dynamic linker, threads, Python's imports."""
