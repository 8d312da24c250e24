"""Signals that end a program: none is lost, and none comes in the middle of what must not be left half done.

Ctrl-C, and the polite ways of a system to end a program (SIGTERM, SIGHUP), which are taken for one.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_ENDS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def remembered() -> Iterator[Callable[[], None]]:
    """Gives a function to call between two pieces of work: it raises a KeyboardInterrupt that never arrived.

    For one that is raised inside a destructor or a library's callback is swallowed there. Does nothing outside the main
    thread, and to signals that somebody else looks after.
    """
    pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        raise KeyboardInterrupt

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    usual = (signal.default_int_handler, signal.SIG_DFL)
    with _handled(press, lambda before: before in usual):
        yield check


@contextmanager
def held() -> Iterator[None]:
    """Passes over such signals: for what has an end of its own and leads to the program's."""
    with _handled(lambda number, frame: None, lambda before: before is not None):
        yield


@contextmanager
def deferred() -> Iterator[None]:
    """Keeps the first such signal back until the end: for a piece of work that must not be done by half.

    A second one comes through at once. Signals that nobody looks after stay as they are.
    """
    waiting: list[int] = []

    def keep(number: int, frame: FrameType | None) -> None:
        if waiting:
            raise KeyboardInterrupt
        waiting.append(number)

    with _handled(keep, callable):
        yield
    for number in waiting:
        signal.raise_signal(number)


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None], replaces: Callable[[object], bool]) -> Iterator[None]:
    """`handler` in place of those that `replaces` says yes to."""
    before = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in _ENDS:
                if replaces(signal.getsignal(number)):
                    before[number] = signal.signal(number, handler)
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
