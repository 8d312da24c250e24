"""A scan at a camera's full rate while the page is open and its knobs move: `python -m benchmarks.live.scan`.

A sender plays a Merlin camera over loopback: frames of one byte a pixel, each at its time, whatever the receiver does.
riCOM with a 61 x 61 kernel and two detectors take them; the page turns their knobs all the while. A frame that leaves
late waits in the camera; a camera whose buffer holds less than the largest delay loses frames, and so does a stream
with a gap.
"""

import argparse
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import median

import numpy as np
import psutil

from benchmarks.live.page import BarePage
from twin.formats import merlin_header as mh
from twin.wire import merlin

TOKEN = "a-token-for-the-scan"
AGENTS = ["ricom:kernel_px=61", "bf", "adf"]
BEAM = {"energy_kev": 300.0, "convergence_mrad": 20.0, "pixel_mrad": 0.3125, "step_nm": 0.02, "rotation_deg": 0.0}
RING, CHUNK = 2048, 64
"""Different frames, sent again and again under new numbers, and frames sent at once."""
KNOBS = (("ricom", "kernel_px", (31, 61)), ("ricom", "rotation_deg", (20.0, -20.0)), ("bf", "outer_mrad", (15.0, 20.0)))
"""What is turned in turn: agent, option, values."""
OPENED_S, ENDED_S = 30.0, 120.0
SHOWN_S, LATE_MS = 0.2, 500.0
"""Goals: median time from knob to picture; largest delay of a frame in the camera."""


def messages(side: int, rows: int) -> tuple[bytes, np.ndarray, int]:
    """Return the text header of an acquisition, `RING` messages of frames, (RING, bytes), and the place of a number."""
    header = mh.MerlinHeader(1, mh.SINGLE_BYTES, 1, side, side, "U08", "1x1", mh.stamp(0.0), 1e-4, depth=6)
    axis = np.arange(side) - side / 2
    disc = np.hypot(axis[:, None], axis) < side / 4
    counts = np.random.default_rng(0).poisson(3.0 * disc, (CHUNK, side, side)).astype(np.uint8)
    front = merlin.acquisition_message(mh.Acquisition(rows * rows, rows, (rows, rows), 6))
    sent = np.concatenate([np.asarray(merlin.frame_messages(counts, header)) for _ in range(RING // CHUNK)])
    return front, sent, bytes(sent[0, :64]).index(b"MQ1,") + 4


def numbered(sent: np.ndarray, place: int, first: int) -> None:
    """Write the numbers from `first` on into messages (N, bytes)."""
    numbers = np.arange(first, first + len(sent))
    for digit in range(6):
        sent[:, place + digit] = ord("0") + numbers // 10 ** (5 - digit) % 10


def send(pipe: Connection, side: int, rows: int, rate_hz: float) -> None:
    """Send the frames of a scan to the first client, each at its time; tell the largest delay, in s."""
    front, ring, place = messages(side, rows)
    with socket.create_server(("127.0.0.1", 0)) as server:
        pipe.send(server.getsockname()[1])
        line, _ = server.accept()
    with line:
        line.settimeout(ENDED_S)
        line.sendall(front)
        begun, spent_s, late = time.perf_counter(), time.process_time(), []
        for first in range(0, rows * rows, CHUNK):
            chunk = ring[first % RING : first % RING + CHUNK]
            numbered(chunk, place, first + 1)
            due = begun + (first + CHUNK) / rate_hz  # when the last frame of it exists
            if (early := due - time.perf_counter()) > 0:
                time.sleep(early)
            line.sendall(chunk.data)
            late.append(time.perf_counter() - due)
        pipe.send((max(late), time.perf_counter() - begun, time.process_time() - spent_s))
        pipe.recv()


@contextmanager
def camera(side: int, rows: int, rate_hz: float) -> Iterator[tuple[int, Connection]]:
    """A sender in a process of its own: its port, and the pipe on which it tells its delays."""
    ours, theirs = multiprocessing.Pipe()
    sender = multiprocessing.get_context("spawn").Process(target=send, args=(theirs, side, rows, rate_hz), daemon=True)
    sender.start()
    try:
        yield ours.recv(), ours
    finally:
        sender.kill()
        sender.join(OPENED_S)


@dataclass(frozen=True)
class Served:
    """`stemtwin live` in a process of its own."""

    process: psutil.Process
    port: int

    def spent_s(self) -> float:
        """Processor time so far."""
        spent = self.process.cpu_times()
        return float(spent.user + spent.system)


@contextmanager
def served(source: str) -> Iterator[Served]:
    """Run `stemtwin live` on a source until the end of the block."""
    meta = [part for key, value in BEAM.items() for part in ("--meta", f"{key}={value}")]
    options = ["--source", source, *meta, "--token", TOKEN, "--no-browser", "--json"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "stemtwin", "live", "--out", folder, *options]
        running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert running.stdout is not None
        try:
            yield Served(psutil.Process(running.pid), json.loads(running.stdout.readline())["port"])
        finally:
            running.terminate()
            running.wait(OPENED_S)


def value_of(page: BarePage, agent: str, option: str) -> object:
    """Value of an agent's option that the page shows."""
    shown = next(one for one in page.state["scan"]["agents"] if one["label"].startswith(agent))
    return next((knob["value"] for knob in shown["knobs"] if knob["name"] == option), None)


def turn(page: BarePage, label: str, option: str, value: float) -> float:
    """Turn a knob; return the time until a picture that was made with it has arrived, s."""
    begun = time.perf_counter()
    page.say(do="configure", agent=label, changes={option: value})
    page.until(lambda: value_of(page, label, option) == value or not page.state["scan"]["running"], OPENED_S)
    shown = page.pictures
    page.until(lambda: page.pictures > shown or not page.state["scan"]["running"], OPENED_S)
    return time.perf_counter() - begun


def turned(page: BarePage, pause_s: float) -> list[float]:
    """Turn knobs until the scan ends; return the times from knob to picture, s."""
    labels = {one["label"].split("-")[0].split(":")[0]: one["label"] for one in page.state["scan"]["agents"]}
    delays: list[float] = []
    for k in range(10_000):
        agent, option, values = KNOBS[k % len(KNOBS)]
        delay = turn(page, labels[agent], option, values[k // len(KNOBS) % 2])
        if not page.state["scan"]["running"]:
            break
        delays.append(delay)
        page.drain(pause_s)
    return delays


def main() -> None:
    """Measure, print, and fail if frames were lost or a goal was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=256, help="pixels of the camera, each way")
    parser.add_argument("--rows", type=int, default=256, help="positions of the scan, each way")
    parser.add_argument("--rate", type=float, default=14_000.0, help="frames per second")
    parser.add_argument("--pause", type=float, default=0.25, help="seconds between turns of a knob")
    given = parser.parse_args()
    with (
        camera(given.side, given.rows, given.rate) as (port, pipe),
        served(f"merlin://127.0.0.1:{port}") as server,
    ):
        page = BarePage(server.port, TOKEN)
        page.until(lambda: page.state)
        page.say(do="scan", scenario=f"merlin://127.0.0.1:{port}", agents=AGENTS)
        page.until(lambda: (page.state.get("scan") or {}).get("agents", [{}])[0].get("knobs"), OPENED_S)
        spent_s = server.spent_s()
        delays = turned(page, given.pause)
        page.until(lambda: not page.state["scan"]["running"], ENDED_S)
        spent_s = server.spent_s() - spent_s
        late_s, sent_s, sender_s = pipe.recv()
        scan = page.state["scan"]
        page.close()
    frames = given.rows**2
    print(
        f"{scan['outcome'] or scan['problem']}\n{frames} frames of {given.side} x {given.side} in {sent_s:.1f} s:"
        f" {frames / sent_s:.0f} per second (asked {given.rate:.0f}), largest delay in the camera"
        f" {1e3 * late_s:.0f} ms; {len(delays)} turns of knobs, shown after {1e3 * median(delays):.0f} ms (median),"
        f" {1e3 * max(delays):.0f} ms at most\nprocessor time of a frame: page and agents"
        f" {1e6 * spent_s / frames:.0f} us, sender {1e6 * sender_s / frames:.0f} us;"
        f" load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    complete = scan["outcome"].startswith("complete") and 1e3 * late_s <= LATE_MS
    raise SystemExit(0 if complete and median(delays) <= SHOWN_S else 1)


if __name__ == "__main__":
    main()
