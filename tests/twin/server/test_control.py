"""The control channel: sessions from a seed, exact inputs, and no truth unless the bench tells it."""

import json
import re
import types
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import served

from agents.sources.merlin import MerlinSource, Options
from benchmarks.wire.mutations import SETUP
from twin.day import Day
from twin.instrument.merlin_control import MerlinControl
from twin.optics import AliasingError, Optics
from twin.options import OptionError
from twin.scan.plan import ScanPlan
from twin.server.bench import LAST_S, Bench, ScanSettings, session_entropy
from twin.server.control import Control
from twin.server.frame_supply import PreparedScan, ScanSupply
from twin.server.merlin_camera import MerlinCamera
from twin.server.rpc import answer
from twin.simulated import SimulatedMicroscope
from twin.state import StateSpace
from twin.wire import control, rpc
from twin.wire.merlin_commands import Command
from twin.wire.netstring import INVALID_PARAMS, UNKNOWN_METHOD, RpcError

OPTICS = Optics(grid=256, sampling_nm=0.025, camera_pixels=64, binning=3)
SERVICE = "control"
SPACE = StateSpace(start_nm=(20.0, 10.0, 10.0), input_nm=(20.0, 10.0, 10.0))


def microscope() -> SimulatedMicroscope:
    return SimulatedMicroscope(OPTICS, SPACE, Day(command_latency_s=0.125))


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
    assert note.sha256 == control.counts_digest(frame.counts)
    assert client.ask("stage") == {"region": "film 1"}
    assert before["next_e"] == frame.dose_e
    assert client.ask("dose")["spent"]["exposure_s"] == frame.exposure_s
    client.ask("reset", seed=1)
    assert client.ask("exposure")["code"] == rpc.NO_SESSION


def test_the_truth_is_hidden_unless_the_bench_tells_it() -> None:
    with served.served(microscope(), Bench(microscope())) as bench, served.Raw(bench.ports["control"]) as raw:
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


PLAN = ScanPlan(rows=2, columns=3, step_nm=0.1, dwell_s=1e-4, dose_e=1e5)


def scanning_microscope() -> SimulatedMicroscope:
    day = Day(focal_spread_nm=0.0, source_size_nm=0.0)
    small = StateSpace(start_nm=(2.0, 1.0, 1.0), input_nm=(2.0, 1.0, 1.0))
    return SimulatedMicroscope(OPTICS, small, day, scan=SETUP)


def scanning_bench(**settings: Any) -> Bench:
    made = Bench(scanning_microscope(), ScanSettings(PLAN, SETUP.optics, **{"largest_count": 4095, **settings}))
    made.reset_to(3)
    return made


@pytest.fixture
def scanner() -> Iterator[tuple[Bench, Any]]:
    """A bench that scans, over the wire."""
    bench = scanning_bench()
    next(bench.scan())  # compiles what a first position needs: a client would wait for it
    with served.served(bench.microscope, bench, scan=True), served.Raw(bench.ports["control"]) as raw:
        yield bench, raw


def in_process(plan: ScanPlan, seed: int = 3) -> np.ndarray:
    own = scanning_microscope()
    own.begin(session_entropy(seed))
    return np.concatenate([block.frames for block in own.scan(plan)])


def over_the_wire(bench: Bench) -> np.ndarray:
    with MerlinControl("127.0.0.1", bench.ports["merlin_control"]) as camera:
        camera.set("STEMMODE", "SCAN")
    options = Options(control_port=bench.ports["merlin_control"], start=True)
    with MerlinSource("127.0.0.1", bench.ports["merlin_data"], options) as source:
        return np.concatenate([np.asarray(block.frames) for block in source.blocks()])


def test_a_scan_that_was_set_over_the_wire_has_the_bytes_of_one_in_process(scanner: tuple[Bench, Any]) -> None:
    bench, raw = scanner
    raw.ask("reset", seed=3)
    told = raw.ask("setScanPlan", plan={"rows": 3, "dwell_s": 2e-4, "rotation_deg": 30, "centre_nm": [0.7, 1.2]})
    wanted = replace(PLAN, rows=3, dwell_s=2e-4, rotation_deg=30.0, centre_nm=(0.7, 1.2))
    assert bench.scan_settings is not None
    assert bench.scan_settings.plan == wanted
    assert (told["positions"], told["duration_s"]) == (9, pytest.approx(9 * 2e-4))
    with MerlinControl("127.0.0.1", bench.ports["merlin_control"]) as camera:
        camera.set("STEMMODE", "SCAN")
        assert (camera.get("NUMFRAMESTOACQUIRE"), camera.get("ACQUISITIONTIME")) == ("9", "0.2")
    frames = over_the_wire(bench)
    assert frames.sum() > 1000
    np.testing.assert_array_equal(frames, in_process(wanted))
    assert not np.array_equal(frames[:6], in_process(PLAN))


def test_a_scan_lies_where_the_stage_is(scanner: tuple[Bench, Any]) -> None:
    bench, raw = scanner
    raw.ask("reset", seed=3)
    first = raw.ask("stage")
    assert first["region"] == "film 0"
    np.testing.assert_allclose((first["position_nm"], first["specimen_nm"]), ([0.781, 0.97625], [1.562, 1.9525]))
    assert raw.ask("setStage", position_nm=[0.5, 1.5])["position_nm"] == [0.5, 1.5]
    np.testing.assert_array_equal(over_the_wire(bench), in_process(replace(PLAN, centre_nm=(0.5, 1.5))))
    # A new session begins where sessions begin; the plan is the operator's and stays.
    raw.ask("setScanPlan", plan={"columns": 2})
    raw.ask("reset", seed=3)
    assert raw.ask("stage") == first
    np.testing.assert_array_equal(over_the_wire(bench), in_process(replace(PLAN, columns=2)))


def test_the_page_s_client_sets_a_scan() -> None:
    page = (Path(__file__).parents[3] / "docs" / "remote.md").read_text()
    client: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", page, re.S)[0], client)
    with served.served(microscope(), scanning_bench()) as bench:
        assert client["scan_here"]("127.0.0.1", bench.ports["control"], 0.8, 0.9) == pytest.approx(32 * 32 * 1e-4)
        assert (bench.stage_nm, bench.scan_settings and bench.scan_settings.plan.shape) == ((0.8, 0.9), (32, 32))


def test_ronchigrams_stay_on_the_film_that_the_stage_was_sent_to(client: Any, bench: Bench) -> None:
    client.ask("reset", seed=1)
    fresh = [bench.acquire().counts for _ in range(3)]
    client.ask("reset", seed=1)
    assert client.ask("setStage", region="film 2") == {"region": "film 2"}
    assert client.ask("status")["region"] == "film 2"
    first, second, third = (bench.acquire().counts for _ in range(3))
    np.testing.assert_array_equal(third, fresh[2])
    # The same film, other noise: more alike than two films, though most of the difference is noise.
    unlike = float(np.std(fresh[2].astype(float) - fresh[1]))
    assert max(float(np.std(first - third.astype(float))), float(np.std(second - third.astype(float)))) < 0.85 * unlike
    assert bench.microscope.cost.plain()["regions"] == 1
    assert client.ask("setStage", region="auto") == {"region": "film 3"}
    client.ask("setStage", region="film 7")
    client.ask("reset", seed=1)
    assert client.ask("stage") == {"region": "film 0"}
    np.testing.assert_array_equal(bench.acquire().counts, fresh[0])


@pytest.mark.parametrize(
    ("method", "params", "code", "words"),
    [
        ("setScanPlan", {"plan": {"rows": 30}}, rpc.OUT_OF_RANGE, "the specimen spans 0 to 1.9525 nm"),
        ("setScanPlan", {"plan": {"centre_nm": [0.05, 1.0]}}, rpc.OUT_OF_RANGE, "the scan goes from -0.05"),
        ("setScanPlan", {"plan": {"dwell_s": 9e-6}}, rpc.OUT_OF_RANGE, "shorter than the camera's read-out of 1e-05"),
        ("setScanPlan", {"plan": {"dwell": 1e-3}}, rpc.OUT_OF_RANGE, "did you mean dwell_s?"),
        ("setScanPlan", {"plan": {"pattern": "rastor"}}, rpc.OUT_OF_RANGE, "did you mean raster?"),
        ("setScanPlan", {"plan": {"pattern": "list"}}, rpc.OUT_OF_RANGE, "needs positions_nm"),
        ("setScanPlan", {"plan": {"rows": 0}}, rpc.OUT_OF_RANGE, "rows: input should be greater than 0"),
        ("setScanPlan", {"plan": {"rows": 10**60}}, rpc.OUT_OF_RANGE, "rows"),
        ("setScanPlan", {"plan": {"rows": "3"}}, INVALID_PARAMS, "plan.rows is a number"),
        ("setScanPlan", {"plan": {"rows": True}}, INVALID_PARAMS, "plan.rows is a number"),
        ("setScanPlan", {"plan": [1]}, INVALID_PARAMS, "plan is an object"),
        ("setScanPlan", {}, INVALID_PARAMS, "needs the parameter plan"),
        ("setStage", {"position_nm": [-0.1, 1.0]}, rpc.OUT_OF_RANGE, "x = -0.1 nm is off the specimen"),
        ("setStage", {"position_nm": [0.5, 1.96]}, rpc.OUT_OF_RANGE, "y = 1.96 nm is off the specimen"),
        ("setStage", {"position_nm": [0.05, 1.0]}, rpc.OUT_OF_RANGE, "the scan goes from -0.05"),
        ("setStage", {"position_nm": [0.5]}, INVALID_PARAMS, "list of 2 numbers"),
        ("setStage", {"region": "film -1"}, INVALID_PARAMS, "'film N'"),
        ("setStage", {"region": "7"}, INVALID_PARAMS, "'film N'"),
        ("setStage", {"region": 7}, INVALID_PARAMS, "'film N'"),
        ("setStage", {"region": "film 2", "position_nm": [9.0, 9.0]}, rpc.OUT_OF_RANGE, "off the specimen"),
        ("setStage", {}, INVALID_PARAMS, "a region, a position_nm, or both"),
    ],
)
def test_a_scan_or_a_place_that_cannot_be_is_refused_before_anything_is_computed(
    scanning: Control, method: str, params: dict[str, Any], code: int, words: str
) -> None:
    before = ask(scanning, "scanPlan"), ask(scanning, "stage"), ask(scanning, "status")
    told = ask(scanning, method, **params)
    assert (told["code"], words in told["message"]) == (code, True), told
    assert (ask(scanning, "scanPlan"), ask(scanning, "stage"), ask(scanning, "status")) == before


EXTREMES = (1e308, -1e308, 1e16, 1e9 + 1.0, 2**53 + 1, 2**64, 10**60, -1, 0, 5e-324, 1e-13)


@pytest.mark.parametrize(
    "name", ["dwell_s", "flyback_s", "settle_s", "step_nm", "rotation_deg", "dose_e", "rows", "columns", "pattern_seed"]
)
def test_a_value_that_no_later_step_can_represent_is_not_kept(name: str) -> None:
    """What is taken is told, and scanned; after a refusal the plan, the session and the next reset are as before."""
    made = scanning_bench()
    server, refused = Control(made), 0
    for value in EXTREMES:
        before = ask(server, "scanPlan")
        told = ask(server, "setScanPlan", plan={name: value})
        after = ask(server, "scanPlan")
        if "code" in told:
            refused += 1
            assert (told["code"] in (rpc.OUT_OF_RANGE, INVALID_PARAMS), after) == (True, before), (value, told)
        else:
            assert after == told
            assert after["plan"][name] == value
            assert 0.0 < after["duration_s"] < 1e9
            made.check_plan(ScanPlan(**{**asdict(PLAN), name: value}))
        assert ask(server, "reset", seed=3)["inputs"] == 0
    assert refused >= 6


def test_a_session_ends_before_its_clock_outgrows_what_an_answer_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    made = scanning_bench()
    server, offset = Control(made), [0.0]
    real = SimulatedMicroscope.clock_s.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(SimulatedMicroscope, "clock_s", property(lambda self: real(self) + offset[0]))
    long = {"rows": 1, "columns": 2, "dwell_s": 1e5}
    assert ask(server, "setScanPlan", plan=long)["duration_s"] == 2e5
    offset[0] = LAST_S - 1e5
    before = ask(server, "status"), ask(server, "scanPlan")
    told = ask(server, "setScanPlan", plan={"rows": 2})
    assert (told["code"], "reset begins another one" in told["message"]) == (rpc.OUT_OF_RANGE, True)
    with pytest.raises(ValueError, match=r"beyond the 9.99e\+08 s that a session can last"):
        made.scan()
    assert ask(server, "apply", delta_nm=[0.5, 0.0, 0.0])["inputs"] == 1  # a command takes no such time
    offset[0] = LAST_S + 1.0
    told = ask(server, "apply", delta_nm=[0.5, 0.0, 0.0])
    assert (told["code"], "the session's clock" in told["message"]) == (rpc.OUT_OF_RANGE, True)
    with pytest.raises(ValueError, match="reset begins another one"):
        made.acquire()
    assert ask(server, "status")["inputs"] == before[0]["inputs"] + 1
    assert ask(server, "scanPlan") == before[1]
    offset[0] = 0.0
    assert ask(server, "reset", seed=3)["inputs"] == 0
    assert made.acquire().counts.size


@pytest.mark.parametrize("number", [0, 7, 2**31, 2**53, 2**64, 10**30])
def test_a_film_that_is_taken_can_be_exposed_and_told(number: int) -> None:
    made = scanning_bench()
    server, before = Control(made), ask(Control(made), "stage")
    told = ask(server, "setStage", region=f"film {number}")
    if "code" in told:
        assert (told["code"], ask(server, "stage")) == (INVALID_PARAMS, before)
    else:
        assert ask(server, "status")["region"] == f"film {number}"
        assert made.acquire().counts.sum() > 0
    assert number >= 2**31 or "code" not in told


@pytest.fixture(scope="module")
def scanning() -> Control:
    return Control(scanning_bench())


def test_the_refusal_is_the_one_in_process(scanning: Control) -> None:
    for changes in ({"rows": 30}, {"dwell_s": 9e-6}, {"centre_nm": (1.6, 0.2)}):
        own = scanning_microscope()
        own.begin(session_entropy(3))
        with pytest.raises(ValueError) as refused:
            own.scan(replace(PLAN, **changes))
        assert ask(scanning, "setScanPlan", plan=changes)["message"] == str(refused.value)


def test_a_scan_can_be_set_before_it_can_be_made() -> None:
    far = Bench(
        SimulatedMicroscope(OPTICS, SPACE, Day(), scan=SETUP), ScanSettings(PLAN, SETUP.optics, largest_count=4095)
    )
    far.reset_to(3)
    far.apply(SPACE.input * np.sign(far.microscope.truth().state_nm))
    with pytest.raises(AliasingError):
        far.scan()
    assert ask(Control(far), "setScanPlan", plan={"rows": 4})["positions"] == 12


def test_a_scan_that_has_begun_goes_on_with_its_own_plan() -> None:
    made = scanning_bench()
    supply = ScanSupply(made)
    begun = supply.now()
    batches = begun.batches(12, begun.format.frames)
    first = next(batches)
    ask(Control(made), "setScanPlan", plan={"rows": 5, "columns": 1})
    assert (supply.format.frames, begun.format.frames) == (5, 6)
    assert begun.about(6, 3, 12).scan == (2, 3)
    frames = sum(len(batch.messages) for batch in batches) + len(first.messages)
    assert frames == 6


def test_an_armed_camera_shows_the_scan_that_it_was_armed_for() -> None:
    made = scanning_bench()
    camera = MerlinCamera({"SCAN": ScanSupply(made)})
    camera.answer(Command("CMD", "STARTACQUISITION"))
    ask(Control(made), "setScanPlan", plan={"rows": 5})
    job = camera.next_job(types.SimpleNamespace(check=lambda: None, gone=False))
    assert job is not None
    assert (job.frames, job.supply.format.frames, camera.supply.format.frames) == (6, 6, 15)


def test_a_prepared_scan_stays_what_it_is() -> None:
    made = scanning_bench()
    PreparedScan(made)
    for method, params in (("setScanPlan", {"plan": {"rows": 1}}), ("setStage", {"position_nm": [0.7, 1.0]})):
        told = ask(Control(made), method, **params)
        assert (told["code"], "--prepare" in told["message"]) == (rpc.NOT_AVAILABLE, True)
    assert ask(Control(made), "setStage", region="film 4")["region"] == "film 4"


def test_an_event_camera_scans_only_what_its_stream_can_number() -> None:
    made = Control(scanning_bench(events=True, largest_count=None))
    told = ask(made, "setScanPlan", plan={"pattern": "serpentine"})
    assert (told["code"], "raster order" in told["message"]) == (rpc.OUT_OF_RANGE, True)
    assert ask(made, "setScanPlan", plan={"pattern": "list", "positions_nm": [[0, 0], [0.1, 0]]})["positions"] == 2


def test_without_a_scan_there_is_a_film_and_nothing_else_to_move() -> None:
    made = Bench(microscope())
    made.reset_to(1)
    for method, params in (("setScanPlan", {"plan": {}}), ("setStage", {"position_nm": [0.0, 0.0]})):
        assert ask(Control(made), method, **params)["code"] == rpc.NOT_AVAILABLE
    assert ask(Control(made), "setStage", region="film 3") == {"region": "film 3"}


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
    for method, params in (
        ("apply", {"delta_nm": [0, 0, 0]}),
        ("stage", {}),
        ("setStage", {"region": "film 1"}),
        ("setScanPlan", {"plan": {}}),
        ("dose", {}),
        ("exposure", {}),
    ):
        assert ask(made, method, **params)["code"] == rpc.NO_SESSION
    assert ask(made, "clock")["code"] == rpc.FAILED
    assert ask(made, "status")["session"] == ""


def test_ten_thousand_spoilt_payloads_get_answers_and_leave_the_inputs_within_limits(bench: Bench) -> None:
    made, rng, answered, applied, stayed = Control(bench), np.random.default_rng(3), 0, 0, 0
    whole = [
        b'{"jsonrpc":"2.0","id":1,"method":"apply","params":{"delta_nm":[1.5,-2.25,3.125],"input":1}}',
        b'{"jsonrpc":"2.0","id":1,"method":"apply","params":{"delta_nm":[1.5,-2.25,3.125]}}',
        b'{"jsonrpc":"2.0","id":1,"method":"reset","params":{"entropy":[1,2,3,4]}}',
        b'{"jsonrpc":"2.0","id":1,"method":"setStage","params":{"region":"film 12"}}',
    ]
    for case in range(10_000):
        payload = bytearray(whole[case % len(whole)])
        for _ in range(int(rng.integers(1, 3))):
            payload[int(rng.integers(len(payload)))] = int(rng.choice(np.frombuffer(b'0123456789-.e[]{}",a', np.uint8)))
        told = answer(made.handle, bytes(payload))
        assert told is None or (len(told) < 2048 and told.endswith(b"},"))
        answered += told is not None
        applied += b'"result"' in (told or b"") and case % 4 < 2
        stayed += b'"region": "film ' in (told or b"") or b'"region":"film ' in (told or b"")
        assert np.all(np.abs(bench.cumulative_nm) <= SPACE.input)
    assert answered > 9000
    assert applied > 50
    assert stayed > 50


def test_ten_thousand_spoilt_plans_are_plans_or_refused() -> None:
    whole = json.dumps({**asdict(PLAN), "pattern": "list", "positions_nm": [[0.5, -0.25], [1e-3, 2.0]]}).encode()
    alphabet = np.frombuffer(b'0123456789-.e[]{}",atrue ', np.uint8)
    rng, accepted, refused, longest = np.random.default_rng(5), 0, 0, 0
    for _ in range(10_000):
        payload = bytearray(whole)
        for _ in range(int(rng.integers(1, 3))):
            payload[int(rng.integers(len(payload)))] = int(rng.choice(alphabet))
        try:
            given = json.loads(bytes(payload))
        except ValueError:
            continue
        try:
            plan = control.parse_plan({"plan": given}, PLAN)
        except (OptionError, RpcError) as error:
            refused, longest = refused + 1, max(longest, len(str(error)))
        else:
            accepted += 1
            assert 0 < plan.count < 2**41
            assert plan.dwell_s > 0
    assert min(accepted, refused) > 300
    assert longest < 600
