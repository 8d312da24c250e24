"""A bounded queue between a thread that reads and whoever works on what it read: waiting, never loss."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Generic, TypeVar

from twin.errors import StemtwinError

Item = TypeVar("Item")


class QueueClosed(StemtwinError, RuntimeError):
    """The other side has gone: nobody will take what is put here."""


class BoundedQueue(Generic[Item]):
    """First in, first out, between two threads, with a bound on items and on bytes.

    A writer that finds it full waits (so the camera behind it is held up by TCP) and is counted. Something larger than
    `max_bytes` alone is let in when nothing else is there. An error of the writer reaches the reader after
    everything that was put before it.

    Args:
        max_items: at most this many.
        max_bytes: at most this much, by the sizes given to `put`.

    Attributes:
        waits: times that the writer had to wait.
        largest_bytes: most that it has held.

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
        """Append; waits while it is full.

        Raises:
            QueueClosed: the reader has gone, or `finish` came before.
        """
        with self._changed:
            if self._full(size) and not self._aborted:
                self.waits += 1
                self._changed.wait_for(lambda: self._aborted or not self._full(size))
            if self._aborted or self._finished:
                raise QueueClosed("nobody takes from this queue any more")
            self._items.append((item, size))
            self._bytes += size
            self.largest_bytes = max(self.largest_bytes, self._bytes)
            self._changed.notify_all()

    def finish(self, error: BaseException | None = None) -> None:
        """Nothing more will be put; `error` is raised at the reader once everything is taken."""
        with self._changed:
            self._finished, self._error = True, error
            self._changed.notify_all()

    def abort(self) -> None:
        """Nothing more will be taken: lets go of everything and wakes both sides."""
        with self._changed:
            self._aborted = True
            self._items.clear()
            self._bytes = 0
            self._changed.notify_all()

    def get(self, timeout_s: float | None = None) -> Item:
        """The next item.

        Raises:
            StopIteration: there will be none.
            TimeoutError: none within `timeout_s`.
            BaseException: what the writer gave to `finish`.
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
    """What `items` gives, read by a thread of its own as far ahead as the queue lets it.

    Close the result (or run it to its end) and the thread is gone: what `items` waits for has to end by itself soon
    after `stop` was called, by a timeout of its own.

    Args:
        items: runs in the thread, and is closed there if it can be.
        queue: fresh.
        size: bytes of an item.
        name: of the thread.
        stop: tells `items` that nobody wants more.
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
