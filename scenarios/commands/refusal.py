"""How every command ends that cannot do what it is asked: one line on stderr, and one set of exit codes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from twin.errors import StemtwinError

FAILED = 1
"""A run failed, an instrument stopped, a stream was incomplete, or an agent failed."""
BAD_INPUT = 2
"""The command line, a scenario or a file cannot be used."""
INTERRUPTED = 130
"""Ctrl-C, as a shell reports it."""


def stop(message: str, code: int = BAD_INPUT) -> NoReturn:
    """Print `stemtwin: message` as one line on stderr and exit with `code`."""
    typer.echo(f"stemtwin: {' '.join(message.split())}", err=True)
    raise typer.Exit(code)


@contextmanager
def refusals(interrupted: str = "interrupted", *others: type[Exception]) -> Iterator[None]:
    """Exit with BAD_INPUT on a refusal and with INTERRUPTED on Ctrl-C; a program error keeps its traceback.

    Args:
        interrupted: message after Ctrl-C; it says what is kept on disc.
        others: errors that count as refusals beside `StemtwinError`.
    """
    try:
        yield
    except (StemtwinError, *others) as error:
        stop(str(error), BAD_INPUT)
    except KeyboardInterrupt:
        stop(interrupted, INTERRUPTED)
