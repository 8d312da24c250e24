"""Checks of a file before it is read: its kind, and what its headers announce against its size and the free memory.

A header is text that anybody can write: nothing is allocated for what it announces before it has passed here.
"""

import stat
from pathlib import Path

import psutil

from twin.errors import printable
from twin.formats.dataset import FormatError

SMALL_SCAN, SMALL_CAMERA = 2**24, 2**24
"""Positions of a scan and pixels of a camera, 4096 x 4096, that are taken for however little there is in the file."""
MOST_PER_ENTRY = 64
"""Positions or pixels that a larger scan or camera may have for each frame or event in the file."""
POSITION_BYTES = 16
"""Least memory of one position: whether it has its frame, and one image with its spread."""
WORKING_COPIES = 3
"""Copies of one frame while it is read: the bytes, the decoded counts, and what is computed from them."""


def check_regular(path: Path, expected: str = "a dataset is a file or a folder") -> None:
    """Refuse what is neither a file nor a folder: a pipe or a device may wait for ever, or never end.

    Args:
        path: of the file.
        expected: what it may be, the end of the message.

    Raises:
        FormatError: no such file, one that cannot be looked at, or of another kind.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise FormatError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:  # a loop of links, no right to look, half a character in the name
        why = error.strerror if isinstance(error, OSError) else error
        raise FormatError(f"{printable(path, 200)}: {why}") from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise FormatError(f"{path} is {_kind(mode)}; {expected}")


def check_file(path: Path) -> None:
    """Refuse what is not a regular file.

    Raises:
        FormatError: no such file, or of another kind.
    """
    check_regular(path, "a file is expected")
    if path.is_dir():
        raise FormatError(f"{path} is a folder; a file is expected")


def read_text(path: Path, most_bytes: int, what: str) -> str:
    r"""Return a small UTF-8 text; a device or a pipe, which may have no end, is not opened.

    Args:
        path: of the file.
        most_bytes: largest size.
        what: it is, with its article, for messages.

    Raises:
        FormatError: no such file, not a regular one, larger, not UTF-8, or one that may not be read.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "pt.txt"
        >>> path.write_text("1 0.7\n")
        6
        >>> read_text(path, 100, "a library")
        '1 0.7\n'
    """
    check_file(path)
    try:
        with path.open("rb") as file:
            found = file.read(most_bytes + 1)
        if len(found) > most_bytes:
            raise FormatError(f"{path}: {what} has at most {most_bytes} bytes")
        return found.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(f"{path}: {what} is UTF-8 text, and this is not") from None
    except OSError as error:
        raise FormatError(f"{path}: {error.strerror or error}") from None


def _kind(mode: int) -> str:
    kinds = {stat.S_ISFIFO: "a pipe", stat.S_ISCHR: "a device", stat.S_ISBLK: "a device", stat.S_ISSOCK: "a socket"}
    return next((name for test, name in kinds.items() if test(mode)), "no regular file")


def free_bytes() -> int:
    """Return the memory that this process may still take: what the system has free, or its own limit if lower."""
    free = int(psutil.virtual_memory().available)
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return free
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return free
    return max(0, min(free, limit - int(psutil.Process().memory_info().vms)))


def check_memory(need_bytes: int, what: str) -> None:
    """Refuse to allocate more than is free.

    Args:
        need_bytes: to be allocated.
        what: needs them, the subject of the message.

    Raises:
        FormatError: names both figures.
    """
    free = free_bytes()
    if need_bytes > free:
        raise FormatError(f"{what} takes {need_bytes / 2**30:.3g} GiB of memory; {free / 2**30:.3g} GiB are free")


def check_positions(positions: int, entries: int, label: str, what: str = "frames", given: bool = False) -> None:
    """Hold the positions that a header or an option announces against what is in the file, and the free memory.

    Args:
        positions: of the scan.
        entries: frames or events in the file.
        label: opens the message.
        what: the entries are.
        given: the scan is an option already, or such files take none.

    Raises:
        FormatError: far more positions than entries, or more than fit into memory.
    """
    most = max(SMALL_SCAN, MOST_PER_ENTRY * entries)
    if positions > most:
        advice = "" if given else "; give the scan's shape as an option"
        raise FormatError(
            f"{label}: a scan of {positions} positions is announced, and the file has {entries} {what}, enough for"
            f" {most} positions at most{advice}"
        )
    check_memory(positions * POSITION_BYTES, f"{label}: a scan of {positions} positions, with one image of it,")


def stored_bytes(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    if not path.is_dir():
        return path.stat().st_size
    return sum(part.stat().st_size for part in path.rglob("*") if part.is_file())


def check_event_camera(camera: tuple[int, int], events: int, label: str) -> None:
    """Hold the pixels that a description announces against the events in the file.

    Raises:
        FormatError: far more pixels than events.
    """
    pixels = camera[0] * camera[1]
    most = max(SMALL_CAMERA, MOST_PER_ENTRY * events)
    if pixels > most:
        raise FormatError(
            f"{label}: a camera of {camera[0]} x {camera[1]} pixels is announced, and the file has {events} events,"
            f" enough for {most} pixels at most; give the camera as an option"
        )


def check_frame_memory(frame_bytes: int, label: str) -> None:
    """Refuse frames of which not even one can be read.

    Raises:
        FormatError: names the memory that is needed and the one that is free.
    """
    if frame_bytes > 2**24:  # smaller ones always fit
        check_memory(WORKING_COPIES * frame_bytes, f"{label}: one frame")
