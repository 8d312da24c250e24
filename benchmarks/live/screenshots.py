"""The pictures of docs/live.md, from a browser: `python -m benchmarks.live.screenshots [--out docs/images]`.

Needs playwright and a Chromium, as `benchmarks.live.rate` does. Look at them before they are kept.
"""

import argparse
import shutil
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from scenarios.gallery import play
from scenarios.live.desk import Settings
from scenarios.live.server import LiveServer
from scenarios.schema import load
from twin.server.access import Access

TOKEN = "a-token-for-the-pictures"
WAIT_MS = 600_000
SIZE: Any = {"width": 1280, "height": 720}


def keep(page: Any, path: Path) -> None:
    """Write what a page shows, with 64 colours: a page of the documentation has to open at once."""
    whole = Image.open(BytesIO(page.screenshot())).convert("RGB")
    whole.quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)


def microscope(page: Any, out: Path) -> None:
    """Turn knobs, and show the truth."""
    page.wait_for_selector("#view-empty", state="hidden")
    for name, value in (("C10", "-30"), ("C12a", "20")):
        page.fill(f"#value-{name}", value)
        page.keyboard.press("Tab")
    page.click("#truth")
    for place, text in (("#basis", "(truth)"), ("#quality", "full")):
        page.locator(place, has_text=text).wait_for()
    keep(page, out / "live_microscope.png")
    page.click("#truth")
    page.click("#zero")


def calibration(page: Any, out: Path) -> None:
    """Calibrate, and compare before and after."""
    page.keyboard.press("2")
    page.select_option("#controller", "neural_posterior")
    page.fill("#observations", "6")
    page.click("#start")
    page.wait_for_selector("#keep:visible")
    keep(page, out / "live_calibrate.png")
    page.click("#keep")
    page.wait_for_selector("#report:visible")
    page.locator("h1").click()
    page.keyboard.press("4")
    keep(page, out / "live_compare.png")


def scan(page: Any, out: Path) -> None:
    """Scan with three agents, and show the residuals of one."""
    page.keyboard.press("3")
    page.select_option("#scan-of", "sto_001")
    for name in ("adf", "ricom", "ssb"):
        page.check(f"#agents input[value={name}]")
    page.click("#scan-start")
    page.locator("#scan-state", has_text="complete").wait_for()
    flip = page.locator(".agent[data-agent=ssb] button[data-picture=residual]")
    if flip.is_visible():
        flip.click()
    keep(page, out / "live_scan.png")


def main() -> None:
    """Make the pictures."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--browser", default=shutil.which("chromium"))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as running:
        browser = running.chromium.launch(executable_path=given.browser, args=["--no-sandbox"])
        file = Path(folder) / "play.html"
        file.write_text(play.page())
        page = browser.new_page(viewport=SIZE)
        page.goto(file.as_uri())
        page.locator("#strehl", has_text="0.").wait_for()
        keep(page, given.out / "play.png")
        settings = Settings(load("day_a"), 5, Path(folder))
        with LiveServer(settings, Access("127.0.0.1", TOKEN), TOKEN) as server:
            page = browser.new_page(viewport=SIZE)
            page.set_default_timeout(WAIT_MS)
            page.goto(server.url)
            for panel in (microscope, calibration, scan):
                panel(page, given.out)
        browser.close()


if __name__ == "__main__":
    main()
