"""Merlin files as streams: which frame belongs where, counters, parts, and headers that leave things open."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.merlin_files import hdr, picture, scan_lines, stored, write

from agents.source import SourceError
from agents.sources import open_source
from twin.formats import merlin_header as mh
from twin.formats import open_frames
from twin.formats.dataset import FormatError
from twin.formats.mib_files import columns_of_times


def seen(path: Path, **options: Any) -> tuple[list[list[int]], Any]:
    """What pixel (0, 0) shows at every position, -1 without a frame; and the health of the source."""
    with open_source(path, **options) as source:
        out = np.full(source.meta.layout.scan, -1)
        for block in source.blocks():
            out[tuple(block.pixel.T) if out.ndim == 2 else block.pixel[:, 1]] = block.frames[:, 0, 0]
        assert source.health.received + source.health.missing == source.meta.layout.count
    return out.tolist(), source.health


# --- frames without a position -------------------------------------------------------------------


def test_frames_after_the_last_position_are_left_out_and_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mib", range(8), hdr(8, 1, lines=scan_lines(2, 3)))
    for options in ({}, {"scan": (2, 3)}):
        got, health = seen(path, **options)
        assert got == [[0, 1, 2], [3, 4, 5]]
        assert health.faults == ["a.mib: 2 frames after the 6 of a scan of (2, 3) are left out"]


def test_flyback_and_skipped_frames_have_no_position(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mib", range(10), hdr(10, 1, lines=scan_lines(2, 3)))
    got, health = seen(path, skip_frames=1, flyback_frames=1)
    assert got == [[1, 2, 3], [5, 6, 7]]
    assert health.faults == ["a.mib: 1 frames after the 9 of a scan of (2, 3) are left out"]
    assert seen(path, skip_frames=2, flyback_frames=1, serpentine=True)[0] == [[2, 3, 4], [8, 7, 6]]


def test_flyback_frames_follow_from_the_text_header_and_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mib", range(8), hdr(8, 4, lines=scan_lines(2, 3)))
    got, health = seen(path)
    assert got == [[0, 1, 2], [4, 5, 6]]
    assert "4 frames per trigger for 3 columns: the last 1 of each row" in health.faults[0]
    assert seen(path, flyback_frames=0)[0] == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("options", "right"),
    [
        ({"first_frame": 2}, [2, 3, 4, 5]),
        ({"last_frame": -2}, [0, 1, 2, 3]),
        ({"first_frame": 1, "last_frame": 3}, [1, 2]),
        ({"first_frame": 2, "scan": (2, 2)}, [[2, 3], [4, 5]]),
    ],
)
def test_first_and_last_frame_count_as_in_a_slice(tmp_path: Path, options: dict[str, Any], right: list[Any]) -> None:
    path = write(tmp_path / "a.mib", range(6), hdr(6, 3))
    assert seen(path, **options)[0] == right
    with pytest.raises(SourceError, match="no frame from first_frame 6"):
        open_source(path, first_frame=6)


# --- positions by number -------------------------------------------------------------------------


def test_lost_frames_leave_gaps_where_they_were(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mib", [1, 2, 4, 7, 8, 9], hdr(9, 3))
    got, health = seen(path)
    assert got == [[1, 2, -1], [4, -1, -1], [7, 8, 9]]
    assert health.missing == 3
    assert [fault.partition(": ")[2] for fault in health.faults] == [
        "frame 2 has the number 4, not 3: 1 frame is missing before it",
        "frame 3 has the number 7, not 5: 2 frames are missing before it",
    ]
    by_order, health = seen(path, positions="order")
    assert by_order == [[1, 2, 4], [7, 8, 9], [-1, -1, -1]]
    assert "positions follow the order of the file" in health.faults[0]


def test_numbers_that_begin_anew_in_each_line_do_not_count(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mib", [1, 2, 3, 1, 2, 3], hdr(6, 3), shown=range(6))
    got, health = seen(path)
    assert got == [[0, 1, 2], [3, 4, 5]]
    assert health.fault_count == 1
    got, health = seen(path, positions="number")
    assert got == [[0, 1, 2], [-1, -1, -1]]
    assert health.duplicates == 3


def test_gaps_and_flyback_go_together(tmp_path: Path) -> None:
    numbers = [1, 2, 3, 4, 6, 8, 9, 10]  # rows of 3 and a flyback frame; 5 and 7 are lost
    path = write(tmp_path / "a.mib", numbers, hdr(12, 4, lines=scan_lines(3, 3)))
    assert seen(path)[0] == [[1, 2, 3], [-1, 6, -1], [9, 10, -1]]


@pytest.mark.parametrize(
    ("numbers", "right"),
    [
        ([3, 4, 5, 6, 7, 8, 9], [[-1, -1, 3], [4, 5, 6], [7, 8, 9]]),  # the first are lost
        ([1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6], [-1, -1, -1]]),  # the last are
        ([1, 3, 2, 4, 5, 6, 7, 9, 8], [[1, 2, 3], [4, 5, 6], [7, 8, 9]]),  # exchanged
        ([9, 8, 7, 6, 5, 4, 3, 2, 1], [[1, 2, 3], [4, 5, 6], [7, 8, 9]]),
        ([7, 8, 9, 1, 2, 3, 4], [[1, 2, 3], [4, -1, -1], [7, 8, 9]]),  # and some are lost
        ([1, 2, 2, 3, 4, 5, 6, 7, 8, 9], [[1, 2, 3], [4, 5, 6], [7, 8, 9]]),  # one came twice
    ],
)
def test_numbers_tell_the_positions_of_lost_exchanged_and_repeated_frames(
    tmp_path: Path, numbers: list[int], right: list[list[int]]
) -> None:
    path = write(tmp_path / "a.mib", numbers, hdr(9, 3))
    got, health = seen(path)
    assert got == right
    assert health.missing == sum(row.count(-1) for row in right)
    assert health.duplicates == len(numbers) - len(set(numbers))
    assert (health.fault_count > 0) == (numbers != sorted(set(numbers)) or numbers[0] > 1)
    first = seen(path, positions="order")[0][0]
    assert first == numbers[:3]


@pytest.mark.parametrize(
    "numbers", [[1] * 6, [1, 2, 3, 1, 2, 3], [5, 900, 7, 8, 9, 10], [101, 102, 103, 104, 105, 106]]
)
def test_numbers_that_fit_no_scan_leave_the_order_of_the_file(tmp_path: Path, numbers: list[int]) -> None:
    assert seen(write(tmp_path / "a.mib", numbers, hdr(9, 3), range(6)))[0] == [[0, 1, 2], [3, 4, 5], [-1, -1, -1]]


def test_no_frame_is_left_to_a_scan(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no frame is left of 4 by skip_frames=9"):
        open_source(write(tmp_path / "a.mib", range(4)), skip_frames=9)


# --- both counters -------------------------------------------------------------------------------


def pairs(path: Path, count: int, shared: bool, header: bytes | None, time: str = "") -> Path:
    """Pairs of frames: counter 0 shows its position, counter 1 shows 100 more."""
    frames = []
    for k in range(2 * count):
        number = k // 2 + 1 if shared else k + 1
        frames.append(stored(picture(k // 2 + 100 * (k % 2)), number, k % 2, time=time or mh.stamp(k // 2 * 1e-3)))
    path.write_bytes(b"".join(frames))
    if header is not None:
        path.with_suffix(".hdr").write_bytes(header)
    return path


BOTH = "Counter 0, Counter 1"


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("counts", ["frames", "positions", "scan"])
def test_one_counter_of_two_is_read(tmp_path: Path, shared: bool, counts: str) -> None:
    header = {"frames": hdr(12, 6, BOTH), "positions": hdr(6, 3, BOTH), "scan": hdr(6, 1, BOTH, scan_lines(2, 3))}
    path = pairs(tmp_path / "a.mib", 6, shared, header[counts])
    right = np.arange(6).reshape(2, 3)
    got, health = seen(path)
    assert got == right.tolist()
    assert health.faults == [
        "a.mib: both counters were on: these are the frames of counter 0, threshold 12 keV; counter=1 gives the others"
    ]
    got, health = seen(path, counter=1)
    assert got == (right + 100).tolist()
    assert health.faults == []
    with open_frames(path) as reader:
        assert reader.read(0, 6)[:, 0, 0].tolist() == right.ravel().tolist()
    with pytest.raises(SourceError, match="no frames of counter 2; there are those of 0 and 1"):
        open_source(path, counter=2)


@pytest.mark.parametrize("told", ["Both", "All counters", "0 & 1", "Dual", "Counter 1 and Counter 0"])
def test_however_the_text_header_says_that_both_counters_were_on(tmp_path: Path, told: str) -> None:
    path = pairs(tmp_path / "a.mib", 6, False, hdr(12, 6, told).replace(b"Active Counters", b"active counters"))
    assert seen(path, counter=1)[0] == [[100, 101, 102], [103, 104, 105]]


def test_a_text_header_that_names_one_counter_is_no_proof(tmp_path: Path) -> None:
    path = pairs(tmp_path / "a.mib", 6, False, hdr(12, 6, "Counter 0"))
    assert seen(path)[0] == [[0, 1, 2], [3, 4, 5]]
    path = pairs(tmp_path / "b.mib", 6, False, hdr(12, 6, ""), time=mh.stamp(1.0))
    with pytest.raises(SourceError, match="nothing says whether they share an exposure"):
        open_source(path)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("lost", [4, 5])
def test_a_lost_frame_of_a_pair_costs_that_position(tmp_path: Path, lost: int, shared: bool) -> None:
    path = pairs(tmp_path / "a.mib", 6, shared, hdr(12, 6, BOTH))
    raw = path.read_bytes()
    stride = len(raw) // 12
    path.write_bytes(raw[: lost * stride] + raw[(lost + 1) * stride :])
    right = np.arange(6)
    for counter in (0, 1):
        shown = np.where((right == lost // 2) & (lost % 2 == counter), -1, right + 100 * counter)
        assert seen(path, counter=counter)[0] == shown.reshape(2, 3).tolist()


def test_counters_that_take_turns_are_no_pairs(tmp_path: Path) -> None:
    # The text header of a recorded file: every frame is an exposure of its own.
    header = hdr(6, 3, "Alternating")
    (tmp_path / "a.mib").write_bytes(b"".join(stored(picture(k), k + 1, k % 2) for k in range(6)))
    (tmp_path / "a.hdr").write_bytes(header)
    got, health = seen(tmp_path / "a.mib")
    assert got == [[0, 1, 2], [3, 4, 5]]
    assert health.faults == []
    with pytest.raises(SourceError, match=r"exposure of its own.*0 or all, not 1"):
        open_source(tmp_path / "a.mib", counter=1)


def test_without_a_text_header_the_times_tell_pairs_from_turns(tmp_path: Path) -> None:
    assert seen(pairs(tmp_path / "a.mib", 3, False, None))[0] == [0, 1, 2]
    (tmp_path / "b.mib").write_bytes(b"".join(stored(picture(k), k + 1, k % 2) for k in range(4)))
    assert seen(tmp_path / "b.mib")[0] == [0, 1, 2, 3]
    same = pairs(tmp_path / "c.mib", 3, False, None, time=mh.stamp(1.0))
    with pytest.raises(SourceError, match=r"give counter=0 or counter=1 for pairs, counter=all"):
        open_source(same)
    assert seen(same, counter=1)[0] == [100, 101, 102]
    assert seen(same, counter="all")[0] == [0, 100, 1, 101, 2, 102]


def test_a_damaged_frame_of_a_pair_costs_that_position(tmp_path: Path) -> None:
    path = pairs(tmp_path / "a.mib", 4, False, hdr(8, 4, BOTH))
    raw = bytearray(path.read_bytes())
    stride = len(raw) // 8
    raw[4 * stride : 4 * stride + 4] = b"MQX,"
    path.write_bytes(raw)
    got, health = seen(path)
    assert got == [[0, 1], [-1, 3]]
    assert "frame 4 is left out: a frame begins with MQ1" in health.faults[-1]
    assert seen(path, counter=1)[0] == [[100, 101], [102, 103]]


@pytest.mark.parametrize(
    ("header", "frame", "words"),
    [
        (None, {"colour": 1}, "field 13 of the header says colour"),
        (hdr(1).replace(b"SPM\r", b"CSCM\r"), {}, "chip mode CSCM: in colour mode"),
        (hdr(1).replace(b"SPM\r", b"CM\r"), {}, "chip mode CM: in colour mode"),
        (hdr(1).replace(b"SPM\r", b"cscm\r"), {}, "chip mode cscm: in colour mode"),
        (hdr(1).replace(b"Chip Mode  (SPM, CSM, CM, CSCM):\tSPM", b"chip mode:\tColour"), {}, "chip mode Colour"),
        (hdr(2, 2, BOTH).replace(b"SPM\r", b"CM\r"), {"counter": 1}, "chip mode CM: in colour mode"),
    ],
)
def test_colour_is_refused(tmp_path: Path, header: bytes | None, frame: dict[str, Any], words: str) -> None:
    (tmp_path / "a.mib").write_bytes(stored(picture(0), 1, **frame))
    if header is not None:
        (tmp_path / "a.hdr").write_bytes(header)
    with pytest.raises(SourceError, match=words):
        open_source(tmp_path / "a.mib")


def test_pairs_that_nobody_can_tell_apart_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mib", [1, 2, 3, 4], hdr(4, 4, BOTH))
    with pytest.raises(SourceError, match=r"both counters were on.*do not say which.*counter=all"):
        open_source(path)
    assert seen(path, counter="all", scan=4)[0] == [1, 2, 3, 4]


# --- parts of an acquisition ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scan", "scan_", "scan-"])
def test_any_part_opens_the_whole_acquisition(tmp_path: Path, name: str) -> None:
    parts = [write(tmp_path / f"{name}{part}.mib", range(first, last)) for part, first, last in
             ((1, 1, 4), (2, 4, 9), (10, 9, 13))]  # fmt: skip
    (tmp_path / "scan.hdr").write_bytes(hdr(12, 4))
    for part in parts:
        got, _ = seen(part, block_bytes=3 * 900)
        assert got == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]
        with open_frames(part) as reader:
            assert reader.layout.scan == (3, 4)
            assert reader.read(2, 8)[:, 0, 0].tolist() == list(range(3, 11))
    assert seen(parts[1], parts=False, scan=5)[0] == [4, 5, 6, 7, 8]


def test_a_part_that_is_missing_is_named_and_leaves_a_gap(tmp_path: Path) -> None:
    for part, first in ((1, 1), (3, 7)):
        write(tmp_path / f"scan{part}.mib", range(first, first + 3))
    (tmp_path / "scan.hdr").write_bytes(hdr(9, 3))
    got, health = seen(tmp_path / "scan3.mib")
    assert got == [[1, 2, 3], [-1, -1, -1], [7, 8, 9]]
    assert any("scan2.mib is missing beside scan.hdr" in fault for fault in health.faults)
    assert health.missing == 3


@pytest.mark.parametrize("opened", [2, 3])
def test_a_first_part_that_is_missing_leaves_its_positions_empty(tmp_path: Path, opened: int) -> None:
    for part, first in ((2, 4), (3, 7)):
        write(tmp_path / f"scan{part}.mib", range(first, first + 3))
    (tmp_path / "scan.hdr").write_bytes(hdr(9, 3))
    got, health = seen(tmp_path / f"scan{opened}.mib")
    assert got == [[-1, -1, -1], [4, 5, 6], [7, 8, 9]]
    assert any("scan1.mib is missing beside scan.hdr" in fault for fault in health.faults)


def test_a_last_part_that_may_be_missing_is_told(tmp_path: Path) -> None:
    write(tmp_path / "scan1.mib", range(1, 4))
    (tmp_path / "scan.hdr").write_bytes(hdr(9, 3))
    got, health = seen(tmp_path / "scan1.mib")
    assert got == [[1, 2, 3], [-1, -1, -1], [-1, -1, -1]]
    assert "scan.hdr announces 9 frames, and there are 3" in health.faults[0]


@pytest.mark.parametrize("joint", ["", "_", "-"])
@pytest.mark.parametrize("opened", ["scan", "scan{}1", "scan{}2"])
def test_numbered_parts_go_on_after_one_without_a_number(tmp_path: Path, joint: str, opened: str) -> None:
    write(tmp_path / "scan.mib", range(1, 4), hdr(9, 3))
    for part, first in ((1, 4), (2, 7)):
        write(tmp_path / f"scan{joint}{part}.mib", range(first, first + 3))
    assert seen(tmp_path / f"{opened.format(joint)}.mib")[0] == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_each_part_may_have_the_text_header_of_the_whole(tmp_path: Path) -> None:
    for part, first in ((1, 1), (2, 4)):
        write(tmp_path / f"scan{part}.mib", range(first, first + 3), hdr(6, 3))
    assert seen(tmp_path / "scan2.mib")[0] == [[1, 2, 3], [4, 5, 6]]


def test_parts_may_begin_with_any_number_and_have_capitals_in_their_suffix(tmp_path: Path) -> None:
    for part, first in ((9, 1), (10, 4)):
        write(tmp_path / f"scan{part}.mib", range(first, first + 3)).rename(tmp_path / f"scan{part}.MIB")
    (tmp_path / "scan.HDR").write_bytes(hdr(6, 3))
    got, health = seen(tmp_path / "scan10.MIB")
    assert (got, health.faults) == ([[1, 2, 3], [4, 5, 6]], [])


def test_another_acquisitions_text_header_is_not_taken(tmp_path: Path) -> None:
    write(tmp_path / "scan.mib", range(1, 5), hdr(4, 2))
    write(tmp_path / "scan7.mib", range(1, 7))
    got, health = seen(tmp_path / "scan7.mib")
    assert (got, health.faults) == ([1, 2, 3, 4, 5, 6], [])


def test_files_with_text_headers_of_their_own_are_acquisitions_of_their_own(tmp_path: Path) -> None:
    for part in (1, 2):
        write(tmp_path / f"scan{part}.mib", range(3 * part, 3 * part + 3), hdr(3, 1))
    assert seen(tmp_path / "scan2.mib")[0] == [6, 7, 8]


def test_the_text_header_may_have_the_name_of_the_first_part(tmp_path: Path) -> None:
    write(tmp_path / "scan1.mib", range(1, 5), hdr(8, 4))
    write(tmp_path / "scan2.mib", range(5, 9))
    write(tmp_path / "scan3.mib", range(9, 11), hdr(2, 1))
    for part in (1, 2):
        got, health = seen(tmp_path / f"scan{part}.mib")
        assert got == [[1, 2, 3, 4], [5, 6, 7, 8]]
        assert "scan1.mib, scan2.mib go on in their frame numbers" in health.faults[0]
    assert seen(tmp_path / "scan3.mib")[0] == [9, 10]


def test_files_that_go_on_in_their_numbers_belong_together(tmp_path: Path) -> None:
    for part, numbers in ((1, (1, 2)), (2, (3, 4)), (3, (1, 2))):
        write(tmp_path / f"scan{part}.mib", numbers)
    got, health = seen(tmp_path / "scan2.mib")
    assert got == [1, 2, 3, 4]
    assert "scan1.mib, scan2.mib go on in their frame numbers: read as one acquisition" in health.faults[0]
    assert seen(tmp_path / "scan3.mib")[0] == [1, 2]


def test_parts_of_different_kinds_are_refused_and_cut_ones_cost_their_frame(tmp_path: Path) -> None:
    (tmp_path / "scan.hdr").write_bytes(hdr(6, 3))
    one, two = (write(tmp_path / f"scan{part}.mib", range(3 * part - 2, 3 * part + 1)) for part in (1, 2))
    one.write_bytes(one.read_bytes()[:-100])
    got, health = seen(two)
    assert got == [[1, 2, -1], [4, 5, 6]]
    assert "scan1.mib: frame 2 is cut off" in health.faults[0]
    two.write_bytes(two.read_bytes().replace(b"U16", b"U08", 1))
    with pytest.raises(SourceError, match=r"scan2\.mib: frame 0 has pixel type U08, the frames before it U16"):
        open_source(one)


# --- what headers leave open ---------------------------------------------------------------------


@pytest.mark.parametrize("threshold", ["Inf", "-Inf", "NaN", "", "N/A", "1,2"[:1]])
def test_fields_that_nobody_needs_may_be_anything(tmp_path: Path, threshold: str) -> None:
    (tmp_path / "a.mib").write_bytes(b"".join(stored(picture(k), k, thresholds=threshold or " ") for k in range(4)))
    for lines in (
        scan_lines("N/A", "N/A"),
        scan_lines("", "-"),
        scan_lines("2.0", "2"),
        ("Counter Depth (number):\tx",),
    ):
        (tmp_path / "a.hdr").write_bytes(hdr(4, 2, lines=lines))
        assert seen(tmp_path / "a.mib")[0] == [[0, 1], [2, 3]]
    (tmp_path / "a.hdr").write_bytes(hdr(4, "N/A"))
    assert seen(tmp_path / "a.mib")[0] == [0, 1, 2, 3]
    for frames in ("N/A", "-", ""):
        (tmp_path / "a.hdr").write_bytes(hdr(frames, "", lines=scan_lines(2, 2)))
        assert seen(tmp_path / "a.mib")[0] == [[0, 1], [2, 3]]


def test_a_field_that_is_not_used_need_not_be_plain_text(tmp_path: Path) -> None:
    raw = stored(picture(3), 1)
    (tmp_path / "a.mib").write_bytes(raw.replace(b",3RX,", ",3µX,".encode("latin-1"), 1))
    assert seen(tmp_path / "a.mib")[0] == [3]


def test_the_columns_of_a_scan_show_in_the_pauses_of_its_times(tmp_path: Path) -> None:
    frames = [stored(picture(k), k + 1, time=mh.stamp(k * 1e-3 + k // 5 * 4e-3)) for k in range(18)]
    (tmp_path / "a.mib").write_bytes(b"".join(frames))
    got, health = seen(tmp_path / "a.mib")
    assert got == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14], [15, 16, 17, -1, -1]]
    assert "5 columns by the pauses in the time stamps, 4 rows" in health.faults[0]
    right = [[5 * r + c if 5 * r + c < 18 else -1 for c in range(4)] for r in range(4)]
    assert seen(tmp_path / "a.mib", flyback_frames=1)[0] == right
    assert seen(tmp_path / "a.mib", scan=18)[0] == list(range(18))


def test_times_without_even_lines_are_no_scan() -> None:
    rng = np.random.default_rng(0)
    steady = np.arange(30) * 1e-3
    assert columns_of_times(steady) is None
    assert columns_of_times(np.zeros(30)) is None
    assert columns_of_times(steady[::-1]) is None
    assert columns_of_times(steady + 0.01 * (np.arange(30) >= 7)) is None  # one pause is no pattern
    assert columns_of_times(steady + 0.01 * np.searchsorted([7, 15, 21], np.arange(30), side="right")) is None
    jitter = np.cumsum(rng.uniform(0.9e-3, 1.1e-3, 30))
    assert columns_of_times(jitter) is None
    assert columns_of_times(jitter + 5e-3 * (np.arange(30) // 10)) == 10


def test_the_text_header_is_no_pipe_and_the_file_neither(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mib", range(2))
    os.mkfifo(tmp_path / "a.hdr")
    with pytest.raises(SourceError, match=r"a\.hdr is a pipe"):
        open_source(path)
    os.mkfifo(tmp_path / "b.mib")
    with pytest.raises(SourceError, match=r"b\.mib is a pipe; a dataset is a file or a folder"):
        open_source(tmp_path / "b.mib")
    with pytest.raises(FormatError, match="is a device"):
        open_frames(_device(tmp_path))


def _device(folder: Path) -> Path:
    link = folder / "null.mib"
    link.symlink_to("/dev/null")
    return link
