"""The queue between a reader thread and agents: nothing lost, nothing stuck, nothing beyond its bounds."""

import threading
import time
from collections.abc import Generator, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.sources.queue import BoundedQueue, QueueClosed, read_ahead


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "reader of a test"]


def ahead(items: Iterator[int], queue: BoundedQueue[int], size: int = 1) -> Generator[int, None, None]:
    return read_ahead(items, queue, lambda item: size, "reader of a test")


@given(st.lists(st.integers(1, 9), max_size=40), st.integers(1, 5), st.integers(1, 12))
@settings(max_examples=40, deadline=None)
def test_everything_comes_out_in_order_and_the_bounds_hold(sizes: list[int], items: int, size: int) -> None:
    queue: BoundedQueue[int] = BoundedQueue(items, size)
    assert list(read_ahead(iter(sizes), queue, lambda item: item, "reader of a test")) == sizes
    assert queue.largest_bytes <= max([size, *sizes])
    assert not readers()


def test_a_writer_that_finds_it_full_waits_and_is_counted() -> None:
    queue: BoundedQueue[int] = BoundedQueue(max_items=2, max_bytes=100)
    reader = ahead(iter(range(6)), queue)
    assert next(reader) == 0
    deadline = time.monotonic() + 5
    while (len(queue) < 2 or queue.waits < 1) and time.monotonic() < deadline:
        time.sleep(0.001)
    assert len(queue) == 2
    assert 1 <= queue.waits <= 2
    assert list(reader) == [1, 2, 3, 4, 5]


def test_no_wait_is_counted_when_there_is_room() -> None:
    queue: BoundedQueue[int] = BoundedQueue(max_items=10)
    assert list(ahead(iter(range(10)), queue)) == list(range(10))
    assert queue.waits == 0


def test_bytes_bound_as_items_do_and_something_large_goes_alone() -> None:
    queue: BoundedQueue[str] = BoundedQueue(max_items=100, max_bytes=10)
    queue.put("large", 1000)
    thread = threading.Thread(target=queue.put, args=("small", 1))
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    assert queue.get() == "large"
    thread.join(5)
    assert queue.get() == "small"


def test_an_error_of_the_writer_comes_after_what_it_had_put() -> None:
    def failing() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the line broke")

    reader = ahead(failing(), BoundedQueue())
    assert [next(reader), next(reader)] == [1, 2]
    with pytest.raises(OSError, match="the line broke"):
        next(reader)
    assert not readers()


def test_a_reader_that_leaves_wakes_a_writer_that_waits() -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.set()

    reader = ahead(endless(), BoundedQueue(max_items=1))
    next(reader)
    reader.close()
    assert closed.is_set()
    assert not readers()


def test_a_writer_is_told_to_stop_before_it_is_waited_for() -> None:
    stop = threading.Event()

    def quiet() -> Iterator[int]:
        yield 0
        stop.wait(30)

    reader = read_ahead(quiet(), BoundedQueue[int](), lambda item: 1, "reader of a test", stop.set)
    next(reader)
    begun = time.monotonic()
    reader.close()
    assert time.monotonic() - begun < 5


def test_get_gives_up_after_a_while_and_put_after_the_end() -> None:
    queue: BoundedQueue[int] = BoundedQueue()
    with pytest.raises(TimeoutError, match=r"0\.01 s"):
        queue.get(timeout_s=0.01)
    queue.finish()
    with pytest.raises(QueueClosed):
        queue.put(1, 1)
    with pytest.raises(StopIteration):
        queue.get()


def test_bounds_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 item"):
        BoundedQueue(max_items=0)
