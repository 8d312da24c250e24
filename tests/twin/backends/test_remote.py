"""A microscope over the wire: the same as in process, and what becomes of it when lines and devices misbehave."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from fakes import served
from fakes.listening import listening
from fakes.sessions import session

from twin.backends import remote
from twin.day import ActuatorProperties, Day
from twin.instrument import operator
from twin.instrument.abilities import HasRegion, ReadsBack, Resumable, TellsDose
from twin.instrument.audit import AuditLog, read
from twin.instrument.faults import AnotherClient, CommandTimeout, MicroscopeFault, OutOfReach, StaleFrame, Stopped
from twin.instrument.limits import Limits
from twin.instrument.recorder import repeats_sessions
from twin.instrument.safety import SafeMicroscope
from twin.optics import Optics
from twin.options import OptionError
from twin.server.bench import Bench, session_entropy
from twin.simulated import SimulatedMicroscope
from twin.state import SECOND_ORDER, StateSpace
from twin.types import HasTruth
from twin.wire import ceos, control, rpc

OPTICS = Optics(convergence_mrad=14.0, grid=256, sampling_nm=0.05, camera_pixels=64, binning=4)
SPACE = StateSpace(start_nm=(20.0, 10.0, 10.0), input_nm=(60.0, 40.0, 40.0))
QUICK = {"timeout_s": 0.5, "frame_timeout_s": 0.5}
LIMITS = Limits(retries=2, retry_wait_s=0.0, timeout_s=5.0)
INPUTS = [np.array(delta) for delta in ([3.0, -2.0, 1.0], [0.1, -1 / 3, 1e-3], [-5.0, 4.0, 0.0], [2.0, 2.0, -2.0])]


def simulated(space: StateSpace = SPACE, day: Day | None = None, optics: Optics = OPTICS) -> SimulatedMicroscope:
    return SimulatedMicroscope(optics, space, day or Day())


class Rig:
    """A served twin with a proxy before every service, and microscopes that go through them."""

    def __init__(self, bench: Bench, proxies: dict[str, Any]) -> None:
        self.bench, self.proxies = bench, proxies

    @property
    def state_nm(self) -> np.ndarray:
        return self.bench.truth().state_nm

    def microscope(self, **options: Any) -> Any:
        ports = {name: proxy.port for name, proxy in self.proxies.items()}
        capabilities = self.bench.capabilities
        given = {
            "port": ports["control"],
            "corrector_port": ports["corrector"],
            "camera_port": ports["merlin_control"],
            "data_port": ports["merlin_data"],
            **QUICK,
            **options,
        }
        return remote.make(given, capabilities.optics, capabilities.space)


@contextmanager
def rigged(microscope: SimulatedMicroscope | None = None, bench: Bench | None = None) -> Iterator[Rig]:
    with ExitStack() as stack:
        made = stack.enter_context(served.served(microscope or simulated(), bench))
        kinds = {"corrector": "netstring", "control": "netstring", "merlin_control": "merlin", "merlin_data": "merlin"}
        yield Rig(made, {n: stack.enter_context(served.Proxy(kind, made.ports[n])) for n, kind in kinds.items()})


@pytest.fixture
def rig() -> Iterator[Rig]:
    with rigged() as made:
        yield made


def log_of(path: Path, event: str) -> list[Any]:
    return [entry for entry in read(path) if entry["event"] == event]


# --- the same as in process ----------------------------------------------------------------------


def test_frames_and_truth_are_those_of_the_simulator(rig: Rig) -> None:
    far, near = rig.microscope(truth=True), simulated()
    for seed in (1, 2):
        assert session(far, INPUTS, seed) == session(near, INPUTS, seed)
        assert far.truth().state_nm.tobytes() == near.truth().state_nm.tobytes()
        assert far.truth().initial_nm.tobytes() == near.truth().initial_nm.tobytes()
    # A generator that is used twice gives two sessions, the same ones here and there.
    rng, own = np.random.default_rng(5), np.random.default_rng(5)
    for _ in range(2):
        far.reset(rng)
        near.reset(own)
        assert far.acquire() == near.acquire()
    assert rng.bit_generator.state == own.bit_generator.state
    far.close()


def test_a_counter_that_holds_less_is_not_a_problem() -> None:
    day = Day(dose_e=1e8)
    with rigged(simulated(day=day)) as rig:
        near = simulated(day=day)
        near.reset(np.random.default_rng(1))
        far = rig.microscope()
        far.reset(np.random.default_rng(1))
        frame = far.acquire()
        assert frame == near.acquire()
        assert frame.counts.max() > 4095
        far.close()


def test_the_second_order_goes_over_the_wire_too() -> None:
    optics = Optics(convergence_mrad=14.0, grid=512, sampling_nm=0.05, camera_pixels=64, binning=4)
    delta = np.array([1.0, -2.0, 3.0, 10.0, -20.0, 30.0, -40.0])
    with rigged(simulated(SECOND_ORDER, optics=optics)) as rig:
        for options in ({}, {"control": False}):
            far = rig.microscope(**options)
            far.reset(np.random.default_rng(1))
            before = rig.state_nm
            far.apply(delta)
            np.testing.assert_allclose(rig.state_nm - before, delta, atol=1e-9)
            far.close()


def test_it_is_what_its_services_make_it(rig: Rig) -> None:
    bare, whole, scored = (rig.microscope(**options) for options in ({"control": False}, {}, {"truth": True}))
    assert [isinstance(one, HasTruth) for one in (bare, whole, scored)] == [False, False, True]
    for protocol, of_bare in ((ReadsBack, False), (HasRegion, False), (TellsDose, True)):
        assert [isinstance(one, protocol) for one in (bare, whole)] == [of_bare, True]
    assert not isinstance(bare, Resumable)
    assert [repeats_sessions(one) for one in (bare, whole, scored)] == [False, True, True]
    assert repeats_sessions(SafeMicroscope(whole, LIMITS))
    whole.reset(np.random.default_rng(1))
    assert (whole.region(), whole.next_dose_e()) == ("film 0", Day().dose_e)
    whole.acquire()
    assert whole.region() == "film 1"
    np.testing.assert_array_equal(whole.read_back_nm(), [0.0, 0.0, 0.0])
    whole.apply(INPUTS[1])
    assert whole.read_back_nm().tobytes() == (INPUTS[1] + 0.0).tobytes()
    whole.close()


# --- corrector and camera alone ------------------------------------------------------------------


def test_an_instrument_of_corrector_and_camera_follows(rig: Rig) -> None:
    far = rig.microscope(control=False, beam_current_a=1e-12)
    start = rig.state_nm
    far.reset(np.random.default_rng(9))
    assert np.array_equal(rig.state_nm, start)
    total = np.zeros(3)
    for delta in INPUTS:
        far.apply(delta)
        total += delta
        np.testing.assert_allclose(rig.state_nm - start, total, atol=1e-9)
        frame = far.acquire()
        assert np.array_equal(frame.counts, rig.bench.latest.counts)
        assert frame.exposure_s == rig.bench.latest.exposure_s
        assert frame.dose_e == pytest.approx(1e-12 * frame.exposure_s / 1.602176634e-19)
        assert far.next_dose_e() == frame.dose_e
    far.close()


def test_a_corrector_that_adds_its_value_is_told_the_other_sign(rig: Rig) -> None:
    far = rig.microscope(control=False, value_is="offset")
    far.reset(np.random.default_rng(0))
    start = rig.state_nm
    far.apply(np.array([3.0, -2.0, 1.0]))
    np.testing.assert_allclose(rig.state_nm - start, [-3.0, 2.0, -1.0], atol=1e-9)
    far.close()


def test_what_was_moved_before_a_refusal_is_taken_back(rig: Rig) -> None:
    """C1 is moved, A1 is refused."""
    far = rig.microscope(control=False)
    far.reset(np.random.default_rng(0))
    start = rig.state_nm
    rig.bench.apply(np.array([0.0, 39.0, 0.0]))
    with pytest.raises(OutOfReach, match="C12a"):
        far.apply(np.array([5.0, 3.0, 0.0]))
    np.testing.assert_allclose(rig.state_nm - start, [0.0, 39.0, 0.0], atol=1e-9)
    far.apply(np.array([5.0, -3.0, 0.0]))
    np.testing.assert_allclose(rig.state_nm - start, [5.0, 36.0, 0.0], atol=1e-9)
    far.close()


def test_what_was_moved_before_silence_is_taken_back(rig: Rig) -> None:
    """C1 is moved, nothing is heard of A1: that one alone is not known."""
    far = rig.microscope(control=False)
    far.reset(np.random.default_rng(0))
    start = rig.state_nm
    rig.proxies["corrector"].requests += [lambda message: [message], served.drop]
    with pytest.raises(CommandTimeout, match="no answer"):
        far.apply(np.array([5.0, 3.0, 0.0]))
    np.testing.assert_allclose(rig.state_nm, start, atol=1e-9)
    far.close()


def busy(message: bytes) -> list[bytes]:
    text = b'{"jsonrpc":"2.0","id":%d,"error":{"code":-32001,"message":"busy; nothing has moved"}}'
    which = int(message.partition(b'"id":')[2].partition(b",")[0])
    return [b"%d:%b," % (len(text % which), text % which)]


def test_a_busy_corrector_is_asked_again(rig: Rig, tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    far = SafeMicroscope(rig.microscope(control=False), LIMITS, AuditLog(log))
    far.reset(np.random.default_rng(0))
    start = rig.state_nm
    # An answer made up by the proxy: the request must not arrive.
    proxy = rig.proxies["corrector"]
    proxy.requests += [lambda message: _answered(proxy, busy(message)[0])]
    far.apply(np.array([3.0, 2.0, 1.0]))
    np.testing.assert_allclose(rig.state_nm - start, [3.0, 2.0, 1.0], atol=1e-9)
    assert [entry["kind"] for entry in log_of(log, "fault")] == ["ActuatorBusy"]


def _answered(proxy: Any, answer: bytes) -> list[bytes]:
    proxy.answer(answer)
    return []


def test_a_silent_corrector_ends_the_session_and_nobody_pretends_to_know(rig: Rig, tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    far = SafeMicroscope(rig.microscope(control=False), LIMITS, AuditLog(log))
    far.reset(np.random.default_rng(0))
    far.acquire()
    rig.proxies["corrector"].replies += [served.drop]
    with pytest.raises(Stopped, match=r"NOT restored.*whether the last command moved the corrector is not known"):
        far.apply(np.array([3.0, 0.0, 0.0]))
    assert log_of(log, "not restored")
    with pytest.raises(Stopped):
        far.acquire()


def test_nobody_notices_a_lie_of_a_corrector_that_cannot_be_read() -> None:
    with rigged(simulated(day=Day(actuator=ActuatorProperties(gain=1.03)))) as rig:
        far = SafeMicroscope(rig.microscope(control=False), LIMITS)
        far.reset(np.random.default_rng(0))
        start = rig.state_nm
        far.apply(np.array([10.0, 0.0, 0.0]))
        far.acquire()
        np.testing.assert_allclose(rig.state_nm - start, [10.3, 0.0, 0.0], atol=1e-9)


# --- frames --------------------------------------------------------------------------------------

FRAME_FAULTS = {
    "dropped": (["drop"], {"CommandTimeout"}),
    "dropped twice": (["drop", "drop"], {"CommandTimeout"}),
    "doubled": (["double"], set()),
    "corrupted": (["corrupt"], {"BadFrame"}),
    "no header": (["spoil_header"], {"BadFrame"}),
    "cut short": (["cut_short"], {"CommandTimeout"}),
    "stale": (["hold"], {"CommandTimeout", "BadFrame"}),
    "hung up": (["hang_up"], {"MicroscopeFault"}),
}
SEEN_BY_DIGEST = {"corrupted", "stale"}


@pytest.mark.parametrize(
    ("fault", "with_control"),
    # Without its digest a frame that looks like one is taken for one.
    [(fault, both) for fault in sorted(FRAME_FAULTS) for both in (True, False) if both or fault not in SEEN_BY_DIGEST],
)
def test_a_run_goes_on_after_a_bad_frame_and_never_takes_it_for_a_good_one(
    fault: str, with_control: bool, rig: Rig, tmp_path: Path
) -> None:
    names, kinds = FRAME_FAULTS[fault]
    proxy, log = rig.proxies["merlin_data"], tmp_path / "audit.jsonl"
    far = SafeMicroscope(rig.microscope(control=with_control), LIMITS, AuditLog(log))
    far.reset(np.random.default_rng(1))
    start = rig.state_nm
    for step, delta in enumerate(INPUTS):
        if step == 1:
            proxy.replies += [proxy.hold if name == "hold" else getattr(served, name) for name in names]
        far.apply(delta)
        frame = far.acquire()
        assert np.array_equal(frame.counts, rig.bench.latest.counts)
        assert not with_control or frame == rig.bench.latest
        np.testing.assert_allclose(rig.state_nm - start, sum(INPUTS[: step + 1]), atol=1e-9)
    assert {entry["kind"] for entry in log_of(log, "fault")} == kinds
    assert len(log_of(log, "frame")) == len(INPUTS)
    assert len(log_of(log, "exposure")) == len(INPUTS) + len(log_of(log, "fault"))


@pytest.mark.parametrize("with_control", [True, False])
def test_a_camera_that_stays_silent_ends_the_run_at_the_last_good_state(
    with_control: bool, rig: Rig, tmp_path: Path
) -> None:
    log = tmp_path / "audit.jsonl"
    far = SafeMicroscope(rig.microscope(control=with_control, frame_timeout_s=0.2), LIMITS, AuditLog(log))
    far.reset(np.random.default_rng(1))
    far.apply(INPUTS[0])
    far.acquire()
    good = rig.state_nm
    rig.proxies["merlin_data"].replies += [served.drop] * 3
    far.apply(INPUTS[2])
    with pytest.raises(Stopped, match=r"CommandTimeout.*no frame in time; restored to C10 \+3 nm"):
        far.acquire()
    np.testing.assert_allclose(rig.state_nm, good, atol=1e-9)
    events = [entry["event"] for entry in read(log)]
    assert events[-2:] == ["restoring", "restored"]
    assert events.count("fault") == 4


def test_a_frame_that_comes_again_is_passed_over_or_named(rig: Rig) -> None:
    far = rig.microscope(control=False)
    far.reset(np.random.default_rng(1))
    first = far.acquire()
    # The camera sends the old frame instead of the new one.
    kept: list[bytes] = []
    proxy = rig.proxies["merlin_data"]
    proxy.replies += [lambda message: [kept.append(message) or message], lambda message: [kept[0]]]
    second = far.acquire()
    assert second.counts.tobytes() != first.counts.tobytes()
    with pytest.raises(StaleFrame, match="frame 2 arrived again"):
        far.acquire()
    assert np.array_equal(far.acquire().counts, rig.bench.latest.counts)
    far.close()


def test_somebody_else_who_exposes_is_noticed(rig: Rig) -> None:
    far = rig.microscope()
    far.reset(np.random.default_rng(1))
    rig.proxies["merlin_data"].replies += [lambda message: [rig.bench.acquire() and message]]
    with pytest.raises(AnotherClient, match="the session has 2 exposures, and this program triggered 1"):
        far.acquire()
    far.close()


# --- inputs over the control channel -------------------------------------------------------------


@pytest.mark.parametrize("side", ["requests", "replies"])
@pytest.mark.parametrize("what", ["drop", "hang_up"])
def test_an_input_is_applied_once_however_its_line_breaks(side: str, what: str, rig: Rig) -> None:
    far, proxy = rig.microscope(), rig.proxies["control"]
    far.reset(np.random.default_rng(1))
    start = rig.state_nm
    before = proxy.connections
    getattr(proxy, side).append(getattr(served, what))
    far.apply(INPUTS[0])
    np.testing.assert_array_equal(rig.state_nm - start, start + INPUTS[0] - start)
    assert rig.bench.inputs == 1
    assert proxy.connections == before + 1
    far.apply(INPUTS[1])
    assert far.acquire() == rig.bench.latest
    assert rig.bench.inputs == 2
    far.close()


def test_an_input_that_is_lost_for_good_is_found_by_reading_back(rig: Rig, tmp_path: Path) -> None:
    """Twice no answer, though it was applied: the corrector is asked, and the run goes on."""
    log = tmp_path / "audit.jsonl"
    far = SafeMicroscope(rig.microscope(), LIMITS, AuditLog(log))
    far.reset(np.random.default_rng(1))
    far.acquire()
    start, proxy = rig.state_nm, rig.proxies["control"]
    for side in (proxy.replies, proxy.requests):
        side += [served.drop] * 2
        far.apply(INPUTS[0])
        far.acquire()
    np.testing.assert_allclose(rig.state_nm - start, 2 * INPUTS[0], atol=1e-9)
    faults = log_of(log, "fault")
    assert [entry.get("outcome", entry["kind"]) for entry in faults] == ["it had moved nevertheless", "ActuatorBusy"]


def test_a_corrector_that_does_less_than_it_was_told_stops_the_run_where_it_was(tmp_path: Path) -> None:
    class Weak(Bench):
        gain = 1.0

        def apply(self, delta_nm: np.ndarray) -> None:
            super().apply(self.gain * delta_nm)

    weak, log = Weak(simulated(), expose_truth=True), tmp_path / "audit.jsonl"
    with rigged(bench=weak) as rig:
        far = SafeMicroscope(rig.microscope(), LIMITS, AuditLog(log))
        far.reset(np.random.default_rng(1))
        far.apply(INPUTS[0])
        far.acquire()
        good, weak.gain = rig.state_nm, 0.95
        with pytest.raises(
            Stopped, match=r"NotThere: C10 was sent to \+23\.000 nm and reads \+22\.000 nm.*; restored to"
        ):
            far.apply(np.array([20.0, 0.0, 0.0]))
        assert np.max(np.abs(rig.state_nm - good)) < LIMITS.read_back_nm
    assert read(log)[-1]["event"] == "restored"


def test_an_input_beyond_the_twins_range_is_out_of_reach(rig: Rig) -> None:
    far = rig.microscope()
    far.reset(np.random.default_rng(1))
    rig.bench.microscope.apply(np.array([0.0, 38.0, 0.0]))
    with pytest.raises(OutOfReach, match="C12a"):
        far.apply(np.array([0.0, 5.0, 0.0]))
    far.apply(np.array([0.0, 1.0, 0.0]))
    far.close()


# --- servers that go away ------------------------------------------------------------------------


def test_lines_that_break_between_two_steps_are_made_anew(rig: Rig) -> None:
    far, near = rig.microscope(), simulated()
    far.reset(np.random.default_rng(1))
    near.reset(np.random.default_rng(1))
    for step, delta in enumerate(INPUTS):
        far.apply(delta)
        near.apply(delta)
        if step % 2:
            for proxy in rig.proxies.values():
                proxy.cut()
            # The guard would try again.
            with pytest.raises(MicroscopeFault):
                far.acquire()
        frame = far.acquire()
        assert frame.counts.tobytes() == near.acquire().counts.tobytes()
    far.close()


def test_another_session_ends_this_one(rig: Rig, tmp_path: Path) -> None:
    far = SafeMicroscope(rig.microscope(), LIMITS, AuditLog(tmp_path / "audit.jsonl"))
    far.reset(np.random.default_rng(1))
    far.acquire()
    rig.bench.reset_to(3)
    state = rig.state_nm
    with pytest.raises(Stopped, match=r"NOT restored"):
        far.apply(INPUTS[0])
    assert np.array_equal(rig.state_nm, state)
    assert "this one has ended" in str(log_of(tmp_path / "audit.jsonl", "fault"))


def test_a_server_that_is_gone_is_a_fault_with_its_address() -> None:
    with rigged() as rig:
        far = rig.microscope()
        far.reset(np.random.default_rng(1))
        port = rig.proxies["control"].port
    with pytest.raises(MicroscopeFault, match=f"127.0.0.1:{port}"):
        far.apply(INPUTS[0])
    with pytest.raises(MicroscopeFault):
        far.acquire()
    with pytest.raises(MicroscopeFault, match=f"127.0.0.1:{port}"):
        far.reset(np.random.default_rng(1))
    with pytest.raises(RuntimeError, match="before reset"):
        far.apply(INPUTS[0])


def test_a_server_that_hangs_is_waited_for_no_longer_than_agreed(rig: Rig) -> None:
    far = rig.microscope(timeout_s=0.2)
    far.reset(np.random.default_rng(1))
    rig.proxies["control"].requests += [served.drop, served.drop]
    with pytest.raises(CommandTimeout, match=r"no answer within 0\.2 s"):
        far.apply(INPUTS[0])
    far.close()


# --- access and options --------------------------------------------------------------------------


SECRET = "a-long-enough-token"


@pytest.fixture
def nobody_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An operator without a configuration, and with the token in the environment."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr(operator, "_named_on_command_line", [])
    monkeypatch.setenv("STEMTWIN_TOKEN", SECRET)


@pytest.mark.usefixtures("nobody_named")
def test_a_host_that_the_operator_named_is_sent_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    with served.served(simulated(), token=SECRET) as bench:
        far = remote.make({"host": f"127.0.0.1:{bench.ports['control']}", **QUICK}, OPTICS, SPACE)
        operator.name_host("127.0.0.1")
        monkeypatch.delenv("STEMTWIN_TOKEN")
        with pytest.raises(MicroscopeFault):
            far.reset(np.random.default_rng(1))
        monkeypatch.setenv("STEMTWIN_TOKEN", SECRET)
        far.reset(np.random.default_rng(1))
        far.acquire()
        # Once more, now that the address is known.
        far.reset(np.random.default_rng(1))
        assert far.acquire() == bench.latest
        far.close()


@pytest.mark.usefixtures("nobody_named")
@pytest.mark.parametrize("named", [[], ["elsewhere.example"], ["127.0.0.1:1"], ["localhost"], ["127.0.0.10"]])
def test_a_host_that_only_a_scenario_names_never_hears_the_token(named: list[str]) -> None:
    for address in named:
        operator.name_host(address)
    heard: list[bytes] = []

    def hear(line: socket.socket, over: threading.Event) -> None:
        line.settimeout(0.2)
        while data := line.recv(2**16):
            heard.append(data)

    with listening(repeat(hear)) as port:
        far = remote.make({"host": "127.0.0.1", "port": port, **QUICK}, OPTICS, SPACE)
        with pytest.raises(
            MicroscopeFault, match=f"the token is not sent to 127.0.0.1:{port}, which only the scenario"
        ):
            far.reset(np.random.default_rng(1))
    assert heard, "the client never came"
    assert SECRET.encode() not in b"".join(heard)


@pytest.mark.usefixtures("nobody_named")
def test_a_token_that_is_withheld_does_not_keep_a_server_without_one_from_being_used() -> None:
    with served.served(simulated()) as bench:
        far = remote.make({"host": f"127.0.0.1:{bench.ports['control']}", **QUICK}, OPTICS, SPACE)
        far.reset(np.random.default_rng(1))
        assert far.acquire() == bench.latest
        far.close()


def test_another_microscope_than_the_scenarios_is_refused(rig: Rig) -> None:
    port = rig.bench.ports["control"]
    far = remote.make({"host": f"127.0.0.1:{port}"}, OPTICS, StateSpace())
    with pytest.raises(ValueError, match="another space"):
        far.reset(np.random.default_rng(1))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"host": "somewhere:x"}, r"an address is HOST, HOST:PORT or .* got 'somewhere:x'"),
        ({"host": "somewhere:99999"}, "a port from 1 to 65535; got 'somewhere:99999'"),
        ({"port": True}, "port: a number is expected, got True"),
        ({"data_port": 0}, "data_port: input should be greater than or equal to 1, got 0"),
        ({"timeout_s": 0}, "timeout_s: input should be greater than 0, got 0"),
        ({"value_is": "what"}, "value_is: input should be 'error' or 'offset', got 'what'"),
        ({"control": False, "truth": True}, "truth needs the control channel"),
        ({"view": {"binnig": 2}}, r"view: 'binnig' is not an option here \(did you mean binning\?\)"),
        ({"ports": 1}, "did you mean port"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        remote.make(options, OPTICS, SPACE)


def test_a_host_may_name_the_port() -> None:
    assert remote.Options(host="lab:7000").port == 7000
    assert (remote.Options(host="lab").host, remote.Options(host="lab").port) == ("lab", 7073)


# --- the page ------------------------------------------------------------------------------------

PAGE = (Path(__file__).parents[3] / "docs" / "remote.md").read_text()


def test_the_page_lists_every_method() -> None:
    for methods in (ceos.METHODS, control.METHODS):
        for name, parameters in methods.items():
            assert f"`{name}`" in PAGE
            assert all(f"`{parameter.removesuffix('?')}" in PAGE for parameter in parameters), name
    for code in (rpc.BUSY, rpc.OUT_OF_RANGE, rpc.NOT_AVAILABLE, rpc.NO_SESSION, rpc.FAILED):
        assert str(code) in PAGE


def test_the_client_on_the_page_works(rig: Rig) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    page: dict[str, Any] = {}
    exec(block, page)
    own = simulated()
    own.begin(session_entropy(3))
    assert page["seed_and_move"]("127.0.0.1", rig.bench.ports["control"])["cumulative_nm"] == [5.0, 0.0, 0.0]
    np.testing.assert_array_equal(rig.state_nm, own.truth().state_nm + np.array([5.0, 0.0, 0.0]))


def test_the_scenario_on_the_page_is_one() -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    section = yaml.safe_load(block)["microscope"]
    assert section["kind"] == "remote"
    assert isinstance(remote.make(section["options"], OPTICS, SPACE), remote.RemoteMicroscope)
