"""A file that is written aside and moved in whole: a reader never finds half of it."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yield a name of nobody else beside `path`; what is there at the end of the block becomes `path`.

    After an error nothing is left of it, and an earlier file is as it was. A link in its place is replaced.

    Raises:
        OSError: the file cannot be moved in.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.json"
        >>> with written_aside(path) as partial:
        ...     _ = partial.write_text("{}")
        >>> path.read_text(), len(list(path.parent.iterdir()))
        ('{}', 1)
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # of a write: it does not say where
            error.filename = str(path)
        raise
