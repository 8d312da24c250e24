"""Arrays of a zarr group whose damaged and missing chunks are named, and that reach the disc when told.

Zarr takes a chunk without its file for zeros, and its codecs raise errors of many types.
"""

import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from twin.formats.dataset import BLOCK_BYTES, FormatError, first_line

Region = tuple[slice, ...]

COMPLETE = "complete_chunks"
"""Attribute of a group: every chunk that was written has its file, also one of zeros."""
MOST_BYTES = 16 * BLOCK_BYTES
"""Largest chunk that is unpacked, and largest array that is read as a whole."""
MOST_CHUNKS = 2**22
"""Chunks of an array that is read as a whole."""


def compression() -> ZstdCodec:
    """Return the codec of new arrays: with a checksum, so that a changed byte is not read as other counts."""
    return ZstdCodec(level=0, checksum=True)


@dataclass(frozen=True)
class Chunks:
    """One array of a group.

    Attributes:
        path: of the group.
        name: of the array.
        array: the zarr array.
        expected: whether the chunk of a region was written: without its file it is missing, and not zeros.
        holds: what is in a region of the array, for messages: "frames 3 to 5".
    """

    path: Path
    name: str
    array: Any
    expected: Callable[[Region], bool]
    holds: Callable[[Region], str]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one chunk, as stored."""
        grid = getattr(self.array.metadata.chunk_grid, "chunk_shape", self.array.chunks)
        return tuple(int(side) for side in grid)

    def read(self, where: tuple[int | slice, ...]) -> NDArray[Any]:
        """Return a region of the array; leading axes may be integers.

        Raises:
            DamagedChunk: names the file, the first chunk that cannot be read, and what it holds.
        """
        touched = list(self._touched(where))
        for number in touched:
            if not self.file(number).exists() and self.expected(self.region(number)):
                raise DamagedChunk(self, number, "is missing")
        try:
            return np.asarray(self.array[where])
        except Exception as error:
            for number in touched:
                self.check(number)
            raise FormatError(f"{self.path}: {self.name} cannot be read: {first_line(error)}") from None

    def check(self, number: tuple[int, ...]) -> None:
        """Read one chunk.

        Raises:
            DamagedChunk: it cannot be read.
        """
        try:
            self.array[self.region(number)]
        except Exception as error:
            raise DamagedChunk(self, number, f"is damaged: {first_line(error)}") from None

    def check_size(self) -> None:
        """Refuse chunks that do not fit into memory, or hold nothing.

        Raises:
            FormatError: larger than `MOST_BYTES`, or a side of 0.
        """
        if min(self.shape, default=1) < 1:
            raise FormatError(f"{self.path}: {self.name}: chunks of {self.shape} hold nothing")
        if np.prod(self.shape, dtype=float) * self.array.dtype.itemsize > MOST_BYTES:
            raise FormatError(f"{self.path}: {self.name}: chunks of {self.shape} do not fit into memory")

    def check_all(self) -> None:
        """Refuse an array that is read as a whole, and does not fit into memory.

        Raises:
            FormatError: larger than `MOST_BYTES`, or more than `MOST_CHUNKS`.
        """
        self.check_size()
        sides = zip(self.array.shape, self.shape, strict=True)
        chunks = math.prod(-(-size // side) for size, side in sides)
        if math.prod(self.array.shape) * self.array.dtype.itemsize > MOST_BYTES or chunks > MOST_CHUNKS:
            raise FormatError(f"{self.path}: {self.name} of {self.array.shape} does not fit into memory")

    def region(self, number: tuple[int, ...]) -> Region:
        """Return the region of a chunk within the array."""
        sides = zip(number, self.shape, self.array.shape, strict=True)
        return tuple(slice(k * side, min((k + 1) * side, size)) for k, side, size in sides)

    def file(self, number: tuple[int, ...]) -> Path:
        """Return the file of a chunk."""
        return self.path / self.name / str(self.array.metadata.encode_chunk_key(number))

    def sync(self, where: tuple[int | slice, ...]) -> None:
        """Return when a region, and the attributes of array and group, are on the disc and not only on their way.

        Raises:
            OSError: the disc refuses.
        """
        about = (self.path / "zarr.json", self.path / self.name / "zarr.json")
        files = [*about, *(self.file(number) for number in self._touched(where))]
        sync([file for file in files if file.exists()], self.path)

    def _touched(self, where: tuple[int | slice, ...]) -> Iterator[tuple[int, ...]]:
        """Yield the numbers of the chunks of a region."""
        spans = []
        for axis, (side, size) in enumerate(zip(self.shape, self.array.shape, strict=True)):
            part = where[axis] if axis < len(where) else slice(None)
            start, stop = part.indices(size)[:2] if isinstance(part, slice) else (part, part + 1)
            spans.append(range(start // side, -(-stop // side)))
        return product(*spans)


def always(region: Region) -> bool:
    """Every chunk was written."""
    return True


def never(region: Region) -> bool:
    """Any chunk may have been left out, as zeros."""
    return False


class DamagedChunk(FormatError):
    """A chunk that is damaged or missing.

    Attributes:
        region: of the array that is lost with it.
    """

    def __init__(self, chunks: Chunks, number: tuple[int, ...], what: str) -> None:
        self.region = chunks.region(number)
        key = chunks.array.metadata.encode_chunk_key(number)
        super().__init__(f"{chunks.path}: the chunk {chunks.name}/{key} with {chunks.holds(self.region)} {what}")


def sync(files: list[Path], top: Path) -> None:
    """Write files, and the folders that hold them up to `top`, to the disc (fsync).

    Raises:
        OSError: the disc refuses.
    """
    folders = {folder for file in files for folder in file.parents if folder == top or top in folder.parents}
    for place in [*files, *sorted(folders, key=lambda folder: -len(folder.parts))]:
        handle = os.open(place, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
