"""Where the computer gives out: one sentence, what is kept, and an exit code of its own."""

import errno
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import typer

from scenarios.commands.refusal import BAD_INPUT, FAILED, refusals, resumable
from scenarios.folders import NotWritten


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "days.npz"), "days.npz: No space left on device"),
        (MemoryError(), "out of memory: "),
        (RuntimeError("could not create a primitive"), "out of memory (could not create a primitive)"),
        (RuntimeError("can't start new thread"), "out of memory (can't start new thread)"),
        (BrokenProcessPool("terminated abruptly"), "a worker process is gone: "),
    ],
)
def test_a_training_that_the_computer_ends_says_how_to_go_on(error: Exception, words: str) -> None:
    with pytest.raises(NotWritten) as told, resumable(Path("work")):
        raise error
    assert str(told.value).startswith(words)
    assert str(told.value).endswith("; the same command resumes from work")


@pytest.mark.parametrize("error", [ValueError("no"), RuntimeError("no"), NotADirectoryError(errno.ENOTDIR, "no", "a")])
def test_any_other_error_is_left_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as told, resumable(Path("work")):
        raise error
    assert told.value is error


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, FAILED), (errno.EFBIG, FAILED), (errno.ENOTDIR, BAD_INPUT)]
)
def test_a_full_disc_is_no_bad_input(number: int, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended, refusals("interrupted", OSError):
        raise OSError(number, "why", "a.npz")
    assert ended.value.exit_code == code
    assert capsys.readouterr().err == "stemtwin: a.npz: why\n"
