"""Records of a .t3p file that are no hits: lost data, chip numbers; and descriptions that announce too much."""

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.source import SourceError
from agents.sources import open_source
from twin.formats import open_frames
from twin.formats.chips import ChipLayout
from twin.formats.dataset import FormatError
from twin.formats.t3p import GOES_ON, LOST, RECORD, T3pReader, sidecar

DWELL = 40  # ticks, 1 us


def records(pixel: Any, toa: Any, overflow: Any = 0) -> np.ndarray:
    made = np.zeros(len(np.atleast_1d(toa)), RECORD)
    made["pixel"], made["toa"], made["overflow"], made["tot"] = pixel, toa, overflow, 10
    return made


def hits(positions: Any, per: int = 10) -> np.ndarray:
    """`per` hits in each of these dwells."""
    toa = (np.asarray(positions)[:, None] * DWELL + np.arange(per) * 4).ravel()
    return records(np.arange(len(toa)) % 256, toa)


def seen(folder: Path, events: np.ndarray, **options: Any) -> tuple[list[int], Any]:
    """Events per position of a scan of 4 x 5, -1 where a position never came; and the source."""
    events.tofile(folder / "a.t3p")
    given = {"scan": (4, 5), "camera": (16, 16), "dwell_s": 1e-6, **options}
    with open_source(folder / "a.t3p", **given) as source:
        out = np.full(source.meta.layout.scan, -1)
        for block in source.blocks():
            place = tuple(block.pixel.T)[2 - out.ndim :]
            assert (out[place] == -1).all()
            out[place] = np.diff(block.indptr)
    assert source.counts.total == len(events)  # type: ignore[attr-defined]
    assert source.health.received + source.health.missing == source.meta.layout.count
    return out.ravel().tolist(), source


def gap(start: int, length: int) -> np.ndarray:
    return np.concatenate([records(LOST, [start], 1), records(GOES_ON, [length], 1)])


@pytest.mark.parametrize("size", [3, 64, 2**15])
@pytest.mark.parametrize(
    ("start", "length", "lost"),
    [
        (6 * DWELL, 3 * DWELL, (6, 9)),
        (6 * DWELL + 10, 2 * DWELL, (6, 9)),
        (7 * DWELL - 1, 2, (6, 8)),
        (0, DWELL, (0, 1)),
    ],
)
def test_positions_whose_data_were_lost_are_missing(
    tmp_path: Path, size: int, start: int, length: int, lost: tuple[int, int]
) -> None:
    kept = [k for k in range(20) if not lost[0] <= k < lost[1]]
    parts = [hits([k for k in kept if k < lost[0]]), gap(start, length), hits([k for k in kept if k >= lost[1]])]
    events = np.concatenate(parts)
    got, source = seen(tmp_path, events, records=size)
    assert got == [-1 if lost[0] <= k < lost[1] else 10 for k in range(20)]
    assert source.health.missing == lost[1] - lost[0]
    assert f"{lost[1] - lost[0]} positions are left out" in source.health.faults[0]
    assert source.counts.no_hits == 2


def test_two_gaps_and_one_that_has_no_end(tmp_path: Path) -> None:
    parts = [hits(range(3)), gap(3 * DWELL, DWELL), hits(range(4, 8)), gap(8 * DWELL, 2 * DWELL), hits(range(10, 15))]
    got, source = seen(tmp_path, np.concatenate([*parts, records(LOST, [15 * DWELL], 1)]))
    assert got == [10, 10, 10, -1, 10, 10, 10, 10, -1, -1, 10, 10, 10, 10, 10, *[-1] * 5]
    assert sum("data were lost" in fault for fault in source.health.faults) == 3


def test_a_gap_without_an_end_ends_with_the_next_hit(tmp_path: Path) -> None:
    events = np.concatenate([hits(range(5)), records(LOST, [5 * DWELL], 1), hits(range(9, 20))])
    got, _ = seen(tmp_path, events, records=51)
    assert got == [10] * 5 + [-1] * 4 + [10] * 11


@pytest.mark.parametrize("size", [7, 64, 2**15])
@pytest.mark.parametrize(("first", "lost"), [(0, 3), (5, 3), (12, 8)])
def test_a_gap_without_a_beginning_lies_between_the_hits_around_its_end(
    tmp_path: Path, first: int, lost: int, size: int
) -> None:
    kept = [k for k in range(20) if not first <= k < first + lost]
    end = records(GOES_ON, [lost * DWELL], 1)
    events = np.concatenate([hits(range(first)), end, hits(range(first + lost, 20))])
    got, source = seen(tmp_path, events, records=size)
    # Where a block ends with the mark, nothing says when the hits go on: the position that ended is left out, too.
    assert [k for k in range(20) if got[k] == 10] in (kept, [k for k in kept if k != first - 1])
    assert source.health.missing in (lost, lost + 1)


def test_marks_that_repeat_and_a_gap_beyond_the_scan(tmp_path: Path) -> None:
    twice = [records(LOST, [5 * DWELL], 1), records(LOST, [6 * DWELL], 1), records(GOES_ON, [2 * DWELL], 1)]
    events = np.concatenate([hits(range(5)), *twice, hits(range(8, 15)), gap(15 * DWELL, 100 * DWELL)])
    got, source = seen(tmp_path, events)
    assert got == [10] * 5 + [-1] * 3 + [10] * 7 + [-1] * 5
    assert source.counts.no_hits == 5


def test_marks_follow_a_counter_that_rolls_over(tmp_path: Path) -> None:
    parts = [hits(range(9)), gap(9 * DWELL, 4 * DWELL), hits(range(13, 20))]
    events = np.concatenate(parts)
    rolled = events.copy()
    times = ~((events["overflow"] == 1) & (events["pixel"] == GOES_ON))
    rolled["toa"][times] %= 2**9
    got, source = seen(tmp_path, rolled, counter_bits=9, records=20)
    assert got == [10] * 9 + [-1] * 4 + [10] * 7
    assert source.health.missing == 4


def test_other_marks_are_left_out_and_told(tmp_path: Path) -> None:
    events = np.concatenate([hits(range(20)), records([3, LOST, 5], [100, 2**60, 200], [1, 1, 7])])
    got, source = seen(tmp_path, events)
    assert got == [10] * 20
    assert source.health.faults == ["records from 0: 3 are no hits (overflow), and are left out"]


def test_frames_of_events_with_marks_are_refused(tmp_path: Path) -> None:
    np.concatenate([hits(range(5)), gap(200, 80), hits(range(7, 20))]).tofile(tmp_path / "a.t3p")
    about = {"scan": [4, 5], "camera": [16, 16], "frames": 20, "metadata": {"dwell_s": 1e-6}}
    sidecar(tmp_path / "a.t3p").write_text(json.dumps(about))
    with pytest.raises(FormatError, match=r"tell of lost data.*agents\.sources\.t3p heeds"):
        open_frames(tmp_path / "a.t3p")


# --- chip numbers --------------------------------------------------------------------------------


def test_hits_with_chip_numbers_need_the_places_of_the_chips(tmp_path: Path) -> None:
    x, y = 10, 20
    chip = np.arange(4)
    events = records(chip * 65536 + y * 256 + x, np.arange(4), chip)
    with pytest.raises(SourceError, match=r"chip numbers.*chips=quad"):
        seen(tmp_path, events)
    events.tofile(tmp_path / "a.t3p")
    with open_source(tmp_path / "a.t3p", scan=1, dwell_s=1e-6, chips="quad", gap_px=4) as source:
        assert source.meta.layout.camera == (516, 516)
        (block,) = source.blocks()
    assert [divmod(int(k), 516) for k in block.index] == [(20, 270), (495, 505), (495, 245), (20, 10)]


@pytest.mark.parametrize("chips", [[(0, 0, False), (0, 1, False)], [[0, 0, False], [0, 1, True]]])
def test_chips_lie_where_the_operator_says(tmp_path: Path, chips: Any) -> None:
    events = records([5, 65536 + 5, 3 * 65536], [0, 1, 2], [0, 1, 3])
    got, source = seen(tmp_path, events, chips=chips, camera=None, scan=1)
    turned = bool(chips[1][2])
    assert got == [2]
    assert source.meta.layout.camera == (256, 512)
    assert ChipLayout.named(chips).table()[65536 + 5] == (255 * 512 + 256 + 250 if turned else 256 + 5)
    assert source.counts.outside_camera == 1


def test_an_image_of_one_large_camera_has_no_chip_numbers(tmp_path: Path) -> None:
    events = records([300 * 300 - 1, 70000, 5], [0, 41, 80])
    assert seen(tmp_path, events, camera=(300, 300), scan=3)[0] == [1, 1, 1]


# --- announced sizes -----------------------------------------------------------------------------


def described(folder: Path, **about: Any) -> Path:
    hits(range(20)).tofile(folder / "a.t3p")
    plain = {"scan": [4, 5], "camera": [16, 16], "frames": 20, "metadata": {"dwell_s": 1e-6}, **about}
    sidecar(folder / "a.t3p").write_text(json.dumps(plain))
    return folder / "a.t3p"


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"scan": [46340, 46340]}, "a scan of 2147395600 positions is announced, and the file has 200 events"),
        ({"scan": [2**31]}, "2147483648 positions"),
        ({"camera": [16384, 16384]}, "a camera of 16384 x 16384 pixels is announced, and the file has 200 events"),
        ({"frames": float("inf")}, "Infinity is not JSON"),
        ({"scan": [float("inf"), 5]}, "Infinity is not JSON"),
        ({"camera": [16.5, 16]}, "a whole number is expected, got 16.5"),
        ({"records": float("nan")}, "NaN is not JSON"),
        ({"frames": -3}, "a whole number is expected, got -3"),
        ({"frames": [1]}, "a whole number is expected"),
    ],
)
def test_a_description_is_held_against_the_file(tmp_path: Path, about: dict[str, Any], words: str) -> None:
    path = described(tmp_path, **about)
    tracemalloc.start()
    with pytest.raises(SourceError, match=words):
        open_source(path)
    with pytest.raises(FormatError, match=words):
        open_frames(path)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"scan": ' + "9" * 5000 + "}", "null", "{", '{"scan": 5}', "\xff"])
def test_a_description_that_is_none_is_refused_in_a_sentence(tmp_path: Path, text: str) -> None:
    path = described(tmp_path)
    sidecar(path).write_bytes(text.encode("latin-1"))
    with pytest.raises(SourceError, match=r"a\.t3p\.json"):
        open_source(path)


def test_a_description_is_no_pipe_and_not_endless(tmp_path: Path) -> None:
    path = described(tmp_path)
    about = sidecar(path)
    about.write_bytes(b" " * (2**20 + 1))
    with pytest.raises(FormatError, match="at most 1048576 bytes"):
        T3pReader(path)
    about.unlink()
    os.mkfifo(about)
    with pytest.raises(FormatError, match=r"a\.t3p\.json is a pipe"):
        T3pReader(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(SourceError, match=r"a\.t3p is a pipe"):
        open_source(path)
