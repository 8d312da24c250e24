"""The Merlin client against cameras on loopback that behave, break down, and lie."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from fakes.listening import listening
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.source import Health, SourceError
from agents.sources import endpoint, open_source
from agents.sources.merlin import MerlinSource, Options
from agents.sources.merlin_assembly import Assembly, FrameOrder
from twin.formats import merlin_header as mh
from twin.formats.dataset import Metadata
from twin.formats.mib import METADATA
from twin.options import OptionError
from twin.wire import merlin
from twin.wire import merlin_commands as commands
from twin.wire.merlin_decoder import FrameMessage

SIDE = 8
ROWS, COLUMNS = 4, 5
COUNT = ROWS * COLUMNS
Script = Sequence[bytes | float]


def header(pixel: str = "U16", depth: int = 12, side: int = SIDE) -> mh.MerlinHeader:
    return mh.MerlinHeader(1, 384, 1, side, side, pixel, "1x1", mh.stamp(0.0), 1e-3, depth=depth)


def counts(n: int = COUNT, seed: int = 0, depth: int = 12) -> np.ndarray:
    dtype = np.min_scalar_type((1 << depth) - 1)
    return np.random.default_rng(seed).integers(0, 1 << depth, (n, SIDE, SIDE)).astype(dtype)


def hdr(frames: int = COUNT, scan: tuple[int, int] | None = (ROWS, COLUMNS), **extra: str) -> bytes:
    about = mh.Acquisition(frames, COLUMNS, scan, 12, {key.replace("_", " "): value for key, value in extra.items()})
    return merlin.acquisition_message(about)


def messages(frames: np.ndarray, about: mh.MerlinHeader | None = None, first: int = 1) -> list[bytes]:
    return [row.tobytes() for row in merlin.frame_messages(frames, replace(about or header(), sequence=first))]


def camera(*connections: Script, linger_s: float = 0.0) -> AbstractContextManager[int]:
    """A data port that sends bytes, pauses for numbers of seconds, and hangs up; one script per connection."""

    def play(script: Script, line: socket.socket, over: threading.Event) -> None:
        for item in script:
            if isinstance(item, bytes):
                line.sendall(item)
            else:
                over.wait(item)
        over.wait(linger_s)

    return listening(partial(play, script) for script in connections)


def listen(port: int, **options: object) -> tuple[dict[tuple[int, int], np.ndarray], MerlinSource]:
    """Every frame by its position, and the source when it is through."""
    usual = {"timeout_s": 1.0, "start_timeout_s": 3.0, "reconnect_s": 0.01, **options}
    with MerlinSource("127.0.0.1", port, Options(**usual)) as source:  # type: ignore[arg-type]
        frames = {}
        for block in source.blocks():
            for pixel, frame in zip(block.pixel, block.frames, strict=True):
                assert tuple(pixel) not in frames
                frames[int(pixel[0]), int(pixel[1])] = np.array(frame)
    return frames, source


def check(frames: dict[tuple[int, int], np.ndarray], truth: np.ndarray, lost: Sequence[int] = ()) -> None:
    """Every frame of `truth` but those with the numbers `lost`, each in its place."""
    expected = {divmod(k, COLUMNS): truth[k] for k in range(len(truth)) if k + 1 not in lost}
    assert sorted(frames) == sorted(expected)
    for place, frame in expected.items():
        np.testing.assert_array_equal(frames[place], frame)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "merlin reader"]


# --- a camera that behaves -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pixel", "depth", "dtype"),
    [("U08", 6, ">u1"), ("U16", 12, ">u2"), ("U32", 24, ">u4"), ("R64", 6, "u1"), ("R64", 12, "u2")],
)
def test_a_scan_arrives_frame_by_frame(pixel: str, depth: int, dtype: str) -> None:
    truth = counts(depth=depth)
    metadata = Metadata(step_nm=0.02, energy_kev=300.0, convergence_mrad=21.4)
    line = [hdr(**{METADATA: json.dumps(metadata.plain())}), *messages(truth, header(pixel, depth))]
    with camera(line) as port:
        frames, source = listen(port)
    check(frames, truth)
    assert source.meta.layout.scan == (ROWS, COLUMNS)
    assert source.meta.layout.camera == (SIDE, SIDE)
    assert source.meta.layout.dtype == str(np.dtype(dtype).newbyteorder("="))
    assert source.meta.layout.max_count == (1 << depth) - 1
    assert source.meta.metadata == replace(metadata, dwell_s=1e-3)
    assert source.health == Health(received=COUNT)


def test_pixels_are_big_endian_views_and_aligned() -> None:
    with camera([hdr(), *messages(counts())]) as port, MerlinSource("127.0.0.1", port) as source:
        for block in source.blocks():
            assert block.frames.dtype == np.dtype(">u2")
            assert block.frames.flags.aligned
            assert not block.frames.flags.owndata


def test_a_full_block_does_not_wait_and_one_that_is_not_waits_no_longer_than_the_latency() -> None:
    line = [hdr(), *messages(counts())]
    whole = [*line[:8], 0.3, *line[8:]]
    with camera(whole, linger_s=5) as port:
        options = Options(block_bytes=3 * 2 * SIDE * SIDE, latency_s=0.03)
        with MerlinSource("127.0.0.1", port, options) as source:
            begun = time.monotonic()
            sizes, ages = [], []
            for block in source.blocks():
                sizes.append(len(block))
                ages.append(time.monotonic() - begun)
    assert sizes[:3] == [3, 3, 1]  # seven frames, then a pause
    assert ages[2] < 0.25
    assert sum(sizes) == COUNT
    assert max(sizes) == 3


def test_a_slow_consumer_holds_the_camera_up_and_loses_nothing() -> None:
    truth = counts()
    options = Options(block_bytes=2 * SIDE * SIDE, queue_bytes=2 * 2 * SIDE * SIDE)
    with camera([hdr(), *messages(truth)]) as port, MerlinSource("127.0.0.1", port, options) as source:
        seen = 0
        waiting = []
        for block in source.blocks():
            time.sleep(0.01)
            seen += len(block)
            waiting.append(source.health.waiting)
    assert seen == COUNT
    assert source.health.waits > 5
    assert max(waiting) <= 4
    assert waiting[-1] == 0
    assert source.health.fault_count == 0


def test_the_scan_is_told_by_option_where_the_camera_does_not() -> None:
    with camera([hdr(0, None), *messages(counts())]) as port:
        frames, source = listen(port, scan=[ROWS, COLUMNS])
    check(frames, counts())
    assert source.health.missing == 0
    with camera([hdr(0, None), *messages(counts())]) as port, pytest.raises(SourceError, match="scan=ROWS,COLUMNS"):
        listen(port)


def test_frames_before_the_scan_and_between_its_rows_are_left_out() -> None:
    skip, flyback = 2, 1
    taken = counts(skip + ROWS * (COLUMNS + flyback))
    with camera([hdr(len(taken)), *messages(taken)]) as port:
        frames, source = listen(port, skip_frames=skip, flyback_frames=flyback, serpentine=True)
    image = taken[skip:].reshape(ROWS, COLUMNS + flyback, SIDE, SIDE)[:, :COLUMNS].copy()
    image[1::2] = image[1::2, ::-1]
    check(frames, image.reshape(-1, SIDE, SIDE))
    assert source.health == Health(received=COUNT)


def test_a_camera_that_counts_from_zero() -> None:
    with camera([hdr(), *messages(counts(), first=0)]) as port:
        frames, source = listen(port)
    check(frames, counts())
    assert source.health == Health(received=COUNT)


# --- a camera that does not ----------------------------------------------------------------------


def spoil(line: list[bytes], at: int, change: str) -> Script:
    one, before, after = line[at], line[:at], line[at + 1 :]
    return {
        "truncated": [*before, one[:-50], *after],
        "garbage": [*before, b"\xffgarbage" * 5000, one, *after],
        "wrong header length": [*before, one.replace(b",00384,", b",00768,"), *after],
        "bit depth": [*before, *messages(counts(1, depth=24), header("U32", 24), at), *after],
        "missing": [*before, *after],
        "doubled": [*before, one, one, *after],
        "out of order": [*before, *after[:2], one, *after[2:]],
    }[change]


@pytest.mark.parametrize(
    ("change", "lost", "words"),
    [
        ("truncated", [7], "frame 7 is cut off after 78 of 128"),
        ("garbage", [], "40000 bytes of garbage"),
        ("wrong header length", [7], "the header is cut off after 512 of 768 bytes"),
        ("bit depth", [7], "frame 7 has pixel type U32, the frames before it U16"),
        ("missing", [7], "frame 7 is missing"),
        ("doubled", [], None),
        ("out of order", [], "frame 7 is missing"),
    ],
)
def test_a_fault_is_reported_and_everything_else_kept(change: str, lost: list[int], words: str | None) -> None:
    truth = counts()
    line = [hdr(), *messages(truth)]
    with camera(spoil(line, 7, change), linger_s=1) as port:
        frames, source = listen(port)
    check(frames, truth, lost)
    assert source.health.received == COUNT - len(lost)
    assert source.health.missing == len(lost)
    assert source.health.duplicates == (change == "doubled")
    assert (words is None) == (source.health.fault_count == 0)
    assert words is None or any(words in fault for fault in source.health.faults), source.health.faults


def test_a_bit_depth_that_stays_changed_ends_the_stream() -> None:
    truth = counts()
    rest = messages(np.zeros((200, SIDE, SIDE), np.uint32), header("U32", 24), 6)
    with camera([hdr(), *messages(truth)[:5], *rest], linger_s=5) as port:
        frames, source = listen(port)
    check(frames, truth[:5])
    assert source.health.missing == COUNT - 5
    assert "gave up on the stream (101 faults" in source.health.faults[-1] or source.health.fault_count > 100


def test_fewer_frames_than_the_scan_and_more_than_it() -> None:
    with camera([hdr(frames=12), *messages(counts(12))]) as port:
        frames, source = listen(port)
    check(frames, counts(12))
    assert source.health.missing == 8
    assert "announces 12 frames; a scan of (4, 5) takes 20" in source.health.faults[0]
    assert "the camera hung up after 12 of 20 positions" in source.health.faults[1]
    with camera([hdr(frames=23), *messages(counts(23))[::-1]]) as port:
        frames, source = listen(port, first=1)
    check(frames, counts(23)[:COUNT])
    assert any("frame 23 does not belong to a scan of (4, 5)" in fault for fault in source.health.faults)


def test_a_line_that_breaks_in_the_middle_of_a_frame() -> None:
    line = [hdr(), *messages(counts())]
    with camera([*line[:11], line[11][:100]]) as port:
        frames, source = listen(port)
    check(frames, counts()[:10])
    assert source.health.missing == 10
    assert source.health.fault_count == 2


def test_a_camera_that_falls_silent() -> None:
    begun = time.monotonic()
    with camera([hdr(), *messages(counts())[:10]], linger_s=20) as port:
        frames, source = listen(port, timeout_s=0.2)
    check(frames, counts()[:10])
    assert "no new frame came for 0.2 s after 10 of 20 positions" in source.health.faults[0]
    assert time.monotonic() - begun < 5


def test_a_line_that_trickles_is_given_up() -> None:
    drops: list[bytes | float] = []
    for _ in range(400):
        drops += [b"\0", 0.01]
    begun = time.monotonic()
    with camera([hdr(), *messages(counts())[:10], *drops], linger_s=20) as port:
        frames, source = listen(port, timeout_s=0.3)
    check(frames, counts()[:10])
    assert "no new frame came for 0.3 s" in source.health.faults[-1]
    assert time.monotonic() - begun < 3


def test_a_scan_with_a_hole_ends_soon_after_its_last_frame() -> None:
    line = messages(counts())
    with camera([hdr(), *line[:4], *line[5:]], linger_s=20) as port:
        begun = time.monotonic()
        _, source = listen(port, timeout_s=10.0)
        assert 0.4 < time.monotonic() - begun < 5
    assert source.health.missing == 1
    assert source.health.faults == ["frame 5 is missing"]


def test_a_broken_number_does_not_end_a_slow_scan() -> None:
    line = messages(counts())
    wrong = line[4].replace(b"MQ1,000005", b"MQ1,000020")
    with camera([hdr(), *line[:4], wrong, *line[5:8], 0.8, *line[8:]]) as port:
        frames, source = listen(port)
    assert (source.health.received, source.health.missing, source.health.duplicates) == (19, 1, 1)
    np.testing.assert_array_equal(frames[0, 3], counts()[3])
    assert (0, 4) not in frames


@pytest.mark.parametrize("restart", ["goes on", "starts again", "loses some"])
def test_a_connection_that_is_restored_goes_on_where_it_was(restart: str) -> None:
    line = messages(counts())
    again = {"goes on": line[8:], "starts again": [hdr(), *line], "loses some": line[10:]}[restart]
    with camera([hdr(), *line[:8], line[8][:77]], again) as port:
        frames, source = listen(port, reconnect=3)
    lost = [9, 10] if restart == "loses some" else []
    check(frames, counts(), lost)
    assert source.health.reconnects == 1
    assert source.health.duplicates == (8 if restart == "starts again" else 0)
    assert source.health.missing == len(lost)


def test_a_connection_that_comes_back_with_other_frames_is_refused() -> None:
    other = messages(counts(12, depth=6), header("U08", 6), 9)
    with camera([hdr(), *messages(counts())[:8]], other) as port:
        frames, source = listen(port, reconnect=1)
    check(frames, counts()[:8])
    assert any("U08, the frames before it U16" in fault for fault in source.health.faults)


def test_a_second_acquisition_does_not_run_into_the_first() -> None:
    with camera([hdr(), *messages(counts())[:8], hdr(), *messages(counts(seed=1))]) as port:
        frames, source = listen(port)
    check(frames, counts()[:8])
    assert "another acquisition began after" in source.health.faults[0]
    whole = hdr() + b"".join(messages(counts()))
    with camera([whole + hdr() + b"".join(messages(counts(seed=1)))]) as port:
        frames, source = listen(port)
    check(frames, counts())
    assert source.health == Health(received=COUNT)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ([], "hung up before the first frame"),
        ([hdr()], "hung up before the first frame"),
        ([hdr(), 3.0], r"no frame within 0\.2 s; --option start_timeout_s=0\.8 waits longer"),
        ([b"SSH-2.0-OpenSSH_9.2\r\n", 3.0], "no valid data came"),
        ([b"\0" * 2**25], "no message within"),
        ([merlin.message(b"x" * 20) * 200], "faults without a good frame"),
        ([hdr(0, None), *messages(counts(1))], "give --option scan=ROWS,COLUMNS"),
    ],
)
def test_what_is_no_stream_is_refused_at_once(script: Script, words: str) -> None:
    with camera(script) as port, pytest.raises(SourceError, match=words):
        # Short only where nothing more comes: to be refused for what came takes a busy machine longer.
        listen(port, start_timeout_s=0.2 if 3.0 in script else 5.0)


def test_a_port_where_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(SourceError, match=f"merlin://127.0.0.1:{port}.*refused"):
        open_source(f"merlin://127.0.0.1:{port}")


def test_a_consumer_that_leaves_in_the_middle_leaves_nothing_running() -> None:
    with camera([hdr(), *messages(counts())[:10]], linger_s=20) as port, MerlinSource("127.0.0.1", port) as source:
        begun = time.monotonic()
        for _ in source.blocks():
            break
        source.close()
        assert time.monotonic() - begun < 3
        with pytest.raises(SourceError, match="was read already"):
            next(source.blocks())


# --- control -------------------------------------------------------------------------------------


@contextmanager
def controllable(answer: Callable[[commands.Command], int], script: Script) -> Iterator[tuple[int, int, list[str]]]:
    """A camera that sends its script once it is started, and its control port; keeps what it was told."""
    heard: list[str] = []
    started = threading.Event()

    def obey(line: socket.socket, over: threading.Event) -> None:
        decoder = commands.CommandDecoder()
        while data := line.recv(100):
            for payload in decoder.feed(data):
                command = commands.parse_command(payload)
                heard.append(payload.decode())
                reply = commands.Reply(command.verb, command.name, None, answer(command))
                line.sendall(commands.build_reply(reply))
                if command.name == "STARTACQUISITION":
                    started.set()

    def wait() -> Iterator[bytes | float]:
        started.wait(5)
        yield from script

    with listening([obey]) as control, camera(wait()) as port:  # type: ignore[arg-type]
        try:
            yield port, control, heard
        finally:
            started.set()


def test_the_camera_is_set_up_started_and_triggered() -> None:
    line = [hdr(), *messages(counts())]
    with controllable(lambda command: commands.OK, line) as (port, control, heard):
        settings = {"COUNTERDEPTH": 12, "numframestoacquire": COUNT}
        frames, _ = listen(port, control_port=control, settings=settings, start=True, trigger=True)
    check(frames, counts())
    expected = ["SET,COUNTERDEPTH,12", f"SET,numframestoacquire,{COUNT}", "CMD,STARTACQUISITION", "CMD,SOFTTRIGGER"]
    assert heard == expected


def test_a_camera_that_refuses_says_what() -> None:
    def refuse(command: commands.Command) -> int:
        return commands.OUT_OF_RANGE if command.verb == "SET" else commands.OK

    with (
        controllable(refuse, []) as (port, control, _),
        pytest.raises(SourceError, match="SET,HVBIAS,9999: parameter out of range"),
    ):
        listen(port, control_port=control, settings={"HVBIAS": 9999}, start=True)


def test_a_control_port_where_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        closed = unused.getsockname()[1]
    with camera([hdr()]) as port, pytest.raises(SourceError, match=f"control port {closed}: .*refused"):
        listen(port, control_port=closed, start=True)


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(OptionError, match="give control_port"):
        open_source("merlin://127.0.0.1:1", start=True)
    with pytest.raises(OptionError, match="did you mean timeout_s"):
        open_source("merlin://127.0.0.1:1", timeot_s=1)
    with pytest.raises(OptionError, match="latency_s: input should be greater than 0, got 0"):
        open_source("merlin://127.0.0.1:1", latency_s=0)
    with pytest.raises(OptionError, match=r"timeout_s: input should be a valid number.*'soon'"):
        open_source("merlin://127.0.0.1:1", timeout_s="soon")
    with pytest.raises(OptionError, match=r"scan: .* at most 2"):
        open_source("merlin://127.0.0.1:1", scan=(2, 3, 4))


@pytest.mark.parametrize(
    ("where", "expected"),
    [("a", ("a", 7)), ("a:80", ("a", 80)), ("a:80/", ("a", 80)), ("[::1]:80", ("::1", 80)), ("[::1]", ("::1", 7))],
)
def test_addresses(where: str, expected: tuple[str, int]) -> None:
    assert endpoint(where, 7) == expected


@pytest.mark.parametrize("where", ["", ":80", "a:", "a:0", "a:65536", "a:x"])
def test_addresses_that_are_none(where: str) -> None:
    with pytest.raises(SourceError, match="is not host:port"):
        endpoint(where, 7)


# --- books ---------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(-3, 40), max_size=60),
    st.integers(0, 3),
    st.integers(0, 2),
    st.booleans(),
    st.integers(1, 7),
)
@settings(max_examples=150, deadline=None)
def test_every_position_gets_its_first_frame_whatever_comes(
    numbers: list[int], skip: int, flyback: int, serpentine: bool, run_frames: int
) -> None:
    order = FrameOrder((ROWS, COLUMNS), 1, skip, flyback, serpentine)
    health = Health()
    assembly = Assembly(order, health, run_frames)
    slab = np.zeros((len(numbers), 1), np.uint8)
    runs = [run for slot, n in enumerate(numbers) for run in assembly.add(FrameMessage(n, slab, slot))]
    runs += assembly.take()
    assembly.end()
    of_number = {}
    for k in range(order.frames - skip):
        row, column = divmod(k, COLUMNS + flyback)
        if column < COLUMNS:
            of_number[1 + skip + k] = (row, COLUMNS - 1 - column if serpentine and row % 2 else column)
    expected = {}
    for slot, n in enumerate(numbers):
        if n in of_number:
            expected.setdefault(of_number[n], slot)
    got = {}
    for run in runs:
        assert 1 <= run.stop - run.start == len(run.pixel) <= run_frames
        got |= {tuple(p): run.start + k for k, p in enumerate(run.pixel.tolist())}
    assert got == expected
    assert health.missing == COUNT - len(expected)
    assert health.duplicates == sum(n in of_number for n in numbers) - len(expected)


# --- what a header announces, and streams without end ----------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), [(46340, 46340), (2**20, 2**11), (12_000, 9000)])
def test_a_scan_that_asks_for_too_much_memory_is_refused_with_figures(rows: int, columns: int) -> None:
    line = [hdr(rows * columns if rows * columns < 2**31 else 0, (rows, columns)), *messages(counts())]
    words = rf"{rows} x {columns} positions needs .* memory_bytes="
    with camera(line) as port, pytest.raises(SourceError, match=words):
        listen(port)


def test_an_option_allows_a_large_scan() -> None:
    with camera([hdr(9000 * 9000, (9000, 9000)), *messages(counts())]) as port:
        frames, source = listen(port, memory_bytes=2**31)
    assert (len(frames), source.health.missing) == (20, 9000 * 9000 - 20)


def test_a_frame_that_is_too_large_is_named_at_the_opening() -> None:
    line = [hdr(), b"MPX,1073741824," + bytes(1000)]
    words = r"no frame within 0\.3 s; the last fault: a message of 1073741823 bytes"
    with camera(line, linger_s=5) as port, pytest.raises(SourceError, match=words):
        listen(port, start_timeout_s=0.3)


@pytest.mark.parametrize(
    "again",
    [
        pytest.param(lambda line: line[9], id="the same frame for ever"),
        pytest.param(lambda line: line[4], id="an earlier frame for ever"),
        pytest.param(lambda line: messages(counts()[:1], first=5000)[0], id="frames beyond the scan for ever"),
        pytest.param(lambda line: merlin.message(b"MQ9," + bytes(380)), id="messages that are no frames for ever"),
    ],
)
def test_a_stream_that_brings_nothing_new_ends(again: Any) -> None:
    line = messages(counts())
    endless: list[bytes | float] = []
    for _ in range(300):
        endless += [again(line), 0.02]
    begun = time.monotonic()
    with camera([hdr(), *line[:10], *endless], linger_s=20) as port:
        frames, source = listen(port, timeout_s=0.3)
    check(frames, counts()[:10])
    assert time.monotonic() - begun < 4.0
    words = ("no new frame came for 0.3 s", "gave up", "does not belong to a scan")
    assert any(word in fault for fault in source.health.faults for word in words)


def test_text_headers_without_a_frame_end_the_opening() -> None:
    words = r"the text header came, but no frame within 0\.3 s"
    with camera([*[hdr(), 0.01] * 200], linger_s=5) as port, pytest.raises(SourceError, match=words):
        listen(port, start_timeout_s=0.3)


AGREED = "ab" * 32


def planned(digest: str | None) -> bytes:
    about = {} if digest is None else {"provenance": {"plan_sha256": digest}}
    extra = {METADATA: json.dumps(about)}
    return merlin.acquisition_message(mh.Acquisition(COUNT, COLUMNS, (ROWS, COLUMNS), 12, extra))


def test_another_plan_than_the_agreed_one_is_refused_and_none_is_noted() -> None:
    line, words = messages(counts()), r"the scan has the plan cdcd.*, not the agreed one, abababababab"
    with camera([planned("cd" * 32), *line]) as port, pytest.raises(SourceError, match=words):
        listen(port, plan=AGREED)
    with camera([planned(AGREED), *line]) as port:
        frames, source = listen(port, plan=AGREED)
    check(frames, counts())
    assert source.health.fault_count == 0
    with camera([planned(None), *line]) as port:
        assert "does not tell the plan" in listen(port, plan=AGREED)[1].health.faults[0]


@pytest.mark.parametrize("shutter_s", [-1.0, 1e9])
def test_a_shutter_time_that_cannot_be_is_a_fault(shutter_s: float) -> None:
    line = messages(counts(), replace(header(), shutter_s=shutter_s))
    with camera([hdr(), *line], linger_s=1) as port, pytest.raises(SourceError, match=r"last fault: .*shutter_s"):
        listen(port, start_timeout_s=0.3)


def test_faults_of_a_stream_are_printable() -> None:
    line = messages(counts(), replace(header(), assembly="\x1b[2J"))
    with camera([hdr(), *line], linger_s=1) as port, pytest.raises(SourceError, match="last fault") as caught:
        listen(port, start_timeout_s=0.3)
    assert str(caught.value).isprintable()


def test_a_camera_that_dawdles_over_its_settings_has_the_time_of_the_opening_in_all() -> None:
    control, stop = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def dawdle() -> None:
        line, _ = control.accept()
        decoder = commands.CommandDecoder()
        with line, suppress(OSError):
            while data := line.recv(4096):
                for payload in decoder.feed(data):
                    stop.wait(0.3)
                    command = commands.parse_command(payload)
                    line.sendall(commands.build_reply(commands.Reply(command.verb, command.name, None, commands.OK)))

    thread = threading.Thread(target=dawdle, name="camera control", daemon=True)
    thread.start()
    begun, settings = time.monotonic(), {f"THRESHOLD{k}": k for k in range(8)}
    with camera([], linger_s=5) as port, pytest.raises(SourceError, match="no complete reply within"):
        listen(port, start_timeout_s=0.8, control_port=control.getsockname()[1], settings=settings)
    assert time.monotonic() - begun < 2.5
    stop.set()
    control.close()
    thread.join(5)
