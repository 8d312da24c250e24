"""Exit codes that every benchmark's command shares."""

import functools
import sys
from collections.abc import Callable, Sequence

from scenarios.comparison.executors import SweepError
from twin.errors import StemtwinError

Main = Callable[[Sequence[str] | None], int]


def exit_codes(name: str) -> Callable[[Main], Main]:
    """Turn what a command raises into a line and a code: 2 bad input, 1 a run failed, 130 Ctrl-C.

    Args:
        name: the module, as after `python -m`.
    """

    def decorate(main: Main) -> Main:
        @functools.wraps(main)
        def wrapped(arguments: Sequence[str] | None = None) -> int:
            try:
                return main(arguments)
            except StemtwinError as error:
                print(f"{name}: {error}", file=sys.stderr)
                return 1 if isinstance(error, SweepError) else 2
            except KeyboardInterrupt:
                print(f"{name}: interrupted; the same command goes on", file=sys.stderr)
                return 130

        return wrapped

    return decorate
