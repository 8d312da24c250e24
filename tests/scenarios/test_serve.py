"""`stemtwin serve`: the same bytes as in process, the ports it tells, and a clean end."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agents.source import SourceError
from agents.sources.csr import CsrSource
from agents.sources.merlin import MerlinSource, Options
from scenarios.calibration.instruments import simulator
from scenarios.commands import serve as serve_command
from scenarios.scans.acquire import begin, scanning_microscope
from scenarios.schema import Scenario, ScenarioError, load
from scenarios.serve import FROM_BASE, NAMES, Serving, TwinServer, build_bench, described, scan_settings
from twin.envs.calibration import CalibrationEnv
from twin.formats.event_clock import clock_of, event_time
from twin.instrument.merlin_control import MerlinControl
from twin.interrupt import session
from twin.scan.prism import PlaneWaves
from twin.server.bench import scan_metadata

SCAN = (
    "scan.plan.rows=3",
    "scan.plan.columns=5",
    "scan.snapshots=1",
    "scan.slice_nm=null",
    "scan.optics.camera_pixels=32",
    "scan.optics.binning=4",
)
FREE = Serving(free_ports=True, paced=False)


@pytest.fixture(scope="module")
def scanning() -> Scenario:
    return load("sto_001", SCAN)


@pytest.fixture(scope="module")
def in_process(scanning: Scenario) -> np.ndarray:
    """Frames of `stemtwin acquire` with seed 3."""
    frames = [block.frames for block in begin(scanning_microscope(scanning), scanning, 3)]
    return np.concatenate([f for f in frames if f is not None])


def over_the_wire(ports: dict[str, int]) -> np.ndarray:
    options = Options(control_port=ports["merlin_control"], start=True)
    with MerlinSource("127.0.0.1", ports["merlin_data"], options) as source:
        frames = np.concatenate([np.asarray(block.frames) for block in source.blocks()])
        assert source.health.fault_count == 0
    return frames


@pytest.mark.parametrize("prepared", [False, True])
def test_a_served_scan_is_the_acquired_one_byte_for_byte(
    scanning: Scenario, in_process: np.ndarray, prepared: bool
) -> None:
    positions: list[int] = []
    serving = Serving(free_ports=True, paced=False, prepare=prepared)
    with TwinServer(scanning, 3, serving, positions.append) as server:
        frames = over_the_wire(server.ports)
    assert frames.dtype.itemsize == in_process.dtype.itemsize
    np.testing.assert_array_equal(frames, in_process)
    assert sum(positions) == (15 if prepared else 0)


def test_the_event_stream_carries_the_same_scan(scanning: Scenario, in_process: np.ndarray) -> None:
    with (
        TwinServer(scanning, 3, Serving(free_ports=True, paced=False, event_metadata=True, arm_events=True)) as server,
        CsrSource("127.0.0.1", server.ports["events"]) as source,
    ):
        seen = np.zeros_like(in_process, dtype=np.int64).reshape(15, -1)
        for block in source.blocks():
            for k, (row, column) in enumerate(block.pixel):
                these = slice(block.indptr[k], block.indptr[k + 1])
                seen[row * 5 + column, block.index[these]] = block.weight[these]
        assert source.meta.metadata.pixel_mrad == scanning.scan.optics.camera_pixel_mrad
    np.testing.assert_array_equal(seen.reshape(in_process.shape), in_process)


def test_a_port_that_was_not_armed_scans_for_nobody_and_says_what_it_needs(scanning: Scenario) -> None:
    with TwinServer(scanning, 3, FREE) as server:
        before = server.bench.microscope.clock_s
        with pytest.raises(SourceError, match=r"the sender refuses: needs --arm-events$"):
            CsrSource("127.0.0.1", server.ports["events"])
        assert server.bench.microscope.clock_s == before
        assert dict(described(server))["events"].endswith(", no scans without --arm-events")


def test_an_event_camera_is_served_event_for_event() -> None:
    scenario = load("sto_001", [*SCAN, "scan.camera={kind: event, reorder_s: 2.0e-5, toa_rms_ns: 1.6}"])
    events = [block.events for block in begin(scanning_microscope(scenario), scenario, 1)]
    every = np.concatenate([e for e in events if e is not None])
    where = clock_of(scenario.scan.plan).position(event_time(every, fine=True))
    expected = np.zeros((15, 32 * 32), np.int64)
    np.add.at(expected, (where[where >= 0], every["pixel"][where >= 0]), 1)
    serving = replace(FREE, arm_events=True)
    with TwinServer(scenario, 1, serving) as server, CsrSource("127.0.0.1", server.ports["events"]) as source:
        seen = np.zeros_like(expected)
        for block in source.blocks():
            for k, (row, column) in enumerate(block.pixel):
                these = slice(block.indptr[k], block.indptr[k + 1])
                np.add.at(seen[row * 5 + column], block.index[these], block.weight[these])
        assert source.meta.layout.scan == (3, 5)
    np.testing.assert_array_equal(seen, expected)
    assert expected.sum() > 10_000


def test_ronchigrams_are_those_of_a_calibration_with_the_seed(small: Callable[..., Scenario]) -> None:
    scenario = small()
    with TwinServer(scenario, 5, FREE) as server:
        assert server.left_out["events"] == "this scenario has no scan"
        options = Options(scan=(2,), control_port=server.ports["merlin_control"], start=True)
        with MerlinControl("127.0.0.1", server.ports["merlin_control"]) as control:
            assert control.get("STEMMODE") == "RONCHIGRAM"
            control.set("NUMFRAMESTOACQUIRE", 2)
        with MerlinSource("127.0.0.1", server.ports["merlin_data"], options) as source:
            frames = np.concatenate([np.asarray(block.frames) for block in source.blocks()])
    # As `scenarios.calibration.session.observe` begins its session, by way of Gymnasium.
    of_microscope, _ = np.random.SeedSequence(5).spawn(2)
    microscope = simulator(scenario)
    CalibrationEnv(microscope).reset(seed=int(of_microscope.generate_state(1, np.uint64)[0]))
    # Its first frame has been taken.
    np.testing.assert_array_equal(frames[1], microscope.acquire().counts)
    bench = build_bench(scenario, 5)
    np.testing.assert_array_equal(frames, [bench.acquire().counts for _ in range(2)])


def test_a_second_server_does_not_get_a_port_that_is_taken(small: Callable[..., Scenario]) -> None:
    with TwinServer(small(), 0, FREE) as server:
        taken = server.ports["merlin_data"]
        with pytest.raises(ScenarioError, match=f"merlin_data on 127.0.0.1, port {taken}: .*--merlin-data 0"):
            TwinServer(small(), 0, Serving({"merlin_data": taken}, free_ports=True))


def free_base() -> int:
    """A port from which five are free, most likely."""
    for base in range(41000, 60000, 50):
        lines = []
        try:
            lines = [socket.create_server(("127.0.0.1", base + k)) for k in range(len(FROM_BASE))]
        except OSError:
            continue
        finally:
            for line in lines:
                line.close()
        return base
    pytest.skip("no five free ports in a row")


def test_a_base_port_gives_every_service_its_own_and_a_port_option_wins(small: Callable[..., Scenario]) -> None:
    base = free_base()
    with TwinServer(small(), 0, Serving({"corrector": 0}, base_port=base)) as server:
        chosen = server.ports.pop("corrector")
        assert server.ports == {"control": base, "merlin_control": base + 1, "merlin_data": base + 2}
        assert chosen != base + 3


@pytest.mark.parametrize(
    ("serving", "words"),
    [
        (Serving(base_port=65532), "the base port lies in 1 to 65531, for 5 services; got 65532"),
        (Serving(base_port=7100, free_ports=True), "a base port of 7100 and free ports: one of them"),
        (Serving(free_ports=True, host="no.such.host.invalid", token="correct-horse-battery"), "--host no.such.host"),
        (Serving(free_ports=True, token="x" * 200), "up to 128 characters; got 200"),
    ],
)
def test_ports_and_hosts_that_cannot_be_are_refused(
    small: Callable[..., Scenario], serving: Serving, words: str
) -> None:
    with pytest.raises(ScenarioError, match=words):
        TwinServer(small(), 0, serving)


def test_the_loopback_of_version_six_needs_no_token(small: Callable[..., Scenario]) -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    with TwinServer(small(), 0, Serving(free_ports=True, host="::1")) as server:
        for host, port in (("::1", server.ports["merlin_control"]),):
            with MerlinControl(host, port) as control:
                assert control.get("IMAGEX") == "64"
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", server.ports["control"]), timeout=2)


def test_a_client_cannot_ask_for_more_electrons_than_the_camera_can_follow() -> None:
    scenario = load("sto_001", [*SCAN, "scan.camera={kind: event, hot_fraction: 0.01, hot_rate_per_s: 1.0e+4}"])
    bench = build_bench(scenario, 0)
    before = bench.scan_settings
    assert before is not None
    for change, words in (
        ({"dose_e": 1e12}, "dose_e 1e.12: this camera follows electrons one by one, up to 1e.07"),
        ({"dwell_s": 1e5}, "dwell_s 100000: the hot pixels of this camera allow"),
        ({"rows": 1, "columns": 1, "settle_s": 1e5}, None),
    ):
        plan = replace(before.plan, **change)
        if words is None:
            bench.check_plan(plan)
            continue
        with pytest.raises(ValueError, match=words):
            bench.set_plan(plan)
        assert bench.scan_settings is before


def test_what_cannot_be_served_is_refused_when_it_is_asked_for(small: Callable[..., Scenario]) -> None:
    with pytest.raises(ScenarioError, match="no service for events: this scenario has no scan"):
        TwinServer(small(), 0, Serving({"events": 0}, free_ports=True))
    with pytest.raises(ScenarioError, match="no scan"):
        TwinServer(small(), 0, Serving(free_ports=True, mode="scan"))
    with pytest.raises(ScenarioError, match=r"0\.0\.0\.0 is open to other machines"):
        TwinServer(small(), 0, Serving(free_ports=True, host="0.0.0.0"))


def test_all_services_are_described_and_the_bench_knows_their_ports(small: Callable[..., Scenario]) -> None:
    with TwinServer(small(), 0, FREE) as server:
        rows = dict(described(server))
        assert list(rows) == [name.replace("_", " ") for name in NAMES]
        assert rows["merlin control"] == str(server.ports["merlin_control"])
        assert rows["events"].startswith("not served")
        assert server.bench.ports == server.ports


def test_a_server_that_stops_takes_less_than_a_second(small: Callable[..., Scenario]) -> None:
    server = TwinServer(small(), 0, FREE).start()
    with MerlinControl("127.0.0.1", server.ports["merlin_control"]) as control:
        assert control.get("IMAGEX") == "64"
        begun = time.monotonic()
        server.stop()
        assert time.monotonic() - begun < 1.0
    with pytest.raises(OSError, match="refused"):
        MerlinControl("127.0.0.1", server.ports["merlin_control"])


def test_a_corrected_scan_begins_corrected_and_the_stream_tells_nothing_of_it(scanning: Scenario) -> None:
    bench = build_bench(scanning, 3)
    np.testing.assert_allclose(bench.microscope.truth().state_nm, 0.0, atol=1e-9)
    with pytest.raises(PermissionError, match="--expose-truth"):
        bench.truth()
    settings = scan_settings(scanning)
    assert settings is not None
    assert set(scan_metadata(settings, bench.session).provenance) == {"pattern", "plan_sha256", "session"}


def test_a_state_that_cannot_be_scanned_is_served_for_calibration(caplog: pytest.LogCaptureFixture) -> None:
    scenario = load("sto_001", [*SCAN, "scan.corrected=false"])
    with TwinServer(scenario, 0, FREE) as server:
        assert "scans are refused in the state in which the session begins" in caplog.text
        with pytest.raises(SourceError, match="hung up before the first frame"):
            over_the_wire(server.ports)
        assert "needs a window of" in caplog.records[-1].getMessage()
        options = Options(scan=(1,), control_port=server.ports["merlin_control"], start=True)
        with MerlinControl("127.0.0.1", server.ports["merlin_control"]) as control:
            control.set("STEMMODE", "RONCHIGRAM")
        with MerlinSource("127.0.0.1", server.ports["merlin_data"], options) as source:
            assert sum(len(block) for block in source.blocks()) == 1
    with pytest.raises(ScenarioError, match="the scan goes from"):
        TwinServer(load("sto_001", [*SCAN, "scan.plan.rows=4000"]), 3, FREE)


def test_a_server_is_ready_when_its_plane_waves_are(monkeypatch: pytest.MonkeyPatch) -> None:
    propagated: list[str] = []
    before = PlaneWaves._propagate
    monkeypatch.setattr(PlaneWaves, "_propagate", lambda waves: (propagated.append("again"), before(waves))[1])
    scenario = load("sto_001", [*SCAN, "scan.propagation=prism"])
    with TwinServer(scenario, 3, FREE) as server:
        assert propagated
        propagated.clear()  # a client's time-out runs from here
        assert len(over_the_wire(server.ports)) == 15
    assert not propagated


@contextmanager
def command(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    program = [sys.executable, "-c", "from scenarios.cli import main; main()", "serve", *arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    running = subprocess.Popen(
        program,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env=environment,
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate(timeout=10)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_command_tells_its_ports_and_ends_cleanly(number: int, small_overrides: tuple[str, ...]) -> None:
    changes = [part for override in small_overrides for part in ("--set", override)]
    with command("nominal", "--free-ports", "--json", "--seed", "4", *changes) as running:
        assert running.stdout is not None
        first = running.stdout.readline()
        assert first, running.communicate(timeout=10)[1]
        told = json.loads(first)
        assert (told["scenario"], told["seed"], told["host"]) == ("nominal", 4, "127.0.0.1")
        with MerlinControl("127.0.0.1", told["ports"]["merlin_control"]) as control:
            assert control.get("IMAGEX") == "64"
            running.send_signal(number)
            out, error = running.communicate(timeout=15)
            assert (running.returncode, out, error) == (0, "", "")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux what a process has used")
def test_a_stopped_server_is_soon_gone(small_overrides: tuple[str, ...]) -> None:
    # In processor time: what is left to do takes many seconds where a process gets a twentieth of a core.
    changes = [part for override in small_overrides for part in ("--set", override)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with command("nominal", "--port", "0", "--json", *changes) as running:
        assert running.stdout is not None
        assert running.stdout.readline()
        ticks = Path(f"/proc/{running.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        ready_s = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used_s - ready_s < 0.5


def test_no_signal_is_lost_however_early_it_comes() -> None:
    # Just before a thread falls asleep is the time at which one was lost: sent from there, it comes at that time.
    class Sleepy:
        naps = 0

        def sleep(self, seconds: float) -> None:
            self.naps += 1
            if self.naps == 3:
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(seconds)

    sleepy = Sleepy()
    with pytest.MonkeyPatch.context() as patch, serve_command.stop_signals() as stop:
        patch.setattr(serve_command, "time", sleepy)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        stop.armed = True
        stop.wait()
    assert sleepy.naps == 3


@pytest.mark.parametrize(("before", "ends"), [(signal.SIG_DFL, True), (signal.SIG_IGN, False)])
def test_a_closed_terminal_ends_a_server_unless_nohup_said_otherwise(before: signal.Handlers, ends: bool) -> None:
    earlier = signal.signal(signal.SIGHUP, before)
    try:
        with session(), serve_command.stop_signals() as stop:
            stop.armed = True
            signal.raise_signal(signal.SIGHUP)
            assert stop.pressed is ends
    finally:
        signal.signal(signal.SIGHUP, earlier)


def test_signals_at_any_moment_end_the_wait() -> None:
    program = (
        "import faulthandler, os, random, signal, threading, time\n"
        "from scenarios.commands.serve import stop_signals\n"
        "def shoot(at):\n"
        "    while time.perf_counter() < at: pass\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "faulthandler.dump_traceback_later(30, exit=True)\n"
        "rng = random.Random(0)\n"
        "for _ in range(30):\n"
        "    with stop_signals() as stop:\n"
        "        stop.armed = True\n"
        "        thread = threading.Thread(target=shoot, args=(time.perf_counter() + 4e-4 * rng.random(),))\n"
        "        thread.start()\n"
        "        stop.wait()\n"
        "        thread.join()\n"
        "print('heard')\n"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (told.stdout, told.stderr) == ("heard\n", "")


def test_bad_input_is_one_line_and_exit_code_2() -> None:
    with command("nominal", "--host", "0.0.0.0") as running:
        out, error = running.communicate(timeout=30)
        assert (running.returncode, out) == (2, "")
        assert error.startswith("stemtwin: ")
        assert "token" in error
        assert error.count("\n") == 1
