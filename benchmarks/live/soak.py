"""The live page in use for half an hour: `python -m benchmarks.live.soak [--minutes 30]`.

A page turns knobs, takes other days and calibrates; every minute the memory, threads and open files of the server are
printed. The last of these may not be above those of the first minute by more than the stated amounts.
"""

import argparse
import math
import tempfile
import time
from pathlib import Path

import psutil

from benchmarks.live.fuzz import SMALL, TOKEN
from benchmarks.live.page import BarePage
from scenarios.live.desk import Settings
from scenarios.live.server import LiveServer
from scenarios.schema import load
from twin.server.access import Access

RUN_S = 900.0
"""Longest wait for a calibration and its report, on a busy machine."""
MOST_GROWTH_MIB, MOST_NEW_FILES, MOST_NEW_THREADS = 150.0, 8, 4


def watch_once(port: int) -> None:
    """A second page comes, sees the state and leaves."""
    page = BarePage(port, TOKEN)
    page.until(lambda: page.state)
    page.close()


def minute(page: BarePage, number: int, seconds: float, rate: float) -> None:
    """Turn a knob `rate` times a second, and once take another day, and calibrate."""
    page.say(do="day", scenario="nominal", seed=number)
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        page.say(do="knobs", values={"C10": round(30.0 * math.sin(time.monotonic()), 2)})
        page.drain(1.0 / rate)
    page.say(do="calibrate", controller="random", observations=3)
    page.until(lambda: ((page.state.get("run") or {}).get("waiting") or {}).get("kind") == "keep", RUN_S)
    page.say(do="run", verb="keep" if number % 2 else "back")
    page.until(lambda: not page.state["run"]["running"], RUN_S)


def main() -> None:
    """Use the page, print a line a minute, and fail if something has grown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seconds", type=float, default=50.0, help="of knobs in a round of a minute")
    parser.add_argument("--rate", type=float, default=20.0, help="turns of a knob per second")
    given = parser.parse_args()
    process, rows = psutil.Process(), []
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(load("nominal", SMALL), 0, Path(folder))
        with LiveServer(settings, Access("127.0.0.1", TOKEN), TOKEN) as server:
            page = BarePage(server.port, TOKEN)
            page.until(lambda: page.state)
            begun, number = time.monotonic(), 0
            while time.monotonic() - begun < 60.0 * given.minutes:
                watch_once(server.port)
                minute(page, number, given.seconds, given.rate)
                number += 1
                rows.append((process.memory_info().rss / 2**20, process.num_fds(), process.num_threads()))
                memory, files, threads = rows[-1]
                past = (time.monotonic() - begun) / 60
                print(
                    f"{past:4.1f} min  {page.pictures:7d} pictures  {memory:7.1f} MiB  {files} files"
                    f"  {threads} threads",
                    flush=True,
                )
            page.close()
    grown = [last - first for first, last in zip(rows[0], rows[-1], strict=True)]
    limits = (MOST_GROWTH_MIB, MOST_NEW_FILES, MOST_NEW_THREADS)
    raise SystemExit(1 if any(g > limit for g, limit in zip(grown, limits, strict=True)) else 0)


if __name__ == "__main__":
    main()
