"""Rates of several pieces of work, side by side in interleaved rounds of processor time."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

Work = Callable[[], object]
Timed = Callable[[], float]
"""Work that returns the seconds it took."""

ROUNDS = 15


@dataclass(frozen=True)
class Figure:
    """One comparison.

    Attributes:
        ratio: `ours` over `reference`; `goal` is the least that is wanted.
        ours, reference: rates in 1/s.
        limit_fraction: `ours` over what the unavoidable transforms, or reading the data, would allow.
    """

    ratio: float
    goal: float
    ours: float
    reference: float
    limit_fraction: float | None


def timed(work: Work) -> Timed:
    """The same work, returning its processor time in seconds."""

    def seconds() -> float:
        begun = time.process_time()
        work()
        return time.process_time() - begun

    return seconds


def medians(works: Sequence[Timed], rounds: int = ROUNDS) -> list[float]:
    """Median seconds of each, interleaved so that a busy machine slows all alike; the first round, which compiles,
    does not count.
    """
    spent = [[work() for work in works] for _ in range(rounds + 1)]
    return [float(np.median(seconds)) for seconds in zip(*spent[1:], strict=True)]


def rates(works: Sequence[Work], rounds: int = ROUNDS) -> list[float]:
    """Median rate of each, in rounds per second."""
    return [1.0 / seconds for seconds in medians([timed(work) for work in works], rounds)]


@contextmanager
def on_one_core() -> Iterator[None]:
    """Hold this process, and those it starts meanwhile, on one core where the system allows that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
