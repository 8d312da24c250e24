"""An instrument in the page: consent, limits, audit log, and the way it is left."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes.served import served

from benchmarks.live.fuzz import SMALL, TOKEN
from benchmarks.live.page import BarePage
from scenarios.calibration.instruments import simulator
from scenarios.live.desk import Settings
from scenarios.live.server import LiveServer
from scenarios.schema import Scenario, load
from twin.instrument.audit import read
from twin.server.access import Access
from twin.server.bench import Bench


@pytest.fixture
def far(small: Scenario) -> Iterator[Bench]:
    with served(simulator(small)) as bench:
        yield bench


def remote(far: Bench) -> Scenario:
    options = {"host": "127.0.0.1", "port": far.ports["control"], "timeout_s": 60.0, "frame_timeout_s": 60.0}
    kind = ["microscope.kind=remote", 'microscope.safety={"total_nm": {"C10": 20}}']
    return load("nominal", [*SMALL, *kind, f"microscope.options={json.dumps(options)}"])


def opened(settings: Settings) -> LiveServer:
    return LiveServer(settings, Access("127.0.0.1", TOKEN), TOKEN)


def test_by_hand_within_limits_with_an_audit_log_and_left_as_they_demand(far: Bench, tmp_path: Path) -> None:
    with opened(Settings(remote(far), 0, tmp_path)) as server:
        page = BarePage(server.port, TOKEN)
        page.until(lambda: page.state)
        assert (page.state["microscope"]["connected"], page.state["microscope"]["truth"]) == (False, None)
        page.say(do="knobs", values={"C10": 5.0})
        page.until(lambda: "connect first" in page.heard.get("notice", {}).get("text", ""))
        page.say(do="connect", on=True)
        page.until(lambda: page.state["microscope"]["connected"])
        start_nm = far.microscope.truth().state_nm
        page.say(do="knobs", values={"C10": 5.0})
        page.until(lambda: page.views and page.views[-1]["knobs"]["C10"] == 5.0)
        page.say(do="knobs", values={"C10": 25.0})
        page.until(lambda: "total_nm.C10 allows" in page.heard["notice"]["text"])
        assert np.allclose(far.microscope.truth().state_nm - start_nm, [5.0, 0.0, 0.0])
        said = server.close("a test ends")
        page.close()
    assert "restored to C10 +5 nm" in said
    events = [entry["event"] for entry in read(tmp_path / "nominal" / "by_hand" / "0" / "audit.jsonl")]
    assert (events[0], events[-1], "command" in events) == ("reset", "restored", True)


def test_a_calibration_takes_over_and_writes_its_own_audit_log(far: Bench, tmp_path: Path) -> None:
    wide = remote(far)
    wide = wide.model_copy(update={"microscope": replace(wide.microscope, safety=type(wide.microscope.safety)())})
    with opened(Settings(wide, 0, tmp_path)) as server:
        page = BarePage(server.port, TOKEN)
        page.say(do="connect", on=True)
        page.until(lambda: page.state and page.state["microscope"]["connected"])
        page.say(do="calibrate", controller="random", observations=2)
        page.until(lambda: ((page.state["run"] or {}).get("waiting") or {}).get("kind") == "keep")
        assert page.state["microscope"]["connected"] is False
        assert any("command" in line for line in page.state["run"]["audit"]["lines"])
        page.say(do="run", verb="back")
        page.until(lambda: page.state["run"]["status"])
        page.close()
    run = tmp_path / "nominal" / "random" / "0"
    assert json.loads((run / "summary.json").read_text())["status"] == "stopped"
    last = read(run / "audit.jsonl")[-1]
    assert (last["event"], np.allclose(last["cumulative_nm"], 0.0)) == ("restored", True)


def test_without_consent_nothing_is_sent(far: Bench, tmp_path: Path) -> None:
    begun = far.microscope.truth().state_nm
    with opened(Settings(remote(far), 0, tmp_path, consents=False)) as server:
        page = BarePage(server.port, TOKEN)
        page.say(do="connect", on=True)
        page.until(lambda: page.state and page.state["microscope"]["connected"])
        page.say(do="knobs", values={"C10": 5.0})
        page.until(lambda: page.views and page.views[-1]["knobs"]["C10"] == 5.0)
        assert page.state["microscope"]["dry_run"] is True
        page.close()
    assert np.array_equal(far.microscope.truth().state_nm, begun)
    assert not list(tmp_path.rglob("audit.jsonl"))
