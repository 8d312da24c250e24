"""The Merlin camera as a server: what it answers, which frames it sends, and how an acquisition ends."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from fakes.counting import OPTICS, counting_bench
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.formats import merlin_header as mh
from twin.formats import merlin_pixels
from twin.formats.mib import METADATA
from twin.instrument.merlin_control import CameraRefused, MerlinControl
from twin.server import merlin_settings as parameters
from twin.server.frame_supply import NoFrames, PreparedScan, RonchigramSupply, ScanSupply
from twin.server.listener import Listener
from twin.server.merlin_camera import MerlinCamera, MerlinData
from twin.server.merlin_camera import MerlinControl as ControlService
from twin.wire import merlin
from twin.wire import merlin_commands as commands
from twin.wire.merlin_commands import BUSY, OK, OUT_OF_RANGE, UNRECOGNISED, Command
from twin.wire.merlin_decoder import AcquisitionMessage, DataDecoder, FrameMessage


def camera_of(bench: Any, prepare: bool = False) -> MerlinCamera:
    scan = PreparedScan(bench) if prepare else ScanSupply(bench)
    return MerlinCamera({"SCAN": scan, "RONCHIGRAM": RonchigramSupply(bench)})


@dataclass
class Client:
    """Both ports of a served camera."""

    control: MerlinControl
    data: socket.socket
    ports: tuple[int, int]
    bench: Any

    def __post_init__(self) -> None:
        self.decoder = DataDecoder()
        self.headers: list[mh.Acquisition] = []
        self.frames: list[tuple[int, np.ndarray]] = []

    def read(self, frames: int = 10**9, quiet_s: float = 0.3) -> list[int]:
        """Numbers of all frames so far, once there are so many or the line is quiet or closed."""
        self.data.settimeout(quiet_s)
        while len(self.frames) < frames:
            try:
                data = self.data.recv(2**16)
            except TimeoutError:
                self._take(self.decoder.flush())
                break
            self._take(self.decoder.feed(data) if data else self.decoder.end())
            if not data:
                break
        return [number for number, _ in self.frames]

    def _take(self, messages: list[Any]) -> None:
        for message in messages:
            if isinstance(message, AcquisitionMessage):
                self.headers.append(message.acquisition)
            elif isinstance(message, FrameMessage):
                assert self.decoder.header is not None
                image = merlin_pixels.decode(message.slab[message.slot : message.slot + 1], self.decoder.header)[0]
                self.frames.append((message.number, image))
            else:
                pytest.fail(f"a broken stream: {message}")

    def shown(self) -> list[int]:
        """What pixel (0, 1) of every frame counts."""
        return [int(image[0, 1]) for _, image in self.frames]


@contextmanager
def served(bench: Any, paced: bool = False, prepare: bool = False) -> Iterator[Client]:
    camera = camera_of(bench, prepare)
    with ExitStack() as stack:
        control = stack.enter_context(Listener(ControlService(camera)))
        data = stack.enter_context(Listener(MerlinData(camera, paced)))
        ports = (control.port, data.port)
        line = stack.enter_context(socket.create_connection(("127.0.0.1", data.port), timeout=5))
        client = stack.enter_context(MerlinControl("127.0.0.1", control.port))
        assert wait_for(lambda: camera.has_client)
        yield Client(client, line, ports, bench)


def wait_for(condition: Any, seconds: float = 3.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(condition())


def idle(client: Client) -> bool:
    return client.control.get("DETECTORSTATUS") == "0"


# --- what it answers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("IMAGEX", "8"),
        ("IMAGEY", "8"),
        ("COUNTERDEPTH", "12"),
        ("NUMFRAMESTOACQUIRE", "20"),
        ("NUMFRAMESPERTRIGGER", "5"),
        ("ACQUISITIONTIME", "0.1"),
        ("ACQUISITIONPERIOD", "0.1"),
        ("TRIGGERSTART", "0"),
        ("HVBIAS", "120"),
        ("STEMMODE", "SCAN"),
        ("DETECTORSTATUS", "0"),
    ],
)
def test_parameters_read_as_the_scan_is(name: str, value: str) -> None:
    reply = camera_of(counting_bench()).answer(Command("GET", name))
    assert (reply.value, reply.status) == (value, OK)


def test_in_ronchigram_mode_they_read_as_single_exposures() -> None:
    camera = camera_of(counting_bench(max_count=65535))
    camera.answer(Command("SET", "NUMFRAMESTOACQUIRE", "7"))
    assert camera.answer(Command("SET", "STEMMODE", "ronchigram")).status == OK
    read = {
        n: camera.answer(Command("GET", n)).value for n in ("NUMFRAMESTOACQUIRE", "ACQUISITIONTIME", "COUNTERDEPTH")
    }
    assert read == {"NUMFRAMESTOACQUIRE": "1", "ACQUISITIONTIME": "300", "COUNTERDEPTH": "24"}
    assert camera.answer(Command("GET", "ACQUISITIONPERIOD")).value == "500"


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (Command("SET", "NUMFRAMESTOACQUIRE", "0"), OK),
        (Command("SET", "NUMFRAMESTOACQUIRE", "-1"), OUT_OF_RANGE),
        (Command("SET", "NUMFRAMESTOACQUIRE", "1e3"), OUT_OF_RANGE),
        (Command("SET", "NUMFRAMESTOACQUIRE", "9" * 50), OUT_OF_RANGE),
        (Command("SET", "NUMFRAMESPERTRIGGER", "0"), OUT_OF_RANGE),
        (Command("SET", "COUNTERDEPTH", "6"), OK),
        (Command("SET", "COUNTERDEPTH", "7"), OUT_OF_RANGE),
        (Command("SET", "TRIGGERSTART", "6"), OUT_OF_RANGE),
        (Command("SET", "IMAGEX", "16"), OUT_OF_RANGE),
        (Command("SET", "ACQUISITIONTIME", "5"), OUT_OF_RANGE),
        (Command("SET", "STEMMODE", "TEM"), OUT_OF_RANGE),
        (Command("SET", "HVBIAS", "90"), OK),
        (Command("SET", "IMAGEZ", "1"), UNRECOGNISED),
        (Command("GET", "IMAGEZ"), UNRECOGNISED),
        (Command("CMD", "STARTAQUISITION"), UNRECOGNISED),
        (Command("CMD", "SOFTTRIGGER"), BUSY),
        (Command("CMD", "STOPACQUISITION"), OK),
        (Command("CMD", "STARTACQUISITION"), OK),
    ],
)
def test_every_command_has_its_status(command: Command, status: int) -> None:
    assert camera_of(counting_bench()).answer(command).status == status


def test_what_is_set_is_read_back_unless_it_was_refused() -> None:
    camera = camera_of(counting_bench())
    for name, value in (("HVBIAS", "90"), ("COUNTERDEPTH", "24"), ("NUMFRAMESTOACQUIRE", "3"), ("TRIGGERSTART", "5")):
        assert camera.answer(Command("SET", name, value)).status == OK
        camera.answer(Command("SET", name, "nonsense" if name != "HVBIAS" else value))
        assert camera.answer(Command("GET", name)).value == value


@pytest.mark.parametrize("name", ["NUMFRAMESTOACQUIRE", "NUMFRAMESPERTRIGGER", "COUNTERDEPTH", "TRIGGERSTART"])
def test_a_number_that_no_header_can_hold_is_not_kept(name: str) -> None:
    """What is taken is read back and fits into the header of an acquisition; a refusal leaves the value before."""
    camera, refused = camera_of(counting_bench()), 0
    for value in ("0", "1", "5", "24", "4294967295", "999999999999", "1" + "0" * 60, "1e3", "-1", "\u0665", "nan", ""):
        before = camera.answer(Command("GET", name)).value
        status = camera.answer(Command("SET", name, value)).status
        refused += status != OK
        assert camera.answer(Command("GET", name)).value == (value if status == OK else before)
        frames, depth = (camera.answer(Command("GET", each)).value for each in ("NUMFRAMESTOACQUIRE", "COUNTERDEPTH"))
        assert int(frames or "") <= parameters.MOST_FRAMES
        assert int(depth or "") in (1, 6, 12, 24)
        assert camera.answer(Command("CMD", "STARTACQUISITION")).status == OK
        assert camera.answer(Command("CMD", "STOPACQUISITION")).status == OK
    assert refused >= 6


def test_while_it_is_armed_nothing_can_be_changed_or_started() -> None:
    camera = camera_of(counting_bench())
    assert camera.answer(Command("CMD", "STARTACQUISITION")).status == OK
    assert camera.answer(Command("GET", "DETECTORSTATUS")).value == "4"
    assert camera.answer(Command("CMD", "STARTACQUISITION")).status == BUSY
    assert camera.answer(Command("SET", "COUNTERDEPTH", "24")).status == BUSY
    assert camera.answer(Command("CMD", "STOPACQUISITION")).status == OK
    assert camera.answer(Command("CMD", "STARTACQUISITION")).status == OK


def test_an_armed_camera_to_which_nobody_comes_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twin.server.merlin_camera.ARMED_S", 0.05)
    camera = camera_of(counting_bench())
    camera.answer(Command("CMD", "STARTACQUISITION"))
    time.sleep(0.06)
    assert camera.answer(Command("GET", "DETECTORSTATUS")).value == "0"
    assert camera.answer(Command("CMD", "STARTACQUISITION")).status == OK


verbs = st.sampled_from(["GET", "SET", "CMD", "get", "SAT", ""])
names = st.sampled_from([*parameters.PARAMETERS, *parameters.KEPT, "STEMMODE", "STARTACQUISITION", "SOFTTRIGGER", "X"])
values = st.one_of(st.text(max_size=12), st.integers().map(str))


@given(st.lists(st.tuples(verbs, names, values), max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_sequence_of_commands_leaves_the_camera_answering(asked: list[tuple[str, str, str]]) -> None:
    camera = camera_of(counting_bench())
    service = ControlService(camera)
    for verb, name, value in asked:
        reply = service.answer(f"{verb},{name},{value}".encode())
        assert reply.status in (OK, BUSY, UNRECOGNISED, OUT_OF_RANGE)
        merlin.payload_length(commands.build_reply(reply)[:15], 4096)
    assert camera.answer(Command("GET", "IMAGEX")).value == "8"


@pytest.mark.parametrize("command", ["GET," + "A" * 4090, "SET,HVBIAS," + "1" * 4080, "CMD," + "X" * 4000])
def test_the_longest_commands_have_replies_too(command: str) -> None:
    camera = camera_of(counting_bench())
    service = ControlService(camera)
    reply = service.answer(command.encode())
    assert reply.status in (UNRECOGNISED, OUT_OF_RANGE)
    commands.build_reply(reply)
    assert camera.answer(Command("GET", "HVBIAS")).value == "120"


def test_ten_thousand_spoilt_commands_are_answered_or_end_the_line() -> None:
    rng = np.random.default_rng(2)
    service = ControlService(camera_of(counting_bench()))
    good = [
        commands.build_command(c)
        for c in (Command("SET", "NUMFRAMESTOACQUIRE", "12"), Command("GET", "IMAGEX"), Command("CMD", "SOFTTRIGGER"))
    ]
    begun, answered, cut = time.process_time(), 0, 0
    for _ in range(10_000):
        data = bytearray(b"".join(good[k] for k in rng.integers(0, 3, 2)))
        for at in rng.integers(0, len(data), rng.integers(1, 4)):
            data[at] = rng.integers(256)
        try:
            for payload in commands.CommandDecoder().feed(bytes(data)):
                commands.build_reply(service.answer(payload))
                answered += 1
        except merlin.WireError:
            cut += 1
    assert answered > 3000
    assert cut > 3000
    assert time.process_time() - begun < 20


# --- which frames it sends -----------------------------------------------------------------------


@pytest.mark.parametrize("prepare", [False, True])
def test_a_whole_scan_arrives_in_order_under_its_header(prepare: bool) -> None:
    with served(counting_bench(), prepare=prepare) as client:
        for repetition in (1, 2):
            client.control.command("STARTACQUISITION")
            assert client.read(20 * repetition)[-20:] == list(range(1, 21))
            assert client.shown()[-20:] == list(range(20))
        told = client.headers[-1]
        assert (told.frames, told.frames_per_trigger, told.scan, told.depth) == (20, 5, (4, 5), 12)
        metadata = json.loads(told.extra[METADATA])
        assert metadata["dwell_s"] == 1e-4
        assert metadata["pixel_mrad"] == pytest.approx(OPTICS.camera_pixel_mrad)
        assert client.bench.microscope.scans == (1 if prepare else 2)
        assert wait_for(lambda: idle(client))


@pytest.mark.parametrize("prepare", [False, True])
@pytest.mark.parametrize("frames", [7, 45])
def test_fewer_frames_end_a_scan_early_and_more_begin_it_again(frames: int, prepare: bool) -> None:
    with served(counting_bench(), prepare=prepare) as client:
        client.control.set("NUMFRAMESTOACQUIRE", frames)
        client.control.command("STARTACQUISITION")
        assert client.read(frames) == list(range(1, frames + 1))
        assert client.shown() == [k % 20 for k in range(frames)]
        assert client.headers[0].scan is None
        assert client.read(frames + 1) == list(range(1, frames + 1))


def test_a_prepared_scan_is_the_scan_byte_for_byte() -> None:
    live = np.concatenate([b.messages for b in ScanSupply(counting_bench(flyback_s=1e-3)).batches(12, 20)])
    prepared = PreparedScan(counting_bench(flyback_s=1e-3))
    (film,) = prepared.batches(12, 20)
    np.testing.assert_array_equal(film.messages, live)
    first, second = (batch.messages.copy() for batch in prepared.batches(12, 40))
    assert mh.parse_header(second[0, 15:].tobytes()).sequence == 21
    assert mh.parse_header(second[19, 15:].tobytes()).sequence == 40
    np.testing.assert_array_equal(first, live)
    np.testing.assert_array_equal(next(prepared.batches(12, 20)).messages, live)
    with pytest.raises(NoFrames, match="prepared for a counter of 12 bits, not 24"):
        next(prepared.batches(24, 20))
    with pytest.raises(NoFrames, match=r"take \d+ bytes; 1000 are allowed"):
        PreparedScan(counting_bench(), most_bytes=1000)


def test_frame_headers_tell_the_instruments_time() -> None:
    rows = np.concatenate([b.messages for b in ScanSupply(counting_bench(flyback_s=1e-3)).batches(12, 20)])
    headers = [mh.parse_header(row[15:].tobytes()) for row in rows]
    expected = [k * 1e-4 + (k // 5) * 1e-3 for k in range(20)]
    assert [h.time for h in headers] == [mh.stamp(round(s, 9)) for s in expected]
    assert {h.shutter_s for h in headers} == {1e-4}


@pytest.mark.parametrize(("depth", "shown"), [(6, 63), (12, 4095), (24, 5000)])
def test_a_counter_stops_at_its_largest_count(depth: int, shown: int) -> None:
    bench = counting_bench(max_count=65535)
    bench.microscope.exposures = 4999
    with served(bench) as client:
        client.control.set("STEMMODE", "RONCHIGRAM")
        client.control.set("COUNTERDEPTH", depth)
        client.control.command("STARTACQUISITION")
        client.read(1)
        assert client.shown() == [shown]


def test_every_soft_trigger_takes_its_ronchigrams_and_no_more() -> None:
    with served(counting_bench()) as client:
        for name, value in (
            ("STEMMODE", "RONCHIGRAM"),
            ("NUMFRAMESTOACQUIRE", 5),
            ("NUMFRAMESPERTRIGGER", 2),
            ("TRIGGERSTART", 5),
        ):
            client.control.set(name, value)
        client.control.command("STARTACQUISITION")
        assert client.read(quiet_s=0.2) == []
        assert len(client.headers) == 1
        for taken in (2, 4, 5):
            client.control.command("SOFTTRIGGER")
            assert client.read(quiet_s=0.2) == list(range(1, taken + 1))
            assert client.bench.microscope.exposures == taken
        assert client.shown() == [1, 2, 3, 4, 5]
        assert idle(client)


def test_one_soft_trigger_begins_a_whole_scan() -> None:
    with served(counting_bench()) as client:
        client.control.set("TRIGGERSTART", 5)
        client.control.command("STARTACQUISITION")
        assert client.read(quiet_s=0.15) == []
        client.control.command("SOFTTRIGGER")
        assert client.read(20) == list(range(1, 21))


@pytest.mark.parametrize("prepare", [False, True])
def test_paced_frames_come_no_sooner_than_on_the_instrument(prepare: bool) -> None:
    with served(counting_bench(dwell_s=0.02), paced=True, prepare=prepare) as client:
        begun = time.monotonic()
        client.control.command("STARTACQUISITION")
        client.read(20, quiet_s=1.0)
        # The first comes at once; the last is held back by the decoder until the line is quiet or hung up.
        assert 18 * 0.02 < time.monotonic() - begun < 18 * 0.02 + 1.5


def test_the_plan_of_the_bench_counts_when_the_acquisition_begins() -> None:
    bench = counting_bench()
    with served(bench) as client:
        bench.scan_settings = counting_bench(rows=2, columns=3).scan_settings
        assert client.control.get("NUMFRAMESTOACQUIRE") == "6"
        client.control.command("STARTACQUISITION")
        assert client.read(6) == [1, 2, 3, 4, 5, 6]
        assert client.headers[0].scan == (2, 3)


# --- how it ends ---------------------------------------------------------------------------------


@pytest.mark.parametrize("paced", [False, True])
def test_a_stop_ends_the_stream_after_a_whole_frame(paced: bool) -> None:
    with served(counting_bench(rows=40, columns=50, dwell_s=0.01), paced=paced) as client:
        client.control.set("NUMFRAMESTOACQUIRE", 0)
        client.control.command("STARTACQUISITION")
        client.read(5)
        assert client.control.get("DETECTORSTATUS") == "1"
        client.control.command("STOPACQUISITION")
        got = client.read(quiet_s=0.3)
        assert got == list(range(1, len(got) + 1))
        assert len(got) >= 5
        assert wait_for(lambda: idle(client))
        client.control.set("NUMFRAMESTOACQUIRE", 3)
        client.control.command("STARTACQUISITION")
        assert client.read(len(got) + 3, quiet_s=1.0)[len(got) :] == [1, 2, 3]


def test_a_stop_ends_the_wait_for_a_trigger() -> None:
    with served(counting_bench()) as client:
        client.control.set("TRIGGERSTART", 5)
        client.control.command("STARTACQUISITION")
        client.read(quiet_s=0.1)
        client.control.command("STOPACQUISITION")
        assert wait_for(lambda: idle(client))
        assert client.read(quiet_s=0.1) == []


@pytest.mark.parametrize("state", ["waiting for a trigger", "running"])
def test_a_client_that_goes_ends_its_acquisition_and_leaves_nothing_to_the_next(state: str) -> None:
    with served(counting_bench(rows=200, columns=200)) as client:
        client.control.set("TRIGGERSTART", 5 if state == "waiting for a trigger" else 0)
        client.control.set("NUMFRAMESTOACQUIRE", 0)
        client.control.command("STARTACQUISITION")
        assert wait_for(lambda: client.control.get("DETECTORSTATUS") == "1")
        client.data.close()
        assert wait_for(lambda: idle(client))
        with socket.create_connection(("127.0.0.1", client.ports[1]), timeout=5) as line:
            again = Client(client.control, line, client.ports, client.bench)
            assert again.read(quiet_s=0.2) == []
            assert again.headers == []
            client.control.set("TRIGGERSTART", 0)
            client.control.set("NUMFRAMESTOACQUIRE", 4)
            client.control.command("STARTACQUISITION")
            assert again.read(4) == [1, 2, 3, 4]


def test_a_session_that_is_reset_meanwhile_ends_the_line(caplog: pytest.LogCaptureFixture) -> None:
    bench = counting_bench()
    bench.microscope.fail_at = 12
    with served(bench) as client:
        client.control.command("STARTACQUISITION")
        got = client.read(quiet_s=2.0)
        assert got == list(range(1, len(got) + 1))
        assert len(got) < 20
        assert client.data.recv(1) == b""
        assert "the acquisition failed: another scan or session" in caplog.text
        assert idle(client)


def test_a_second_control_client_is_told_busy_and_a_second_data_client_is_hung_up_on() -> None:
    with served(counting_bench(dwell_s=0.1), paced=True) as client:
        assert client.control.get("IMAGEX") == "8"
        with MerlinControl("127.0.0.1", client.ports[0]) as second, pytest.raises(CameraRefused, match="busy"):
            second.get("IMAGEX")
        client.control.command("STARTACQUISITION")
        with socket.create_connection(("127.0.0.1", client.ports[1]), timeout=5) as second_line:
            assert second_line.recv(100) == b""
        assert client.read(20) == list(range(1, 21))


def test_a_data_client_that_only_waits_gives_way_to_the_next() -> None:
    with served(counting_bench()) as client:
        begun = time.monotonic()
        with socket.create_connection(("127.0.0.1", client.ports[1]), timeout=5) as line:
            assert client.data.recv(1) == b""
            assert time.monotonic() - begun < 1.0
            again = Client(client.control, line, client.ports, client.bench)
            client.control.command("STARTACQUISITION")
            assert again.read(20, quiet_s=2.0) == list(range(1, 21))


@pytest.mark.parametrize("hello", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00", b"\0", b""])
def test_a_stranger_on_the_data_port_displaces_nobody_and_takes_no_acquisition(hello: bytes) -> None:
    with served(counting_bench()) as client:
        with socket.create_connection(("127.0.0.1", client.ports[1]), timeout=5) as line:
            if hello:
                line.sendall(hello)
                assert line.recv(100) == b""
        client.control.command("STARTACQUISITION")
        assert client.read(20, quiet_s=2.0) == list(range(1, 21))


def test_garbage_on_the_control_port_ends_that_line_only() -> None:
    with served(counting_bench()) as client:
        client.control.close()
        with socket.create_connection(("127.0.0.1", client.ports[0]), timeout=5) as line:
            line.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert line.recv(100) == b""
        with MerlinControl("127.0.0.1", client.ports[0]) as control:
            with pytest.raises(CameraRefused, match="not recognised"):
                control.get("HTTP")
            assert control.get("IMAGEX") == "8"


def test_a_client_that_sends_to_the_data_port_is_hung_up_on_before_any_frame(caplog: pytest.LogCaptureFixture) -> None:
    with served(counting_bench()) as client:
        client.data.sendall(b"MPX,0000000009,GET,X" * 100)
        assert client.data.recv(1) == b""
        assert wait_for(lambda: "to a port that only sends" in caplog.text)
        client.control.command("STARTACQUISITION")
        assert client.control.get("DETECTORSTATUS") == "4"
        assert client.bench.microscope.scans == 0


def test_a_client_that_sends_during_a_scan_ends_it() -> None:
    with served(counting_bench(rows=50, dwell_s=0.02), paced=True) as client:
        client.control.command("STARTACQUISITION")
        client.read(2)
        client.data.sendall(b"\xff" * 1000)
        assert len(client.read(quiet_s=2.0)) < 250
        assert wait_for(lambda: idle(client))


def test_a_scan_without_frames_is_refused() -> None:
    with pytest.raises(NoFrames, match="no scan"):
        ScanSupply(counting_bench(scan=False))
    with pytest.raises(NoFrames, match="no frames"):
        ScanSupply(counting_bench(largest=None))
