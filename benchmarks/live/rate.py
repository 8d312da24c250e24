"""Pictures per second and time from knob to picture in a browser: `python -m benchmarks.live.rate [SCENARIO]`.

Needs playwright and a Chromium: `--browser /usr/bin/chromium`. On a busy machine the clock on the wall says little; the
processor time of a picture, in the server and in the browser, then tells what idle cores would draw.
"""

import argparse
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import psutil

from scenarios.live.desk import Settings
from scenarios.live.server import LiveServer
from scenarios.schema import load
from twin.server.access import Access

TOKEN = "a-token-for-the-rate"
TURN = """async (seconds) => {
  const slider = document.getElementById("knob-C10"), rates = [];
  const number = (id) => parseFloat(document.getElementById(id).textContent);
  const begun = performance.now();
  for (let k = 0; performance.now() - begun < 1000 * seconds; k++) {
    slider.value = 20 * Math.sin(k / 20);
    slider.dispatchEvent(new Event("input"));
    await new Promise((done) => setTimeout(done, 16));
    if (performance.now() - begun > 1500) rates.push(number("rate"));
  }
  return rates.sort((a, b) => a - b)[rates.length >> 1];
}"""
"""Turns a knob for some seconds; returns the median rate that the page shows."""
TURN_NOW_AND_THEN = """async () => {
  const slider = document.getElementById("knob-C10"), delays = [];
  for (let k = 0; k < 25; k++) {
    await new Promise((done) => setTimeout(done, 300));
    slider.value = k % 2 ? 10 + k / 10 : -10 - k / 10;
    slider.dispatchEvent(new Event("input"));
    await new Promise((done) => setTimeout(done, 300));
    delays.push(parseFloat(document.getElementById("delay").textContent));
  }
  return delays.sort((a, b) => a - b);
}"""
"""Turns a knob now and then; returns the times from knob to picture that the page shows, sorted."""


def spent_s() -> dict[str, float]:
    """Return the processor time of this process and of its browsers so far."""
    me = psutil.Process()
    spent = {"server": sum(me.cpu_times()[:2]), "browser": 0.0}
    for child in me.children(recursive=True):
        if "chrom" in child.name():
            spent["browser"] += sum(child.cpu_times()[:2])
    return spent


def per_picture_ms(server: LiveServer, page: Any, seconds: float) -> tuple[float, dict[str, float]]:
    """Turn a knob; return the rate that the page shows, and the processor time of a picture by process."""
    before, first = spent_s(), server._hub.next_number()
    rate = float(page.evaluate(TURN, seconds))
    after, pictures = spent_s(), server._hub.next_number() - first
    return rate, {name: 1e3 * (after[name] - before[name]) / pictures for name in before}


def main() -> None:
    """Measure and print."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", nargs="?", default="day_a")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as for `stemtwin live`")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--browser", default=shutil.which("chromium"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(load(given.scenario, given.set), 0, Path(folder))
        with LiveServer(settings, Access("127.0.0.1", TOKEN), TOKEN) as server, sync_playwright() as play:
            browser = play.chromium.launch(executable_path=given.browser, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 720})
            page.goto(server.url)
            page.wait_for_selector("#view-empty", state="hidden")
            rate, cost_ms = per_picture_ms(server, page, given.seconds)
            delays = page.evaluate(TURN_NOW_AND_THEN)
            browser.close()
    load_1min = os.getloadavg()[0]
    print(
        f"{given.scenario}: {rate:.0f} pictures per second, {delays[len(delays) // 2]:.0f} ms from knob to picture"
        f" (medians; fastest tenth {delays[len(delays) // 10]:.0f} ms; load {load_1min:.1f} on {os.cpu_count()} cores);"
        f" processor time of a picture: {', '.join(f'{name} {ms:.1f} ms' for name, ms in cost_ms.items())}"
    )


if __name__ == "__main__":
    main()
