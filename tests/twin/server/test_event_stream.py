"""The event stream as a server: every event in its position, and scans that begin and end as they should."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fakes.counting import OPTICS, SIDE, counting_bench
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.formats import t3p
from twin.formats.event_clock import clock_of, event_time
from twin.scan.plan import ScanPlan, paths
from twin.server.bench import ScanSettings
from twin.server.event_stream import EventStream, NoEvents, Positions, of_frames, of_keys
from twin.server.listener import Listener
from twin.types import ScanBlock
from twin.wire.csr import AcquisitionEnd, AcquisitionStart, Chunk, CsrDecoder, ScanEnd, ScanStart

PIXELS = SIDE * SIDE


def dense(chunks: list[Chunk]) -> np.ndarray:
    """(positions, pixels), entry by entry."""
    rows = []
    for chunk in chunks:
        for k in range(len(chunk)):
            row = np.zeros(PIXELS, np.int64)
            for entry in range(chunk.indptr[k], chunk.indptr[k + 1]):
                row[chunk.index[entry]] += int(chunk.value[entry])
            rows.append(row)
    return np.array(rows)


@contextmanager
def served(bench: Any, **options: bool) -> Iterator[socket.socket]:
    with (
        Listener(EventStream(bench, armed=True, **options)) as listener,
        socket.create_connection(("127.0.0.1", listener.port), timeout=5) as line,
    ):
        yield line


def messages(line: socket.socket, last: type = AcquisitionEnd) -> list[Any]:
    decoder, found = CsrDecoder(), []
    while not any(isinstance(message, last) for message in found):
        data = line.recv(2**16)
        assert data, "hung up"
        found += decoder.feed(data)
    return found


@pytest.mark.parametrize("metadata", [False, True])
def test_every_client_gets_a_scan_of_its_own(metadata: bool) -> None:
    bench = counting_bench(rows=5, columns=7)
    with served(bench, paced=False, metadata=metadata) as line:
        start, scan, *chunks, end, over = messages(line)
    assert start == AcquisitionStart((5, 7), (SIDE, SIDE), 1)
    assert scan.sequence == 1
    assert scan.metadata.get("dwell_s") == (1e-4 if metadata else None)
    assert (end, over) == (ScanEnd(1), AcquisitionEnd(1))
    seen = dense(chunks)
    np.testing.assert_array_equal(seen[:, 1], np.arange(35))
    np.testing.assert_array_equal(seen[:, 2 * SIDE], np.arange(35) + 1)
    assert seen.sum() == seen[:, [1, 2 * SIDE]].sum()


def test_clients_wait_for_their_turn() -> None:
    bench = counting_bench()
    with (
        Listener(EventStream(bench, paced=False, armed=True)) as listener,
        socket.create_connection(("127.0.0.1", listener.port), timeout=5) as first,
        socket.create_connection(("127.0.0.1", listener.port), timeout=5) as second,
    ):
        assert messages(first)[0].sequence == 1
        first.close()
        assert messages(second)[0].sequence == 2
    assert bench.microscope.scans == 2


def test_a_client_that_waited_in_vain_is_told_of_an_acquisition_without_a_scan() -> None:
    service = EventStream(counting_bench(dwell_s=0.1), armed=True)
    service.patience = replace(service.patience, turn_s=0.1)
    with (
        Listener(service) as listener,
        socket.create_connection(("127.0.0.1", listener.port), timeout=5) as first,
        socket.create_connection(("127.0.0.1", listener.port), timeout=5) as second,
    ):
        assert messages(first, AcquisitionStart)[0].sequence == 1
        assert messages(second) == [AcquisitionStart((4, 5), (SIDE, SIDE), 0), AcquisitionEnd(0)]


def test_a_scan_that_fails_ends_the_line_within_the_scan(caplog: pytest.LogCaptureFixture) -> None:
    bench = counting_bench()
    bench.microscope.fail_at = 18
    with served(bench, paced=False) as line:
        decoder, found = CsrDecoder(), []
        while data := line.recv(2**16):
            found += decoder.feed(data)
    assert isinstance(found[-1], Chunk)
    assert "the scan failed: another scan" in caplog.text


def test_a_stream_stops_in_the_middle() -> None:
    bench = counting_bench(rows=100, columns=100, dwell_s=0.01)
    with Listener(EventStream(bench, armed=True)) as listener:
        line = socket.create_connection(("127.0.0.1", listener.port), timeout=5)
        assert isinstance(messages(line, ScanStart)[0], AcquisitionStart)
        assert listener.stop()
        line.close()


TLS = bytes.fromhex("16030100a50100") + bytes(160)
WEB = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nContent-Length: 40\r\n\r\n" + b'30:{"method":"reset"},'


@pytest.mark.parametrize("hello", [WEB, POST, TLS, b"\0", b"TOKEN correct-horse-battery\n", b"x" * 2**20, None])
def test_whoever_sends_something_or_leaves_starts_no_scan(hello: bytes | None) -> None:
    bench = counting_bench()
    with Listener(EventStream(bench, paced=False, armed=True)) as listener:
        with socket.create_connection(("127.0.0.1", listener.port), timeout=5) as line:
            got = b""
            with suppress(ConnectionError):
                if hello is not None:
                    line.sendall(hello)
                    got = line.recv(100)
            assert got == b""
        time.sleep(0.4)
        assert (bench.microscope.scans, bench.microscope.clock_s) == (0, 0.0)
        with socket.create_connection(("127.0.0.1", listener.port), timeout=5) as line:
            assert messages(line)[0].sequence == 1


@pytest.mark.parametrize("stays_s", [0.0, 0.05, 0.4])
@pytest.mark.parametrize("hello", [b"", WEB, POST, TLS, b"\0" * 32, b"\n", b"SSH-2.0-x\r\n"])
def test_a_port_that_is_not_armed_scans_for_nobody(hello: bytes, stays_s: float) -> None:
    bench = counting_bench()
    with Listener(EventStream(bench, paced=False)) as listener:
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", listener.port), timeout=5) as line, suppress(ConnectionError):
                line.sendall(hello)
                time.sleep(stays_s / 2)
                if stays_s > 0.1:
                    assert line.recv(100) in (b"", b"stemtwin: needs --arm-events    ")
        assert (bench.microscope.scans, bench.microscope.clock_s) == (0, 0.0)


def test_a_silent_client_of_a_port_that_is_not_armed_gets_words(caplog: pytest.LogCaptureFixture) -> None:
    bench = counting_bench()
    with (
        Listener(EventStream(bench)) as listener,
        socket.create_connection(("127.0.0.1", listener.port), timeout=5) as line,
    ):
        assert line.recv(100) == b"stemtwin: needs --arm-events    "
        assert line.recv(100) == b""
    assert bench.microscope.scans == 0
    assert "got no scan: the server was started without --arm-events" in caplog.text


def test_a_client_that_sends_something_during_its_scan_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    bench = counting_bench(rows=100, columns=100, dwell_s=0.01)
    with served(bench) as line:
        messages(line, ScanStart)
        line.sendall(WEB)
        with suppress(ConnectionError):
            while line.recv(2**16):
                pass
    assert bench.microscope.clock_s < 10.0  # and the listener has ended: the log is complete
    assert "to a port that only sends" in caplog.text


def test_a_client_that_leaves_during_a_long_dwell_makes_room() -> None:
    bench = counting_bench(rows=2, columns=20, dwell_s=100.0)
    with Listener(EventStream(bench, armed=True)) as listener:
        with socket.create_connection(("127.0.0.1", listener.port), timeout=5) as line:
            messages(line, Chunk)
        with socket.create_connection(("127.0.0.1", listener.port), timeout=5) as line:
            assert messages(line, ScanStart)[0].sequence == 2


def test_a_client_that_stays_after_its_scan_does_not_keep_the_next_one_waiting() -> None:
    with (
        Listener(EventStream(counting_bench(), paced=False, armed=True)) as listener,
        ExitStack() as stack,
    ):
        for number in range(1, 12):  # more than may wait
            line = stack.enter_context(socket.create_connection(("127.0.0.1", listener.port), timeout=5))
            assert messages(line)[0].sequence == number


@pytest.mark.parametrize("pattern", ["serpentine", "subsampled"])
def test_positions_in_another_order_are_refused(pattern: str) -> None:
    with pytest.raises(NoEvents, match=f"this scan is {pattern}"):
        EventStream(counting_bench(pattern=pattern))


def test_a_scan_without_a_camera_is_refused() -> None:
    with pytest.raises(NoEvents, match="no camera"):
        EventStream(counting_bench(largest=None))
    with pytest.raises(NoEvents, match="no scan"):
        EventStream(counting_bench(scan=False))


# --- from camera to chunks -----------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(0, 5), st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_chunks_hold_exactly_what_the_frames_do(seed: int, frames: int, mean: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(mean * rng.integers(0, 2, (frames, SIDE, SIDE))).astype(np.uint32)
    chunk = of_frames(counts)
    np.testing.assert_array_equal(dense([chunk]).reshape(frames, SIDE, SIDE), counts)
    events = np.repeat(np.arange(counts.size), counts.ravel())
    again = of_keys(rng.permutation(events), frames, PIXELS)
    for one, other in zip(vars(chunk).values(), vars(again).values(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_counts_beyond_16_bits_are_sent_with_32() -> None:
    counts = np.zeros((1, SIDE, SIDE), np.uint32)
    counts[0, 0, 0] = 2**16
    assert of_frames(counts).value.dtype == np.uint32
    assert of_frames(counts - (counts > 0)).value.dtype == np.uint16


@pytest.mark.parametrize("block", [1, 3, 7, 40])
@pytest.mark.parametrize("late_s", [0.0, 2.5e-6])
def test_events_that_leave_late_and_out_of_order_find_their_positions(block: int, late_s: float) -> None:
    plan = ScanPlan(rows=5, columns=8, dwell_s=1e-6, settle_s=2e-6, flyback_s=3e-6)
    settings_ = ScanSettings(plan, OPTICS, events=True, delay_s=late_s)
    events, leaves_s = _events(plan, late_s)
    positions, chunks, start = Positions(settings_), [], 0
    for path in paths(plan, block):
        last = path.first + len(path) == plan.count
        stop = len(events) if last else int(np.searchsorted(leaves_s, path.end_s[-1]))
        chunks += positions.add(ScanBlock(path, None, {}, path.end_s.copy(), events[start:stop].copy()))
        start = stop
    # The definition: every event during whose dwell it came, counted pixel by pixel.
    expected = np.zeros((plan.count, PIXELS), np.int64)
    where = clock_of(plan).position(event_time(events, fine=True))
    np.add.at(expected, (where[where >= 0], events["pixel"][where >= 0]), 1)
    np.testing.assert_array_equal(dense(chunks), expected)
    assert positions.lost == np.count_nonzero(where < 0)
    assert positions.lost > 0


def _events(plan: ScanPlan, late_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Events all over a scan and its pauses, in the order in which they leave the camera, and when they do."""
    rng = np.random.default_rng(5)
    events = np.zeros(3000, t3p.RECORD)
    seconds = float(next(paths(plan, plan.count)).end_s[-1])
    events["toa"] = rng.integers(1, int(seconds / 25e-9), len(events))
    events["ftoa"] = rng.integers(0, 16, len(events))
    events["pixel"] = rng.integers(0, PIXELS, len(events))
    # The clock reads the end of the fine step of the hit.
    leaves_s = (events["toa"] * 16 - events["ftoa"] - 0.5) * 25e-9 / 16 + rng.uniform(0.0, late_s, len(events))
    order = np.argsort(leaves_s, kind="stable")
    return events[order], leaves_s[order]


def test_an_event_for_a_position_that_is_over_is_lost_and_counted() -> None:
    plan = ScanPlan(rows=2, columns=4, dwell_s=1e-6)
    positions = Positions(ScanSettings(plan, OPTICS, events=True))
    first, second = paths(plan, 4)
    event = np.zeros(1, t3p.RECORD)
    event["toa"] = 10
    (chunk,) = positions.add(ScanBlock(first, None, {}, first.end_s.copy(), event.copy()))
    assert len(chunk.index) == 1
    (chunk,) = positions.add(ScanBlock(second, None, {}, second.end_s.copy(), event.copy()))
    assert len(chunk.index) == 0
    assert positions.lost == 1
