"""The notebook's widget: what its kernel does with what the page says, and what the page shows of what it is sent."""

import base64
import json
import shutil
from typing import Any

import numpy as np
import pytest

pytest.importorskip("anywidget")

from scenarios.live.pictures import unpacked
from scenarios.widget import Microscope

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SMALL = (
    *("optics.convergence_mrad=14", "optics.sampling_nm=0.05", "optics.grid=256"),
    *("optics.camera_pixels=64", "optics.binning=4"),
)
Sent = list[tuple[dict[str, Any], dict[str, Any] | None, bytes]]


@pytest.fixture
def microscope() -> tuple[Microscope, Sent]:
    """A widget, and what it sends: message, header of the view, the view itself."""
    made, sent = Microscope("nominal", seed=1, changes=SMALL), []

    def send(message: dict[str, Any], buffers: Any = None) -> None:
        view = bytes(buffers[0]) if buffers else b""
        sent.append((message, unpacked(view)[0] if view else None, view))

    made.send = send
    return made, sent


def headers(sent: Sent) -> list[Any]:
    return [header for message, header, _ in sent if message["kind"] == "view"]


def test_a_knob_is_answered_by_a_draft_and_its_rest_by_a_full_frame(microscope: tuple[Microscope, Sent]) -> None:
    widget, sent = microscope
    widget._hear(widget, {"do": "seen", "kind": "view", "number": 0}, [])
    widget._hear(widget, {"do": "knobs", "values": {"C10": 15.0}}, [])
    first, draft = headers(sent)
    assert (first["draft"], draft["draft"], draft["knobs"]["C10"]) == (False, True, 15.0)
    widget._hear(widget, {"do": "seen", "kind": "view", "number": draft["number"]}, [])
    full = headers(sent)[-1]
    assert (full["draft"], full["number"]) == (False, draft["number"] + 1)
    widget._hear(widget, {"do": "seen", "kind": "view", "number": full["number"]}, [])
    assert len(sent) == 3  # a full frame that was seen is not drawn again
    assert widget.knobs_nm["C10"] == 15.0


def test_the_truth_is_shown_only_when_it_is_asked_for(microscope: tuple[Microscope, Sent]) -> None:
    widget, sent = microscope
    widget.turn({"C12a": 4.0})
    widget._hear(widget, {"do": "truth", "show": True}, [])
    hidden, told = headers(sent)
    assert [one["name"] for one in hidden["pictures"]] == ["ronchigram", "spectrum"]
    assert [one["name"] for one in told["pictures"]] == ["ronchigram", "spectrum", "probe", "phase"]
    assert "strehl" not in hidden
    assert 0.0 <= told["strehl"] <= 1.0
    assert not any(isinstance(value, np.ndarray) for value in told.values())


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"do": "knobs", "values": {"C99": 1.0}}, "'C99' is not a knob here"),
        ({"do": "knobs", "values": {"C10": 1e6}}, "C10"),
        ({"do": "knobs", "values": {"C10": "far"}}, "number"),
        ({"do": "nonsense"}, "is not a message"),
    ],
)
def test_what_is_refused_moves_nothing_and_is_said(
    said: dict[str, Any], words: str, microscope: tuple[Microscope, Sent]
) -> None:
    widget, sent = microscope
    widget._hear(widget, said, [])
    assert sent[0][0]["kind"] == "refused"
    assert words in sent[0][0]["text"]
    assert headers(sent)[-1]["knobs"] == {"C10": 0.0, "C12a": 0.0, "C12b": 0.0}


PAGE = """<!doctype html><meta charset="utf-8"><div id="here"></div><script type="module">
const url = URL.createObjectURL(new Blob([%s], { type: "text/javascript" }));
const widget = (await import(url)).default, said = [];
let hear = null;
const model = {
  get: () => %s, send: (message) => said.push(message), on: (name, call) => { hear = call; }, off: () => {},
};
widget.render({ model, el: document.getElementById("here") });
const viewed = (text) => [new DataView(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer)];
globalThis.bench = { said, hear: (message, view) => hear(message, view ? viewed(view) : []) };
</script>"""


def test_the_page_turns_knobs_and_shows_what_the_kernel_sends(microscope: tuple[Microscope, Sent]) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    widget, sent = microscope
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_content(PAGE % (json.dumps(Microscope._esm), json.dumps(widget.coefficients)))
        page.wait_for_function("globalThis.bench")

        def answer() -> None:
            """Do what the page said last, and show it the answer."""
            widget._hear(widget, page.evaluate("() => bench.said.at(-1)"), [])
            message, _, view = sent[-1]
            page.evaluate("([message, view]) => bench.hear(message, view)", [message, base64.b64encode(view).decode()])

        assert page.evaluate("() => bench.said") == [{"do": "seen", "kind": "view", "number": 0}]
        answer()
        page.fill("#value-C10", "12.5")
        page.keyboard.press("Tab")
        assert page.evaluate("() => bench.said.at(-1)") == {"do": "knobs", "values": {"C10": 12.5}}
        page.fill("#value-C12a", "3")  # while a picture is on its way: it waits
        page.keyboard.press("Tab")
        page.fill("#value-C12a", "4")
        page.keyboard.press("Tab")
        assert len(page.evaluate("() => bench.said")) == 2
        answer()
        assert page.evaluate("() => bench.said.at(-1)") == {"do": "knobs", "values": {"C12a": 4}}
        answer()
        page.wait_for_function("bench.said.at(-1).do === 'seen'")
        answer()
        assert page.locator("#value-C10").input_value() == "12.5"
        assert page.locator(".stemtwin-scope figcaption span").first.inner_text() == "full"
        pixels = "document.querySelector('canvas').getContext('2d').getImageData(0, 0, 64, 64).data"
        assert page.evaluate(f"Math.max(...{pixels}.filter((_, k) => k % 4 < 3))") > 200
        page.click("text=Show the truth")
        answer()
        assert page.locator(".stemtwin-scope .readout b").inner_text() == f"{headers(sent)[-1]['strehl']:.2f}"
        browser.close()
