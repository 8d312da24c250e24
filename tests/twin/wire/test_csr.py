"""The sparse camera stream: against bytes that the public client's own simulator made, against itself, and broken."""

import os
import struct
import subprocess
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.wire import csr

UNSIGNED: list[np.dtype[Any]] = [np.dtype("<u1"), np.dtype("<u2"), np.dtype("<u4"), np.dtype("<u8")]

REFERENCE = bytes.fromhex(
    "0007000200030004000200020401000000000000000000000000000000000000"
    "0101000000000000000000000000000000000000000000000000000000000000"
    "020406000000060000001c000000340000000000000000000000000000000000"
    "0000000001000000010000000300000004000000040000000600000005000000"
    "0600000007000000080000000900000000010000010000000200000003000000"
    "0400000005000000060000000301000000000000000000000000000000000000"
    "0000000000000000000000000401000000000000000000000000000000000000"
    "000000000000000000000000"
)
"""What `libertem_asi_tpx3.make_sim_data` 0.3.2 makes of the 2 x 3 scan in `reference_messages`."""


def reference_messages() -> list[csr.Message]:
    indptr, index = np.array([0, 1, 1, 3, 4, 4, 6], "<u4"), np.array([5, 6, 7, 8, 9, 256], "<u4")
    chunk = csr.Chunk(indptr, index, np.arange(1, 7, dtype="<u4"))
    return [csr.AcquisitionStart((2, 3), (512, 512)), csr.ScanStart(), chunk, csr.ScanEnd(), csr.AcquisitionEnd()]


def same(a: csr.Message, b: csr.Message) -> bool:
    if isinstance(a, csr.Chunk) and isinstance(b, csr.Chunk):
        pairs = ((a.indptr, b.indptr), (a.index, b.index), (a.value, b.value))
        return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in pairs)
    return a == b


def stream(messages: list[csr.Message]) -> bytes:
    return b"".join(map(csr.encode, messages))


def test_bytes_are_those_of_the_public_client() -> None:
    assert stream(reference_messages()) == REFERENCE
    decoder = csr.CsrDecoder()
    got = list(decoder.feed(REFERENCE))
    assert len(got) == 5
    assert all(map(same, got, reference_messages()))
    assert decoder.idle


def test_bytes_are_those_of_the_installed_public_client() -> None:
    python = os.environ.get("STEMTWIN_REFERENCE_PYTHON")
    if not python:
        pytest.skip("STEMTWIN_REFERENCE_PYTHON names no interpreter with libertem-asi-tpx3")
    script = (
        "import sys, numpy as np, libertem_asi_tpx3 as t\n"
        "a = lambda *v: np.array(v, np.uint32)\n"
        "made = t.make_sim_data((2, 3), a(0, 1, 1, 3, 4, 4, 6), a(5, 6, 7, 8, 9, 256), a(1, 2, 3, 4, 5, 6))\n"
        "sys.stdout.buffer.write(bytes(made))\n"
    )
    made = subprocess.run([python, "-c", script], capture_output=True, check=True, timeout=60)
    assert made.stdout == REFERENCE


@st.composite
def acquisitions(draw: st.DrawFn) -> list[csr.Message]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scan = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    camera = (draw(st.integers(1, 12)), draw(st.integers(1, 12)))
    indptr, index = draw(st.sampled_from(UNSIGNED)), draw(st.sampled_from(UNSIGNED))
    sequence = draw(st.integers(0, 2**32 - 1))
    start = csr.AcquisitionStart(scan, camera, sequence, draw(st.sampled_from(csr.FORMATS)), indptr, index)
    messages: list[csr.Message] = [
        start,
        csr.ScanStart(7, draw(st.sampled_from([{}, {"dwell_s": 1e-6, "a": [1, "b"]}]))),
    ]
    left = scan[0] * scan[1]
    while left:
        count = int(rng.integers(1, left + 1))
        bounds = np.r_[0, np.cumsum(rng.poisson(3.0, count))].astype(indptr)
        hits = rng.integers(0, camera[0] * camera[1], int(bounds[-1])).astype(index)
        value = rng.integers(0, 200, len(hits)).astype(draw(st.sampled_from(UNSIGNED)))
        messages.append(csr.Chunk(bounds, hits, value))
        left -= count
    return [*messages, csr.ScanEnd(7), csr.AcquisitionEnd(sequence)]


@settings(max_examples=60, deadline=None)
@given(acquisitions(), st.integers(1, 100))
def test_what_was_encoded_is_decoded_however_it_is_cut(messages: list[csr.Message], step: int) -> None:
    data, decoder = stream(messages), csr.CsrDecoder()
    got = [message for i in range(0, len(data), step) for message in decoder.feed(data[i : i + step])]
    assert len(got) == len(messages)
    assert all(map(same, got, messages))
    assert decoder.idle


def test_a_socket_may_write_into_the_decoder() -> None:
    decoder, rest, got = csr.CsrDecoder(), REFERENCE, []
    while rest:
        space = decoder.space()
        count = min(len(space), 11, len(rest))
        space[:count], rest = rest[:count], rest[count:]
        got.append(decoder.filled(count))
    assert [type(message) for message in got if message is not None] == [type(m) for m in reference_messages()]


def chunk_header(value: int, frames: int, entries: int, indices: int, values: int) -> bytes:
    return struct.pack("<BBIIII", 2, value, frames, entries, indices, values).ljust(32, b"\0")


@pytest.mark.parametrize(
    ("at", "data", "words"),
    [
        (0, b"\x05" + bytes(31), "kind 5"),
        (0, bytes(32), "scan of 0 x 0"),
        (0, REFERENCE[32:64], "without an acquisition"),
        (0, REFERENCE[:2] + b"\x02" + REFERENCE[3:32], "format 2"),
        (0, REFERENCE[:7] + b"\x01" + REFERENCE[8:32], "type 1 is not known"),
        (32, REFERENCE[:32], "within acquisition 1"),
        (32, chunk_header(4, 1, 0, 8, 8), "outside a scan"),
        (32, struct.pack("<BIQ", 1, 1, 2**63).ljust(32, b"\0"), "limit is 1000"),
        (32, struct.pack("<BIQ", 1, 1, 3).ljust(32, b"\0") + b"[1]", "an object was expected"),
        (32, struct.pack("<BIQ", 1, 1, 3).ljust(32, b"\0") + b"{]}", "not JSON"),
        (32, struct.pack("<BIQ", 1, 1, 900).ljust(32, b"\0") + b"[" * 900, "not JSON"),
        (64, REFERENCE[32:64], "within another"),
        (64, chunk_header(4, 7, 0, 32, 32), "6 of the scan are left"),
        (64, chunk_header(4, 0, 0, 4, 4), "6 of the scan are left"),
        (64, chunk_header(9, 6, 0, 28, 28), "type 9"),
        (64, chunk_header(4, 6, 6, 27, 52), "leave no room"),
        (64, chunk_header(4, 6, 6, 28, 51), "leave no room"),
        (64, chunk_header(4, 6, 0, 28, 2**32 - 1), "limit is 5000"),
        (64, chunk_header(4, 6, 2**32 - 1, 28, 28), "leave no room"),
        (64, REFERENCE[64:96] + REFERENCE[96:172].replace(b"\x03\0\0\0\x04", b"\x05\0\0\0\x04", 1), "do not rise"),
        (64, chunk_header(4, 1, 1, 8, 12) + struct.pack("<4I", 0, 1, 512 * 512, 1), "pixel 262144"),
        (64, REFERENCE[172:173] + b"\x02" + REFERENCE[174:204], "scan 2 ends, but scan 1"),
        (64, REFERENCE[204:205] + b"\x02" + REFERENCE[206:236], "acquisition 2 ends"),
    ],
)
def test_broken_messages_are_refused_and_nothing_is_read_after_them(at: int, data: bytes, words: str) -> None:
    decoder = csr.CsrDecoder(csr.Limits(metadata_bytes=1000, chunk_bytes=5000))
    list(decoder.feed(REFERENCE[:at]))
    with pytest.raises(csr.CsrError, match=words):
        list(decoder.feed(data))
    with pytest.raises(csr.CsrError, match="after an invalid message"):
        list(decoder.feed(REFERENCE))


def test_an_operators_stop_ends_the_acquisition_within_a_scan() -> None:
    decoder = csr.CsrDecoder()
    assert [type(m) for m in decoder.feed(REFERENCE[:64] + REFERENCE[204:])][-1] is csr.AcquisitionEnd
    assert decoder.idle


def test_what_does_not_fit_is_not_encoded() -> None:
    with pytest.raises(csr.CsrError, match="does not fit"):
        csr.encode(csr.AcquisitionStart((2**16, 1), (4, 4)))
    with pytest.raises(csr.CsrError, match="cannot be sent"):
        csr.encode(csr.Chunk(np.zeros(2, np.uint32), np.zeros(0, np.uint32), np.zeros(0, np.float32)))


CASES = 12_000


def mutated(cases: int, limits: csr.Limits) -> int:
    """Decodes streams with flipped, cut, doubled and inserted bytes; how many of them were refused."""
    rng = np.random.default_rng(5)
    chunk = csr.Chunk(np.arange(7, dtype="<u2"), np.arange(6, dtype="<u4"), np.ones(6, "<u2"))
    second: list[csr.Message] = [
        csr.AcquisitionStart((2, 3), (4, 4), indptr_type=UNSIGNED[1]),
        csr.ScanStart(3, {"dwell_s": 1e-6}),
        chunk,
    ]
    seeds = [REFERENCE, stream([*second, csr.ScanEnd(3), csr.AcquisitionEnd()])]
    refused = 0
    for case in range(cases):
        data = bytearray(seeds[case % 2])
        for _ in range(int(rng.integers(1, 4))):
            place, kind = int(rng.integers(len(data))), int(rng.integers(5))
            if kind == 0:
                data[place] ^= 1 << int(rng.integers(8))
            elif kind == 1:
                data[place : place + 4] = rng.bytes(4)
            elif kind == 2:
                del data[place:]
                data += rng.bytes(40)
            elif kind == 3:
                data[place:place] = data[place : place + 32]
            else:
                data[place : place + 4] = b"\xff\xff\xff\xff"
        decoder = csr.CsrDecoder(limits)
        try:
            for message in decoder.feed(data):
                if isinstance(message, csr.Chunk):
                    assert message.indptr[-1] == len(message.index) == len(message.value)
        except csr.CsrError:
            refused += 1
    return refused


def test_mutated_streams_neither_hang_nor_crash() -> None:
    assert mutated(CASES, csr.Limits(metadata_bytes=4096, chunk_bytes=2**16)) > CASES / 3


def test_mutated_streams_take_no_more_memory_than_the_limits_say() -> None:
    limits = csr.Limits(metadata_bytes=4096, chunk_bytes=2**16)
    mutated(2, limits)
    tracemalloc.start()
    mutated(500, limits)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * limits.chunk_bytes


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_garbage_is_refused(data: bytes) -> None:
    decoder = csr.CsrDecoder(csr.Limits(chunk_bytes=10_000))
    try:
        list(decoder.feed(data))
    except csr.CsrError:
        return
    assert len(data) < 32 or data[0] == 0


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"stemtwin: needs --arm-events    ", "the sender refuses: needs --arm-events"),
        (b"stemtwin: \x1b[2J\x07" + b"x" * 17, r"the sender refuses: \?\[2J\?x{17}"),
        (b"stemtwin: \xff\xfe" + b" " * 20, "the sender refuses: "),
        (b"stemtwin " + bytes(23), "a message of kind 115; known: 0 to 4"),
    ],
)
def test_words_of_a_sender_that_refuses_are_printable(sent: bytes, words: str) -> None:
    with pytest.raises(csr.CsrError, match=words) as caught:
        list(csr.CsrDecoder().feed(sent))
    assert str(caught.value).isprintable()
