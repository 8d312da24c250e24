"""Folders and files that a run writes: locked while they are written, numbered, and never somebody else's.

What a run left stays: a later one gets a number of its own. Files are written aside and moved in whole; a link in their
place is replaced, not followed.
"""

import errno
import json
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from twin.errors import StemtwinError

FOLDER_LOCK = ".stemtwin.lock"


class InUse(StemtwinError, RuntimeError):
    """A folder or file that another run is writing."""


class NotWritten(StemtwinError, OSError):
    """Results that could not be written, for example on a full disc; the message says what is kept."""


class OutputError(StemtwinError, ValueError):
    """A folder that results cannot go to."""


class Lock:
    """The right to write one folder or file; other programs are refused until `release`, or until this one ends.

    A hidden file holds the lock while it is in use: `.NAME.lock` beside a file, `.stemtwin.lock` in a folder.

    Args:
        path: of the folder or file.
        inside: `path` is a folder that exists; otherwise the folder around it does.

    Raises:
        InUse: another run has it.
        OSError: the folder cannot be written.
    """

    def __init__(self, path: Path, inside: bool = False) -> None:
        self._file = path / FOLDER_LOCK if inside else path.with_name(f".{path.name}.lock")
        self._lock = FileLock(self._file, thread_local=False)
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise InUse(f"{path} is being written by another run: wait for its end, or choose another place") from None
        except OSError as error:
            raise OSError(error.errno, error.strerror, error.filename or str(self._file)) from error

    def release(self) -> None:
        """Give the right back; a second call does nothing."""
        if self._lock.is_locked:
            with suppress(OSError):
                self._file.unlink(missing_ok=True)  # while it is held: who waits for it notices
            self._lock.release()


@contextmanager
def locked(path: Path, inside: bool = False) -> Iterator[None]:
    """Hold the `Lock` of a folder or file; the folder that holds the lock is created, and removed if it stays empty.

    Raises:
        InUse: another run has it.
        OSError: the folder cannot be created or written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with locked(folder / "scan.zarr"), locked(folder / "scan.zarr"):  # doctest: +ELLIPSIS
        ...     pass
        Traceback (most recent call last):
        scenarios.folders.InUse: .../scan.zarr is being written by another run: wait for its end, or ...
    """
    holder = path if inside else path.parent
    created = missing(holder)
    holder.mkdir(parents=True, exist_ok=True)
    lock = Lock(path, inside)
    try:
        yield
    finally:
        lock.release()
        remove_empty(created)


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be made, without making it.

    Raises:
        NotADirectoryError: it, or one around it, is a file.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory", str(folder))


def missing(folder: Path) -> list[Path]:
    """Return those of a folder and the folders around it that do not exist yet, the innermost first."""
    return [path for path in (folder, *folder.parents) if not path.exists()]


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders, the innermost first, up to the first one with anything in it."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def numbered(path: Path) -> Iterator[Path]:
    """Yield `path`, `path-2`, `path-3`, ...

    Example:
        >>> names = numbered(Path("runs/0"))
        >>> [next(names).name for _ in range(3)]
        ['0', '0-2', '0-3']
    """
    yield path
    for number in count(2):
        yield path.with_name(f"{path.name}-{number}")


def new_folder(path: Path) -> Path:
    """Create and return the first folder of `numbered(path)` that does not exist; no two callers get the same.

    Raises:
        OSError: it cannot be created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for folder in numbered(path):
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError("the numbers do not end")


@contextmanager
def results_folder(
    out: Path | None, default: Path, files: Iterable[str], overwrite: bool, is_ours: Callable[[Path], bool]
) -> Iterator[Path]:
    """Folder for results, created, and locked until the end of the block; one that stays empty is removed.

    Results of an earlier run stay, unless they are to be replaced; those of another program are never replaced.

    Args:
        out: as chosen; None is the first free one of `numbered(default)`.
        default: see `out`.
        files: names of the results.
        overwrite: whether those of an earlier run are replaced.
        is_ours: whether a folder carries the mark of such results.

    Raises:
        OutputError: `out` has results, or cannot be a folder.
        InUse: another run writes there.
    """
    with ExitStack() as stack:
        try:
            stack.callback(remove_empty, missing(default.parent))
            folder = new_folder(default) if out is None else out
            stack.callback(remove_empty, [folder] if out is None else [])
            stack.enter_context(locked(folder, inside=True))
        except OSError as error:
            raise OutputError(sentence(error, out or default)) from error
        there = [name for name in files if os.path.lexists(folder / name)]
        if there and not overwrite:
            raise OutputError(f"{out} has the results of an earlier run: choose another --out, or give --overwrite")
        if there and not is_ours(folder):
            raise OutputError(
                f"{folder / there[0]} was not written by stemtwin and is not replaced: choose another --out"
            )
        yield folder


def carries(group: Path, mark: str) -> bool:
    """Return whether a zarr group has this `format` among its attributes, and is no link."""
    if group.is_symlink():
        return False
    try:
        attributes = json.loads((group / "zarr.json").read_text(encoding="utf-8"))["attributes"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
    return isinstance(attributes, dict) and attributes.get("format") == mark


def latest(path: Path) -> Path | None:
    """Return the folder of `numbered(path)` with the highest number; None if there is none.

    Raises:
        OSError: the folders cannot be listed.
    """
    name = re.compile(re.escape(path.name) + r"(?:-([1-9][0-9]*))?")
    if not path.parent.is_dir():
        return None
    found = [(match, entry) for entry in path.parent.iterdir() if (match := name.fullmatch(entry.name))]
    folders = [(int(match[1] or 1), entry) for match, entry in found if entry.is_dir() and not entry.is_symlink()]
    return max(folders)[1] if folders else None


def write_text(path: Path, text: str) -> None:
    """As `write_bytes`, UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: a reader never finds half of it. A link in its place is replaced.

    Raises:
        OSError: it cannot be written; an earlier file of this name is as it was.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    with open(partial, "xb") as file:  # a name of our own: never somebody else's file
        try:
            file.write(data)
            file.close()
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def sentence(error: OSError, where: Path | str = "") -> str:
    """Return an error of the system in words, with the file it is about.

    Example:
        >>> sentence(OSError(28, "No space left on device"), "runs/0")
        'runs/0: No space left on device'
        >>> sentence(FileExistsError(17, "File exists", "notes.txt"))
        'notes.txt exists and is no folder: choose another folder'
    """
    place = str(error.filename or where)
    if place and isinstance(error, FileExistsError):  # of `mkdir`: it takes folders that exist
        return f"{place} exists and is no folder: choose another folder"
    return f"{place}: {error.strerror or error}" if place else str(error.strerror or error)
