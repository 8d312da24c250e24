"""What RosettaSciIO reads from a file, as HyperSpy's dictionaries, and in silence.

It logs on standard output, where commands print their results, and warns as to a programmer.
"""

import importlib
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Dictionary = dict[str, Any]


def read_dictionaries(path: Path, module: str, lazy: bool = True, **options: Any) -> list[Dictionary]:
    """Return the signals of a file.

    Args:
        path: of the file.
        module: of RosettaSciIO.
        lazy: return dask arrays, of which nothing is read yet.
        options: of its reader.

    Raises:
        Exception: of any kind, as its readers do.
    """
    with silent():
        reader: Callable[..., list[Dictionary]] = importlib.import_module(f"rsciio.{module}").file_reader
        return reader(str(path), lazy=lazy, **options)


@contextmanager
def silent() -> Iterator[None]:
    """Keep RosettaSciIO's warnings and its log, which goes to standard output, to itself."""
    log = logging.getLogger("rsciio")
    before = log.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            importlib.import_module("rsciio")  # sets the level when it is first imported
            log.setLevel(logging.CRITICAL + 1)
            yield
        finally:
            log.setLevel(before)
