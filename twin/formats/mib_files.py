"""The files of a Merlin acquisition: one .mib, or the parts into which the camera's software split it, and the .hdr.

Parts are `name1.mib`, `name2.mib` ... beside one `name.hdr`, or go on in their frame numbers. Frames are bytes here.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twin.formats import file_checks
from twin.formats import merlin_header as mh
from twin.formats.closing import Closing
from twin.formats.dataset import FormatError

Bytes = NDArray[np.uint8]

MOST_HDR = 2**20
"""Largest text header that is read, bytes; cameras write some thousands."""
TIMES = 2**15
"""Frames whose time stamps are read for the shape of a scan."""
PAUSE = 1.5
"""A pause between two lines is longer than this many times the usual distance of two frames."""

_NUMBERED = re.compile(r"(.*?)(\d+)")
_JOINTS = "_- ."
"""Between the name of an acquisition and the number of a part."""


class StoredFrames(Closing):
    """Frames of an acquisition in the order of its files, as they are stored.

    Args:
        path: of a .mib file; any part of an acquisition opens all of it.
        parts: False opens this file alone.

    Attributes:
        paths: the files, in order.
        hdr: path of the text header; None without one.
        header: of the first frame.
        head: its bytes.
        stride: bytes of a frame with its header.
        complete: number of whole frames.
        cut_off: a sentence for the first file that ends within a frame, and the whole frames before; None without one.
        notes: what was taken for granted about the parts, sentences.

    Raises:
        FormatError: no whole frame, an invalid first header, parts of different kinds, or no regular file.
    """

    def __init__(self, path: Path, parts: bool = True) -> None:
        file_checks.check_file(path)
        self.paths, self.hdr, self.notes = _parts(path) if parts else ([path], _own_hdr(path), [])
        if self.hdr is not None:
            file_checks.check_file(self.hdr)
        self.head = _first_bytes(self.paths[0])
        self.header = parse(self.head, self.paths[0], 0)
        self.stride = self.header.length + self.header.payload_bytes
        self.cut_off: tuple[str, int] | None = None
        self._starts = [0]
        for part in self.paths:
            self._starts.append(self._starts[-1] + self._whole_frames(part, self._starts[-1]))
        self.complete = self._starts[-1]
        if self.complete == 0:
            raise FormatError(self.cut_off[0] if self.cut_off else f"{path}: no frame")
        file_checks.check_frame_memory(self.header.payload_bytes, str(path))
        self._files = [part.open("rb") for part in self.paths]

    def _whole_frames(self, part: Path, before: int) -> int:
        """Return the number of whole frames of a part, after `before` others; note the first that is cut off."""
        size = part.stat().st_size
        if before and size == 0:
            return 0  # the acquisition was stopped as this part began
        if part != self.paths[0]:
            kind = parse(_first_bytes(part), part, 0)
            if kind.kind != self.header.kind:
                raise FormatError(f"{part}: frame 0 {mh.difference(kind, self.header)} (in {self.paths[0].name})")
        count, rest = divmod(size, self.stride)
        if rest and self.cut_off is None:
            count, why = self._first_other(part, count, f"is cut off after {rest} of {self.stride} bytes")
            whole = before + count
            self.cut_off = (
                f"{part}: frame {count} {why}; there are {whole} whole frames before it"
                + (" (tolerate reads them)" if whole else ""),
                whole,
            )
        return count

    def _first_other(self, part: Path, count: int, why: str) -> tuple[int, str]:
        """Return the first of `count` frames that is not of the kind of the first, and what it is; else `count`, `why`.

        The length of a file of frames of two kinds says nothing. All frames before the first other one are good.
        """
        with part.open("rb") as file:

            def other(frame: int) -> str:
                file.seek(frame * self.stride)
                try:
                    header = mh.parse_header(file.read(mh.LONGEST_BYTES))
                except FormatError as error:
                    return f"is none: {error}"
                return mh.difference(header, self.header)

            good, bad = 0, count
            if count == 0 or not other(count - 1):
                return count, why
            while good < bad:
                middle = (good + bad) // 2
                good, bad = (good, middle) if other(middle) else (middle + 1, bad)
            return good, other(good)

    def read(self, first: int, count: int) -> Bytes:
        """Return stored frames, (n, stride); fewer than `count` if a file has become shorter since."""
        found: list[Bytes] = []
        for k, file in enumerate(self._files):
            start, stop = max(first, self._starts[k]), min(first + count, self._starts[k + 1])
            if stop <= start:
                continue
            file.seek((start - self._starts[k]) * self.stride)
            raw = np.fromfile(file, np.uint8, (stop - start) * self.stride)
            found.append(raw[: len(raw) // self.stride * self.stride].reshape(-1, self.stride))
            if len(found[-1]) < stop - start:
                break
        if len(found) == 1:
            return found[0]
        return np.concatenate(found) if found else np.empty((0, self.stride), np.uint8)

    def head_of(self, frame: int) -> mh.MerlinHeader:
        """Return the header of a stored frame.

        Raises:
            FormatError: an invalid one.
        """
        return parse(self.head_bytes(frame), *self.place(frame))

    def counter_of(self, frame: int) -> list[int]:
        """Return the counter that a stored frame is of; nothing for one that is absent or damaged."""
        try:
            return [self.head_of(frame).counter] if frame < self.complete else []
        except FormatError:
            return []

    def place(self, frame: int) -> tuple[Path, int]:
        """Return the file of a stored frame, and its number there."""
        part = bisect_right(self._starts, frame) - 1
        return self.paths[part], frame - self._starts[part]

    def head_bytes(self, frame: int) -> bytes:
        """Return the header of a stored frame as bytes; empty if the file has become shorter."""
        path, within = self.place(frame)
        file = self._files[self.paths.index(path)]
        file.seek(within * self.stride)
        return file.read(self.header.length)

    def times_s(self, first: int, every: int) -> Iterator[float]:
        """Yield the time stamp of each `every`-th frame from `first`, at most `TIMES`, up to an unreadable one."""
        for frame in range(first, min(self.complete, first + every * TIMES), every):
            try:
                stamp = datetime.fromisoformat(self.head_of(frame).time.strip())
            except ValueError:
                return
            yield (stamp.replace(tzinfo=None) - datetime(2000, 1, 1)).total_seconds()

    def close(self) -> None:
        for file in getattr(self, "_files", ()):
            file.close()


def columns_of_times(times_s: NDArray[np.float64]) -> int | None:
    """Return the columns of a scan whose lines are separated by pauses; None if the times show no such lines.

    Args:
        times_s: time of each frame, (n,), over two pauses at least.
    """
    steps = np.diff(times_s)
    if len(steps) < 3 or not np.all(steps >= 0):
        return None
    pauses = np.flatnonzero(steps > PAUSE * max(float(np.median(steps)), 1e-9)) + 1
    if len(pauses) < 2 or pauses[0] < 2:
        return None
    columns = int(pauses[0])
    even = np.array_equal(pauses, columns * np.arange(1, len(pauses) + 1))
    return columns if even and len(times_s) - pauses[-1] <= columns else None


def parse(raw: bytes, path: Path, frame: int) -> mh.MerlinHeader:
    """Parse the header of a frame.

    Raises:
        FormatError: invalid; names file and frame.
    """
    try:
        return mh.parse_header(raw)
    except FormatError as error:
        raise FormatError(f"{path}: frame {frame}: {error}", frame) from None


def read_hdr(hdr: Path) -> mh.Acquisition:
    """Read the text header of a file, at most `MOST_HDR` bytes.

    Raises:
        FormatError: not a text header; names the file.
    """
    with hdr.open("rb") as file:
        raw = file.read(MOST_HDR)
    try:
        return mh.parse_hdr(raw)
    except FormatError as error:
        raise FormatError(f"{hdr}: {error}") from None


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(mh.LONGEST_BYTES)


def _own_hdr(path: Path) -> Path | None:
    """Return the text header with the name of a file; capitals in its suffix do not matter."""
    names = (path.with_suffix(suffix) for suffix in (".hdr", ".HDR", ".Hdr"))
    return next((hdr for hdr in names if hdr.exists()), None)


def _parts(path: Path) -> tuple[list[Path], Path | None, list[str]]:
    """Return the files of the acquisition that `path` belongs to, its text header, and notes."""
    own, numbered = _own_hdr(path), _NUMBERED.fullmatch(path.stem)
    stem = numbered[1] if numbered else path.stem
    name = path.with_name((stem.rstrip(_JOINTS) or stem) + path.suffix)
    shared = next(
        (hdr for each in (stem, name.stem) if each and (hdr := _own_hdr(path.with_name(each + path.suffix)))), None
    )
    siblings = _siblings(path, stem) if numbered else _numbered_after(path)
    whole = name.exists() and name not in siblings.values()
    if numbered is not None and own is None and shared is not None and not whole and path in siblings.values():
        siblings = {number: part for number, part in siblings.items() if _own_hdr(part) is None}
        paths = [siblings[number] for number in sorted(siblings)]
        return paths, shared, _absent(siblings, stem, shared)
    if whole and siblings:
        siblings[min(siblings) - 1] = name
    chain = _chain(path, siblings)
    if len(chain) == 1:
        return chain, own, []
    listed = ", ".join(part.name for part in chain)
    return chain, _own_hdr(chain[0]), [f"{listed} go on in their frame numbers: read as one acquisition"]


def _absent(siblings: dict[int, Path], stem: str, shared: Path) -> list[str]:
    """Return a sentence that names the parts that are missing between others, or before a first that begins later."""
    first = _numbers(siblings[min(siblings)])
    begins = min(siblings) if first is not None and first[0] <= 1 else min(1, *siblings)
    absent = [f"{stem}{number}.mib" for number in range(begins, max(siblings)) if number not in siblings][:10]
    return [f"{', '.join(absent)} {'is' if len(absent) == 1 else 'are'} missing beside {shared.name}"] if absent else []


def _siblings(path: Path, stem: str) -> dict[int, Path]:
    """Return the files of the same name but for the number at its end, by that number."""
    found = {}
    for part in path.parent.iterdir():
        numbered = _NUMBERED.fullmatch(part.stem)
        alike = part.suffix.lower() == path.suffix.lower() and numbered is not None and numbered[1] == stem
        if alike and numbered is not None and part.is_file():
            found[int(numbered[2][:18])] = part
    return found


def _numbered_after(path: Path) -> dict[int, Path]:
    """Return the files `name1.mib` or `name_1.mib` ... that may go on after `name.mib`, by their number."""
    kinds = (_siblings(path, path.stem + joint) for joint in ("", *_JOINTS))
    return next((found for found in kinds if found), {})


def _chain(path: Path, siblings: dict[int, Path]) -> list[Path]:
    """Return the files around `path` of which each goes on with the frame number after the last one's.

    A file with a text header of its own goes on only if that announces more frames than the file has.
    """
    at = next((number for number, part in siblings.items() if part == path), None)
    if at is None:
        return [path]

    def follows(number: int) -> bool:
        before, part = siblings.get(number - 1), siblings.get(number)
        if before is None or part is None:
            return False
        ends, begins = _numbers(before), _numbers(part)
        if ends is None or begins is None or begins[0] != ends[1] + 1:
            return False
        hdr = _own_hdr(part)
        return hdr is None or _announced(hdr) > begins[1] - begins[0] + 1

    first = at
    while follows(first):
        first -= 1
    last = at
    while follows(last + 1):
        last += 1
    return [siblings[number] for number in range(first, last + 1)]


def _announced(hdr: Path) -> int:
    """Return the frames that a text header announces; 0 for one that cannot be read."""
    try:
        file_checks.check_file(hdr)
        return read_hdr(hdr).frames
    except FormatError:
        return 0


def _numbers(part: Path) -> tuple[int, int] | None:
    """Return the frame numbers of the first and the last whole frame of a file; None if they cannot be read."""
    try:
        first = mh.parse_header(_first_bytes(part))
        stride = first.length + first.payload_bytes
        count = part.stat().st_size // stride
        with part.open("rb") as file:
            file.seek((count - 1) * stride)
            return first.sequence, mh.parse_header(file.read(first.length)).sequence
    except (FormatError, OSError):
        return None
