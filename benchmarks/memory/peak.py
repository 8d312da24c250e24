"""The command of a benchmark of peak memory: measure in a process of its own, describe, compare with a limit.

Memory is in millions of bytes here, the stricter reading of a limit.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, ClassVar, Protocol, TypeVar

from scenarios.memory import peak_memory_mib

Size = tuple[int, int, int]
"""Rows and columns of the scan, side of a frame."""


class Measured(Protocol):
    """A dataclass of plain values."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def peak_mb(self) -> float:
        """Largest resident memory of the process that measured."""
        ...


Found = TypeVar("Found", bound=Measured)


def peak_mb() -> float:
    """Largest resident memory of this process so far; NaN where the system does not report it."""
    peak = peak_memory_mib()
    return float("nan") if peak is None else peak * 2**20 / 1e6


def in_fresh_process(module: str, size: Size) -> dict[str, Any]:
    """Run the benchmark `module` in a process of its own and return the fields of its result.

    Raises:
        CalledProcessError: it failed; its own message is on stderr.
    """
    command = [sys.executable, "-m", module, "--inside", *map(str, size)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    fields: dict[str, Any] = json.loads(output.splitlines()[-1])
    return fields


def main(
    description: str | None, full: Size, limit_mb: float, here: Callable[[int, int, int], Found],
    measure: Callable[[int, int, int], Found], describe: Callable[[Found], str],
) -> None:  # fmt: skip
    """Measure once by `measure`, print, exit with 1 above the limit; `here` is what the fresh process runs."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=full[0])
    parser.add_argument("--columns", type=int, default=full[1])
    parser.add_argument("--camera", type=int, default=full[2])
    parser.add_argument("--limit-mb", type=float, default=limit_mb)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--inside", type=int, nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(asdict(here(*arguments.inside))))
        return
    found = measure(arguments.rows, arguments.columns, arguments.camera)
    print(json.dumps(asdict(found)) if arguments.json else f"{describe(found)} Limit {arguments.limit_mb:.0f} MB.")
    if not found.peak_mb < arguments.limit_mb:
        sys.exit(1)
