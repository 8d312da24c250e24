"""What is opened is closed: at the end of a `with`, or where opening fails."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self


class Closing(ABC):
    """A file or a connection: use it in a `with`, or close it."""

    @abstractmethod
    def close(self) -> None:
        """Release it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def released_on_error(release: Callable[[], object]) -> Iterator[None]:
    """Close what was opened before, if opening does not come to its end."""
    try:
        yield
    except BaseException:
        release()
        raise
