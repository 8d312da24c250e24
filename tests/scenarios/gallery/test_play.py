"""The page to play with: one file, with the twin's numbers, and in a browser its frames are those of our renderer."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from scenarios.cli import app
from scenarios.gallery import film, play
from scenarios.live.pictures import phase_plate
from scenarios.page import text_of
from twin.aberrations import Aberrations
from twin.optics import AliasingError, check_window
from twin.probe import strehl_ratio

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
STATES = (
    {"C10": 28.0, "C12a": 6.0, "C12b": -4.0},
    {"C10": -15.0, "C12b": 9.0, "C21a": 240.0, "C21b": -130.0, "C23a": 90.0},
    {"C10": 3.0, "C23b": -150.0, "C30": 4000.0},
)


def test_the_numbers_of_the_page_are_those_of_the_twin() -> None:
    assert json.loads(text_of(play.OPTICS)) == film.numbers()
    names = re.findall(r'\["(C\d\d[ab]?)", (\d+), ', text_of("gallery/static/play.js"))
    assert [name for name, _ in names] == ["C10", "C12a", "C12b", "C21a", "C21b", "C23a", "C23b", "C30"]
    for name, limit in names:  # one knob at its end still fits into the window
        check_window(film.OPTICS, Aberrations.of({name: float(limit)}))


def test_the_page_is_one_file_that_loads_nothing(tmp_path: Path) -> None:
    out = tmp_path / "play.html"
    done = CliRunner().invoke(app, ["gallery", "--play", "--out", str(out)])
    assert (done.exit_code, done.output.strip()) == (0, str(out))
    text = out.read_text()
    assert re.findall(r'(?:src|href)="(?!data:)', text) == []
    assert re.findall(r"https?://|\bfetch\(|^import ", text, re.MULTILINE) == []
    assert len(text) < 150_000
    refused = CliRunner().invoke(app, ["gallery", "--play", "--only", "probes"])
    assert refused.exit_code == 2
    assert "--only probes is a section of the gallery" in refused.output


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    out = tmp_path_factory.mktemp("play") / "play.html"
    out.write_text(play.page())
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1280, "height": 720})
        problems: list[str] = []
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.goto(out.as_uri())
        yield opened
        browser.close()
    assert problems == []


def test_frames_and_probes_of_the_page_are_those_of_our_renderer(page: Any) -> None:
    import torch

    from twin.ronchigram.phase_screens import FastRenderer

    optics = replace(film.OPTICS, camera_pixels=film.OPTICS.grid, binning=1)
    renderer = FastRenderer(optics, film.DAY, slices=1)
    drawn = np.array(page.evaluate("() => Array.from(stemtwin.scope.phase)"), np.float32).reshape(2 * [optics.grid])
    ours = renderer.transmission(1).angle().numpy()
    assert drawn.std() == pytest.approx(ours.std(), rel=0.1)  # two regions of one film
    screens = torch.exp(1j * torch.from_numpy(drawn))[None, None]
    for state in STATES:
        told = page.evaluate("(state) => Array.from(stemtwin.scope.expose(state).frame)", state)
        side = round(len(told) ** 0.5)
        frame = np.array(told).reshape(side, side)
        aberrations = Aberrations.of(state)
        with torch.no_grad():
            whole = renderer.intensity(torch.from_numpy(aberrations.array()).float()[None], screens)[0].numpy()
        edge = (optics.grid - side) // 2
        expected = whole[edge : edge + side, edge : edge + side]
        axis = (np.arange(side) - side // 2) * optics.pixel_mrad
        disc = np.hypot(axis[:, None], axis[None, :]) < optics.convergence_mrad
        assert np.abs(frame - expected)[disc].max() < 0.02 * expected[disc].mean()
        assert page.evaluate("(state) => stemtwin.scope.strehl(state)", state) == pytest.approx(
            strehl_ratio(aberrations, optics), abs=0.005
        )
        plate = np.array(page.evaluate("(state) => Array.from(stemtwin.scope.phasePlate(state).data)", state))
        assert np.mean(plate.reshape(128, 128) != phase_plate(aberrations, optics).values) < 0.01


def test_hidden_aberrations_are_found_by_hand_and_told_afterwards(page: Any) -> None:
    page.click("#hide")
    hidden = page.evaluate("() => stemtwin.state.hidden")
    assert set(hidden) == {"C10", "C12a", "C12b"}
    page.wait_for_function("document.getElementById('strehl').textContent === '–'")
    assert page.locator(".secret .veil").first.is_visible()
    assert not page.locator("#left-box").is_visible()
    for name, value in hidden.items():
        page.fill(f"#value-{name}", str(round(-value, 1)))
        page.keyboard.press("Tab")
    page.click("#show")
    page.wait_for_function("Number(document.getElementById('strehl').textContent) > 0.9")
    assert "as sharp as the aperture allows" in page.locator("#verdict").inner_text()
    assert f"after {page.evaluate('() => stemtwin.state.turns')} turns" in page.locator("#verdict").inner_text()
    left = page.locator("#left-table").inner_text()
    assert "defocus" in left
    page.focus("#ronchigram")
    before = page.evaluate("() => stemtwin.state.knobs.C10")
    page.keyboard.press("ArrowUp")
    assert page.evaluate("() => stemtwin.state.knobs.C10") == pytest.approx(before + 1.0)


def test_a_probe_beyond_the_window_is_said_and_not_drawn(page: Any) -> None:
    page.evaluate("() => { stemtwin.state.hidden = { C10: 70 }; stemtwin.turn({ C10: 60, C12a: 30, C12b: 30 }); }")
    page.wait_for_selector("#too-far", state="visible")
    with pytest.raises(AliasingError):
        check_window(film.OPTICS, Aberrations.of({"C10": 130.0, "C12a": 30.0, "C12b": 30.0}))
    page.click("#zero")
    page.wait_for_selector("#too-far", state="hidden")
