"""Speed of the event path: from records as they lie in a file to images, against reading the records at all.

    python -m benchmarks.streaming.events

Events per second of processor time on one thread, medians over interleaved rounds; `ratio` is against the goal,
`limit_fraction` against a plain sum over the records in memory. A round has more records than the cache holds.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agents.base import Agent, StreamMeta, load
from agents.events.order import EventOrder
from agents.events.scan import EventScan
from agents.sources.event_file import BLOCK_RECORDS
from agents.sources.t3p import Options, T3pSource
from benchmarks.rounds import Figure, Work, rates
from benchmarks.streaming.frames import reading
from twin.formats.dataset import Layout, Metadata
from twin.formats.event_clock import EventClock
from twin.formats.t3p import RECORD, T3pWriter
from twin.scan.plan import ScanPlan

CAMERA = (256, 256)
RECORDS = 2**22
"""64 MiB."""
DWELL_TICKS = 400
ROUNDS = 7
KERNEL_PX = 21

Events = NDArray[np.void]


def through(per_position: int, agent: str = "", disorder_ticks: int = 0) -> tuple[Work, Work]:
    """One round over records in memory: order, positions, sums and an agent if one is named; and reading them."""
    events, positions = _events(per_position, disorder_ticks)
    layout, plan = _scan(positions)
    taker = _agent(agent, layout) if agent else None
    order_of = _order(plan.count, disorder_ticks)

    def ours() -> object:
        scan, seen = EventScan(plan, CAMERA, order_of()), 0.0
        for first in range(0, len(events), BLOCK_RECORDS):
            for block in scan.push(events[first : first + BLOCK_RECORDS]):
                if taker is None:
                    seen += float(block.moments()[0, 1])
                else:
                    taker.update(block)
        return seen

    return ours, reading(events.view(np.uint64))


def from_file(per_position: int, folder: Path) -> Work:
    """One round over a file: the source, and the sums of every position."""
    events, positions = _events(per_position, 0)
    layout, _ = _scan(positions)
    file = folder / f"{per_position}.t3p"
    with T3pWriter(file, layout, Metadata(dwell_s=DWELL_TICKS * 25e-9)) as writer:
        writer.append(events, positions)

    def ours() -> object:
        with T3pSource(file, Options()) as source:
            return sum(float(block.moments()[0, 1]) for block in source.blocks())

    return ours


def _events(per_position: int, disorder_ticks: int) -> tuple[Events, int]:
    """Records of a disc that wanders, in order of time but for delays of up to `disorder_ticks`; and the positions."""
    rng, positions = np.random.default_rng(0), RECORDS // per_position
    toa = 1 + np.sort(rng.integers(0, positions * DWELL_TICKS - 1, RECORDS))
    events = np.zeros(RECORDS, RECORD)
    row = np.clip(rng.normal(128.0, 25.0, RECORDS), 0, 255).astype(np.uint32)
    events["pixel"] = row * 256 + np.clip(rng.normal(128.0, 25.0, RECORDS), 0, 255).astype(np.uint32)
    events["toa"] = toa
    if disorder_ticks:
        arrival = np.argsort(toa + rng.integers(0, disorder_ticks, RECORDS), kind="stable")
        events = events.view(np.uint32).reshape(-1, 4)[arrival].view(RECORD)[:, 0]
    return events, positions


def _scan(positions: int) -> tuple[Layout, ScanPlan]:
    columns = 64
    plan = ScanPlan(rows=-(-positions // columns), columns=columns, step_nm=0.02, dwell_s=DWELL_TICKS * 25e-9)
    return Layout(plan.shape, CAMERA, "uint32"), plan


def _agent(name: str, layout: Layout) -> Agent:
    agent = load(name, {"kernel_px": KERNEL_PX} if name == "ricom" else {})
    metadata = Metadata(step_nm=0.02, pixel_mrad=0.5, energy_kev=300.0, convergence_mrad=20.0, rotation_deg=30.0)
    agent.start(StreamMeta(layout, metadata, transposed=False, has_frames=False))
    return agent


def _order(count: int, disorder_ticks: int) -> Callable[[], EventOrder]:
    clock = EventClock(DWELL_TICKS * 25e-9, count)
    return lambda: EventOrder(clock, CAMERA[0] * CAMERA[1], window_s=disorder_ticks * 25e-9)


def _figure(goal_per_s: float, works: tuple[Work, Work]) -> Figure:
    mine, bound = rates(list(works), ROUNDS)
    return Figure(mine * RECORDS / goal_per_s, 1.0, mine * RECORDS, goal_per_s, mine / bound)


def com_events() -> Figure:
    """Records to centres of mass, 1000 events per position: at least 300 million per second."""
    return _figure(300e6, through(1000))


def ricom_events() -> Figure:
    """Records to the riCOM image with a 21 x 21 kernel, 1000 events per position: at least 100 million per second."""
    return _figure(100e6, through(1000, "ricom"))


def main() -> None:
    """Every path side by side, million events per second."""
    with tempfile.TemporaryDirectory() as folder:
        for per_position in (100, 1000):
            works: dict[str, Work] = {}
            works["centre of mass"], works["limit: reading memory"] = through(per_position)
            works["centre of mass, 20 us out of order"], _ = through(per_position, disorder_ticks=800)
            works["centre of mass, from a file"] = from_file(per_position, Path(folder))
            works[f"riCOM {KERNEL_PX} x {KERNEL_PX}"], _ = through(per_position, "ricom")
            found = rates(list(works.values()), ROUNDS)
            print(f"{per_position} events per position")
            for name, rate in zip(works, found, strict=True):
                print(f"  {name:38s} {rate * RECORDS / 1e6:8.0f} M/s")


if __name__ == "__main__":
    main()
