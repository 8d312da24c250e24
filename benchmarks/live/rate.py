"""Pictures per second and time from knob to picture in a browser: `python -m benchmarks.live.rate [SCENARIO]`.

Needs playwright and a Chromium: `--browser /usr/bin/chromium`.
"""

import argparse
import shutil
import tempfile
from pathlib import Path

from scenarios.live.desk import Settings
from scenarios.live.server import LiveServer
from scenarios.schema import load
from twin.server.access import Access

TOKEN = "a-token-for-the-rate"
TURN = """async (seconds) => {
  const slider = document.getElementById("knob-C10"), rates = [], delays = [];
  const number = (id) => parseFloat(document.getElementById(id).textContent);
  const begun = performance.now();
  for (let k = 0; performance.now() - begun < 1000 * seconds; k++) {
    slider.value = 20 * Math.sin(k / 20);
    slider.dispatchEvent(new Event("input"));
    await new Promise((done) => setTimeout(done, 16));
    if (performance.now() - begun > 1500) rates.push(number("rate"));
  }
  for (let k = 0; k < 25; k++) {
    await new Promise((done) => setTimeout(done, 300));
    slider.value = k % 2 ? 10 + k / 10 : -10 - k / 10;
    slider.dispatchEvent(new Event("input"));
    await new Promise((done) => setTimeout(done, 300));
    delays.push(number("delay"));
  }
  const median = (values) => values.sort((a, b) => a - b)[values.length >> 1];
  return [median(rates), median(delays)];
}"""
"""Turns a knob for some seconds, then now and then; returns the medians that the page shows."""


def main() -> None:
    """Measure and print."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", nargs="?", default="day_a")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--browser", default=shutil.which("chromium"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(load(given.scenario), 0, Path(folder))
        with LiveServer(settings, Access("127.0.0.1", TOKEN), TOKEN) as server, sync_playwright() as play:
            browser = play.chromium.launch(executable_path=given.browser, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 720})
            page.goto(server.url)
            page.wait_for_selector("#view-empty", state="hidden")
            rate, delay = page.evaluate(TURN, given.seconds)
            browser.close()
    print(f"{given.scenario}: {rate:.0f} pictures per second, {delay:.0f} ms from knob to picture (medians)")


if __name__ == "__main__":
    main()
