"""Counts written straight into the allocated chunks of an HDF5 file.

HDF5 ends the whole program (SIGSEGV) when it cannot write out a file that it has open, as on a full disc. So the
structure is made first and closed; what follows is plain writing at known places, which fails with an `OSError`.
"""

from pathlib import Path
from typing import Any, BinaryIO, cast

import h5py
import numpy as np
from numpy.typing import NDArray

from twin.formats.dataset import Frames


class ChunkFile:
    """The frames of a dataset (*scan, H, W) in chunks of whole frames of one row, uncompressed and allocated.

    Args:
        path: of the file, closed by HDF5.
        name: of the dataset.
        mask: of a dataset (*scan) of one chunk, bool: which positions have their frame.

    Attributes:
        acquired: the mask, as written; supports slices.
    """

    def __init__(self, path: Path, name: str, mask: str) -> None:
        with h5py.File(path, "r") as file:
            data = file[name]
            self._columns, self._per_chunk = data.shape[-3], data.chunks[-3]
            self._dtype, self._frame_bytes = data.dtype, int(np.prod(data.shape[-2:])) * data.dtype.itemsize
            self._offsets: dict[tuple[int, ...], int] = {}
            data.id.chunk_iter(lambda chunk: self._offsets.__setitem__(chunk.chunk_offset[:-2], chunk.byte_offset))
            scan, begin = data.shape[:-2], file[mask].id.get_chunk_info(0).byte_offset
        self._file = cast(BinaryIO, path.open("r+b", buffering=0))
        self.acquired = _Mask(self._file, begin, scan)

    def __setitem__(self, where: tuple[Any, ...], frames: Frames) -> None:
        """Write frames (n, H, W) to one row; `where` is (row, columns) or (positions,).

        Raises:
            OSError: the disc is full, or refuses.
        """
        *above, across = where
        done = 0
        while done < len(frames):
            column = across.start + done
            inside = column % self._per_chunk
            count = min(self._per_chunk - inside, len(frames) - done)
            begin = self._offsets[(*above, column - inside)] + inside * self._frame_bytes
            piece = np.ascontiguousarray(frames[done : done + count], dtype=self._dtype)
            write_at(self._file, begin, piece.tobytes())
            done += count

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _Mask:
    """The mask of acquired positions, in memory and in the file."""

    def __init__(self, file: BinaryIO, begin: int, scan: tuple[int, ...]) -> None:
        self._file, self._begin = file, begin
        self._values = np.zeros(scan, dtype=bool)

    def __getitem__(self, where: tuple[Any, ...]) -> NDArray[np.bool_]:
        return self._values[where]

    def __setitem__(self, where: tuple[Any, ...], value: bool) -> None:
        first = int(np.ravel_multi_index((*where[:-1], where[-1].start), self._values.shape))
        write_at(self._file, self._begin + first, bytes([value]) * (where[-1].stop - where[-1].start))
        self._values[where] = value


def write_at(file: BinaryIO, begin: int, raw: bytes) -> None:
    """Write all of `raw` from byte `begin` on.

    Raises:
        OSError: the disc is full, or refuses.
    """
    file.seek(begin)
    left = memoryview(raw)
    while left:
        left = left[file.write(left) :]
