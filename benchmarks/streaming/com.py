"""Speed of centres of mass and of virtual detectors: from a camera's frames in memory to the agent's map.

    STEMTWIN_REFERENCE_PYTHON=/path/to/python python -m benchmarks.streaming.com

Frames per second of processor time on one core, medians over interleaved rounds: whatever else runs meanwhile takes
time, but hardly from this figure. Ours are big-endian uint16 in blocks, as a Merlin camera sends them; the reference
is LiberTEM in the interpreter that the environment names, on float32, which suits it best. The limit is a plain sum
over the same frames, which are more than the cache holds; on a machine whose other cores load the memory, ours comes
close to it and the reference, which computes longer, does not: the ratio is then a lower bound.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np

from agents.base import Agent, StreamMeta, load
from agents.block import FrameBlock
from benchmarks.references import LIBERTEM
from benchmarks.rounds import Figure, Work, medians, on_one_core, timed
from benchmarks.streaming.frames import Frames, discs, reading
from twin.formats.dataset import Layout, Metadata

Kind = Literal["com", "ring"]

ROUNDS = 9
BUFFER_BYTES = 128 * 2**20
BLOCK = 64
"""Frames of a block: what a source hands over at once."""
RING_PX = (0.2, 0.45)
"""Radii over the camera's side: a dark field around a disc of a fifth."""

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
    frames = discs(side, side / 5, BUFFER_BYTES)
    radii = (share * side for share in RING_PX)
    with on_one_core(), LIBERTEM.running(kind, side, len(frames), *radii) as reference:
        works = [timed(_ours(kind, frames)), timed(reading(frames.reshape(-1).view(np.uint64)))]
        works += [reference.seconds] if reference is not None else []
        mine, bound, *theirs = (len(frames) / seconds for seconds in medians(works, ROUNDS))
    other = theirs[0] if theirs else MEASURED_ONCE[kind, side]
    return Figure(mine / other, GOALS[kind, side], mine, other, mine / bound)


def _agent(kind: Kind, side: int, scan: tuple[int, int]) -> Agent:
    """An agent for frames of this size."""
    inner, outer = (share * side for share in RING_PX)  # mrad, of one pixel each
    options = {} if kind == "com" else {"detectors": {"ring": {"inner_mrad": inner, "outer_mrad": outer}}}
    agent = load("com" if kind == "com" else "virtual", options)
    agent.start(StreamMeta(Layout(scan, (side, side)), Metadata(pixel_mrad=1.0, rotation_deg=0.0), False))
    return agent


def _ours(kind: Kind, frames: Frames) -> Work:
    """All frames through the agent, block by block."""
    agent = _agent(kind, frames.shape[1], (len(frames) // BLOCK, BLOCK))
    pixel = np.stack(np.divmod(np.arange(len(frames)), BLOCK), axis=1)

    def work() -> None:
        for first in range(0, len(frames), BLOCK):
            agent.update(FrameBlock(frames[first : first + BLOCK], pixel[first : first + BLOCK]))

    return work


def main() -> None:
    """Measure and print."""
    source = "LiberTEM" if LIBERTEM.lacking() is None else "LiberTEM, measured once elsewhere"
    for name, measure in FIGURES.items():
        f = measure()
        print(
            f"{name:12s} {f.ours / 1e3:7.1f} kHz, {f.ratio:5.1f} x {source} at {f.reference / 1e3:.1f} kHz"
            f" (goal {f.goal:.0f}), {f.limit_fraction:.0%} of reading the frames"
        )


if __name__ == "__main__":
    main()
