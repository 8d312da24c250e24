"""The Merlin protocol against bytes spelled out by hand, and against anything that a line can do to them."""

import contextlib
import re
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from twin.formats import merlin_header as mh
from twin.formats import merlin_pixels
from twin.formats.dataset import FormatError
from twin.wire import merlin
from twin.wire.merlin import WireError
from twin.wire.merlin_decoder import AcquisitionMessage, DataDecoder, Fault, FrameMessage, Message

SIDE = 8


def header(pixel: str = "U16", depth: int | None = 12, side: int = SIDE, **changes: object) -> mh.MerlinHeader:
    width = 2 * side if depth == 24 and pixel == "R64" else side
    usual = mh.MerlinHeader(1, 384, 1, width, side, pixel, "1x1", mh.stamp(0.0), 1e-3, depth=depth)
    return replace(usual, **changes)  # type: ignore[arg-type]


def counts(n: int, depth: int = 12, side: int = SIDE, seed: int = 0) -> np.ndarray:
    dtype = np.min_scalar_type((1 << depth) - 1)
    return np.random.default_rng(seed).integers(0, 1 << depth, (n, side, side)).astype(dtype)


def stream(frames: np.ndarray, about: mh.MerlinHeader | None = None, first: int = 1) -> list[bytes]:
    about = replace(about or header(), sequence=first)
    return [row.tobytes() for row in merlin.frame_messages(frames, about, dwell_s=1e-3)]


def pixels(message: Message, about: mh.MerlinHeader) -> np.ndarray:
    assert isinstance(message, FrameMessage)
    return merlin_pixels.decode(message.slab[message.slot][None], about)[0]


def decode(data: bytes, piece: int = 10**9, **limits: int) -> tuple[DataDecoder, list[Message]]:
    decoder = DataDecoder(**limits)
    messages = [m for k in range(0, len(data), piece) for m in decoder.feed(data[k : k + piece])]
    return decoder, messages + decoder.end()


def scatter(decoder: DataDecoder, data: bytes, most: int) -> list[Message]:
    """As a socket does it: at most `most` bytes at a time, into the places that the decoder offers."""
    messages: list[Message] = []
    rest = memoryview(data)
    while rest:
        count = 0
        for place in decoder.buffers():
            part = min(len(place), len(rest), most - count)
            place[:part] = rest[:part]
            rest, count = rest[part:], count + part
        messages += decoder.filled(count)
    return messages


def kept(messages: list[Message]) -> list[int]:
    return [m.number for m in messages if isinstance(m, FrameMessage)]


def faults(messages: list[Message]) -> list[str]:
    return [m.text for m in messages if isinstance(m, Fault)]


# --- framing and encoding ------------------------------------------------------------------------


def test_the_number_is_the_length_plus_one() -> None:
    assert merlin.message(b"GET,IMAGEX") == b"MPX,0000000011,GET,IMAGEX"
    assert merlin.payload_length(b"MPX,0000131457,", 2**20) == 384 + 256 * 256 * 2


@pytest.mark.parametrize(
    "raw", [b"MPX,000000011,G", b"MPX 0000000011,", b"mpx,0000000011,", b"MPX,00000000-1,", b"MPX,0000000001,", b"MPX,"]
)
def test_a_prefix_that_is_none_is_refused(raw: bytes) -> None:
    with pytest.raises(WireError):
        merlin.payload_length(raw, 2**20)


def test_what_a_prefix_announces_is_limited() -> None:
    assert merlin.payload_length(merlin.prefix(100), 100) == 100
    with pytest.raises(WireError, match="101 bytes; 1 to 100"):
        merlin.payload_length(merlin.prefix(101), 100)


def test_a_frame_message_is_prefix_header_and_big_endian_pixels() -> None:
    frames = counts(3)
    about = header(sequence=41)
    for k, row in enumerate(merlin.frame_messages(frames, about, begun_s=2.0, dwell_s=0.5)):
        raw = row.tobytes()
        expected = mh.build_header(replace(about, sequence=41 + k, time=mh.stamp(2.0 + 0.5 * k)))
        assert raw[:15] == b"MPX,%010d," % (384 + 2 * SIDE * SIDE + 1)
        assert raw[15:399] == expected
        assert raw[399:] == frames[k].astype(">u2").tobytes()


@pytest.mark.parametrize(("pixel", "depth"), [("U16", None), ("R64", 12)])
def test_headers_without_depth_and_raw_pixels_are_built_as_a_file_has_them(pixel: str, depth: int | None) -> None:
    about = header(pixel, depth)
    raw = merlin.frame_messages(counts(2), about, dwell_s=0.25)[1].tobytes()
    assert raw[15:399] == mh.build_header(replace(about, sequence=2, time=mh.stamp(0.25)))
    assert raw[399:] == merlin_pixels.encode(counts(2), about)[1].tobytes()


def test_a_count_above_the_counter_is_refused_before_it_is_sent() -> None:
    with pytest.raises(FormatError, match="12 bits ends at 4095"):
        merlin.frame_messages(np.full((1, SIDE, SIDE), 4096, np.uint16), header())


# --- decoding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [1, 7, 399, 10**9])
@pytest.mark.parametrize(
    ("pixel", "depth"), [("U08", 6), ("U16", 12), ("U32", 24), ("U16", None), ("R64", 6), ("R64", 12), ("R64", 24)]
)
def test_frames_come_back_however_the_bytes_are_cut(pixel: str, depth: int | None, piece: int) -> None:
    about, frames = header(pixel, depth), counts(5, depth or 12)
    hdr = merlin.acquisition_message(mh.Acquisition(5, 5, (1, 5), depth))
    decoder, messages = decode(hdr + b"".join(stream(frames, about)), piece)
    first = messages[0]
    assert isinstance(first, AcquisitionMessage)
    assert (first.acquisition.frames, first.acquisition.scan) == (5, (1, 5))
    assert decoder.header is not None
    assert decoder.header.kind == about.kind
    assert kept(messages) == [1, 2, 3, 4, 5]
    for message, frame in zip(messages[1:], frames, strict=True):
        np.testing.assert_array_equal(pixels(message, about), frame)


def test_pixels_are_received_in_place_side_by_side() -> None:
    frames = counts(6)
    data = b"".join(stream(frames))
    decoder, messages = DataDecoder(slab_bytes=4 * 2 * SIDE * SIDE), []
    messages += scatter(decoder, data, 10**9)
    messages += decoder.flush()
    got = [m for m in messages if isinstance(m, FrameMessage)]
    assert [m.slot for m in got] == [0, 1, 2, 3, 0, 1]
    assert all(m.slab is got[0].slab for m in got[:4])
    np.testing.assert_array_equal(got[0].slab.view(">u2").reshape(4, SIDE, SIDE), frames[:4])


def test_a_frame_is_held_back_until_the_next_begins_or_the_line_is_quiet() -> None:
    one, two = stream(counts(2))
    decoder = DataDecoder()
    assert decoder.feed(one) == []
    assert kept(decoder.flush()) == [1]
    assert decoder.flush() == []
    assert decoder.feed(two[:10]) == []
    assert decoder.flush() == []
    decoder.feed(two[10:])
    assert kept(decoder.feed(b"MPX,0000000100,")) == [2]


def test_quad_headers_are_768_bytes_long() -> None:
    about = mh.MerlinHeader(1, 768, 4, 512, 512, "U16", "2x2", mh.stamp(0.0), 1e-3, depth=12)
    frames = counts(2, side=512)
    _, messages = decode(b"".join(stream(frames, about)))
    np.testing.assert_array_equal(pixels(messages[1], about), frames[1])


def spoilt(data: list[bytes], at: int, change: str) -> list[bytes]:
    """A stream whose message `at` is spoilt in one of the ways that lines have."""
    one = data[at]
    side = 2 * SIDE
    if change == "truncated":
        return [*data[:at], one[:-30], *data[at + 1 :]]
    if change == "truncated by one byte":
        return [*data[:at], one[:-1], *data[at + 1 :]]
    if change == "truncated in its header":
        return [*data[:at], one[:200], *data[at + 1 :]]
    if change == "garbage before it":
        return [*data[:at], b"garbage " * 9000, *data[at:]]
    if change == "a false prefix before it":
        return [*data[:at], b"MPX,9999999999,MPX,12", *data[at:]]
    if change == "an unknown message before it":
        return [*data[:at], merlin.message(b"XYZ" * 10), *data[at:]]
    wrong = {
        "header length": one.replace(b",00384,", b",00768,"),
        "pixel type": stream(counts(1, 24), header("U32", 24), at + 1)[0],
        "bit depth": one.replace(b"ns,12,", b"ns,24,"),
        "size": stream(counts(1, side=side), header(side=side), at + 1)[0],
        "number": one.replace(b"MQ1,%06d" % (at + 1), b"MQ1,0000x1"),
        "length": merlin.message(one[15:] + b"\0" * 9),
    }[change]
    return [*data[:at], wrong, *data[at + 1 :]]


@pytest.mark.parametrize("scattered", [False, True])
@pytest.mark.parametrize("piece", [1, 1000, 10**9])
@pytest.mark.parametrize(
    ("change", "lost", "words"),
    [
        ("truncated", [4], "frame 4 is cut off after 98 of 128"),
        ("truncated by one byte", [4], "frame 4 is cut off after 127 of 128"),
        ("truncated in its header", [4, 5], "skipped|garbage"),
        ("garbage before it", [], "72000 bytes of garbage"),
        ("a false prefix before it", [], "21 bytes of garbage"),
        ("an unknown message before it", [], "begins with MQ1"),
        ("header length", [4], "cut off|768"),
        ("pixel type", [4], "has pixel type U32, the frames before it U16"),
        ("bit depth", [4], "has counter depth 24, the frames before it 12"),
        ("size", [4], "has width 16, the frames before it 8"),
        ("number", [4], "'0000x1' is not a number"),
        ("length", [4], "512 bytes by its header, 521 by its message"),
    ],
)
def test_a_fault_costs_what_it_hits_and_no_more(
    change: str, lost: list[int], words: str, piece: int, scattered: bool
) -> None:
    frames = counts(8)
    data = b"".join(spoilt(stream(frames), 3, change))
    if scattered:
        decoder = DataDecoder(slab_bytes=5 * 2 * SIDE * SIDE, ahead=3)
        messages = scatter(decoder, data, piece) + decoder.end()
    else:
        _, messages = decode(data, piece)
    assert kept(messages) == [k for k in range(1, 9) if k not in lost]
    assert any(re.search(words, text) for text in faults(messages)), faults(messages)
    for message in messages:
        if isinstance(message, FrameMessage):
            np.testing.assert_array_equal(pixels(message, header()), frames[message.number - 1])


def test_the_place_of_a_frame_that_was_cut_off_is_used_again() -> None:
    _, messages = decode(b"".join(spoilt(stream(counts(5)), 2, "truncated")))
    assert [(m.number, m.slot) for m in messages if isinstance(m, FrameMessage)] == [(1, 0), (2, 1), (4, 2), (5, 3)]


def test_a_line_that_is_closed_early_keeps_whole_frames() -> None:
    data = b"".join(stream(counts(3)))
    _, messages = decode(data[:-20])
    assert kept(messages) == [1, 2]
    assert faults(messages) == ["frame 3 is cut off: the connection closed 20 bytes early"]
    assert kept(decode(data)[1]) == [1, 2, 3]


def test_frames_larger_than_agreed_are_never_allocated() -> None:
    about = mh.MerlinHeader(1, 384, 1, 8192, 8192, "U32", depth=24)
    head = merlin.prefix(384 + about.payload_bytes) + mh.build_header(about)
    tracemalloc.start()
    decoder, messages = decode(head + b"\0" * 1000, most_frame=2**20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert kept(messages) == []
    assert faults(messages)
    assert decoder.header is None
    assert peak < 4 * 2**20


def test_endless_garbage_and_endless_faults_end() -> None:
    with pytest.raises(WireError, match="no message within"):
        decode(b"\0" * 10**6, most_garbage=10**5)
    with pytest.raises(WireError, match="faults without a good frame"):
        decode(merlin.message(b"nothing") * 100, most_faults=10)


def test_a_good_frame_makes_faults_before_it_good() -> None:
    line = [piece for one in stream(counts(9)) for piece in (merlin.message(b"nothing"), one)]
    _, messages = decode(b"".join(line), most_faults=2)
    assert kept(messages) == list(range(1, 10))
    assert len(faults(messages)) == 9


def test_frames_before_the_line_is_given_up_are_not_lost() -> None:
    good, bad = stream(counts(3)), merlin.message(b"nothing") * 20
    for scattered in (False, True):
        decoder = DataDecoder(most_faults=10)
        decoder.feed(good[0])
        data = b"".join(good[1:]) + bad
        messages = scatter(decoder, data, 10**9) if scattered else decoder.feed(data)
        assert kept(messages) == [1, 2, 3]
        for call in (decoder.flush, decoder.end, lambda d=decoder: d.feed(b"")):
            with pytest.raises(WireError, match="faults without a good frame"):
                call()


def mutations(seed: int, cases: int) -> Iterator[bytes]:
    """A short stream with a few bytes changed, cut out, doubled, or replaced by pieces of itself."""
    rng = np.random.default_rng(seed)
    whole = merlin.acquisition_message(mh.Acquisition(3, 3, (1, 3), 12)) + b"".join(stream(counts(3)))
    starts = [0, 2048 + 15, 2048 + 15 + 527]
    for _ in range(cases):
        data = bytearray(whole[starts[rng.integers(3)] :])
        for _ in range(rng.integers(1, 5)):
            at, length = int(rng.integers(len(data))), int(rng.integers(1, 60))
            if rng.random() < 0.5:  # most of a stream is padding: hit what matters
                at = int(rng.choice([m.start() for m in re.finditer(b"MPX", data)] or [0]))
                at = min(at + int(rng.integers(60)), len(data) - 1)
            kind = rng.integers(5)
            if kind == 0:
                data[at] = rng.integers(256)
            elif kind == 1:
                del data[at : at + length]
            elif kind == 2:
                data[at:at] = data[at : at + length]
            elif kind == 3:
                data[at : at + length] = rng.bytes(length)
            else:
                data[at : at + 1] = b"0123456789,MPX"[(k := int(rng.integers(14))) : k + 1]
            if not data:
                data = bytearray(whole)
        yield bytes(data)


def test_ten_thousand_spoilt_streams_neither_hang_nor_crash() -> None:
    slowest, frames = 0.0, 0
    for k, data in enumerate(mutations(0, 10_000)):
        decoder = DataDecoder(slab_bytes=2**12, most_frame=2**16, most_garbage=2**12)
        begun = time.perf_counter()
        try:
            messages = (decoder.feed(data) if k % 2 else scatter(decoder, data, 1500)) + decoder.end()
        except WireError:
            messages = []
        slowest = max(slowest, time.perf_counter() - begun)
        frames += len(kept(messages))
        assert len(messages) < 40
    assert frames > 5_000
    assert slowest < 1.0


def test_spoilt_streams_do_not_swell() -> None:
    tracemalloc.start()
    for data in mutations(1, 200):
        with contextlib.suppress(WireError):
            decode(data, piece=4096, slab_bytes=2**12, most_frame=2**16, most_garbage=2**12)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


@given(st.binary(max_size=300), st.integers(1, 50))
@settings(max_examples=200, deadline=None)
def test_garbage_before_a_stream_hides_nothing_of_it(garbage: bytes, piece: int) -> None:
    frames = counts(3)
    if merlin.PREFIX.search(garbage + b"MPX,0000000513,"[:14]):
        garbage = garbage.replace(b"MPX,", b"")
    _, messages = decode(garbage + b"".join(stream(frames)), piece)
    assert kept(messages) == [1, 2, 3]


@given(st.integers(0, 2**32), st.integers(1, 3000), st.integers(1, 5), st.integers(1, 4))
@example(1505535, 1, 1, 1)  # cut off just when a new slab is begun
@settings(max_examples=150, deadline=None)
def test_a_scattered_read_gives_the_same_as_bytes_in_a_row(seed: int, piece: int, ahead: int, rows: int) -> None:
    for data in mutations(seed, 3):
        outcomes = []
        for way in (lambda d, data: d.feed(data), lambda d, data: scatter(d, data, piece)):
            decoder = DataDecoder(slab_bytes=rows * 2 * SIDE * SIDE, most_frame=2**16, ahead=ahead)
            messages = way(decoder, data) + decoder.end()
            outcomes.append(
                [(m.number, m.slab[m.slot].tobytes()) if isinstance(m, FrameMessage) else m for m in messages]
            )
        assert outcomes[0] == outcomes[1]
