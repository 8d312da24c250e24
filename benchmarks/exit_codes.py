"""Exit codes that every benchmark's command shares."""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec

from scenarios.comparison.executors import SweepError
from twin.errors import StemtwinError

Arguments = ParamSpec("Arguments")


def exit_codes(name: str) -> Callable[[Callable[Arguments, int]], Callable[Arguments, int]]:
    """Turn what a command raises into a line and a code: 2 bad input, 1 a run failed, 130 Ctrl-C.

    Args:
        name: the module, as after `python -m`.
    """

    def decorate(main: Callable[Arguments, int]) -> Callable[Arguments, int]:
        @functools.wraps(main)
        def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> int:
            try:
                return main(*args, **kwargs)
            except StemtwinError as error:
                print(f"{name}: {error}", file=sys.stderr)
                return 1 if isinstance(error, SweepError) else 2
            except KeyboardInterrupt:
                print(f"{name}: interrupted; the same command goes on", file=sys.stderr)
                return 130

        return wrapped

    return decorate
