"""Timepix3 records against bytes spelled out, and events against the frames they stand for."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.formats import t3p
from twin.formats.dataset import FormatError, Frames, Layout, Metadata
from twin.formats.event_clock import PER_FINE, EventClock, event_time
from twin.formats.event_frames import EventFrameReader, EventFrameWriter

LAYOUT = Layout((2, 3), (4, 5), "uint32")


def events(*rows: tuple[int, int, int, int, int]) -> t3p.Events:
    return np.array(list(rows), dtype=t3p.RECORD)


def test_a_record_is_sixteen_packed_little_endian_bytes(tmp_path: Path) -> None:
    row = (3 * 5 + 2, 2**40 + 7, 1, 9, 515)
    with t3p.T3pWriter(tmp_path / "a.t3p", LAYOUT, Metadata(dwell_s=1e-6)) as writer:
        writer.append(events(row))
    assert (tmp_path / "a.t3p").read_bytes() == struct.pack("<IQBBH", *row)
    with t3p.T3pReader(tmp_path / "a.t3p") as reader:
        assert reader.read(0, 1)[0].tolist() == row


def to_frames(made: t3p.Events, first: int, count: int, dwell_s: float, camera: tuple[int, int]) -> Frames:
    """Frames `first` to `first + count` of a scan without pauses."""
    position = EventClock(dwell_s, first + count).position(event_time(made, fine=False))
    return t3p.count_hits(made, np.where(position < 0, -1, position - first), count, camera)


def test_fine_time_counts_back_from_the_tick() -> None:
    made = events((0, 100, 0, 0, 1), (0, 100, 0, 15, 1), (0, 2**40, 0, 1, 1))
    # The centre of a step is half a step before its end.
    assert (event_time(made, fine=True) / PER_FINE + 0.5).tolist() == [1600, 1585, 2**44 - 1]


def test_the_probe_number_is_exact_at_the_edges() -> None:
    # 0.1 us is 4 ticks, and no exact binary number; 1e6 probes on, a float quotient would already miss.
    toa = np.array([0, 3, 4, 4 * 10**6 - 1, 4 * 10**6, 4 * 10**12], dtype=np.uint64)
    made = np.zeros(len(toa), t3p.RECORD)
    made["toa"] = toa
    position = EventClock(1e-7, 2 * 10**12).position(event_time(made, fine=False))
    assert position.tolist() == [0, 0, 1, 10**6 - 1, 10**6, 10**12]
    with pytest.raises(FormatError, match="shorter than a tick"):
        EventClock(2e-8, 1)


def test_events_fall_into_the_frames_of_their_time_and_pixel() -> None:
    made = events((7, 39, 0, 0, 1), (7, 40, 0, 0, 1), (7, 79, 0, 0, 1), (19, 80, 0, 0, 1), (0, 500, 0, 0, 1))
    frames = to_frames(made, 1, 2, 1e-6, (4, 5))
    assert frames.shape == (2, 4, 5)
    assert (frames[0, 1, 2], frames[1, 3, 4], frames.sum()) == (2, 1, 3)
    with pytest.raises(FormatError, match="event 3 hits pixel 19 of a camera of 3 x 5"):
        to_frames(made, 1, 2, 1e-6, (3, 5))


@settings(max_examples=50)
@given(st.integers(25_001, 10_000_000), st.integers(0, 10**9), st.integers(0, 2**32 - 1))
def test_frames_and_their_events_are_inverse_at_any_dwell(dwell_ps: int, first: int, seed: int) -> None:
    frames = np.random.default_rng(seed).poisson(1.5, (3, 4, 5)).astype(np.uint32)
    made = t3p.from_frames(frames, first, dwell_ps * 1e-12)
    assert len(made) == frames.sum()
    assert np.all(np.diff(made["toa"].astype(np.int64)) >= 0)
    assert np.array_equal(to_frames(made, first, 3, dwell_ps * 1e-12, (4, 5)), frames)


def test_blocks_are_bounded_and_in_order(tmp_path: Path) -> None:
    made = np.zeros(10, t3p.RECORD)
    made["toa"] = np.arange(10)
    with t3p.T3pWriter(tmp_path / "a.t3p", LAYOUT, Metadata(dwell_s=1e-6)) as writer:
        writer.append(made[:7])
        writer.append(made[7:])
        assert writer.count == 10
    with t3p.T3pReader(tmp_path / "a.t3p") as reader:
        blocks = list(reader.blocks(4))
        with pytest.raises(FormatError, match="records 8 to 11 of a file of 10"):
            reader.read(8, 3)
    assert [(first, len(block)) for first, block in blocks] == [(0, 4), (4, 4), (8, 2)]
    assert np.array_equal(np.concatenate([block for _, block in blocks]), made)


def test_a_file_that_ends_within_a_record(tmp_path: Path) -> None:
    path = tmp_path / "a.t3p"
    path.write_bytes(events((1, 2, 0, 3, 4), (5, 6, 0, 7, 8)).tobytes() + b"\1" * 15)
    with pytest.raises(FormatError, match="record 2 is cut off after 15 of 16 bytes; 2 whole records") as caught:
        t3p.T3pReader(path)
    assert caught.value.complete == 2
    with t3p.T3pReader(path, tolerate=True) as reader:
        assert reader.read(0, 2).tolist() == [(1, 2, 0, 3, 4), (5, 6, 0, 7, 8)]
        assert (reader.layout, reader.metadata) == (None, Metadata())


def test_what_is_no_event_of_this_camera_is_refused_and_not_written(tmp_path: Path) -> None:
    with t3p.T3pWriter(tmp_path / "a.t3p", LAYOUT, Metadata(dwell_s=1e-6)) as writer:
        with pytest.raises(FormatError, match="hits pixel 20; the camera has 20"):
            writer.append(events((20, 0, 0, 0, 0)))
        with pytest.raises(FormatError, match="records of"):
            writer.append(np.zeros(3, np.uint16))
        assert (writer.count, (tmp_path / "a.t3p").stat().st_size) == (0, 0)
    with pytest.raises(FormatError, match="dwell_s"):
        t3p.T3pWriter(tmp_path / "b.t3p", LAYOUT, Metadata())


def test_a_broken_description_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.t3p"
    path.write_bytes(b"")
    for text in ("{", "[]", '{"scan": [2], "camera": [4]}', '{"scan": [2], "camera": [4], "metadata": {}}'):
        t3p.sidecar(path).write_text(text)
        with pytest.raises(FormatError, match=r"description of events|camera is"):
            t3p.T3pReader(path)
    t3p.sidecar(path).write_text(json.dumps({"scan": [2], "camera": [4, 5], "metadata": {"stepnm": 1}}))
    with pytest.raises(FormatError, match="did you mean step_nm"):
        t3p.T3pReader(path)


def test_frames_need_events_in_order_of_time(tmp_path: Path) -> None:
    path = tmp_path / "a.t3p"
    with t3p.T3pWriter(path, LAYOUT, Metadata(dwell_s=1e-6)) as writer:
        writer.append(events((1, 50, 0, 0, 1), (1, 90, 0, 0, 1), (2, 89, 0, 0, 1)))
    with pytest.raises(FormatError, match="event 2 came before"):
        EventFrameReader(path)


def test_a_position_without_events_is_still_acquired(tmp_path: Path) -> None:
    path = tmp_path / "a.t3p"
    frames = np.zeros((3, 4, 5), np.uint32)
    frames[1, 2, 3] = 7
    with EventFrameWriter(path, LAYOUT, Metadata(dwell_s=1e-6)) as writer:
        writer.append(frames)
    with EventFrameReader(path) as reader:
        assert reader.extent == 3
        assert np.array_equal(reader.read(0, 3), frames)
        assert reader.read(2, 2).sum() == 0


def test_a_file_of_somebody_else_beside_the_events_stays(tmp_path: Path) -> None:
    (tmp_path / "a.t3p.json.partial").write_text("mine")
    with t3p.T3pWriter(tmp_path / "a.t3p", LAYOUT, Metadata(dwell_s=1e-6)) as writer:
        writer.append(events((0, 5, 1, 9, 5)), frames=1)
    assert (tmp_path / "a.t3p.json.partial").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.t3p", "a.t3p.json", "a.t3p.json.partial"]
