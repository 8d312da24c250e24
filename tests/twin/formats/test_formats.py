"""What every format keeps: equal data, bounded memory, and everything written before a crash."""

import importlib.util
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twin import formats
from twin.formats import FormatError, Layout, Metadata, placement

SCAN, CAMERA = (5, 7), (8, 16)
METADATA = Metadata(
    step_nm=0.05,
    dwell_s=1e-5,
    rotation_deg=-12.5,
    energy_kev=300.0,
    convergence_mrad=21.4,
    pixel_mrad=0.9,
    dose_e=1234.5,
    provenance={"seed": 3, "specimen": "sto_001", "list": [1, 2.5, None, True], "text": "ä, \t"},
)
IMAGE_FORMATS = (".zarr", ".hspy")


def some_frames(count: int, dtype: str = "uint16", top: int = 4095) -> np.ndarray:
    return np.random.default_rng(1).poisson(0.7, (count, *CAMERA)).clip(0, top).astype(dtype)


@pytest.mark.parametrize("scan", [SCAN, (35,)])
@pytest.mark.parametrize("suffix", formats.SUFFIXES)
def test_what_is_written_block_by_block_is_read_back_equal(tmp_path: Path, suffix: str, scan: tuple[int, ...]) -> None:
    path, frames = tmp_path / f"a{suffix}", some_frames(35)
    with formats.create(path, Layout(scan, CAMERA, "uint16", 4095), METADATA) as writer:
        done = 0
        for size in (1, 6, 9, 0, 12, 7):
            writer.append(frames[done : done + size])
            done += size
            assert writer.count == done
        with pytest.raises(FormatError, match="1 frames after 35 do not fit"):
            writer.append(frames[:1])
    with formats.open_frames(path) as reader:
        assert (reader.layout.scan, reader.layout.camera) == (scan, CAMERA)
        assert reader.metadata == METADATA
        assert reader.acquired.shape == scan
        assert reader.acquired.all()
        blocks = list(reader.blocks(8))
        assert [first for first, _ in blocks] == [0, 8, 16, 24, 32]
        assert np.array_equal(np.concatenate([block for _, block in blocks]), frames)
        for first, count in ((0, 35), (5, 4), (6, 1), (13, 0)):
            assert np.array_equal(reader.read(first, count), frames[first : first + count])
        for first, count in ((-1, 2), (34, 2)):
            with pytest.raises(FormatError, match="of a dataset of 35"):
                reader.read(first, count)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize("suffix", IMAGE_FORMATS)
def test_the_type_and_its_whole_range_are_kept(tmp_path: Path, suffix: str, dtype: str) -> None:
    frames = np.zeros((1, *CAMERA), dtype)
    frames[0, 1, 2] = np.iinfo(dtype).max
    with formats.create(tmp_path / f"a{suffix}", Layout((1, 1), CAMERA, dtype)) as writer:
        writer.append(frames)
    with formats.open_frames(tmp_path / f"a{suffix}") as reader:
        assert reader.read(0, 1).dtype == dtype
        assert np.array_equal(reader.read(0, 1), frames)
        assert reader.metadata == Metadata()


CRASH = """
import os, sys
import numpy as np
from twin import formats
frames = np.load(sys.argv[2])
writer = formats.create(sys.argv[1], formats.Layout((5, 7), (8, 16), "uint16", 4095), formats.Metadata(dwell_s=1e-5))
writer.append(frames[:10])
writer.append(frames[10:17])
os._exit(9)
"""


@pytest.mark.parametrize("suffix", formats.SUFFIXES)
def test_a_crash_leaves_every_frame_readable_that_was_appended(tmp_path: Path, suffix: str) -> None:
    path, frames = tmp_path / f"a{suffix}", some_frames(35)
    np.save(tmp_path / "frames.npy", frames)
    command = [sys.executable, "-c", CRASH, str(path), str(tmp_path / "frames.npy")]
    assert subprocess.run(command, check=False, env=os.environ).returncode == 9
    with formats.open_frames(path) as reader:
        assert reader.extent == 17
        assert reader.acquired.ravel().tolist() == [k < 17 for k in range(35)]
        assert np.array_equal(reader.read(0, 17), frames[:17])
        assert np.array_equal(np.concatenate([block for _, block in reader.blocks(6)]), frames[:17])


@pytest.mark.parametrize("suffix", IMAGE_FORMATS)
def test_a_serpentine_scan_lands_in_image_order(tmp_path: Path, suffix: str) -> None:
    frames = some_frames(35)
    image = frames.reshape(*SCAN, *CAMERA)
    row, column = np.divmod(np.arange(35), SCAN[1])
    pixel = np.stack([row, np.where(row % 2, SCAN[1] - 1 - column, column)], axis=1)
    with formats.create(tmp_path / f"a{suffix}", Layout(SCAN, CAMERA)) as writer:
        for start, stop in ((0, 10), (10, 27)):
            writer.append(image[tuple(pixel[start:stop].T)], pixel[start:stop])
        with pytest.raises(FormatError, match="has its frame already"):
            writer.append(frames[:1], pixel[3:4])
        with pytest.raises(FormatError, match="twice"):
            writer.append(frames[:2], pixel[[30, 30]])
        with pytest.raises(FormatError, match=r"pixel \(5, 0\) is outside"):
            writer.append(frames[:1], np.array([[5, 0]]))
    seen = np.zeros(SCAN, dtype=bool)
    seen[tuple(pixel[:27].T)] = True
    with formats.open_frames(tmp_path / f"a{suffix}") as reader:
        assert np.array_equal(reader.acquired, seen)
        there = reader.read(0, 35).reshape(image.shape)
    assert np.array_equal(there[seen], image[seen])
    assert not there[~seen].any()


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_pieces_cover_what_is_asked_for_and_never_cross_a_row(rows: int, columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    layout = Layout((rows, columns), CAMERA)
    flat = np.sort(rng.permutation(layout.count)[: rng.integers(0, layout.count + 1)])
    numbers = np.arange(layout.count).reshape(rows, columns)
    pieces = list(placement.runs(layout, flat))
    covered = [value for where, _ in pieces for value in numbers[where].tolist()]
    assert covered == flat.tolist()
    assert [k for _, which in pieces for k in range(which.start, which.stop)] == list(range(len(flat)))


@pytest.mark.parametrize("suffix", formats.SUFFIXES)
def test_wrong_frames_are_refused_and_nothing_is_written(tmp_path: Path, suffix: str) -> None:
    with formats.create(tmp_path / f"a{suffix}", Layout(SCAN, CAMERA, "uint16", 4095), METADATA) as writer:
        wrong: list[tuple[Any, str]] = [
            (np.zeros((2, 16, 8), np.uint16), r"shape \(n, 8, 16\)"),
            (np.zeros(CAMERA, np.uint16), r"shape \(n, 8, 16\)"),
            (np.zeros((2, *CAMERA), np.int32), "unsigned"),
            (np.zeros((2, *CAMERA)), "unsigned"),
            (np.array([np.zeros(CAMERA), np.full(CAMERA, 4096)]).astype(np.uint16), "frame 1 counts up to 4096"),
        ]
        for frames, message in wrong:
            with pytest.raises(FormatError, match=message):
                writer.append(frames)
        assert writer.count == 0
    with formats.open_frames(tmp_path / f"a{suffix}" if suffix != ".mib" else _empty_mib(tmp_path)) as reader:
        assert reader.extent == (0 if suffix != ".mib" else 1)


def _empty_mib(tmp_path: Path) -> Path:
    """A .mib without a frame is not a .mib: one frame of its own instead, once the first was seen to be empty."""
    assert (tmp_path / "a.mib").stat().st_size == 0
    with formats.create(tmp_path / "b.mib", Layout((1,), CAMERA)) as writer:
        writer.append(some_frames(1))
    return tmp_path / "b.mib"


@pytest.mark.parametrize("suffix", formats.SUFFIXES)
def test_nothing_is_written_over(tmp_path: Path, suffix: str) -> None:
    formats.create(tmp_path / f"a{suffix}", Layout(SCAN, CAMERA), METADATA).close()
    with pytest.raises(FormatError, match="exists"):
        formats.create(tmp_path / f"a{suffix}", Layout(SCAN, CAMERA), METADATA)


def test_suffixes_and_places_are_checked(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"did you mean \.hspy"):
        formats.create(tmp_path / "a.hspi", Layout(SCAN, CAMERA))
    with pytest.raises(FormatError, match=r"known: \.zarr, \.mib, \.t3p, \.hspy"):
        formats.open_frames(tmp_path / "a")
    with pytest.raises(FormatError, match="does not exist"):
        formats.open_frames(tmp_path / "a.mib")
    with pytest.raises(FormatError, match="not a directory"):
        formats.create(tmp_path / "nowhere" / "a.zarr", Layout(SCAN, CAMERA))


@pytest.mark.parametrize("suffix", formats.SUFFIXES)
def test_a_file_of_something_else_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".zarr":
        path.mkdir()
    else:
        path.write_bytes(bytes(range(256)) * 4)
    with pytest.raises(FormatError):
        formats.open_frames(path)


@pytest.mark.parametrize(
    ("scan", "camera", "dtype", "limit", "message"),
    [
        ((0, 4), CAMERA, "uint16", None, "positions"),
        ((2**16, 2**16), CAMERA, "uint16", None, "positions"),
        ((2, 2, 2), CAMERA, "uint16", None, "rows, columns"),
        ((2, 2), (8, 20000), "uint16", None, "16384"),
        ((2, 2), CAMERA, "uint61", None, "did you mean uint16"),
        ((2, 2), CAMERA, "uint8", 256, "max_count 256"),
    ],
)
def test_impossible_layouts_are_refused(
    scan: tuple[int, ...], camera: tuple[int, int], dtype: str, limit: int | None, message: str
) -> None:
    with pytest.raises(FormatError, match=message):
        Layout(scan, camera, dtype, limit)


def test_metadata_are_checked() -> None:
    assert Metadata.of(METADATA.plain(), "here") == METADATA
    for plain, message in (
        ({"step_nm": -1.0}, "here: step_nm"),
        ({"step_mm": 1.0}, "here: 'step_mm' is not an option here .did you mean step_nm"),
    ):
        with pytest.raises(FormatError, match=message):
            Metadata.of(plain, "here")
    with pytest.raises(ValueError, match="plain JSON"):
        Metadata(provenance={"x": object()})
    with pytest.raises(ValueError, match="plain JSON"):
        Metadata(provenance={"x": float("nan")})


@pytest.mark.parametrize("suffix", [".zarr", ".hspy", ".mib"])
def test_memory_is_bounded_by_the_block_and_not_by_the_scan(tmp_path: Path, suffix: str) -> None:
    block = np.ones((16, 128, 128), np.uint16)  # 0.5 MB
    layout = Layout((64, 16), (128, 128), "uint16", 4095)  # 33.5 MB
    formats.create(tmp_path / f"warm{suffix}", layout).close()  # imports count as memory, too
    tracemalloc.start()
    with formats.create(tmp_path / f"a{suffix}", layout) as writer:
        for _ in range(64):
            writer.append(block)
    with formats.open_frames(tmp_path / f"a{suffix}") as reader:
        total = sum(int(frames.sum()) for _, frames in reader.blocks(16))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 1024 * 128 * 128
    assert peak < 6e6


def test_zarr_is_readable_without_this_package(tmp_path: Path) -> None:
    import zarr

    frames = some_frames(35)
    with formats.create(tmp_path / "a.zarr", Layout(SCAN, CAMERA), METADATA) as writer:
        writer.append(frames)
    group: Any = zarr.open_group(tmp_path / "a.zarr", mode="r")
    assert np.array_equal(group["frames"][...], frames.reshape(*SCAN, *CAMERA))
    plain = json.loads((tmp_path / "a.zarr" / "zarr.json").read_text())
    assert plain["zarr_format"] == 3
    assert plain["attributes"]["metadata"]["step_nm"] == 0.05
    assert group["frames"].chunks == (1, 7, *CAMERA)


def _hyperspy() -> bool:
    return importlib.util.find_spec("rsciio") is not None


@pytest.mark.skipif(not _hyperspy(), reason="RosettaSciIO is not installed")
def test_arrays_that_could_be_unpickled_are_not_opened(tmp_path: Path) -> None:
    """Version 2 of zarr has a codec that unpickles; version 3 has none."""
    zarr = pytest.importorskip("zarr")
    with formats.create(tmp_path / "a.zarr", Layout(SCAN, CAMERA)) as writer:
        writer.append(some_frames(35))
    new, old = (
        zarr.open_group(tmp_path / "a.zarr", mode="r"),
        zarr.open_group(tmp_path / "b.zarr", mode="w", zarr_format=2),
    )
    for name in ("frames", "acquired"):
        old.create_array(name, data=new[name][...])
    old.attrs.update(dict(new.attrs))
    with pytest.raises(FormatError, match="not a dataset in zarr"):
        formats.open_frames(tmp_path / "b.zarr")


@pytest.mark.parametrize("lazy", [False, True])
def test_hyperspy_opens_what_is_written_with_the_right_axes(tmp_path: Path, lazy: bool) -> None:
    from rsciio.hspy import file_reader

    frames = some_frames(35)
    with formats.create(tmp_path / "a.hspy", Layout(SCAN, CAMERA), METADATA) as writer:
        writer.append(frames)
    (signal,) = file_reader(str(tmp_path / "a.hspy"), lazy=lazy)
    assert np.array_equal(np.asarray(signal["data"]), frames.reshape(*SCAN, *CAMERA))
    axes = signal["axes"]
    assert [axis["name"] for axis in axes] == ["y", "x", "ky", "kx"]
    assert [axis["size"] for axis in axes] == [5, 7, 8, 16]
    assert [axis["units"] for axis in axes] == ["nm", "nm", "mrad", "mrad"]
    assert [axis["scale"] for axis in axes] == [0.05, 0.05, 0.9, 0.9]
    assert [axis["offset"] for axis in axes] == pytest.approx([0.0, 0.0, -4 * 0.9, -8 * 0.9])
    assert [axis["navigate"] for axis in axes] == [True, True, False, False]
    instrument = signal["metadata"]["Acquisition_instrument"]["TEM"]
    assert (instrument["beam_energy"], instrument["convergence_angle"]) == (300.0, 21.4)


@pytest.mark.skipif(not _hyperspy(), reason="RosettaSciIO is not installed")
def test_what_hyperspy_writes_is_read(tmp_path: Path) -> None:
    from rsciio.hspy import file_writer

    frames = some_frames(35).reshape(*SCAN, *CAMERA)
    axes = [
        {"_type": "UniformDataAxis", "name": name, "units": units, "scale": scale, "offset": 0.0, "size": size}
        | {"navigate": units == "nm", "is_binned": False}
        for name, units, scale, size in (
            ("y", "nm", 0.1, 5),
            ("x", "nm", 0.1, 7),
            ("b", "mrad", 2.0, 8),
            ("a", "mrad", 2.0, 16),
        )
    ]
    signal = {
        "data": frames,
        "axes": axes,
        "metadata": {"General": {"title": "other"}, "Signal": {"signal_type": ""}},
        "original_metadata": {},
        "attributes": {"_lazy": False, "ragged": False},
        "tmp_parameters": {},
        "package_info": {"package": "hyperspy", "package_version": "2"},
        "learning_results": {},
        "models": {},
    }
    file_writer(str(tmp_path / "a.hspy"), signal)
    with formats.open_frames(tmp_path / "a.hspy") as reader:
        assert reader.layout == Layout(SCAN, CAMERA)
        assert reader.metadata == Metadata(step_nm=0.1, pixel_mrad=2.0)
        assert reader.acquired.all()
        assert np.array_equal(reader.read(0, 35), frames.reshape(35, *CAMERA))


def test_choosing_a_format_is_what_imports_it() -> None:
    code = "import sys, twin.formats; print(sorted({'zarr', 'h5py', 'torch', 'abtem'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
