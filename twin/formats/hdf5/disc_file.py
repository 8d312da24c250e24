"""A file for HDF5 that keeps errors of the disc to itself until it is asked.

The HDF5 library ends the program by a segmentation fault if a write fails while a file is closed.
"""

import os
from io import RawIOBase
from pathlib import Path
from typing import Any


class DiscFile(RawIOBase):
    """A new file; after a failed write the rest is dropped, and `check` raises the error.

    Args:
        path: created; it must not exist.

    Raises:
        OSError: it exists or cannot be created.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        self._place = 0
        self._error: BaseException | None = None

    def check(self) -> None:
        """Raise the first error of the file.

        Raises:
            OSError: a full disc, for example; the file is not complete.
        """
        error, self._error = self._error, None
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        if error is not None:
            raise error

    @property
    def failed(self) -> bool:
        """Whether `check` would raise."""
        return self._error is not None

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: os.fstat(self._file).st_size}[whence]
        self._place = start + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        data = os.pread(self._file, len(target), self._place)
        target[: len(data)] = data
        self._place += len(data)
        return len(data)

    def write(self, data: Any) -> int:
        rest = memoryview(data).cast("B")
        total = len(rest)
        # An interrupt, too: an error in here would be one of the library.
        try:
            while rest and not self.failed:
                written = os.pwrite(self._file, rest, self._place)
                self._place, rest = self._place + written, rest[written:]
        except BaseException as error:
            self._error = error
        self._place += len(rest)
        return total

    def truncate(self, size: int | None = None) -> int:
        size = self._place if size is None else size
        try:
            if not self.failed:
                os.ftruncate(self._file, size)
        except BaseException as error:
            self._error = error
        return size

    def close(self) -> None:
        if not self.closed:
            os.close(self._file)
        super().close()
