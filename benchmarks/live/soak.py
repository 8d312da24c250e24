"""The live page in use for half an hour: `python -m benchmarks.live.soak [--minutes 30]`.

A page turns knobs, takes other days and calibrates; every minute the memory, threads and open files of the server are
printed, and with `--browser` the memory of a Chromium that watches. The last of these may not be above those of the
first minute by more than the stated amounts.
"""

import argparse
import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.live.fuzz import SMALL, TOKEN
from benchmarks.live.page import BarePage
from scenarios.live.desk import Settings
from scenarios.live.server import LiveServer
from scenarios.schema import load
from twin.server.access import Access

RUN_S = 900.0
"""Longest wait for a calibration and its report, on a busy machine."""


class Spent(NamedTuple):
    """What server and tab hold at one moment."""

    server_mib: float
    files: int
    threads: int
    tab_mib: float


MOST_GROWTH = Spent(150.0, 8, 4, 150.0)


def spent(process: psutil.Process) -> Spent:
    """Return what this process holds, and its browsers."""
    tabs = [child.memory_info().rss for child in process.children(recursive=True) if "chrom" in child.name()]
    return Spent(process.memory_info().rss / 2**20, process.num_fds(), process.num_threads(), sum(tabs) / 2**20)


@contextmanager
def tab(url: str, browser: str | None) -> Iterator[None]:
    """A Chromium that shows the page; none without a path."""
    if browser is None:
        yield
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        opened.new_page(viewport={"width": 1280, "height": 720}).goto(url)
        yield
        opened.close()


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
    parser.add_argument("--browser", nargs="?", const=shutil.which("chromium"), help="a Chromium that watches")
    given = parser.parse_args()
    process, rows = psutil.Process(), []
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(load("nominal", SMALL), 0, Path(folder))
        with LiveServer(settings, Access("127.0.0.1", TOKEN), TOKEN) as server:
            page = BarePage(server.port, TOKEN)
            page.until(lambda: page.state)
            begun, number = time.monotonic(), 0
            with tab(server.url, given.browser):
                while time.monotonic() - begun < 60.0 * given.minutes:
                    watch_once(server.port)
                    minute(page, number, given.seconds, given.rate)
                    number += 1
                    rows.append(spent(process))
                    past, now = (time.monotonic() - begun) / 60, rows[-1]
                    print(
                        f"{past:4.1f} min  {page.pictures:7d} pictures  {now.server_mib:7.1f} MiB  {now.files} files"
                        f"  {now.threads} threads  tab {now.tab_mib:.0f} MiB",
                        flush=True,
                    )
            page.close()
    grown = [last - first for first, last in zip(rows[0], rows[-1], strict=True)]
    raise SystemExit(1 if any(g > limit for g, limit in zip(grown, MOST_GROWTH, strict=True)) else 0)


if __name__ == "__main__":
    main()
