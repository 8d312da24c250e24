"""Merlin files against packing worked out by hand, RosettaSciIO, and frames that a real camera wrote."""

import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.formats import merlin_header as mh
from twin.formats import merlin_pixels
from twin.formats.dataset import FormatError, Layout, Metadata
from twin.formats.mib import MibReader, MibWriter, scan_shape, smallest_depth

REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "real"

# A header as the camera's software writes it, spelled out.
LITERAL = (
    b"MQ1,000017,00384,01,0256,0128,U16,   1x1,01,2024-07-02 13:46:44.035393,0.001000,0,0,0,1.200000E+1,5.110000E+2,"
    b"0.000000E+0,0.000000E+0,0.000000E+0,0.000000E+0,0.000000E+0,0.000000E+0,3RX,"
    + b",".join([b"023", b"511", *[b"000"] * 25])
    + b",MQ1A,2024-07-02T11:46:44.035393175Z,1000000ns,12,"
).ljust(384, b"\0")

headers = st.builds(
    mh.MerlinHeader,
    sequence=st.integers(0, 10**9),
    length=st.sampled_from([512, 768, 1024]),
    chips=st.just(1),
    width=st.integers(1, 64).map(lambda n: 64 * n),
    height=st.integers(1, 4096),
    pixel=st.sampled_from(["U08", "U16", "U32", "R64"]),
    time=st.integers(0, 10**9).map(mh.stamp),
    shutter_s=st.integers(0, 10**9).map(lambda us: us / 1e6),
    thresholds_kev=st.lists(st.integers(0, 511).map(float), min_size=8, max_size=8).map(tuple),
    depth=st.sampled_from([1, 6, 12, 24]),
)


def header(depth: int, raw: bool, height: int, width: int, chips: int = 1) -> mh.MerlinHeader:
    return mh.MerlinHeader(
        sequence=1,
        length=768,
        chips=chips,
        width=width,
        height=height,
        pixel="R64" if raw else mh.DEPTHS[depth],
        assembly="2x2" if chips == 4 else "1x1",
        depth=depth,
    )


def some_frames(shape: tuple[int, ...], depth: int, seed: int = 0) -> np.ndarray:
    dtype = np.min_scalar_type((1 << depth) - 1)
    return np.random.default_rng(seed).integers(0, 1 << depth, shape).astype(dtype)


def write(path: Path, frames: np.ndarray, depth: int = 12, raw: bool = False, **metadata: Any) -> np.ndarray:
    layout = Layout(frames.shape[:-2], frames.shape[-2:], str(frames.dtype), (1 << depth) - 1)
    flat = frames.reshape(-1, *frames.shape[-2:])
    with MibWriter(path, layout, Metadata(**metadata), raw) as writer:
        writer.append(flat[:2])
        writer.append(flat[2:])
    return flat


# --- headers -------------------------------------------------------------------------------------


def test_a_header_of_the_camera_is_read_field_by_field() -> None:
    told = mh.parse_header(LITERAL + b"\xff" * 64)
    assert (told.sequence, told.length, told.chips, told.pixel, told.assembly) == (17, 384, 1, "U16", "1x1")
    assert (told.width, told.height, told.image_shape) == (256, 128, (128, 256))
    assert (told.shutter_s, told.thresholds_kev[:3], told.depth) == (0.001, (12.0, 511.0, 0.0), 12)
    assert told.payload_bytes == 2 * 256 * 128


def test_a_built_header_has_the_camera_s_fields_at_the_camera_s_places() -> None:
    built = mh.build_header(replace(mh.parse_header(LITERAL), sequence=18))
    assert len(built) == 384
    ours, theirs = (raw.rstrip(b"\0").split(b",") for raw in (built, LITERAL))
    different = [k for k, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b]
    # The number; the chip's DACs, which are zero here; nothing else but the nanoseconds of the second time stamp.
    assert different == [1, 23, 24, 51]


@given(headers)
def test_building_and_parsing_are_inverse(told: mh.MerlinHeader) -> None:
    raw = mh.build_header(told)
    assert len(raw) == told.length
    assert mh.parse_header(raw) == told


def test_a_quad_header_holds_four_chips() -> None:
    told = header(12, False, 512, 512, chips=4)
    assert mh.parse_header(mh.build_header(told)) == replace(told, thresholds_kev=(0.0,) * 8)
    with pytest.raises(FormatError, match=r"4 chips takes \d+ bytes; 384"):
        mh.build_header(replace(told, length=384))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"MQ1,", b"MQ2,", "begins with MQ1"),
        (b"00384", b"0x384", "header length.*not a number"),
        (b"00384", b"00000", "header length 0 is not in"),
        (b"00384", b"99999", "header length 99999"),
        (b"00384", b"00768", "cut off after 384 of 768"),
        (b"0256", b"-256", "width.*not a number"),
        (b"0256", b"0000", "width 0 is not in 1 to"),
        (b"0128", b"99999", "height 99999"),
        (b"U16", b"U17", "did you mean U16"),
        (b"000017", "٣".encode(), "plain text"),
        (b"0.001000", b"nan", "shutter time.*not finite"),
        (b"ns,12,", b"ns,13,", "1, 6, 12, 24 bits, not 13"),
        (b"ns,12,", b"ns", "counter depth"),
        (b"U16", b"R64", "256 over 1 chips|R64"),
    ],
)
def test_a_broken_header_is_refused_by_field(old: bytes, new: bytes, message: str) -> None:
    raw = LITERAL.replace(old, new, 1)[:384].ljust(384, b"\0")
    if new == b"R64":
        raw = raw.replace(b"0256", b"0254", 1)
        message = "multiples of 4 pixels; 254"
    with pytest.raises(FormatError, match=message):
        mh.parse_header(raw)


@settings(max_examples=300)
@given(st.data())
def test_mutated_headers_are_read_or_refused_and_nothing_else(data: st.DataObject) -> None:
    raw = bytearray(data.draw(st.sampled_from([LITERAL, mh.build_header(header(6, True, 256, 1024, chips=4))])))
    for _ in range(data.draw(st.integers(1, 6))):
        where = data.draw(st.integers(0, 120))
        raw[where : where + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    try:
        told = mh.parse_header(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    except FormatError:
        return
    assert 0 < told.payload_bytes <= 4 * 16384**2
    assert 64 <= told.length <= 16384


def test_the_text_header_comes_back_and_foreign_lines_do_no_harm() -> None:
    told = mh.Acquisition(8, 4, (2, 4), 6, {"Note": "a:b"})
    raw = mh.build_hdr(told)
    assert raw.startswith(b"HDR,\t\r\n")
    assert raw.rstrip(b" ").endswith(b"End\t")
    back = mh.parse_hdr(raw.replace(b"End\t", b"no tab here\r\n\xff\xfe\r\nEnd\t"))
    assert (back.frames, back.frames_per_trigger, back.scan, back.depth) == (8, 4, (2, 4), 6)
    assert back.extra["Note"] == "a:b"
    with pytest.raises(FormatError, match=r"Frames in Acquisition.*not a number"):
        mh.parse_hdr(raw.replace(b"(Number):\t8", b"(Number):\tmany", 1))


# --- pixels --------------------------------------------------------------------------------------


def packed(pixels: np.ndarray, depth: int) -> list[int]:
    frame = pixels.reshape(1, 1, -1).astype(np.min_scalar_type((1 << depth) - 1))
    width = pixels.size * (2 if depth == 24 else 1)
    return merlin_pixels.encode(frame, header(depth, True, 1, width))[0].tolist()


def test_raw_words_run_from_the_least_significant_end() -> None:
    one_bit = np.zeros(64)
    one_bit[[0, 9]] = 1
    assert packed(one_bit, 1) == [0, 0, 0, 0, 0, 0, 2, 1]
    assert packed(np.arange(8) + 50, 6) == [57, 56, 55, 54, 53, 52, 51, 50]
    assert packed(np.array([1, 2, 3, 0x456]), 12) == [4, 0x56, 0, 3, 0, 2, 0, 1]
    # Two 12-bit frames, the more significant first.
    assert packed(np.array([0x123456, 2, 3, 4]), 24) == [0] * 6 + [1, 0x23] + [0, 4, 0, 3, 0, 2, 4, 0x56]


def test_processed_pixels_are_big_endian() -> None:
    for depth, expected in ((6, [7]), (12, [4, 0x56]), (24, [0, 0x12, 4, 0x56])):
        value = {6: 7, 12: 0x456, 24: 0x120456}[depth]
        frame = np.full((1, 1, 1), value, np.min_scalar_type((1 << depth) - 1))
        assert merlin_pixels.encode(frame, header(depth, False, 1, 1))[0].tolist() == expected


@pytest.mark.parametrize(
    ("row", "column", "sent_row", "sent_column"),
    [(0, 0, 0, 24), (3, 9, 3, 17), (8, 0, 7, 15), (15, 15, 0, 0), (15, 8, 0, 7), (8, 7, 7, 8)],
)
def test_a_quad_sends_its_chips_side_by_side(row: int, column: int, sent_row: int, sent_column: int) -> None:
    picture = np.zeros((1, 16, 16), np.uint8)
    picture[0, row, column] = 1
    sent = merlin_pixels.encode(picture, header(6, True, 8, 32, chips=4)).reshape(8, 4, 8)[:, :, ::-1].reshape(8, 32)
    assert np.argwhere(sent).tolist() == [[sent_row, sent_column]]


@given(st.sampled_from([1, 6, 12, 24]), st.booleans(), st.booleans(), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_encoding_and_decoding_are_inverse(depth: int, raw: bool, quad: bool, count: int, seed: int) -> None:
    if raw and quad and depth == 24:
        with pytest.raises(FormatError, match="order is not known"):
            mh.build_header(header(24, True, 64, 256, chips=4))
        return
    if quad:
        shape, told = (128, 128), header(depth, raw, *((64, 256) if raw else (128, 128)), chips=4)
    else:
        shape, told = (5, 64), header(depth, raw, 5, 128 if raw and depth == 24 else 64)
    frames = some_frames((count, *shape), depth, seed)
    payload = merlin_pixels.encode(frames, told)
    assert payload.shape == (count, told.payload_bytes)
    back = merlin_pixels.decode(payload, told)
    assert np.array_equal(back, frames)
    assert back.dtype.itemsize == frames.dtype.itemsize


@pytest.mark.parametrize("rows", [1, 32, 33, 64, 128, 255, 256])
@pytest.mark.parametrize("depth", [1, 6, 12])
def test_raw_regions_of_a_quad_have_any_number_of_rows(depth: int, rows: int) -> None:
    told = header(depth, True, rows, 1024, chips=4)
    assert mh.parse_header(mh.build_header(told)).image_shape == (2 * rows, 512)
    frames = some_frames((1, 2 * rows, 512), depth)
    payload = merlin_pixels.encode(frames, told)
    assert np.array_equal(merlin_pixels.decode(payload, told), frames)
    # The last row of the image is the first of its chip, which is turned.
    assert np.array_equal(merlin_pixels.decode(payload, told)[0, -1, :256][::-1], _chip(payload, told, 2)[0])
    with pytest.raises(FormatError, match="at most as many rows as a chip has columns"):
        mh.build_header(header(depth, True, 257, 1024, chips=4))


@pytest.mark.parametrize("assembly", ["2x2", "2X2", "2x2G"])
def test_a_quad_is_one_however_its_arrangement_is_spelled(assembly: str) -> None:
    told = replace(header(1, True, 32, 1024, chips=4), assembly=assembly)
    assert mh.parse_header(mh.build_header(told)).image_shape == (64, 512)


@pytest.mark.parametrize("other", [{"height": 64}, {"height": 16, "depth": 6}])
def test_frames_of_another_size_are_named_whatever_the_length_of_the_file(
    tmp_path: Path, other: dict[str, int]
) -> None:
    first = header(1, True, 32, 1024, chips=4)
    kinds = [first, first, replace(first, **other), replace(first, **other)]
    path = tmp_path / "mixed.mib"
    path.write_bytes(b"".join(mh.build_header(told) + bytes(told.payload_bytes) for told in kinds))
    with pytest.raises(FormatError, match=rf"frame 2 has height {other['height']}, the frames before it 32.*2 whole"):
        MibReader(path)
    with MibReader(path, tolerate=True) as reader:
        assert [len(frames) for _, frames in reader.blocks()] == [2]


def _chip(payload: np.ndarray, told: mh.MerlinHeader, number: int) -> np.ndarray:
    """The pixels of the chip in place `number` of those side by side, as it sends them, (rows, 256)."""
    as_one = replace(told, chips=1, assembly="1x1")
    return merlin_pixels.decode(payload, as_one)[0].reshape(told.height, 4, 256)[:, 3 - number]


def test_a_count_beyond_the_counter_is_refused() -> None:
    with pytest.raises(FormatError, match=r"12 bits ends at 4095.*5000"):
        merlin_pixels.encode(np.full((1, 1, 64), 5000, np.uint16), header(12, True, 1, 64))


def test_the_smallest_counter_that_holds_the_counts() -> None:
    assert [smallest_depth(n) for n in (1, 2, 63, 64, 4095, 4096, 2**24 - 1)] == [1, 6, 6, 12, 12, 24, 24]
    with pytest.raises(FormatError, match="16777215"):
        smallest_depth(2**24)


# --- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "raw"), [(1, True), (6, True), (12, True), (24, True), (1, False), (24, False)])
def test_every_depth_comes_back_equal_from_a_file(tmp_path: Path, depth: int, raw: bool) -> None:
    frames = some_frames((2, 3, 16, 128), depth)
    flat = write(tmp_path / "a.mib", frames, depth, raw, dwell_s=1e-3, step_nm=0.02)
    with MibReader(tmp_path / "a.mib") as reader:
        assert reader.layout == Layout((2, 3), (16, 128), str(frames.dtype), (1 << depth) - 1)
        assert reader.metadata == Metadata(dwell_s=1e-3, step_nm=0.02)
        assert reader.header.pixel == ("R64" if raw else mh.DEPTHS[depth])
        assert reader.acquired.all()
        assert np.array_equal(reader.read(0, 6), flat)
        assert np.array_equal(reader.read(4, 1), flat[4:5])


@pytest.mark.parametrize("pixel", ["U08", "U16", "U32", "R64"])
@pytest.mark.parametrize("depth", [1, 6, 12, 24, None])
def test_the_layout_says_what_frames_are_whatever_the_header_combines(
    tmp_path: Path, pixel: str, depth: int | None
) -> None:
    if pixel == "R64" and depth is None:
        return
    told = replace(header(12, False, 4, 64), pixel=pixel, depth=depth)
    path = tmp_path / "a.mib"
    path.write_bytes(mh.build_header(told) + (bytes(range(256)) * 16)[: told.payload_bytes])
    with MibReader(path) as reader:
        frames = reader.read(0, 1)
        assert (str(frames.dtype), frames.shape[1:]) == (reader.layout.dtype, reader.layout.camera)
        assert reader.layout.ceiling <= np.iinfo(frames.dtype).max


def test_no_more_of_a_text_header_is_read_than_a_camera_writes(tmp_path: Path) -> None:
    write(tmp_path / "a.mib", some_frames((2, 8, 64), 12))
    hdr = tmp_path / "a.hdr"
    hdr.write_bytes(hdr.read_bytes() + bytes(2**26))
    tracemalloc.start()
    MibReader(tmp_path / "a.mib").close()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24
    hdr.write_bytes(b"no header")
    with pytest.raises(FormatError, match=r"a\.hdr: a text header begins with HDR"):
        MibReader(tmp_path / "a.mib")


def test_a_quad_comes_back_equal_from_a_raw_file(tmp_path: Path) -> None:
    frames = some_frames((1, 2, 512, 512), 6)
    flat = write(tmp_path / "a.mib", frames, 6, raw=True)
    with MibReader(tmp_path / "a.mib") as reader:
        assert (reader.header.length, reader.header.chips) == (768, 4)
        assert (reader.header.width, reader.header.height) == (1024, 256)
        assert np.array_equal(reader.read(0, 2), flat)


@pytest.mark.parametrize("depth", [6, 12, 24])
def test_rosettasciio_reads_what_is_written(tmp_path: Path, depth: int) -> None:
    file_reader = pytest.importorskip("rsciio.quantumdetector").file_reader
    frames = some_frames((2, 3, 64, 256), depth)
    write(tmp_path / "a.mib", frames, depth, dwell_s=2e-3)
    theirs = file_reader(str(tmp_path / "a.mib"))[0]
    # It shows the camera's first row at the bottom.
    assert np.array_equal(np.asarray(theirs["data"])[..., ::-1, :], frames)
    assert [axis["navigate"] for axis in theirs["axes"]] == [True, True, False, False]
    assert theirs["metadata"]["Acquisition_instrument"]["dwell_time"] == pytest.approx(2e-3)


def test_a_file_that_ends_within_a_frame(tmp_path: Path) -> None:
    path = tmp_path / "a.mib"
    flat = write(path, some_frames((2, 3, 16, 64), 12))
    stride = 384 + 2 * 16 * 64
    path.write_bytes(path.read_bytes()[: 4 * stride + 100])
    with pytest.raises(FormatError, match=r"frame 4 is cut off after 100 of 2432 bytes; there are 4 whole") as caught:
        MibReader(path)
    assert caught.value.complete == 4
    with MibReader(path, tolerate=True) as reader:
        assert reader.layout.scan == (2, 3)
        assert reader.acquired.tolist() == [[True, True, True], [True, False, False]]
        assert np.array_equal(np.concatenate([block for _, block in reader.blocks(3)]), flat[:4])
        with pytest.raises(FormatError, match="ends after 4 frames"):
            reader.read(3, 2)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"ns,12,", b"ns,6,\0", "frame 3 has counter depth 6, the frames before it 12"),
        (b"U16", b"U08", "frame 3 has pixel type U08, the frames before it U16"),
        (b"MQ1,", b"MQX,", "frame 3: a frame begins with MQ1"),
        (b",0016,", b",1600,", "frame 3 has height 1600"),
    ],
)
def test_a_fault_in_mid_file_names_its_frame_and_keeps_what_came_before(
    tmp_path: Path, old: bytes, new: bytes, message: str
) -> None:
    path = tmp_path / "a.mib"
    flat = write(path, some_frames((2, 3, 16, 64), 12))
    raw = bytearray(path.read_bytes())
    stride = len(raw) // 6
    raw[3 * stride : 4 * stride] = raw[3 * stride : 4 * stride].replace(old, new, 1)
    path.write_bytes(raw)
    kept: list[np.ndarray] = []
    with MibReader(path) as reader, pytest.raises(FormatError, match=message) as caught:
        kept.extend(block for _, block in reader.blocks(2))
    assert caught.value.complete == 3
    with MibReader(path, tolerate=True) as reader:
        tolerated = [block for _, block in reader.blocks(2)]
    # extend() keeps what the generator gave before it raised.
    assert np.array_equal(np.concatenate(kept), flat[:3])
    assert np.array_equal(np.concatenate(tolerated), flat[:3])


def test_a_header_s_numbers_are_never_trusted_with_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.mib"
    told = header(24, False, 16384, 16384)
    path.write_bytes(mh.build_header(told) + bytes(1000))
    tracemalloc.start()
    with pytest.raises(FormatError, match="frame 0 is cut off"):
        MibReader(path, tolerate=True)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_scan_shape_can_be_given_and_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "a.mib"
    write(path, some_frames((6, 16, 64), 12))
    with MibReader(path) as reader:
        assert reader.layout.scan == (6,)
    with MibReader(path, scan=(2, 3)) as reader:
        assert reader.layout.scan == (2, 3)
    with pytest.raises(FormatError, match=r"6 frames do not fit a scan of \(2, 2\)"):
        MibReader(path, scan=(2, 2))


@pytest.mark.parametrize(
    ("frames", "per_trigger", "told", "complete", "expected"),
    [
        (12, 4, None, 12, (3, 4)),
        (12, 4, None, 5, (3, 4)),
        (12, 4, (2, 6), 12, (2, 6)),
        (12, 1, None, 12, (12,)),
        (12, 5, None, 12, (12,)),
        (12, 0, None, 12, (12,)),
        (0, 1, None, 7, (7,)),
    ],
)
def test_a_scan_shape_comes_from_the_text_header(
    frames: int, per_trigger: int, told: tuple[int, int] | None, complete: int, expected: tuple[int, ...]
) -> None:
    assert scan_shape(mh.Acquisition(frames, per_trigger, told), complete) == expected
    assert scan_shape(None, complete) == (complete,)


def test_frames_of_another_order_are_refused(tmp_path: Path) -> None:
    with MibWriter(tmp_path / "a.mib", Layout((2, 2), (8, 8), "uint16", 4095), Metadata()) as writer:
        writer.append(np.zeros((2, 8, 8), np.uint16), np.array([[0, 0], [0, 1]]))
        with pytest.raises(FormatError, match="not raster order"):
            writer.append(np.zeros((2, 8, 8), np.uint16), np.array([[1, 1], [1, 0]]))
        assert writer.count == 2


# --- files of a real camera ----------------------------------------------------------------------

needs_real_files = pytest.mark.skipif(not REAL.is_dir(), reason="no recorded files here")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    for archive in REAL.glob("Merlin*.zip"):
        zipfile.ZipFile(archive).extractall(folder)
    return folder


@needs_real_files
def test_recorded_files_read_as_rosettasciio_reads_them(recorded: Path) -> None:
    file_reader = pytest.importorskip("rsciio.quantumdetector").file_reader
    processed = [path for path in sorted(recorded.glob("*.mib")) if "RAW" not in path.name]
    assert len(processed) == 20
    for path in processed:
        with MibReader(path) as reader:
            ours = reader.read(0, reader.extent)
            assert reader.acquired.all()
        theirs = np.asarray(file_reader(str(path))[0]["data"])[..., ::-1, :]
        assert np.array_equal(ours, theirs.reshape(ours.shape)), path.name


@needs_real_files
@pytest.mark.parametrize("camera", ["Single_1", "Single_9", "Quad_1", "Quad_9"])
def test_a_recorded_raw_frame_shows_the_same_hot_pixels_as_the_processed_one(recorded: Path, camera: str) -> None:
    # Two exposures without a beam by one camera: what they share is its hot pixels. Any chip out of place, or turned,
    # correlates at less than 0.6.
    frames = []
    for suffix in ("", "RAW"):
        with MibReader(recorded / f"{camera}_Frame_CounterDepth_1_Rows_256{suffix}.mib") as reader:
            frames.append(reader.read(0, 1)[0].astype(float))
    side = frames[0].shape[0]
    for top in range(0, side, 256):
        for left in range(0, side, 256):
            of_chip = [frame[top : top + 256, left : left + 256].ravel() for frame in frames]
            assert np.corrcoef(of_chip)[0, 1] > 0.95


@needs_real_files
def test_rows_are_y_and_columns_are_x_in_a_recorded_scan(recorded: Path) -> None:
    for height in (128, 64):
        (path,) = recorded.glob(f"*sig256x{height}_*.mib")
        with MibReader(path) as reader:
            assert reader.layout.scan == (2, 4)
            assert reader.layout.camera == (height, 256)
            assert [39, 52] in np.argwhere(reader.read(0, 8).sum(axis=0) > 10).tolist()  # x 52, y 39 by its name
