"""Mutated camera files: read right, or refused in one sentence; never another error, never much memory."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import raw_timepix

from agents.source import SourceError
from agents.sources import open_source
from twin.errors import StemtwinError
from twin.formats import merlin_header as mh
from twin.formats import open_frames
from twin.formats.dataset import Layout, Metadata
from twin.formats.mib import MibWriter
from twin.formats.t3p import RECORD, T3pReader, sidecar
from twin.formats.tpx3 import Tpx3Reader

TIMES = int(os.environ.get("STEMTWIN_MUTATIONS", "120"))
"""Files of each kind; more by the environment, for a longer search."""
MOST_BYTES = 2**28
"""Memory that files of some kilobytes may take."""

VALUES = [b"\xff", b"\0", b"9", b",", b"-", b"Inf", b"NaN", b"1e308", b"99999999", b"N/A", b"\t", b"[[[[", b'"']
VALUES += [b"\xff" * 4, b"\xf8\xff"]


def mutated(whole: bytes, rng: np.random.Generator, head: int) -> bytes:
    """Bytes with a few mistakes, most of them in the first `head` bytes."""
    data = bytearray(whole)
    for _ in range(int(rng.integers(1, 5))):
        at = int(rng.integers(max(1, min(head, len(data)) if rng.random() < 0.7 else len(data))))
        kind = rng.random()
        if kind < 0.5:
            value = VALUES[int(rng.integers(len(VALUES)))]
            data[at : at + len(value)] = value
        elif kind < 0.7:
            data[at : at + 1] = rng.bytes(1)
        elif kind < 0.85:
            del data[at : at + int(rng.integers(64))]
        else:
            data[at:at] = data[: int(rng.integers(64))]
    return bytes(data)


def check_sentence(error: StemtwinError) -> None:
    assert str(error)
    assert "\n" not in str(error)


def use(path: Path, **options: Any) -> int:
    """Read a file by all doors; return the positions that came, -1 if it was refused."""
    came = -1
    try:
        with open_source(path, **options) as source:
            came = sum(len(block) for block in source.blocks())
            assert source.health.received == came
            assert came + source.health.missing == source.meta.layout.count
    except StemtwinError as error:
        check_sentence(error)
    return came


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """The process must not grow."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 2**10 < MOST_BYTES


def test_mutated_mib_files(tmp_path: Path) -> None:
    rng, path = np.random.default_rng(1), tmp_path / "a.mib"
    with MibWriter(path, Layout((2, 3), (8, 64), "uint16", 4095), Metadata(dwell_s=1e-3), raw=True) as writer:
        writer.append(rng.integers(0, 99, (6, 8, 64)).astype(np.uint16))
    whole, hdr = path.read_bytes(), path.with_suffix(".hdr").read_bytes()
    seen = []
    for k in range(TIMES):
        path.write_bytes(mutated(whole, rng, 384) if k % 2 else whole)
        path.with_suffix(".hdr").write_bytes(hdr if k % 3 == 0 else mutated(hdr, rng, 700))
        seen.append(use(path))
        try:
            with open_frames(path, tolerate=bool(k % 2)) as reader:
                for first, frames in reader.blocks(4):
                    assert frames.shape[1:] == reader.layout.camera, first
        except StemtwinError as error:
            check_sentence(error)
    assert TIMES // 20 < seen.count(-1) < TIMES - TIMES // 8
    assert max(seen) == 6


def test_mutated_headers_of_every_kind(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for chips, depth, shape in ((1, 1, (8, 64)), (1, 24, (8, 128)), (4, 6, (16, 512)), (4, 12, (4, 64))):
        told = mh.MerlinHeader(
            sequence=1, length=768, chips=chips, width=shape[1], height=shape[0], pixel="R64", depth=depth,
            assembly="2x2" if chips == 4 else "1x1",
        )  # fmt: skip
        raw = mh.build_header(told) + bytes(told.payload_bytes)
        for _ in range(TIMES // 8):
            (tmp_path / "a.mib").write_bytes(mutated(raw * 2, rng, 300))
            use(tmp_path / "a.mib")


def test_mutated_t3p_files(tmp_path: Path) -> None:
    rng, path = np.random.default_rng(3), tmp_path / "a.t3p"
    events = np.zeros(300, RECORD)
    events["pixel"], events["toa"] = rng.integers(0, 256, 300), np.arange(300) * 3
    about = (
        b'{"scan": [4, 5], "camera": [16, 16], "frames": 20, "records": 300, "metadata": {"dwell_s": 1e-6,'
        b' "step_nm": 0.1, "provenance": {"scan_plan": {"rows": 4, "columns": 5, "dwell_s": 1e-6, "pattern": "raster"},'
        b' "fine_time": true}}}'
    )
    seen = []
    for k in range(TIMES):
        path.write_bytes(mutated(events.tobytes(), rng, 4800) if k % 2 else events.tobytes())
        sidecar(path).write_bytes(about if k % 3 == 0 else mutated(about, rng, len(about)))
        seen.append(use(path, **({"counter_bits": 34} if k % 5 == 0 else {})))
        for open_as in (T3pReader, open_frames):
            try:
                with open_as(path, tolerate=bool(k % 2)) as reader:
                    list(reader.blocks())
            except StemtwinError as error:
                check_sentence(error)
    assert TIMES // 20 < seen.count(-1) < TIMES - TIMES // 8
    assert max(seen) >= 20


def test_mutated_tpx3_files(tmp_path: Path) -> None:
    rng, path = np.random.default_rng(4), tmp_path / "a.tpx3"
    words = [raw_timepix.hit(k % 256, k // 2, 100 + 64 * k) for k in range(200)]
    words[::40] = [raw_timepix.edge(100 + 64 * k) for k in range(0, 200, 40)]
    whole = b"".join(raw_timepix.chunk(words[k : k + 8], k // 8 % 4) for k in range(0, 200, 8))
    seen = []
    for k in range(TIMES):
        path.write_bytes(mutated(whole, rng, len(whole)) if k else whole)
        lines: dict[str, Any] = {"lines": "tdc1"} if k % 3 == 0 else {"start_s": "tdc1"} if k % 3 == 1 else {}
        seen.append(use(path, scan=(4, 5), dwell_s=1e-6, records=50, **lines))
        try:
            with Tpx3Reader(path, tolerate=bool(k % 2)) as reader:
                for _, packets in reader.blocks(33):
                    assert (packets.hits["pixel"] < reader.chips.camera[0] * reader.chips.camera[1]).all()
        except StemtwinError as error:
            check_sentence(error)
    assert seen[0] > 0
    assert seen.count(-1) < TIMES - TIMES // 4


def test_pure_noise(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for k in range(TIMES // 4):
        for suffix, start in ((".mib", b"MQ1,000001,00384,01,"), (".t3p", b""), (".tpx3", b"TPX3\0\0\xf8\xff")):
            path = tmp_path / f"n{suffix}"
            path.write_bytes(start * (k % 2) + rng.bytes(int(rng.integers(5000))))
            options = {} if suffix == ".mib" else {"scan": (4, 5), "dwell_s": 1e-6}
            if suffix == ".t3p":
                options["camera"] = (256, 256)
            try:
                use(path, **options)
            except SourceError as error:
                check_sentence(error)
