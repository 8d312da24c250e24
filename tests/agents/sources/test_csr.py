"""The sparse live stream through a socket: equality with frames, and everything that can go wrong on the way."""

import socket
import threading
import time
from contextlib import AbstractContextManager
from functools import partial

import numpy as np
import pytest
from fakes.listening import listening

from agents.block import FrameBlock
from agents.source import Health, SourceError
from agents.sources import csr, open_source
from agents.sources.csr import CsrSource, Options
from twin.wire.csr import AcquisitionEnd, AcquisitionStart, Chunk, Message, ScanEnd, ScanStart, encode

CAMERA = (8, 12)
QUICK = Options(timeout_s=2.0, reconnect_s=0.01)


def messages(frames: np.ndarray, scan: tuple[int, int], chunk: int, tot: bool = False) -> list[Message]:
    """A scan's frames, (N, H, W), as a sender would tell them."""
    start = AcquisitionStart(scan, CAMERA, format="tot" if tot else "counts", index_type=np.dtype("<u2"))
    made: list[Message] = [start, ScanStart(5, {"dwell_s": 1e-6, "gain": 3})]
    flat = frames.reshape(len(frames), -1)
    for first in range(0, len(flat), chunk):
        part = flat[first : first + chunk]
        if tot:
            index = np.concatenate([np.repeat(np.arange(part.shape[1]), row) for row in part])
            counts, value = part.sum(axis=1), np.random.default_rng(first).integers(1, 500, len(index))
        else:
            row, index = np.nonzero(part)
            counts, value = np.count_nonzero(part, axis=1), part[row, index]
        bounds = np.r_[0, np.cumsum(counts)]
        made.append(Chunk(bounds.astype("<u4"), index.astype("<u2"), value.astype("<u2")))
    return [*made, ScanEnd(5), AcquisitionEnd()]


def sender(*streams: bytes, hold: threading.Event | None = None) -> AbstractContextManager[int]:
    """Gives one stream per connection and hangs up (once `hold` is set); the port."""

    def send(data: bytes, line: socket.socket, over: threading.Event) -> None:
        line.sendall(data)
        if hold is not None:
            hold.wait(5.0)

    return listening(partial(send, data) for data in streams)


def scan(seed: int = 0, shape: tuple[int, int] = (3, 4)) -> np.ndarray:
    return np.random.default_rng(seed).poisson(0.4, (shape[0] * shape[1], *CAMERA)).astype(np.uint16)


def listened(port: int, options: Options = QUICK) -> tuple[np.ndarray, np.ndarray, Health]:
    """Frames, pixels and health of what came."""
    with CsrSource("127.0.0.1", port, options) as source:
        blocks = list(source.blocks())
    if not blocks:
        return np.empty((0, *CAMERA)), np.empty((0, 2)), source.health
    return np.concatenate([b.frames for b in blocks]), np.concatenate([b.pixel for b in blocks]), source.health


@pytest.mark.parametrize("tot", [False, True])
def test_a_scan_arrives_whole_in_its_places(tot: bool) -> None:
    frames = scan()
    with sender(b"".join(map(encode, messages(frames, (3, 4), 5, tot)))) as port:
        got, pixel, health = listened(port)
    assert np.array_equal(got, frames)
    assert pixel.tolist() == [[i // 4, i % 4] for i in range(12)]
    assert (health.received, health.missing, health.duplicates, health.fault_count) == (12, 0, 0, 0)


def test_sums_are_those_of_frames_and_what_is_told_is_kept() -> None:
    frames = scan(1)
    weights = np.random.default_rng(2).random((2, *CAMERA), np.float32)
    with (
        sender(b"".join(map(encode, messages(frames, (3, 4), 12)))) as port,
        open_source(f"csr://127.0.0.1:{port}", timeout_s=2.0) as source,
    ):
        (block,) = source.blocks()
    reference = FrameBlock(frames, block.pixel)
    assert np.array_equal(block.moments(), reference.moments())
    assert np.allclose(block.sums(weights), reference.sums(weights), rtol=1e-12)
    assert source.meta.layout.scan == (3, 4)
    assert source.meta.layout.camera == CAMERA
    assert source.meta.metadata.dwell_s == 1e-6
    assert source.meta.metadata.provenance == {"stream": {"gain": 3}}
    assert not source.meta.has_frames


def test_metadata_that_cannot_be_are_told_and_left_out() -> None:
    health = Health()
    found = csr._metadata({"dwell_s": -1.0, "step_nm": 0.02, "energy_kev": "many"}, health)
    assert (found.dwell_s, found.energy_kev, found.step_nm) == (None, None, 0.02)
    assert health.fault_count == 2


def test_what_came_before_a_fault_is_kept() -> None:
    frames = scan()
    told = [encode(message) for message in messages(frames, (3, 4), 5)]
    cases = {
        "connection lost": b"".join(told[:4]) + told[4][:-3],
        "kind 9": b"".join(told[:4]) + b"\x09" * 32,
        "scan ends with position 10 of 12": b"".join(told[:4]) + told[-2],
    }
    for words, data in cases.items():
        with sender(data) as port:
            got, _, health = listened(port)
        assert np.array_equal(got, frames[:10])
        assert words in health.faults[0]
        assert (health.received, health.missing) == (10, 2)


def test_silence_ends_the_stream() -> None:
    told = [encode(message) for message in messages(scan(), (3, 4), 5)]
    release = threading.Event()
    with sender(b"".join(told[:3]), hold=release) as port:
        begun = time.monotonic()
        got, _, health = listened(port, Options(timeout_s=0.2))
        release.set()
    assert time.monotonic() - begun < 3.0
    assert (len(got), health.missing) == (5, 7)
    assert "no message within 0.2 s, only 0 bytes of one" in health.faults[0]


def test_a_connection_made_anew_gives_the_rest_once() -> None:
    frames = scan()
    told = [encode(message) for message in messages(frames, (3, 4), 5)]
    again = b"".join(map(encode, messages(frames, (3, 4), 4)))  # in other chunks
    with sender(b"".join(told[:3]) + told[3][:40], again) as port:
        got, pixel, health = listened(port, Options(timeout_s=2.0, reconnect=1, reconnect_s=0.01))
    assert np.array_equal(got, frames)
    assert pixel.tolist() == [[i // 4, i % 4] for i in range(12)]
    assert (health.reconnects, health.duplicates, health.missing, health.fault_count) == (1, 5, 0, 1)


def test_another_scan_after_a_new_connection_is_not_taken_for_the_old_one() -> None:
    told = [encode(message) for message in messages(scan(), (3, 4), 5)]
    other = b"".join([told[0], encode(ScanStart(6)), *told[2:]])
    with sender(b"".join(told[:3]), other) as port:
        got, _, health = listened(port, Options(timeout_s=2.0, reconnect=3, reconnect_s=0.01))
    assert (len(got), health.missing) == (5, 7)
    assert "another scan" in health.faults[-1]


def test_nobody_there_or_no_such_stream_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(SourceError, match=f"csr://127.0.0.1:{port}"):
        CsrSource("127.0.0.1", port, QUICK)
    for data, words in ((b"HTTP/1.1 200 OK" * 10, "kind 72"), (b"", "closed"), (encode(ScanEnd()), "scan 1 ends")):
        with sender(data) as port, pytest.raises(SourceError, match=words):
            CsrSource("127.0.0.1", port, QUICK)


def test_a_sender_that_is_faster_waits_and_nothing_is_lost() -> None:
    frames = scan(3, (16, 25))
    with (
        sender(b"".join(map(encode, messages(frames, (16, 25), 4)))) as port,
        CsrSource("127.0.0.1", port, Options(timeout_s=2.0, queue_bytes=1)) as source,
    ):
        got, waiting = [], []
        for block in source.blocks():
            time.sleep(0.002)
            got.append(block.frames)
            waiting.append(source.health.waiting)
    assert np.array_equal(np.concatenate(got), frames)
    assert source.health.waits > 10
    assert max(waiting) > 0
    assert waiting[-1] == source.health.missing == 0


def test_leaving_early_leaves_no_thread() -> None:
    before = threading.active_count()
    release = threading.Event()
    told = [encode(message) for message in messages(scan(), (3, 4), 5)]
    with sender(b"".join(told[:3]), hold=release) as port:
        with CsrSource("127.0.0.1", port, Options(timeout_s=5.0)) as source:
            blocks = source.blocks()
            next(blocks)
            begun = time.monotonic()
            blocks.close()  # type: ignore[attr-defined]
        assert time.monotonic() - begun < 2.0
        assert source.health.missing == 12 - source.health.received > 0
        release.set()
    assert threading.active_count() <= before


# --- what a header announces, and streams without end ----------------------------------------------


def start_of(scan: tuple[int, int], camera: tuple[int, int] = CAMERA, **about: object) -> bytes:
    return encode(AcquisitionStart(scan, camera, index_type=np.dtype("<u2"))) + encode(ScanStart(5, dict(about)))


@pytest.mark.parametrize("shape", [(65535, 65535), (46340, 46340), (10_000, 10_000)])
def test_a_scan_that_asks_for_too_much_memory_is_refused_with_figures(shape: tuple[int, int]) -> None:
    with sender(start_of(shape)) as port, pytest.raises(SourceError, match=rf"{shape[0]} x {shape[1]} positions needs"):
        CsrSource("127.0.0.1", port, QUICK)


def test_an_option_allows_it_and_frames_count_too() -> None:
    with sender(start_of((9000, 9000))) as port:
        CsrSource("127.0.0.1", port, Options(timeout_s=2.0, memory_bytes=2**31)).close()
    with sender(start_of((3, 4), (16384, 16384))) as port:
        CsrSource("127.0.0.1", port, QUICK).close()
    with sender(start_of((3, 4), (16384, 16384))) as port, pytest.raises(SourceError, match=r"2\.15 GB of memory"):
        CsrSource("127.0.0.1", port, Options(timeout_s=2.0, frames=True))


def test_acquisitions_that_begin_no_scan_end() -> None:
    endless = (encode(AcquisitionStart((3, 4), CAMERA)) + encode(AcquisitionEnd())) * 200_000
    begun = time.monotonic()
    with sender(endless) as port, pytest.raises(SourceError, match=r"no scan began within 0\.2 s"):
        CsrSource("127.0.0.1", port, Options(timeout_s=2.0, start_timeout_s=0.2))
    assert time.monotonic() - begun < 5.0


@pytest.mark.parametrize("told", [b"", encode(AcquisitionStart((3, 4), CAMERA)), b"\0" * 7])
def test_a_sender_that_falls_silent_before_its_scan_has_one_time_for_all(told: bytes) -> None:
    begun, hold = time.monotonic(), threading.Event()
    with sender(told, hold=hold) as port:
        with pytest.raises(SourceError, match=r"no message within 0\.\d s"):
            CsrSource("127.0.0.1", port, Options(timeout_s=5.0, start_timeout_s=0.4))
        hold.set()
    assert time.monotonic() - begun < 3.0


@pytest.mark.parametrize("before", [2, 3])
def test_a_message_that_trickles_ends_the_stream(before: int) -> None:
    told = [encode(message) for message in messages(scan(), (3, 4), 5)]
    drops = b"".join(told[:before])

    def trickle(line: socket.socket, over: threading.Event) -> None:
        line.sendall(drops)
        for byte in told[before]:
            if over.wait(0.05):
                return
            line.sendall(bytes([byte]))

    begun = time.monotonic()
    with listening([trickle]) as port:
        got, _, health = listened(port, Options(timeout_s=0.3))
    assert time.monotonic() - begun < 3.0
    assert len(got) == (before - 2) * 5
    assert "no message within 0.3 s, only" in health.faults[0]


AGREED = "ab" * 32


def test_another_plan_than_the_agreed_one_is_refused_and_none_is_noted() -> None:
    options = Options(timeout_s=2.0, plan=AGREED)
    rest = b"".join(map(encode, messages(scan(), (3, 4), 12)[2:]))
    words = r"the scan has the plan cdcd.*, not the agreed one, abababababab"
    other = start_of((3, 4), provenance={"plan_sha256": "cd" * 32})
    with sender(other) as port, pytest.raises(SourceError, match=words):
        CsrSource("127.0.0.1", port, options)
    with sender(start_of((3, 4), provenance={"plan_sha256": AGREED}) + rest) as port:
        assert listened(port, options)[2].fault_count == 0
    with sender(start_of((3, 4)) + rest) as port:
        assert "does not tell the plan" in listened(port, options)[2].faults[0]


def test_words_of_the_sender_are_cleaned_and_cut() -> None:
    about = {"note": "\x1b[2J" * 10_000, "deep": [[[[[[1]]]]]], "many": list(range(10_000)), "gain": float("nan")}
    with sender(start_of((3, 4), **about)) as port, CsrSource("127.0.0.1", port, QUICK) as source:
        kept = source.meta.metadata.provenance["stream"]
    assert kept["note"].isprintable()
    assert len(str(kept)) < 3000
    assert kept["many"][-1] == "and 9936 more"
    assert kept["gain"] == "nan"
