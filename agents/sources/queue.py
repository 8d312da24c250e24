"""A bounded queue between a reading thread and its consumer; a full queue blocks the reader and loses nothing."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Generic, TypeVar

from twin.errors import StemtwinError

Item = TypeVar("Item")


class QueueClosed(StemtwinError, RuntimeError):
    """The consumer has closed the queue."""


class BoundedQueue(Generic[Item]):
    """First-in-first-out queue between two threads, limited in items and bytes.

    The writer waits while the queue is full (and TCP holds up the camera behind it). An empty queue takes an item
    larger than `max_bytes`. An error of the writer reaches the reader after all items before it.

    Args:
        max_items: largest number of items.
        max_bytes: largest total of the sizes given to `put`.

    Attributes:
        waits: number of times the writer had to wait.
        largest_bytes: largest total so far.

    Raises:
        ValueError: a bound below one.
    """

    def __init__(self, max_items: int = 64, max_bytes: int = 64 * 2**20) -> None:
        if max_items < 1 or max_bytes < 1:
            raise ValueError(f"a queue holds at least 1 item and 1 byte; got {max_items} and {max_bytes}")
        self.max_items, self.max_bytes = max_items, max_bytes
        self.waits = 0
        self.largest_bytes = 0
        self._items: deque[tuple[Item, int]] = deque()
        self._bytes = 0
        self._finished = False
        self._aborted = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def put(self, item: Item, size: int) -> None:
        """Append an item; wait while the queue is full.

        Raises:
            QueueClosed: after `abort` or `finish`.
        """
        with self._changed:
            if self._full(size) and not self._aborted:
                self.waits += 1
                self._changed.wait_for(lambda: self._aborted or not self._full(size))
            if self._aborted or self._finished:
                raise QueueClosed("the queue is closed")
            self._items.append((item, size))
            self._bytes += size
            self.largest_bytes = max(self.largest_bytes, self._bytes)
            self._changed.notify_all()

    def finish(self, error: BaseException | None = None) -> None:
        """End the writing; `error` is raised in the reader after the last item."""
        with self._changed:
            self._finished, self._error = True, error
            self._changed.notify_all()

    def abort(self) -> None:
        """End the reading; drop all items and wake both threads."""
        with self._changed:
            self._aborted = True
            self._items.clear()
            self._bytes = 0
            self._changed.notify_all()

    def get(self, timeout_s: float | None = None) -> Item:
        """Take the next item.

        Raises:
            StopIteration: the writer has finished.
            TimeoutError: no item within `timeout_s`.
            BaseException: the error given to `finish`.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._items or self._finished or self._aborted, timeout_s):
                raise TimeoutError(f"nothing came within {timeout_s:g} s")
            if self._items:
                item, size = self._items.popleft()
                self._bytes -= size
                self._changed.notify_all()
                return item
            error, self._error = self._error, None
        if error is not None:
            raise error
        raise StopIteration

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        return self.get()

    def __len__(self) -> int:
        return len(self._items)

    def _full(self, size: int) -> bool:
        return bool(self._items) and (len(self._items) >= self.max_items or self._bytes + size > self.max_bytes)


def read_ahead(
    items: Iterator[Item],
    queue: BoundedQueue[Item],
    size: Callable[[Item], int],
    name: str = "reader",
    stop: Callable[[], None] | None = None,
) -> Generator[Item, None, None]:
    """Iterate over `items` in a thread that reads ahead as far as the queue allows.

    Closing the generator, or running it to its end, ends the thread: `items` has to return soon after `stop` is called.

    Args:
        items: iterated, and closed, in the thread.
        queue: new.
        size: bytes of an item.
        name: name of the thread.
        stop: asks `items` to end.

    Example:
        >>> list(read_ahead(iter("abc"), BoundedQueue(max_items=2), len))
        ['a', 'b', 'c']
    """

    def run() -> None:
        try:
            for item in items:
                queue.put(item, size(item))
        except QueueClosed:
            pass
        except BaseException as error:
            queue.finish(error)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()
            queue.finish(queue._error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield from queue
    finally:
        queue.abort()
        if stop is not None:
            stop()
        thread.join()
