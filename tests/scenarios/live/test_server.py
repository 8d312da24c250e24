"""The server as a page meets it: pictures with back-pressure, one driver, a calibration, the end."""

import http.client
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from benchmarks.live.fuzz import TOKEN, fuzz, still_well
from benchmarks.live.page import BarePage
from scenarios.calibration.instruments import simulator
from scenarios.calibration.session import microscope_generator
from scenarios.live.server import LiveServer
from scenarios.schema import Scenario
from twin.simulated import SimulatedMicroscope


def ask(server: LiveServer, path: str, method: str = "GET") -> tuple[int, bytes]:
    line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        line.request(method, path)
        answer = line.getresponse()
        return answer.status, answer.read()
    finally:
        line.close()


def waiting(page: BarePage, kind: str) -> Callable[[], bool]:
    return lambda: ((page.state.get("run") or {}).get("waiting") or {}).get("kind") == kind


def ended(page: BarePage) -> Callable[[], Any]:
    return lambda: (page.state.get("run") or {}).get("status")


def test_files_need_the_token_and_only_known_ones_are_served(server: LiveServer) -> None:
    assert ask(server, "/")[0] == 403
    assert ask(server, f"/?token={TOKEN}")[0] == 200
    assert ask(server, "/static/live.js")[0] == 200
    assert ask(server, "/static/..%2Flive.html")[0] == 404
    assert ask(server, "/static/server.py")[0] == 404
    assert ask(server, f"/report?token={TOKEN}")[0] == 404
    assert ask(server, f"/?token={TOKEN}", "POST")[0] == 405
    address = f"ws://127.0.0.1:{server.port}/ws?token={TOKEN}"
    with pytest.raises(InvalidStatus), connect(address, origin=Origin("http://evil.example")):
        pass


def test_a_knob_turns_the_microscope_and_the_picture_shows_it(page: BarePage) -> None:
    page.say(do="knobs", values={"C10": 12.5})
    page.until(lambda: page.views and page.views[-1].get("knobs") == {"C10": 12.5, "C12a": 0.0, "C12b": 0.0})
    names = [picture["name"] for picture in page.views[-1]["pictures"]]
    assert names == ["ronchigram", "spectrum"]  # nothing tells the hidden state
    assert page.state["microscope"]["truth"] is None
    page.say(do="knobs", values={"C10": 1e5})
    page.until(lambda: "notice" in page.heard)
    assert "the limit is +-60 nm" in page.heard["notice"]["text"]
    page.say(do="knobs", values={"C11": 1.0})
    page.until(lambda: "not a knob here" in page.heard["notice"]["text"])
    page.until(lambda: page.state["microscope"]["knobs"][0]["value"] == 12.5)  # state and pictures come apart


def test_the_truth_is_that_of_a_calibration_with_this_seed(page: BarePage, small: Scenario) -> None:
    page.say(do="truth", show=True)
    page.until(lambda: page.state["microscope"]["truth"] and any("strehl" in view for view in page.views))
    twin = simulator(small)
    twin.reset(microscope_generator(3))
    told = page.state["microscope"]["truth"]
    assert np.allclose([told[name] for name in small.space.names], twin.truth().state_nm, atol=1e-3)
    page.until(lambda: [picture["name"] for picture in page.views[-1]["pictures"]][2:] == ["probe", "phase"])


def test_one_picture_is_on_its_way_and_stale_ones_are_dropped(server: LiveServer) -> None:
    slow = BarePage(server.port, TOKEN, confirms=False)
    slow.until(lambda: slow.pictures == 1)
    for k in range(20):
        slow.say(do="knobs", values={"C10": float(k)})
        slow.drain(0.03)
    assert slow.pictures == 1
    slow.until(lambda: slow.state["microscope"]["knobs"][0]["value"] == 19.0)
    slow.say(do="seen", kind="view", number=slow.views[-1]["number"])
    slow.until(lambda: slow.pictures == 2)
    slow.drain(0.2)
    slow.say(do="seen", kind="view", number=slow.views[-1]["number"])
    slow.until(lambda: slow.views[-1]["knobs"]["C10"] == 19.0)
    assert slow.pictures <= 3
    slow.close()


def test_one_page_drives_and_the_other_watches(server: LiveServer, page: BarePage) -> None:
    other = BarePage(server.port, TOKEN)
    other.until(lambda: other.state)
    page.until(lambda: (page.state["role"]["drives"], other.state["role"]["drives"]) == (True, False))
    other.say(do="knobs", values={"C10": 5.0})
    other.until(lambda: "notice" in other.heard)
    assert "watches" in other.heard["notice"]["text"]
    other.say(do="drive")
    other.until(lambda: other.state["role"]["drives"])
    other.say(do="knobs", values={"C10": 5.0})
    page.until(lambda: page.state["microscope"]["knobs"][0]["value"] == 5.0)
    page.until(lambda: page.state["role"]["drives"] is False)
    other.close()
    page.until(lambda: page.state["role"]["drives"])


def test_a_calibration_step_by_step_and_its_report(
    server: LiveServer, page: BarePage, small: Scenario, tmp_path: Path
) -> None:
    page.say(do="calibrate", controller="random", observations=2, paused=True)
    page.until(waiting(page, "input"))
    page.until(lambda: len(page.state["run"]["steps"]) == 1)
    page.say(do="knobs", values={"C10": 5.0})
    page.until(lambda: "notice" in page.heard)
    assert "the calibration has the microscope" in page.heard["notice"]["text"]
    page.say(do="run", verb="step")
    page.until(waiting(page, "correction"))
    page.say(do="run", verb="run")
    page.until(waiting(page, "keep"))
    assert not (tmp_path / "nominal" / "random" / "3" / "summary.json").exists()
    page.say(do="run", verb="keep")
    page.until(ended(page))
    run = page.state["run"]
    assert (run["status"], len(run["steps"]), run["steps"][0]["truth_nm"]) == ("complete", 2, None)
    last = run["steps"][-1]
    left = f"{np.linalg.norm(last['std_nm']):.2f} nm by the estimate, {last['error_nm']:.2f} nm in truth"
    assert run["left"].endswith(f" ± {left}")
    assert run["strictly"] == [False, "not strictly"]
    page.until(lambda: any(view.get("name") == "Frame 3: a check of the correction" for view in page.views))
    page.until(lambda: {"before", "run", "view"} <= {view["kind"] for view in page.views})
    status, report = ask(server, f"/report?token={TOKEN}")
    assert status == 200
    assert report == (tmp_path / "nominal" / "random" / "3" / "report.html").read_bytes()
    # The hand goes on from where the correction left the microscope, and the estimate tells its probe.
    page.until(lambda: [knob["value"] for knob in page.state["microscope"]["knobs"]] == run["cumulative_nm"])
    page.until(lambda: page.views[-1].get("basis") == "estimate")
    told = page.views[-1]
    assert (told["covers"], told["strehl"] < 1.0, told["strehl_std"] > 0.0) == (list(small.space.names), True, True)


def test_what_the_first_frame_needs_is_made_before_the_run_begins(
    server: LiveServer, page: BarePage, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[bool] = []

    def prepare(microscope: SimulatedMicroscope) -> None:
        assert server.desk.calibration is not None
        begun.append(server.desk.calibration.begun)

    monkeypatch.setattr(SimulatedMicroscope, "prepare", prepare)
    page.say(do="calibrate", controller="random", observations=1, paused=True)
    page.until(waiting(page, "correction"))
    assert begun == [False]
    page.say(do="run", verb="stop")
    page.until(ended(page))


def test_going_back_undoes_a_calibration(page: BarePage) -> None:
    page.say(do="calibrate", controller="random", observations=2)
    page.until(waiting(page, "keep"))
    page.say(do="run", verb="back")
    page.until(ended(page))
    run = page.state["run"]
    assert (run["status"], run["cumulative_nm"]) == ("stopped", [0.0, 0.0, 0.0])
    assert "every input of the run was undone" in run["outcome"]
    assert run["left"] == ""


def test_a_controller_that_does_not_exist_is_refused(page: BarePage) -> None:
    page.say(do="calibrate", controller="rendom", observations=2)
    page.until(lambda: "notice" in page.heard)
    assert "did you mean random" in page.heard["notice"]["text"]
    assert page.state["run"] is None


def test_a_file_outside_the_library_is_no_day(page: BarePage, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("description: mine\n")
    page.say(do="day", scenario=str(file), seed=1)
    page.until(lambda: "notice" in page.heard)
    assert "not a scenario of the library" in page.heard["notice"]["text"]


def test_the_end_is_told_and_stops_a_calibration(server: LiveServer, page: BarePage, tmp_path: Path) -> None:
    page.say(do="calibrate", controller="random", observations=2, paused=True)
    page.until(waiting(page, "input"))
    said = server.close("a test ends")
    assert said.startswith("The calibration: stopped: stopped from the page")
    assert said.endswith(f"in {tmp_path / 'nominal' / 'random' / '3'}.")
    page.until(lambda: "ended" in page.heard)
    assert page.heard["ended"]["text"] == said


def test_another_dose_lets_the_clock_go_on(page: BarePage) -> None:
    page.until(lambda: page.views and page.views[-1]["clock_s"] >= 1.0)
    before_s = page.views[-1]["clock_s"]
    page.say(do="expose", dose_e=2e6, exposure_s=0.25)
    page.until(lambda: page.views[-1]["dose_e"] == 2e6)
    assert page.views[-1]["clock_s"] > before_s
    page.say(do="expose", dose_e=2e6, exposure_s=0.5)
    page.until(lambda: page.state["microscope"]["exposure_s"] == 0.5)


def test_hundreds_of_bad_messages_leave_the_server_well(page: BarePage) -> None:
    fuzz(page, 200, seed=2)
    assert still_well(page) == []
