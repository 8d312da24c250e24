"""Other programs' files behind the one seam: right counts, right axes, and one sentence for what is not read."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr

from agents.source import SourceError
from agents.sources import open_source
from twin import formats
from twin.formats import FormatError, Metadata

SCAN, CAMERA = (3, 4), (6, 6)
COUNTS = np.random.default_rng(0).poisson(3, (*SCAN, *CAMERA)).astype(np.uint16)
FLAT = COUNTS.reshape(-1, *CAMERA)
PIXEL = 0.4 * 2.50793
"""mrad, of 0.4 / nm at 200 keV."""


def blo(folder: Path) -> Path:
    about = struct.pack("<6sHIIIHHHHHddI", b"IMGBLO", 0x102, 4096, 4352, 131141, 6, 0, 4, 3, 0, 1.5, 1.5, 200_000)
    frames = b"".join(struct.pack("<HI", 0x55AA, k) + frame.astype("u1").tobytes() for k, frame in enumerate(FLAT))
    (folder / "a.blo").write_bytes(about.ljust(4352, b"\0") + frames)
    return folder / "a.blo"


def mrc(folder: Path) -> Path:
    # Nx, Ny, Nz, mode 6 (uint16); nothing else is stated.
    (folder / "a.mrc").write_bytes(struct.pack("<4i", 6, 6, 12, 6).ljust(1024, b"\0") + COUNTS.tobytes())
    return folder / "a.mrc"


def empad_frames() -> np.ndarray:
    values = np.random.default_rng(1).normal(300, 400, (3, 4, 128, 128)).astype("<f4")
    (values[0, 0, 0, 0], values[0, 0, 0, 1]) = (-5.0, 7.4)
    return values


def empad(folder: Path, raw: str = "scan_x4_y3.raw") -> Path:
    (folder / "a.xml").write_text(
        f'<root><raw_file filename="{raw}"/><pix_x>4</pix_x><pix_y>3</pix_y><exposure_time>1</exposure_time>'
        "<iom_measurements><source.get_voltage>200000.0</source.get_voltage>"
        "<optics.get_full_scan_field_of_view>[6e-08, 8e-08]</optics.get_full_scan_field_of_view>"
        "<calibrated_pixelsize>4e-10</calibrated_pixelsize></iom_measurements></root>"
    )
    whole = np.concatenate([empad_frames(), np.zeros((3, 4, 2, 128), "<f4")], axis=2)
    (folder / "scan_x4_y3.raw").write_bytes(whole.tobytes())
    return folder / "a.xml"


def emd(folder: Path, datacube: bool = False) -> Path:
    """Berkeley's files hold the fast axis first; py4DSTEM's, whose data are named datacube, last."""
    path = folder / ("b.h5" if datacube else "a.emd")
    axes = [("y", "nm", 0.5, 3), ("x", "nm", 0.5, 4), ("ky", "mrad", 0.8, 6), ("kx", "mrad", 0.8, 6)]
    with h5py.File(path, "w") as file:
        file.attrs.update({"version_major": 0, "version_minor": 2})
        group = file.create_group("data/scan")
        group.attrs["emd_group_type"] = 1
        group["datacube" if datacube else "data"] = COUNTS if datacube else COUNTS.T
        for number, (name, unit, step, size) in enumerate(axes if datacube else axes[::-1], start=1):
            vector = group.create_dataset(f"dim{number}", data=step * np.arange(size))
            vector.attrs.update({"name": name, "units": unit})
    return path


def zspy(folder: Path, version: int = 2) -> Path:
    """As RosettaSciIO lays it out; its own writer needs an older zarr."""
    group = zarr.open_group(folder / "a.zspy", mode="w", zarr_format=version)
    group.attrs.update({"file_format": "ZSpy", "file_format_version": "3.3"})
    experiment = group.create_group("Experiments/a")
    experiment.create_array("data", data=COUNTS, chunks=(1, 4, 6, 6))
    scales, units = (0.5, 0.5, 0.8, 0.8), ("nm", "nm", "mrad", "mrad")
    for number, (name, size) in enumerate(zip(("y", "x", "ky", "kx"), COUNTS.shape, strict=True)):
        about = {"name": name, "size": size, "scale": scales[number], "offset": 0.0, "units": units[number]}
        experiment.create_group(f"axis-{number}").attrs.update({**about, "navigate": number < 2})
    experiment.create_group("metadata/Acquisition_instrument/TEM").attrs["beam_energy"] = 200.0
    return folder / "a.zspy"


def dectris(folder: Path, part: str = "a_data_000002.h5") -> Path:
    for number, frames in ((1, FLAT[:7]), (2, FLAT[7:])):
        with h5py.File(folder / f"a_data_{number:06d}.h5", "w") as file:
            file["entry/data/data"] = frames.astype("u4")
    with h5py.File(folder / "a_master.h5", "w") as file:
        file["entry/data/data_000001"] = h5py.ExternalLink("a_data_000001.h5", "/entry/data/data")
        file["entry/data/data_000002"] = h5py.ExternalLink(part, "/entry/data/data")
        file["entry/instrument/detector/detectorSpecific/photon_energy"] = 200_000.0
        file["entry/instrument/detector/frame_time"] = 1e-4
    with h5py.File(folder / "a.h5", "w") as file:
        about = file.create_group("STEM Metadata")
        about.attrs.update({"NumPixelsX": 4, "NumPixelsY": 3, "IsPixelSizeCalibrated": [1], "Pixel Size": [0.5]})
    return folder / "a_master.h5"


def nion_properties() -> dict[str, Any]:
    steps = [{"offset": 0.0, "scale": 0.5, "units": "nm"}] * 2 + [
        {"offset": -0.0024, "scale": 0.0008, "units": "rad"}
    ] * 2
    about = {"collection_dimension_count": 2, "datum_dimension_count": 2, "dimensional_calibrations": steps}
    return {"title": "scan", **about, "metadata": {"instrument": {"high_tension": 200_000}}}


def nion(folder: Path) -> Path:
    with h5py.File(folder / "a.nhdf", "w") as file:
        file["data/0"] = COUNTS
        file["data/0"].attrs["properties"] = json.dumps(nion_properties())
    return folder / "a.nhdf"


def nion_library(folder: Path) -> Path:
    with h5py.File(folder / "b.h5", "w") as file:
        file["data"] = COUNTS.astype("i4")
        about = nion_properties()
        file["data"].attrs["properties"] = json.dumps({"data_source": about, "metadata": about.pop("metadata")})
    return folder / "b.h5"


WRITERS: dict[str, tuple[Callable[[Path], Path], Metadata]] = {
    "blo": (blo, Metadata(step_nm=1.5, energy_kev=200)),
    "emd": (emd, Metadata(step_nm=0.5, pixel_mrad=0.8)),
    "py4dstem": (lambda folder: emd(folder, datacube=True), Metadata(step_nm=0.5, pixel_mrad=0.8)),
    "zspy3": (lambda folder: zspy(folder, 3), Metadata(step_nm=0.5, pixel_mrad=0.8, energy_kev=200)),
    "zspy": (zspy, Metadata(step_nm=0.5, pixel_mrad=0.8, energy_kev=200)),
    "dectris": (dectris, Metadata(step_nm=0.5, energy_kev=200, dwell_s=1e-4)),
    "nion": (nion, Metadata(step_nm=0.5, pixel_mrad=0.8, energy_kev=200)),
    "nion_library": (nion_library, Metadata(step_nm=0.5, pixel_mrad=0.8, energy_kev=200)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_counts_and_axes_are_right(tmp_path: Path, name: str) -> None:
    write, metadata = WRITERS[name]
    path = write(tmp_path)
    with formats.open_frames(path) as reader:
        assert (reader.layout.scan, reader.layout.camera) == (SCAN, CAMERA)
        assert np.array_equal(reader.read(0, 12), FLAT)
        assert np.array_equal(reader.read(5, 4), FLAT[5:9])
        found, right = reader.metadata.plain(), metadata.plain()
        assert set(found) == set(right)
        assert {k: v for k, v in found.items() if k != "provenance"} == pytest.approx(
            {k: v for k, v in right.items() if k != "provenance"}
        )
        assert reader.notes == ()
    with open_source(path) as source:
        assert sum(len(block.frames) for block in source.blocks()) == 12
        assert source.health.faults == []


HUGE = 40_000


def huge_blo(folder: Path) -> Path:
    path = blo(folder)
    raw = bytearray(path.read_bytes())
    raw[24:28] = struct.pack("<HH", HUGE, HUGE)
    path.write_bytes(raw)
    return path


def huge_mrc(folder: Path) -> Path:
    path = mrc(folder)
    path.write_bytes(struct.pack("<4i", 6, 6, 2**31 - 1, 6) + path.read_bytes()[16:])
    return path


def huge_empad(folder: Path) -> Path:
    path = empad(folder)
    path.write_text(path.read_text().replace("pix_x>4<", f"pix_x>{HUGE}<").replace("pix_y>3<", f"pix_y>{HUGE}<"))
    return path


def huge_hdf5(write: Callable[[Path], Path], name: str, *shape: int) -> Callable[[Path], Path]:
    """Announce a dataset of this shape of which nothing is stored."""

    def make(folder: Path) -> Path:
        path = write(folder)
        with h5py.File(path, "a") as file:
            about = dict(file[name].attrs)
            del file[name]
            file.create_dataset(name, shape=shape, dtype="u2", chunks=tuple(min(side, 64) for side in shape))
            file[name].attrs.update(about)
        return path

    return make


def huge_zspy(folder: Path) -> Path:
    path = zspy(folder)
    for name in (path / "Experiments/a").rglob(".zarray"):
        about = json.loads(name.read_text())
        name.write_text(json.dumps({**about, "shape": [HUGE, HUGE, 6, 6]}))
    for number in (0, 1):
        name = path / f"Experiments/a/axis-{number}/.zattrs"
        name.write_text(json.dumps({**json.loads(name.read_text()), "size": HUGE}))
    return path


@pytest.mark.parametrize(
    "write",
    [
        huge_blo,
        huge_mrc,
        huge_empad,
        huge_zspy,
        huge_hdf5(nion, "data/0", HUGE, HUGE, 6, 6),
        huge_hdf5(emd, "data/scan/data", 6, 6, HUGE, HUGE),
    ],
    ids=["blo", "mrc", "empad", "zspy", "nion", "emd"],
)
def test_a_scan_that_the_file_cannot_hold_is_refused_before_memory_is_taken(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    path = write(tmp_path)
    for opened in (formats.open_frames, open_source):
        with pytest.raises(
            (FormatError, SourceError), match=r"a scan of \d{10} positions is announced, and the file has"
        ):
            opened(path)


def test_mrc_is_a_list_of_frames_without_a_made_up_scale(tmp_path: Path) -> None:
    with formats.open_frames(mrc(tmp_path)) as reader:
        assert (reader.layout.scan, reader.layout.camera) == ((12,), CAMERA)
        # RosettaSciIO shows row 0 of the file at the bottom or at the top, as the format's versions do.
        assert np.array_equal(reader.read(0, 12), FLAT) or np.array_equal(reader.read(0, 12), FLAT[:, ::-1])
        assert reader.metadata == Metadata()
        assert reader.notes == ()


def test_empad_is_rounded_and_says_so(tmp_path: Path) -> None:
    with formats.open_frames(empad(tmp_path)) as reader:
        assert (reader.layout.scan, reader.layout.camera) == ((3, 4), (128, 128))
        assert reader.metadata.step_nm == pytest.approx(20.0)
        assert reader.metadata.pixel_mrad == pytest.approx(PIXEL, rel=1e-5)
        frames = reader.read(0, 12)
        assert np.array_equal(frames, np.rint(empad_frames().clip(0)).reshape(12, 128, 128))
        assert frames[0, 0, :2].tolist() == [0, 7]
        assert "values are analogue: they are rounded" in reader.notes[0]


@pytest.mark.parametrize("raw", ["/etc/passwd", "../scan_x4_y3.raw", "nowhere.raw", ""])
def test_empad_reads_a_file_beside_it_and_no_other(tmp_path: Path, raw: str) -> None:
    with pytest.raises(FormatError, match=r"not a file beside it|names no raw file"):
        formats.open_frames(empad(tmp_path, raw))


@pytest.mark.parametrize("part", ["/etc/passwd", "../a_data_000002.h5", "nowhere.h5"])
def test_dectris_reads_files_beside_it_and_no_others(tmp_path: Path, part: str) -> None:
    with pytest.raises(FormatError, match="not a file beside it"):
        formats.open_frames(dectris(tmp_path, part))


@pytest.mark.parametrize(("count", "scan"), [(9, (3, 3)), (10, (10,))])
def test_dectris_without_a_stated_scan_says_what_is_taken(tmp_path: Path, count: int, scan: tuple[int, ...]) -> None:
    with h5py.File(tmp_path / "a_master.h5", "w") as file:
        file["entry/data/data_000001"] = FLAT[:count]
    with formats.open_frames(tmp_path / "a_master.h5") as reader:
        assert reader.layout.scan == scan
        assert "the shape of the scan is not stated" in reader.notes[0]
        assert np.array_equal(reader.read(0, count), FLAT[:count])


def test_codecs_that_could_run_a_program_are_not_opened(tmp_path: Path) -> None:
    path = zspy(tmp_path)
    (about,) = [
        file for file in path.rglob("*") if file.name in (".zarray", "zarr.json") and file.parent.name == "data"
    ]
    text = json.loads(about.read_text())
    text["filters"] = [{"id": "pickle", "protocol": 5}]
    about.write_text(json.dumps(text))
    with pytest.raises(FormatError, match="the codec 'pickle', which is not known to be harmless"):
        formats.open_frames(path)


def test_a_block_file_cut_off_keeps_its_whole_frames(tmp_path: Path) -> None:
    path = blo(tmp_path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(FormatError, match=r"ends after 10 of 12 frames \(tolerate reads them\)"):
        formats.open_frames(path)
    with formats.open_frames(path, tolerate=True) as reader:
        assert np.array_equal(np.concatenate([frames for _, frames in reader.blocks()]), FLAT[:10])


def test_a_block_file_with_a_damaged_mark_names_the_frame(tmp_path: Path) -> None:
    path = blo(tmp_path)
    whole = bytearray(path.read_bytes())
    whole[4352 + 5 * 42] = 0
    path.write_bytes(whole)
    with formats.open_frames(path) as reader, pytest.raises(FormatError, match="frame 5 does not begin with 0xaa55"):
        reader.read(0, 12)
    with formats.open_frames(path, tolerate=True) as reader:
        assert sum(len(frames) for _, frames in reader.blocks()) == 11


@pytest.mark.parametrize("suffix", [suffix for suffix in formats.READERS if suffix not in formats.SUFFIXES])
@pytest.mark.parametrize("content", [b"", b"nonsense" * 500, bytes(5000), b"\x89HDF\r\n\x1a\n" + bytes(500)])
def test_something_else_under_the_name_is_one_sentence(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(FormatError) as error:
        formats.open_frames(path).read(0, 1)
    assert "\n" not in str(error.value)
    assert path.name in str(error.value)


def test_hdf5_of_nobody_we_know_names_whom_we_know(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["frames"] = FLAT
    with pytest.raises(FormatError, match=r"neither of HyperSpy nor of Dectris, Nion Swift or EMD"):
        formats.open_frames(tmp_path / "a.h5")


def test_suffixes_in_capitals_and_those_that_are_not_written(tmp_path: Path) -> None:
    blo(tmp_path).rename(tmp_path / "A.BLO")
    formats.open_frames(tmp_path / "A.BLO").close()
    with pytest.raises(FormatError, match=r"\.blo is read, not written; written are \.zarr"):
        formats.create(tmp_path / "b.blo", formats.Layout(SCAN, CAMERA))


def test_lazy_files_are_read_block_by_block(tmp_path: Path) -> None:
    """A raw file of 128 MiB takes no more memory than a block and RosettaSciIO's own pieces of it."""
    import tracemalloc

    empad(tmp_path)
    (tmp_path / "a.xml").write_text((tmp_path / "a.xml").read_text().replace(">4<", ">64<").replace(">3<", ">32<"))
    with (tmp_path / "scan_x4_y3.raw").open("r+b") as raw:
        raw.truncate(64 * 32 * 130 * 128 * 4)  # sparse
    formats.open_frames(tmp_path / "a.xml").close()  # imports count, too
    tracemalloc.start()
    with formats.open_frames(tmp_path / "a.xml") as reader:
        for _, frames in reader.blocks(64):
            assert frames.shape == (64, 128, 128)
    assert tracemalloc.get_traced_memory()[1] < 60e6
    tracemalloc.stop()
