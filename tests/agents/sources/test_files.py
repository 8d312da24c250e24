"""Datasets on disc as streams: whole ones, ones in any order, and ones that are broken."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.source import Health, SourceError
from agents.sources import open_source
from twin import formats
from twin.formats import merlin_header as mh
from twin.formats.mib import MibWriter
from twin.options import OptionError

ROWS, COLUMNS, SIDE = 4, 5, 8
COUNT = ROWS * COLUMNS
STRIDE = 384 + 2 * SIDE * SIDE
METADATA = formats.Metadata(step_nm=0.02, dwell_s=1e-3, energy_kev=300.0)


def counts(dtype: str = "uint16", n: int = COUNT) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, (n, SIDE, SIDE)).astype(dtype)


def store(path: Path, frames: np.ndarray, scan: tuple[int, ...] = (ROWS, COLUMNS), pixel: Any = None) -> Path:
    layout = formats.Layout(scan, (SIDE, SIDE), str(frames.dtype), 4095 if frames.dtype != np.uint8 else None)
    with formats.create(path, layout, METADATA) as writer:
        writer.append(frames[:7], None if pixel is None else pixel[:7])
        writer.append(frames[7:], None if pixel is None else pixel[7:])
    return path


def read(path: Path, **options: Any) -> tuple[dict[tuple[int, int], np.ndarray], Any]:
    """Every frame by its position, and the source."""
    with open_source(path, **options) as source:
        got = {
            tuple(pixel): frame.copy()
            for block in source.blocks()
            for pixel, frame in zip(block.pixel.tolist(), block.frames, strict=True)
        }
    return got, source


def check(got: dict[tuple[int, int], np.ndarray], truth: dict[tuple[int, int], np.ndarray]) -> None:
    assert sorted(got) == sorted(truth)
    for place, frame in truth.items():
        np.testing.assert_array_equal(got[place], frame)


def raster(frames: np.ndarray, columns: int = COLUMNS) -> dict[tuple[int, int], np.ndarray]:
    return {divmod(k, columns): frame for k, frame in enumerate(frames)}


@pytest.mark.parametrize("block_bytes", [1, 3 * 2 * SIDE * SIDE, 2**22])
@pytest.mark.parametrize("suffix", [".mib", ".zarr", ".hspy"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_dataset_comes_back_frame_by_frame(tmp_path: Path, suffix: str, dtype: str, block_bytes: int) -> None:
    truth = counts(dtype)
    got, source = read(store(tmp_path / f"a{suffix}", truth), block_bytes=block_bytes)
    check(got, raster(truth))
    assert source.health == Health(received=COUNT)
    assert source.meta.layout.scan == (ROWS, COLUMNS)
    assert source.meta.layout.camera == (SIDE, SIDE)
    assert source.meta.metadata == METADATA


@pytest.mark.parametrize("raw", [False, True])
def test_processed_pixels_stay_as_they_are_and_raw_ones_are_decoded(tmp_path: Path, raw: bool) -> None:
    truth = counts()
    layout = formats.Layout((ROWS, COLUMNS), (SIDE, SIDE), "uint16", 4095)
    with MibWriter(tmp_path / "a.mib", layout, METADATA, raw) as writer:
        writer.append(truth)
    with open_source(tmp_path / "a.mib") as source:
        block = next(source.blocks())
        assert block.frames.dtype == np.dtype("uint16" if raw else ">u2")
        assert raw or (not block.frames.flags.owndata and block.frames.flags.aligned)
        np.testing.assert_array_equal(block.frames, truth[: len(block)])


def test_frames_of_a_serpentine_scan_lie_where_they_belong(tmp_path: Path) -> None:
    truth = counts()
    row, column = np.divmod(np.arange(COUNT), COLUMNS)
    column = np.where(row % 2, COLUMNS - 1 - column, column)
    pixel = np.stack([row, column], axis=1)
    got, _ = read(store(tmp_path / "a.zarr", truth, pixel=pixel))
    check(got, {(int(r), int(c)): truth[k] for k, (r, c) in enumerate(pixel)})


@pytest.mark.parametrize("suffix", [".zarr", ".hspy"])
def test_positions_without_a_frame_are_left_out_and_counted(tmp_path: Path, suffix: str) -> None:
    visited = np.array([0, 1, 4, 5, 7, 8, 9, 13, 18])
    truth = counts(n=len(visited))
    pixel = np.stack(np.divmod(visited, COLUMNS), axis=1)
    got, source = read(store(tmp_path / f"a{suffix}", truth, pixel=pixel), block_bytes=3 * 2 * SIDE * SIDE)
    check(got, {divmod(int(k), COLUMNS): truth[n] for n, k in enumerate(visited)})
    assert source.health == Health(received=9, missing=11)


@pytest.mark.parametrize("suffix", [".zarr", ".mib"])
def test_a_list_of_positions_is_one_row(tmp_path: Path, suffix: str) -> None:
    got, source = read(store(tmp_path / f"a{suffix}", counts(n=9), scan=(9,)))
    check(got, raster(counts(n=9), columns=9))
    assert source.meta.layout.scan == (9,)


def test_a_file_that_is_cut_off_gives_its_whole_frames(tmp_path: Path) -> None:
    path = store(tmp_path / "a.mib", counts())
    path.write_bytes(path.read_bytes()[: 12 * STRIDE + 100])
    got, source = read(path)
    check(got, dict(list(raster(counts()).items())[:12]))
    assert source.health.missing == 8
    assert "frame 12 is cut off after 100 of 512" in source.health.faults[0]


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [(b"MQ1,", b"MQ2,", "begins with MQ1"), (b",12,\0", b",24,\0", "counter depth 24, the frames before it 12")],
)
def test_a_broken_frame_in_the_middle_costs_that_frame(
    tmp_path: Path, raw: bool, old: bytes, new: bytes, words: str
) -> None:
    path = tmp_path / "a.mib"
    layout = formats.Layout((ROWS, COLUMNS), (SIDE, SIDE), "uint16", 4095)
    with MibWriter(path, layout, METADATA, raw) as writer:
        writer.append(counts())
    data = bytearray(path.read_bytes())
    for broken in (7, 8):
        data[broken * STRIDE : (broken + 1) * STRIDE] = data[broken * STRIDE : (broken + 1) * STRIDE].replace(old, new)
    path.write_bytes(data)
    got, source = read(path, block_bytes=6 * 2 * SIDE * SIDE)
    check(got, {place: frame for place, frame in raster(counts()).items() if place not in ((1, 2), (1, 3))})
    assert source.health.missing == 2
    assert source.health.fault_count == 2
    assert words in source.health.faults[0]


def test_a_file_that_shrinks_while_it_is_read(tmp_path: Path) -> None:
    path = store(tmp_path / "a.mib", counts())
    with open_source(path, block_bytes=5 * STRIDE) as source:
        blocks = source.blocks()
        given = len(next(blocks))
        path.write_bytes(path.read_bytes()[: 12 * STRIDE + 7])
        given += sum(len(block) for block in blocks)
    assert given == 12
    assert source.health.missing == 8
    assert len(source.health.faults) == 1
    assert "the file has become shorter: 12 frames" in source.health.faults[0]


def test_numbers_that_jump_are_told(tmp_path: Path) -> None:
    path = store(tmp_path / "a.mib", counts())
    data = bytearray(path.read_bytes())
    for k in range(10, COUNT):
        at = k * STRIDE
        data[at : at + 10] = b"MQ1,%06d" % (k + 3)
    path.write_bytes(data)
    got, source = read(path)
    check(got, raster(counts()))
    assert source.health.fault_count == 1
    assert "frame 10 has the number 13, not 11" in source.health.faults[0]


def test_the_scan_of_a_bare_mib_file_is_told_by_option(tmp_path: Path) -> None:
    path = store(tmp_path / "a.mib", counts())
    path.with_suffix(".hdr").unlink()
    assert read(path)[1].meta.layout.scan == (COUNT,)
    got, source = read(path, scan=[2, 10])
    check(got, raster(counts(), columns=10))
    assert source.meta.layout.scan == (2, 10)


def test_a_chunk_of_zarr_that_is_damaged_costs_its_frames(tmp_path: Path) -> None:
    path = store(tmp_path / "a.zarr", counts())
    (chunk,) = (path / "frames" / "c" / "2").rglob("0/0/0")
    chunk.write_bytes(b"\xff" * 10)
    got, source = read(path)
    check(got, {place: frame for place, frame in raster(counts()).items() if place[0] != 2})
    assert "5 frames from 10 are left out: " in source.health.faults[0]
    assert source.health == Health(received=15, missing=5, faults=source.health.faults, fault_count=1)


def test_what_the_operator_knows_better_goes_first(tmp_path: Path) -> None:
    path = store(tmp_path / "a.zarr", counts())
    meta = {"step_nm": 0.05, "rotation_deg": 12.0, "transposed": True}
    _, source = read(path, meta=meta)
    assert source.meta.metadata == replace(METADATA, step_nm=0.05, rotation_deg=12.0)
    assert source.meta.transposed is True
    with pytest.raises(SourceError, match=r"is not a key of the metadata.*did you mean step_nm"):
        open_source(path, meta={"step_mn": 1})
    with pytest.raises(SourceError, match="step_nm"):
        open_source(path, meta={"step_nm": -1})
    with pytest.raises(SourceError, match=r"energy_kev is in keV, 0\.1 to 5000, got 300000; nearest: 5000"):
        open_source(path, meta={"energy_kev": 300000})


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("a.mbi", r"no source for \.mbi \(did you mean \.mib"),
        ("nothing.zarr", "does not exist"),
        ("merlni://a:1", "did you mean merlin"),
        ("empty.mib", "a frame begins with MQ1"),
        ("text.hspy", "not an HDF5 file"),
    ],
)
def test_what_is_no_source_is_refused(tmp_path: Path, spec: str, words: str) -> None:
    (tmp_path / "empty.mib").write_bytes(b"")
    (tmp_path / "text.hspy").write_bytes(b"hello")
    with pytest.raises(SourceError, match=words):
        open_source(spec if "://" in spec else tmp_path / spec)


@pytest.mark.parametrize("scan", ["4,5", "4, 5", [4, 5]])
def test_a_scan_may_be_told_as_it_is_typed(tmp_path: Path, scan: Any) -> None:
    path = store(tmp_path / "a.mib", counts())
    with open_source(path, scan=scan) as source:
        assert source.meta.layout.scan == (4, 5)
    with open_source(path, scan=20) as source:
        assert source.meta.layout.scan == (20,)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scan": "many"}, "scan.0: input should be a valid integer.*'many'"),
        ({"scan": (0, 4)}, "scan.0: input should be greater than 0, got 0"),
        ({"block_bytes": "big"}, "block_bytes: input should be a valid integer.*'big'"),
    ],
)
def test_a_bad_value_names_the_option(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        open_source(store(tmp_path / "a.mib", counts()), **options)


def test_options_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = store(tmp_path / "a.zarr", counts())
    with pytest.raises(OptionError, match="did you mean block_bytes"):
        open_source(path, block_byte=1)
    with pytest.raises(SourceError, match=r"scan is for \.mib files"):
        open_source(path, scan=(2, 10))


def test_a_header_that_is_spelled_otherwise_but_says_the_same_is_taken(tmp_path: Path) -> None:
    path = store(tmp_path / "a.mib", counts())
    data = bytearray(path.read_bytes())
    start = 3 * STRIDE
    spelled = bytes(data[start : start + 384]).replace(b",0008,0008,", b",  08,0008,")
    assert mh.parse_header(spelled).kind == mh.parse_header(bytes(data[:384])).kind
    data[start : start + 384] = spelled
    path.write_bytes(data)
    got, source = read(path)
    check(got, raster(counts()))
    assert source.health.fault_count == 0


def test_spoilt_files_are_read_or_refused(tmp_path: Path) -> None:
    whole = store(tmp_path / "a.mib", counts(n=4), scan=(2, 2)).read_bytes()
    rng = np.random.default_rng(0)
    path, given, refused = tmp_path / "b.mib", 0, 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            # Most of a file is padding and pixels: hit the headers' fields.
            at = int(rng.integers(4)) * STRIDE + int(rng.integers(70))
            if rng.random() < 0.8:
                data[at % len(data)] = b"0123456789,MQRU \0\xff"[rng.integers(18)]
            else:
                del data[at : at + int(rng.integers(200))]
        path.write_bytes(data)
        try:
            got, source = read(path)
        except SourceError:
            refused += 1
            continue
        given += len(got)
        assert source.health.received == len(got)
        assert source.health.received + source.health.missing == source.meta.layout.count
    assert refused > 30
    assert given > 300
