"""Speed of centres of mass and of virtual detectors: from a camera's frames in memory to the agent's map.

    STEMTWIN_REFERENCE_PYTHON=/path/to/python python -m benchmarks.streaming.com

Frames per second of processor time on one core, medians over interleaved rounds: whatever else runs meanwhile takes
time, but hardly from this figure. Ours are big-endian uint16 in blocks, as a Merlin camera sends them; the reference
is LiberTEM in the interpreter that the environment names, on float32, which suits it best. The limit is a plain sum
over the same frames, which are more than the cache holds; on a machine whose other cores load the memory, ours comes
close to it and the reference, which computes longer, does not: the ratio is then a lower bound.
"""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

import numba
import numpy as np
from numpy.typing import NDArray

from agents.base import Agent, StreamMeta, load
from agents.block import FrameBlock
from benchmarks.speed import Figure
from twin.formats.dataset import Layout, Metadata

Kind = Literal["com", "ring"]
Timed = Callable[[], float]

ROUNDS = 9
BUFFER_BYTES = 128 * 2**20
BLOCK = 64
"""Frames of a block: what a source hands over at once."""
RING_PX = (0.2, 0.45)
"""Radii over the camera's side: a dark field around a disc of a fifth."""
PYTHON = "STEMTWIN_REFERENCE_PYTHON"

GOALS: dict[tuple[Kind, int], float] = {("com", 128): 7.0, ("com", 256): 10.0, ("ring", 128): 2.0, ("ring", 256): 2.0}
MEASURED_ONCE = {("com", 128): 68e3, ("com", 256): 9.8e3, ("ring", 128): 153e3, ("ring", 256): 42e3}
"""LiberTEM 0.16 on an idle core of the machine this was written on; stands in where LiberTEM is not there."""


def com_128() -> Figure:
    """Centres of mass of 128 x 128 frames."""
    return figure("com", 128)


def com_256() -> Figure:
    """Centres of mass of 256 x 256 frames."""
    return figure("com", 256)


def virtual_128() -> Figure:
    """A ring detector on 128 x 128 frames, every pixel with the share of its area."""
    return figure("ring", 128)


def virtual_256() -> Figure:
    """A ring detector on 256 x 256 frames."""
    return figure("ring", 256)


FIGURES: dict[str, Callable[[], Figure]] = {
    "com_128": com_128,
    "com_256": com_256,
    "virtual_128": virtual_128,
    "virtual_256": virtual_256,
}


def figure(kind: Kind, side: int) -> Figure:
    """Ours against LiberTEM and against reading the frames."""
    frames = _frames(side)
    with _on_one_core(), _reference(kind, side, len(frames)) as reference:
        works = [_ours(kind, frames), _limit(frames), *([reference] if reference is not None else [])]
        mine, bound, *theirs = (len(frames) / seconds for seconds in _medians(works))
    other = theirs[0] if theirs else MEASURED_ONCE[kind, side]
    return Figure(mine / other, GOALS[kind, side], mine, other, mine / bound)


def _frames(side: int) -> NDArray[np.unsignedinteger]:
    """Discs of a few counts per pixel."""
    rng = np.random.default_rng(0)
    y, x = np.indices((side, side)) - side // 2
    few = rng.poisson(np.where(np.hypot(y, x) < side / 5, 5.0, 0.05), (16, side, side)).astype(">u2")
    return np.tile(few, (BUFFER_BYTES // few.nbytes, 1, 1))


def _agent(kind: Kind, side: int, scan: tuple[int, int]) -> Agent:
    """One that takes frames of this size."""
    inner, outer = (share * side for share in RING_PX)  # mrad, of one pixel each
    options = {} if kind == "com" else {"detectors": {"ring": {"inner_mrad": inner, "outer_mrad": outer}}}
    agent = load("com" if kind == "com" else "virtual", options)
    agent.start(StreamMeta(Layout(scan, (side, side)), Metadata(pixel_mrad=1.0, rotation_deg=0.0), False))
    return agent


def _ours(kind: Kind, frames: NDArray[np.unsignedinteger]) -> Timed:
    """All frames through the agent, block by block."""
    scan = (len(frames) // BLOCK, BLOCK)
    agent = _agent(kind, frames.shape[1], scan)
    pixel = np.stack(np.divmod(np.arange(len(frames)), BLOCK), axis=1)

    def work() -> float:
        begun = time.process_time()
        for first in range(0, len(frames), BLOCK):
            agent.update(FrameBlock(frames[first : first + BLOCK], pixel[first : first + BLOCK]))
        return time.process_time() - begun

    return work


@numba.njit(cache=True)
def _read(words: NDArray[np.uint64]) -> np.uint64:
    """A plain sum: nothing that uses every byte is faster."""
    total = np.uint64(0)
    for word in words:
        total += word
    return total


def _limit(frames: NDArray[np.unsignedinteger]) -> Timed:
    """Reading the frames at all."""
    words = frames.reshape(-1).view(np.uint64)

    def work() -> float:
        begun = time.process_time()
        _read(words)
        return time.process_time() - begun

    return work


def _medians(works: list[Timed]) -> list[float]:
    """Seconds of each, interleaved so that a busy machine slows all alike; the first round compiles."""
    rounds = [[work() for work in works] for _ in range(ROUNDS + 1)]
    return [float(np.median(spent)) for spent in zip(*rounds[1:], strict=True)]


@contextmanager
def _on_one_core() -> Iterator[None]:
    """Hold this process, and what it starts meanwhile, on one core where the system allows that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _reference(kind: Kind, side: int, count: int) -> Iterator[Timed | None]:
    """LiberTEM in an interpreter of its own, a round for each line it is sent; None where there is none."""
    python = os.environ.get(PYTHON)
    if python is None:
        yield None
        return
    script = Path(__file__).with_name("com_reference.py")
    radii = [str(share * side) for share in RING_PX]
    command = [python, str(script), kind, str(side), str(count), *radii]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {**os.environ, **one_thread}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        to, back = process.stdin, process.stdout
        try:
            yield lambda: _round(to, back)
        finally:
            to.close()


def _round(to: IO[str], back: IO[str]) -> float:
    to.write("\n")
    to.flush()
    answer = back.readline()
    if not answer:
        raise RuntimeError("the reference ended before its time; see its own message above")
    return float(answer)


def main() -> None:
    """Measure and print."""
    for name, measure in FIGURES.items():
        f = measure()
        source = "LiberTEM" if PYTHON in os.environ else "LiberTEM, measured once elsewhere"
        print(
            f"{name:12s} {f.ours / 1e3:7.1f} kHz, {f.ratio:5.1f} x {source} at {f.reference / 1e3:.1f} kHz"
            f" (goal {f.goal:.0f}), {f.limit_fraction:.0%} of reading the frames"
        )


if __name__ == "__main__":
    main()
