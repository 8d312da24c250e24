"""How fast the served Merlin camera sends over loopback, beside LiberTEM-live's simulator; all on one core.

    STEMTWIN_REFERENCE_PYTHON=... python -m benchmarks.wire.serving [--side 256] [--frames 1024] [--rounds 7] [--json]

Rates in frames/s from SOFTTRIGGER to the last byte, medians over interleaved rounds; every reader takes the bytes into
one buffer unless it says otherwise. `prepared` is a prepared scan, `live` the same frames put into messages as they
leave, `client` a prepared scan through our own client with its decoder. `libertem_*` is LiberTEM-live's simulator with
each of its caches (`none` is its default); ratios are of `prepared` over each, medians over rounds. Without the
variable they are left out.
"""

import argparse
import json
import multiprocessing
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np

from agents.sources.merlin import MerlinSource, Options
from benchmarks.wire.libertem_simulator import Ports, simulated
from twin.formats.dataset import Layout, Metadata
from twin.formats.mib import MibWriter
from twin.instrument.merlin_control import MerlinControl
from twin.optics import Optics
from twin.scan.plan import ScanPath, ScanPlan, paths
from twin.server.bench import Bench, ScanSettings
from twin.server.frame_supply import PreparedScan, ScanSupply
from twin.server.listener import Listener
from twin.server.merlin_camera import MerlinCamera, MerlinData
from twin.server.merlin_camera import MerlinControl as ControlService
from twin.simulated import SimulatedMicroscope
from twin.state import FIRST_ORDER
from twin.types import Capabilities, ScanBlock
from twin.wire import merlin

GOAL_HZ = 5000.0
COLUMNS = 64
CHUNK = 2**20
CACHES = ("NONE", "MEM", "MEMFD")


@dataclass(frozen=True)
class Served:
    """What was measured: rates in frames/s, and ratios of `prepared` over LiberTEM-live's, by name."""

    side: int
    frames: int
    hz: Mapping[str, float]
    ratios: Mapping[str, float]
    goal_hz: float = GOAL_HZ


def counts(side: int, frames: int) -> np.ndarray:
    """Sparse frames, as a camera's are, (frames, side, side); 64 different ones."""
    few = np.random.default_rng(0).poisson(2.0, (COLUMNS, side, side)).astype(np.uint16)
    return np.tile(few, (-(-frames // COLUMNS), 1, 1))[:frames]


class _Still:
    """A microscope whose scan was taken before."""

    clock_s = 0.0

    def __init__(self, frames: np.ndarray) -> None:
        self._frames = frames
        side = frames.shape[1]
        self.capabilities = Capabilities("still", Optics(), FIRST_ORDER, (side, side), 4095, can_scan=True)

    def scan(self, plan: ScanPlan, *, block: int) -> Iterator[ScanBlock]:
        """Blocks of the scan."""
        return map(self._block, paths(plan, block))

    def _block(self, path: ScanPath) -> ScanBlock:
        return ScanBlock(path, self._frames[path.first : path.first + len(path)], {}, path.end_s.copy())


def serve(pipe: Connection, side: int, frames: int, prepared: bool, core: int) -> None:
    """A camera until the pipe says so."""
    os.sched_setaffinity(0, {core})
    still = cast(SimulatedMicroscope, _Still(counts(side, frames)))
    optics = cast(Optics, SimpleNamespace(
        camera_pixels=side, energy_kev=300.0, convergence_mrad=20.0, camera_pixel_mrad=0.5
    ))  # fmt: skip
    plan = ScanPlan(rows=frames // COLUMNS, columns=COLUMNS, dwell_s=1e-4)
    bench = Bench(still, ScanSettings(plan, optics, largest_count=4095))
    camera = MerlinCamera({"SCAN": PreparedScan(bench) if prepared else ScanSupply(bench)})
    with Listener(ControlService(camera)) as control, Listener(MerlinData(camera, paced=False)) as data:
        pipe.send((control.port, data.port))
        pipe.recv()


@contextmanager
def ours(side: int, frames: int, prepared: bool, core: int) -> Iterator[Ports]:
    """Our server in a process of its own."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(there, side, frames, prepared, core), daemon=True
    )
    process.start()
    try:
        yield here.recv()
    finally:
        here.send("end")
        process.join(30)


class Reader:
    """The bytes of whole acquisitions, into one buffer.

    Args:
        ports: of a camera.
        total: bytes of all frames with their headers and prefixes.
    """

    def __init__(self, ports: Ports, total: int) -> None:
        self._control = MerlinControl("127.0.0.1", ports[0])
        self._data = socket.create_connection(("127.0.0.1", ports[1]), timeout=20)
        self._total, self._buffer = total, bytearray(CHUNK)

    def __call__(self) -> float:
        """Seconds from the trigger to the last byte."""
        self._control.command("STARTACQUISITION")
        prefix = self._exactly(merlin.PREFIX_BYTES)
        self._exactly(merlin.payload_length(prefix, merlin.MOST_TEXT))
        begun, left = time.perf_counter(), self._total
        self._control.command("SOFTTRIGGER")
        while left:
            got = self._data.recv_into(self._buffer, min(left, CHUNK))
            if not got:
                raise RuntimeError("the camera hung up")
            left -= got
        return time.perf_counter() - begun

    def _exactly(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            found += self._data.recv(count - len(found))
        return found

    def close(self) -> None:
        """Hang up."""
        self._control.close()
        self._data.close()


def through_client(ports: Ports) -> float:
    """Seconds from the start to the last frame out of our own client."""
    options = Options(control_port=ports[0], start=True, trigger=True)
    begun = time.perf_counter()
    with MerlinSource("127.0.0.1", ports[1], options) as source:
        for _ in source.blocks():
            pass
        if source.health.missing or source.health.fault_count:
            raise RuntimeError(f"the line was not clean: {source.health}")
    return time.perf_counter() - begun


def measure(side: int, frames: int, rounds: int, python: str | None) -> Served:
    """Every camera and reader, in turn."""
    cores = os.sched_getaffinity(0)
    core = min(cores)
    total = frames * (merlin.PREFIX_BYTES + 384 + 2 * side * side)
    with ExitStack() as stack:
        ways: dict[str, Callable[[], float]] = {}
        for name, prepared in (("prepared", True), ("live", False)):
            reader = Reader(stack.enter_context(ours(side, frames, prepared, core)), total)
            stack.callback(reader.close)
            _soft_triggered(reader)
            ways[name] = reader
        another = stack.enter_context(ours(side, frames, True, core))
        ways["client"] = lambda: through_client(another)
        if python is not None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            scan = _write(folder / "scan.mib", side, frames)
            for cache in CACHES:
                ports = simulated(python, folder / "scan.hdr", scan, core, cached=cache, wait_trigger=True)
                reader = Reader(stack.enter_context(ports), total)
                stack.callback(reader.close)
                ways[f"libertem_{cache.lower()}"] = reader
        os.sched_setaffinity(0, {core})
        stack.callback(os.sched_setaffinity, 0, cores)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(rounds + 1):
            for name, way in ways.items():
                spent = way()
                if turn:  # the first round fills caches
                    seconds[name].append(spent)
    hz = {name: frames / float(np.median(spent)) for name, spent in seconds.items()}
    # Round by round: the machine's other business comes and goes.
    mine = np.array(seconds["prepared"])
    ratios = {name: float(np.median(spent / mine)) for name, spent in seconds.items() if name.startswith("libertem")}
    return Served(side, frames, hz, ratios)


def _soft_triggered(reader: Reader) -> None:
    reader._control.set("TRIGGERSTART", 5)


def _write(path: Path, side: int, frames: int) -> tuple[int, int]:
    """The same frames as a file for the simulator."""
    scan = (frames // COLUMNS, COLUMNS)
    layout = Layout(scan, (side, side), "uint16", 4095)
    with MibWriter(path, layout, Metadata(dwell_s=1e-4)) as writer:
        writer.append(counts(side, frames))
    return scan


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--frames", type=int, default=1024, help="a multiple of 64")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    python = os.environ.get("STEMTWIN_REFERENCE_PYTHON")
    if python is None:
        print("STEMTWIN_REFERENCE_PYTHON is not set: LiberTEM-live is left out", file=sys.stderr)
    served = measure(given.side, given.frames, given.rounds, python)
    if given.json:
        print(json.dumps(asdict(served)))
        return
    print(f"{served.side} x {served.side} uint16, sender and receiver on one core, goal {GOAL_HZ:.0f} Hz")
    for name, rate in served.hz.items():
        print(f"{name:>16}: {rate:9.0f} Hz")
    for name, ratio in served.ratios.items():
        print(f"prepared / {name}: {ratio:.2f}")


if __name__ == "__main__":
    main()
