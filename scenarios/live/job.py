"""Work in a thread of its own, whose end is always told to the page."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

from twin.errors import StemtwinError, printable


class Job(ABC):
    """A thread that does `work` once.

    Args:
        name: of the thread.
        changed: called at the end, and by the work after every change, from any thread.
        daemon: the program may end before the work does.

    Attributes:
        problem: why the work failed; empty if it did not.
    """

    def __init__(self, name: str, changed: Callable[[], None], daemon: bool) -> None:
        self.problem, self._changed, self._over = "", changed, False
        self._thread = threading.Thread(target=self._run, name=name, daemon=daemon)

    @property
    def running(self) -> bool:
        """Whether the work has begun and not ended."""
        return self._thread.is_alive() and not self._over

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    @abstractmethod
    def work(self) -> None:
        """Do the work; an error that the program knows becomes the `problem`.

        Raises:
            StemtwinError, OSError, ValueError: the work failed.
        """

    def _run(self) -> None:
        try:
            self.work()
        except (StemtwinError, OSError, ValueError) as error:
            self.problem = printable(error)
        except BaseException as error:
            self.problem = f"a program error: {type(error).__name__}: {printable(error)}"
            raise
        finally:
            self._over = True  # before the last change is told: the thread still lives then
            self._changed()
