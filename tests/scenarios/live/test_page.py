"""The page in a browser, judged by what it shows. Needs playwright and a Chromium; left out where they are not."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.live.fuzz import TOKEN
from scenarios.live.desk import Settings
from scenarios.live.server import LiveServer
from scenarios.schema import load
from twin.formats import Layout, Metadata, create
from twin.server.access import Access

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
WAIT_MS = 120_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    scan = tmp_path_factory.mktemp("data") / "scan.zarr"
    beam = Metadata(energy_kev=300, convergence_mrad=20, pixel_mrad=4, step_nm=0.05, rotation_deg=0)
    with create(str(scan), Layout((8, 6), (16, 16)), beam) as writer:
        writer.append(np.random.default_rng(0).poisson(5.0, (48, 16, 16)).astype(np.uint16))
    settings = Settings(load("nominal"), 3, tmp_path_factory.mktemp("runs"), source=str(scan))
    with LiveServer(settings, Access("127.0.0.1", TOKEN), TOKEN) as live:
        yield live


@pytest.fixture
def page(browser: Any, server: LiveServer) -> Iterator[Any]:
    opened = browser.new_page(viewport={"width": 1280, "height": 720})
    opened.set_default_timeout(WAIT_MS)
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
    opened.goto(server.url)
    opened.wait_for_selector("#view-empty", state="hidden")
    yield opened
    opened.close()
    # A lost connection is an error for the console; the page says it in its own words.
    assert [problem for problem in problems if "WebSocket" not in problem] == []


def brightness(page: Any, canvas: str) -> float:
    """Mean of the red channel of a canvas."""
    script = """(id) => {
      const canvas = document.getElementById(id);
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      let sum = 0;
      for (let i = 0; i < data.length; i += 4) sum += data[i];
      return (4 * sum) / data.length;
    }"""
    return float(page.evaluate(script, canvas))


def test_a_knob_moves_the_picture_within_what_the_page_shows(page: Any) -> None:
    assert brightness(page, "ronchigram") > 20
    page.locator("#value-C10").fill("15")
    page.keyboard.press("Tab")
    playwright.expect(page.locator("#delay")).to_contain_text("ms", timeout=WAIT_MS)
    playwright.expect(page.locator("#knob-C10")).to_have_value("15", timeout=WAIT_MS)
    page.locator("#ronchigram").focus()
    page.keyboard.press("ArrowUp")
    playwright.expect(page.locator("#value-C10")).to_have_value("16.0", timeout=WAIT_MS)
    page.click("#zero")
    playwright.expect(page.locator("#value-C10")).to_have_value("0.0", timeout=WAIT_MS)


def test_a_drag_that_comes_back_leaves_the_value_it_began_with(page: Any, server: LiveServer) -> None:
    page.fill("#value-C12a", "-6.93")
    page.keyboard.press("Tab")
    box = page.locator("#ronchigram").bounding_box()
    x, y = box["x"] + 150, box["y"] + 150
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y - 20, steps=7)
    playwright.expect(page.locator("#value-C12a")).to_have_value("2.1", timeout=WAIT_MS)
    playwright.expect(page.locator("#value-C12b")).to_have_value("3.0", timeout=WAIT_MS)
    page.mouse.move(x, y, steps=5)
    page.mouse.up()
    assert page.input_value("#value-C12a") == "-6.9"
    for _ in range(1000):
        assert server.desk.hand is not None
        if (left := server.desk.hand.knobs_nm.tolist()) == [0.0, -6.93, 0.0]:
            break
        page.wait_for_timeout(50)
    assert left == [0.0, -6.93, 0.0]
    page.click("#zero")


REACHED = """(tab) => {
  document.getElementById(`tab-${tab}`).click();
  const lost = [], panel = document.getElementById(tab);
  panel.querySelectorAll("details").forEach((one) => { one.open = true; });
  for (const control of panel.querySelectorAll("button, input, select, summary, #limits, figcaption")) {
    if (!control.offsetParent) continue;
    control.scrollIntoView({ block: "nearest" });
    const { left, top, right, bottom } = control.getBoundingClientRect();
    const there = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
    const seen = left >= 0 && top >= 50 && right <= innerWidth && bottom <= innerHeight;
    if (!seen || !control.contains(there)) lost.push(control.id || control.textContent);
  }
  return [lost, document.documentElement.scrollTop, document.body.scrollTop];
}"""


@pytest.mark.parametrize("tab", ["microscope", "calibrate", "scan", "compare"])
def test_every_control_is_reached_by_scrolling_its_panel(page: Any, tab: str) -> None:
    if tab == "scan":
        page.click("#tab-scan")
        page.check("#agents input[value=ssb]")
        page.click("#scan-start")
        page.locator("#scan-state", has_text="complete").wait_for()
        assert page.locator(".agent .knob").count() == 11  # of adf, ricom and ssb
        widths = page.evaluate(
            "() => [...document.querySelectorAll('.agent [type=range]')].map((one) => one.clientWidth)"
        )
        assert min(widths) >= 80
    assert page.evaluate(REACHED, tab) == [[], 0, 0]


KNOBS_AT = "() => [...document.querySelectorAll('.agent .knob')].map((one) => one.getBoundingClientRect().top)"


def test_the_knobs_of_a_scan_stay_where_they_are_whatever_is_told_of_the_images(page: Any) -> None:
    page.click("#tab-scan")
    page.hover("#agents input[value=abf]")
    assert page.locator("#agent-about").inner_text().endswith("are dark.")
    page.hover("#tab-scan")
    assert page.locator("#agent-about").is_hidden()
    page.click("#scan-start")
    playwright.expect(page.locator(".agent .knob")).to_have_count(7, timeout=WAIT_MS)  # of this scan: adf and ricom
    playwright.expect(page.locator("#scan-start")).to_be_enabled(timeout=WAIT_MS)
    playwright.expect(page.locator("[data-agent=ricom] .range")).to_contain_text("to", timeout=WAIT_MS)
    page.locator(".agent .note", has_text="clear of the bright disc").wait_for()
    before = page.evaluate(KNOBS_AT)
    page.locator("[data-agent=adf] [data-knob=inner_mrad] input").press("ArrowRight")
    playwright.expect(page.locator("[data-agent=adf] .note")).to_have_text("", timeout=WAIT_MS)
    page.evaluate(
        "document.querySelectorAll('.agent .verdict').forEach((one) => { one.textContent = 'fits: a model'; })"
    )
    after = page.evaluate(KNOBS_AT)
    assert (len(after), after) == (7, before)


def test_the_truth_is_behind_a_button(page: Any) -> None:
    assert page.locator("#strehl").inner_text() == "–"
    place = page.locator("#truth").bounding_box()
    page.click("#truth")
    playwright.expect(page.locator("#basis")).to_have_text("(truth)", timeout=WAIT_MS)
    assert 0.0 <= float(page.locator("#strehl").inner_text()) <= 1.0
    assert "C10" in page.locator("#truth-table").inner_text()
    now = page.locator("#truth").bounding_box()
    assert (now["x"], now["y"]) == (place["x"], place["y"])
    page.click("#truth")
    playwright.expect(page.locator("#strehl")).to_have_text("–", timeout=WAIT_MS)


def test_a_calibration_by_click_pauses_survives_a_reload_and_ends_in_spec(page: Any, browser: Any) -> None:
    page.keyboard.press("2")
    page.select_option("#controller", "neural_posterior")
    page.fill("#observations", "3")
    page.check("#paused")
    page.click("#start")
    playwright.expect(page.locator("#next-title")).to_contain_text("The next input waits", timeout=WAIT_MS)
    waiting = page.locator("#next-input").inner_text()
    page.reload()
    playwright.expect(page.locator("#next-input")).to_have_text(waiting, timeout=WAIT_MS)
    second = browser.new_page()
    second.goto(page.url)
    playwright.expect(second.locator("#role")).to_have_text("this page watches", timeout=WAIT_MS)
    assert second.locator("[data-verb=step]").is_disabled()
    second.close()
    page.click("[data-verb=step]")
    playwright.expect(page.locator("#run-frame")).to_have_text("Frame 2", timeout=WAIT_MS)
    page.click("[data-verb=run]")
    page.click("#keep")
    playwright.expect(page.locator("#run-state")).to_have_text("in spec", timeout=WAIT_MS)
    page.wait_for_selector("#report:visible")
    assert "check" in page.locator("#run-frame").inner_text()
    assert "± " in page.locator("#next-input").inner_text()
    assert "in truth" in page.locator("#next-input").inner_text()
    strict = page.locator("#run-strict").inner_text()
    assert strict in ("strictly in spec", "not strictly")
    assert f"{strict}: " in page.locator("#run-outcome").inner_text()
    page.keyboard.press("4")
    playwright.expect(page.locator("#basis")).to_have_text("(estimate)", timeout=WAIT_MS)
    page.click("#hold-a")
    assert "By calibration: C10" in page.locator("#a-about").inner_text()
    assert "electrons" in page.locator("#a-about").inner_text()
    assert brightness(page, "a-ronchigram") > 20
    assert brightness(page, "b-ronchigram") > 20
    assert "error of the estimate" in page.locator("#numbers").inner_text()


def test_a_connection_that_is_cut_is_said_and_made_again(page: Any, server: LiveServer) -> None:
    assert server._loop is not None
    for each in list(server._hub.pages.values()):
        asyncio.run_coroutine_threadsafe(each.close(1011, "cut"), server._loop).result(20)
    playwright.expect(page.locator("#banner")).to_contain_text("Trying again", timeout=WAIT_MS)
    playwright.expect(page.locator("#banner")).to_be_hidden(timeout=WAIT_MS)
    assert page.locator("#role").inner_text() == "this page drives"


def test_a_server_that_ends_says_so(browser: Any, tmp_path: Path) -> None:
    with LiveServer(Settings(load("nominal"), 3, tmp_path), Access("127.0.0.1", TOKEN), TOKEN) as server:
        page = browser.new_page()
        page.goto(server.url)
        playwright.expect(page.locator("#role")).to_have_text("this page drives", timeout=WAIT_MS)
    playwright.expect(page.locator("#banner")).to_contain_text("The server has ended", timeout=WAIT_MS)
    assert page.locator("#knob-C10").is_disabled()
    page.close()


def test_go_back_undoes_every_input_and_the_page_says_so(page: Any) -> None:
    page.keyboard.press("2")
    page.select_option("#controller", "random")
    page.fill("#observations", "2")
    page.check("#paused")
    page.click("#start")
    playwright.expect(page.locator("#next-title")).to_contain_text("The next input waits", timeout=WAIT_MS)
    page.click("[data-verb=step]")
    playwright.expect(page.locator("#next-title")).to_contain_text("correction", timeout=WAIT_MS, ignore_case=True)
    page.click("[data-verb=back]")
    playwright.expect(page.locator("#run-outcome")).to_contain_text("back", timeout=WAIT_MS)
    page.keyboard.press("1")
    for name in ("C10", "C12a", "C12b"):
        playwright.expect(page.locator(f"#value-{name}")).to_have_value("0.0", timeout=WAIT_MS)


def test_a_server_that_is_killed_leaves_a_page_that_tries_again(browser: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "stemtwin", "live", "nominal", "--no-browser", "--json", "--out", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        page = browser.new_page()
        page.goto(json.loads(killed.stdout.readline())["url"])
        playwright.expect(page.locator("#role")).to_have_text("this page drives", timeout=WAIT_MS)
        killed.kill()
    playwright.expect(page.locator("#banner")).to_contain_text("Trying again", timeout=WAIT_MS)
    assert page.locator("#knob-C10").is_disabled()
    page.close()
