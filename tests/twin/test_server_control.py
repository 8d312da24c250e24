"""The control channel: sessions from a seed, exact inputs, and no truth unless the bench tells it."""

import json
import runpy
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twin.day import Day
from twin.optics import Optics
from twin.scan_plan import ScanPlan
from twin.server import control as service
from twin.server.bench import Bench, ScanSettings, session_entropy
from twin.server.control import Control
from twin.server.rpc import answer
from twin.simulated import SimulatedMicroscope
from twin.state import StateSpace
from twin.wire import control, rpc
from twin.wire.netstring import INVALID_PARAMS, UNKNOWN_METHOD

FAKES = types.SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "fakes" / "served.py")))
OPTICS = Optics(grid=256, sampling_nm=0.025, camera_pixels=64, binning=3)
SPACE = StateSpace(start_nm=(20.0, 10.0, 10.0), input_nm=(20.0, 10.0, 10.0))


def microscope() -> SimulatedMicroscope:
    return SimulatedMicroscope(OPTICS, SPACE, Day(command_latency_s=0.125))


@pytest.fixture
def bench() -> Iterator[Bench]:
    with FAKES.served(microscope()) as made:
        yield made


@pytest.fixture
def client(bench: Bench) -> Iterator[Any]:
    with FAKES.Raw(bench.ports["control"]) as raw:
        yield raw


def test_it_tells_where_everything_else_is(client: Any, bench: Bench) -> None:
    told = client.ask("getInfo")
    assert control.ports_of(told) == bench.ports
    assert set(bench.ports) == {"corrector", "control", "merlin_control", "merlin_data"}
    assert told["exposes_truth"] is True
    assert told["methods"] == list(control.METHODS)
    assert control.parse_capabilities(client.ask("capabilities")) == bench.capabilities


def test_a_session_from_a_seed_is_that_of_a_run(client: Any, bench: Bench) -> None:
    client.ask("reset", seed=11)
    own = microscope()
    own.begin(session_entropy(11))
    assert bench.acquire() == own.acquire()
    rng = np.random.default_rng(4)
    own.reset(np.random.default_rng(4))
    client.ask("reset", entropy=control.draw_entropy(rng))
    assert bench.acquire() == own.acquire()


def test_inputs_are_exact_and_the_status_says_where_they_led(client: Any, bench: Bench) -> None:
    first = client.ask("reset", seed=1)
    assert (first["inputs"], first["exposures"], first["cumulative_nm"]) == (0, 0, [0.0, 0.0, 0.0])
    state = bench.truth().state_nm
    for delta in ([0.1, -1 / 3, 1e-3], [-7.7, 5.0, 0.0]):
        told = client.ask("apply", delta_nm=delta)
        state = state + np.array(delta)
        assert bench.truth().state_nm.tobytes() == state.tobytes()
    assert told["inputs"] == 2
    np.testing.assert_array_equal(told["cumulative_nm"], np.add([0.1, -1 / 3, 1e-3], [-7.7, 5.0, 0.0]))
    assert told["clock_s"] == client.ask("clock")["clock_s"] == 0.25
    assert client.ask("status") == told
    assert client.ask("truth")["state_nm"] == state.tolist()


def test_a_numbered_input_counts_once(client: Any, bench: Bench) -> None:
    session = client.ask("reset", seed=1)["session"]
    state = bench.truth().state_nm
    first = client.ask("apply", delta_nm=[1.0, 2.0, 3.0], input=1, session=session)
    assert client.ask("apply", delta_nm=[1.0, 2.0, 3.0], input=1, session=session) == first
    for which, delta in ((1, [1.0, 2.0, 3.5]), (3, [1.0, 2.0, 3.0]), (0, [1.0, 2.0, 3.0])):
        assert client.ask("apply", delta_nm=delta, input=which)["code"] == INVALID_PARAMS
    np.testing.assert_array_equal(bench.truth().state_nm, state + np.array([1.0, 2.0, 3.0]))
    # The number belongs to the session: after a reset an input with the same number is a new one.
    client.ask("reset", seed=1)
    assert client.ask("apply", delta_nm=[1.0, 2.0, 3.0], input=1, session=session)["code"] == rpc.NO_SESSION
    np.testing.assert_array_equal(bench.truth().state_nm, state)
    assert client.ask("apply", delta_nm=[1.0, 2.0, 3.0], input=1)["inputs"] == 1
    np.testing.assert_array_equal(bench.truth().state_nm, state + np.array([1.0, 2.0, 3.0]))


def test_an_exposure_is_told_with_its_digest(client: Any, bench: Bench) -> None:
    client.ask("reset", seed=1)
    assert client.ask("exposure")["code"] == rpc.NO_SESSION
    assert client.ask("stage") == {"region": "film 0"}
    before = client.ask("dose")
    frame = bench.acquire()
    note = control.parse_exposure(client.ask("exposure"))
    assert (note.number, note.dose_e, note.exposure_s) == (1, frame.dose_e, frame.exposure_s)
    assert (note.clock_s, dict(note.settings)) == (frame.clock_s, dict(frame.settings))
    assert note.sha256 == service.counts_digest(frame)
    assert client.ask("stage") == {"region": "film 1"}
    assert before["next_e"] == frame.dose_e
    assert client.ask("dose")["spent"]["exposure_s"] == frame.exposure_s
    client.ask("reset", seed=1)
    assert client.ask("exposure")["code"] == rpc.NO_SESSION


def test_the_truth_is_hidden_unless_the_bench_tells_it() -> None:
    with FAKES.served(microscope(), Bench(microscope())) as bench, FAKES.Raw(bench.ports["control"]) as raw:
        raw.ask("reset", seed=1)
        told = raw.ask("truth")
        assert told["code"] == rpc.NOT_AVAILABLE
        assert "--expose-truth" in told["message"]
        state = [str(value)[:8] for value in bench.microscope.truth().state_nm]
        raw.ask("apply", delta_nm=[1.0, 1.0, 1.0])
        bench.acquire()
        for method in (name for name in control.METHODS if name not in ("reset", "apply")):
            text = json.dumps(raw.ask(method))
            assert not any(value in text for value in state), method


def test_a_scan_plan_is_told_where_there_is_one() -> None:
    assert ask(Control(Bench(microscope())), "scanPlan")["code"] == rpc.NOT_AVAILABLE
    made = Bench(microscope(), ScanSettings(ScanPlan(rows=3, columns=4, step_nm=0.1), OPTICS))
    told = ask(Control(made), "scanPlan")
    assert (told["plan"]["rows"], told["plan"]["columns"]) == (3, 4)
    assert told["optics"]["convergence_mrad"] == OPTICS.convergence_mrad


def ask(made: Control, method: str, **params: Any) -> Any:
    text = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    told = json.loads((answer(made.handle, text) or b"").partition(b":")[2][:-1])
    return told["result"] if "result" in told else told["error"]


def test_refusals_move_nothing(client: Any, bench: Bench) -> None:
    client.ask("reset", seed=1)
    state = bench.truth().state_nm
    for method, params, code, words in (
        ("aply", {"delta_nm": [0, 0, 0]}, UNKNOWN_METHOD, "did you mean apply?"),
        ("apply", {"delta": [0, 0, 0]}, INVALID_PARAMS, "did you mean delta_nm?"),
        ("apply", {"delta_nm": [0, 0]}, INVALID_PARAMS, "list of 3 numbers"),
        ("apply", {"delta_nm": [0, "1", 0]}, INVALID_PARAMS, "delta_nm[1] is a number"),
        ("apply", {"delta_nm": [0, 10.5, 0]}, rpc.OUT_OF_RANGE, "C12a"),
        ("reset", {"seed": "1"}, INVALID_PARAMS, "seed is a whole number"),
        ("reset", {"entropy": [1, 2]}, INVALID_PARAMS, "list of 4 numbers"),
    ):
        told = client.ask(method, **params)
        assert told["code"] == code
        assert words in told["message"]
    assert np.array_equal(bench.truth().state_nm, state)
    assert client.ask("status")["inputs"] == 0


def test_before_a_session_there_is_nothing_to_apply() -> None:
    made = Control(Bench(microscope()))
    for method, params in (("apply", {"delta_nm": [0, 0, 0]}), ("stage", {}), ("dose", {}), ("exposure", {})):
        assert ask(made, method, **params)["code"] == rpc.NO_SESSION
    assert ask(made, "clock")["code"] == rpc.FAILED
    assert ask(made, "status")["session"] == ""


def test_ten_thousand_spoilt_payloads_get_answers_and_leave_the_inputs_within_limits(bench: Bench) -> None:
    made, rng, answered, applied = Control(bench), np.random.default_rng(3), 0, 0
    whole = [
        b'{"jsonrpc":"2.0","id":1,"method":"apply","params":{"delta_nm":[1.5,-2.25,3.125],"input":1}}',
        b'{"jsonrpc":"2.0","id":1,"method":"apply","params":{"delta_nm":[1.5,-2.25,3.125]}}',
        b'{"jsonrpc":"2.0","id":1,"method":"reset","params":{"entropy":[1,2,3,4]}}',
        b'{"jsonrpc":"2.0","id":1,"method":"exposure","params":{}}',
    ]
    for case in range(10_000):
        payload = bytearray(whole[case % len(whole)])
        for _ in range(int(rng.integers(1, 3))):
            payload[int(rng.integers(len(payload)))] = int(rng.choice(np.frombuffer(b'0123456789-.e[]{}",a', np.uint8)))
        told = answer(made.handle, bytes(payload))
        assert told is None or (len(told) < 2048 and told.endswith(b"},"))
        answered += told is not None
        applied += b'"result"' in (told or b"") and case % 4 < 2
        assert np.all(np.abs(bench.cumulative_nm) <= SPACE.input)
    assert answered > 9000
    assert applied > 50
