"""How fast frames of a Merlin camera come in over loopback, sender and receiver on one core.

    python -m benchmarks.streaming.merlin [--side 256] [--frames 2048] [--rounds 7] [--two-cores] [--json]

Rates in frames/s, medians over interleaved rounds: `receive` is the source with its reader thread handing blocks on,
`com` the same with the centre of mass of every frame, `socket` the bytes alone, read into one buffer: what TCP on this
machine allows. The sender is one `sendall` of a stream made beforehand. On one core time is processor time, the
receiver's and the sender's together: what the clock on the wall would say if nothing else ran. On two cores it is wall
time.
"""

import argparse
import json
import multiprocessing
import socket
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection

import numpy as np

from agents.sources.merlin import MerlinSource, Options
from benchmarks.rounds import Figure, Timed, medians, on_one_core
from twin.formats import merlin_header as mh
from twin.wire import merlin

GOAL_HZ = 5000.0
CHUNK = 2**22


@dataclass(frozen=True)
class Rates:
    """Frames per second; see the module's docstring."""

    side: int
    receive_hz: float
    com_hz: float
    socket_hz: float
    goal_hz: float
    one_core: bool


def stream(side: int, frames: int) -> np.ndarray:
    """A whole acquisition as bytes."""
    header = mh.MerlinHeader(1, mh.SINGLE_BYTES, 1, side, side, "U16", "1x1", mh.stamp(0.0), 1e-4, depth=12)
    counts = np.random.default_rng(0).poisson(2.0, (64, side, side)).astype(np.uint16)
    front = merlin.acquisition_message(mh.Acquisition(frames, 64, (frames // 64, 64), 12))
    whole = np.empty((frames, merlin.PREFIX_BYTES + header.length + header.payload_bytes), np.uint8)
    for k in range(0, frames, 64):
        whole[k : k + 64] = merlin.frame_messages(counts, replace(header, sequence=k + 1))
    return np.concatenate([np.frombuffer(front, np.uint8), whole.ravel()])


def serve(pipe: Connection, side: int, frames: int) -> None:
    """Send the stream to every client, until the pipe closes."""
    data = stream(side, frames).data
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        pipe.send(server.getsockname()[1])
        while not pipe.poll():
            try:
                line, _ = server.accept()
            except TimeoutError:
                continue
            with line:
                line.settimeout(20)
                begun = time.process_time()
                line.sendall(data)
                pipe.send(time.process_time() - begun)


def receive(port: int, each: Callable[[object], object] | None = None) -> int:
    """Frames handed on by the source."""
    with MerlinSource("127.0.0.1", port, Options(timeout_s=5)) as source:
        frames = 0
        for block in source.blocks():
            frames += len(block)
            if each is not None:
                each(block)
        if source.health.fault_count or source.health.missing:
            raise RuntimeError(f"the line was not clean: {source.health}")
    return frames


def bare(port: int) -> int:
    """Bytes alone, into one buffer."""
    buffer, total = bytearray(CHUNK), 0
    with socket.create_connection(("127.0.0.1", port), timeout=5) as line:
        while count := line.recv_into(buffer):
            total += count
    return total


def measure(side: int, frames: int, rounds: int, one_core: bool) -> Rates:
    """Every way of reading, in turn."""
    ours, theirs = multiprocessing.Pipe()
    with on_one_core() if one_core else nullcontext():
        sender = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs, side, frames), daemon=True)
        sender.start()
        port = ours.recv()

        def timed(way: Callable[[], int]) -> Timed:
            def seconds() -> float:
                begun, begun_here = time.perf_counter(), time.process_time()
                way()
                here, wall = time.process_time() - begun_here, time.perf_counter() - begun
                sender_s: float = ours.recv()
                return here + sender_s if one_core else wall

            return seconds

        ways = (
            lambda: receive(port),
            lambda: receive(port, lambda block: block.moments()),  # type: ignore[attr-defined]
            lambda: bare(port),
        )
        try:
            received, summed, limit = (frames / seconds for seconds in medians([timed(way) for way in ways], rounds))
        finally:
            ours.send("end")
            sender.join(30)
    return Rates(side, received, summed, limit, GOAL_HZ, one_core)


def merlin_256() -> Figure:
    """Frames of 256 x 256 on one core; the reference is the goal of 5 kHz, the limit what the socket gives."""
    got = measure(256, 1024, 5, one_core=True)
    return Figure(got.receive_hz / GOAL_HZ, 1.0, got.receive_hz, GOAL_HZ, got.receive_hz / got.socket_hz)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--frames", type=int, default=2048, help="a multiple of 64")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--two-cores", action="store_true")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rates = measure(given.side, given.frames, given.rounds, not given.two_cores)
    if given.json:
        print(json.dumps(asdict(rates)))
        return
    print(f"{given.side} x {given.side} uint16, {'one core' if rates.one_core else 'two cores'}, goal {GOAL_HZ:.0f} Hz")
    for name in ("receive", "com", "socket"):
        print(f"{name:>8}: {getattr(rates, name + '_hz'):9.0f} Hz")


if __name__ == "__main__":
    main()
