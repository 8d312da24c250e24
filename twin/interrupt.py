"""Signals that end a program (SIGINT, SIGTERM, SIGHUP): none is lost, none interrupts a critical step."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_ENDS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def remembered() -> Iterator[Callable[[], None]]:
    """Yield a check function that raises a pending KeyboardInterrupt; call it between two steps of the work.

    Python swallows a KeyboardInterrupt raised in a destructor or a C callback; the check raises it again. Signals with
    a handler of their own are left alone, and so are all signals outside the main thread.
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
    """Ignore these signals, during work that ends the program anyway."""
    with _handled(lambda number, frame: None, lambda before: before is not None):
        yield


@contextmanager
def deferred() -> Iterator[None]:
    """Defer the first such signal to the end of work that must not be left half done.

    A second signal interrupts at once. Signals without a Python handler stay as they are.
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
    """Install `handler` in place of the handlers that `replaces` accepts."""
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
