"""What headers announce against the size of the file and the memory."""

import socket
from pathlib import Path

import numpy as np
import pytest

from agents.source import SourceError
from agents.sources import open_source
from twin.formats import file_checks, open_frames
from twin.formats import merlin_header as mh
from twin.formats.dataset import FormatError
from twin.formats.mib import MibReader


def mib(path: Path, frames: int, side: int = 8, pixel: str = "U08") -> Path:
    told = mh.MerlinHeader(sequence=1, length=384, chips=1, width=side, height=side, pixel=pixel)
    with path.open("wb") as file:
        for _ in range(frames):
            file.write(mh.build_header(told))
            file.seek(told.payload_bytes - 1, 1)
            file.write(b"\0")
    return path


@pytest.mark.parametrize("scan", [(46340, 46340), (40000, 40000), (2**31,), (2**24 + 1,)])
def test_far_more_positions_than_frames_are_refused(tmp_path: Path, scan: tuple[int, ...]) -> None:
    path = mib(tmp_path / "a.mib", 16)
    for options in ({"scan": scan}, {}):
        if not options:
            rows, columns = scan if len(scan) == 2 else (1, scan[0])
            lines = [f"Frames in Acquisition (Number):\t{min(rows * columns, 2**31)}", f"ScanX:\t{columns}"]
            text = "\r\n".join(["HDR,", *lines, f"ScanY:\t{rows}", "End\t"])
            path.with_suffix(".hdr").write_bytes(text.encode())
        with pytest.raises(SourceError, match=r"positions is announced, and the file has 16 frames"):
            open_source(path, **options)
        with pytest.raises(FormatError, match="announced"):
            MibReader(path, options.get("scan"))


def test_a_scan_that_was_stopped_early_is_read(tmp_path: Path) -> None:
    with open_source(mib(tmp_path / "a.mib", 3), scan=(512, 512)) as source:
        assert sum(map(len, source.blocks())) == 3
    assert source.health.missing == 512 * 512 - 3
    file_checks.check_positions(2**26, 2**20, "long.mib")


def test_frames_that_do_not_fit_into_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = mib(tmp_path / "a.mib", 3, side=16384, pixel="U32")  # 3 GiB, of holes
    monkeypatch.setattr(file_checks, "free_bytes", lambda: 2**30)
    with pytest.raises(SourceError, match=r"one frame takes 3 GiB of memory; 1 GiB are free"):
        open_source(path)
    with pytest.raises(FormatError, match="one frame takes"):
        open_frames(path)
    monkeypatch.setattr(file_checks, "free_bytes", lambda: 2**34)
    open_source(path).close()


def test_memory_is_that_of_the_system_or_the_limit_of_the_process() -> None:
    assert 2**20 < file_checks.free_bytes() < 2**50
    with pytest.raises(FormatError, match=r"the answer takes 1\.05e\+06 GiB of memory; .* GiB are free"):
        file_checks.check_memory(2**50, "the answer")
    resource = pytest.importorskip("resource")
    import psutil

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 2**28, hard))
        assert file_checks.free_bytes() <= 2**28
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize("suffix", [".mib", ".t3p", ".tpx3", ".hspy", ".zarr"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, suffix: str) -> None:
    device = tmp_path / f"a{suffix}"
    device.symlink_to("/dev/zero")
    with pytest.raises(SourceError):
        open_source(device, **({"scan": 4, "dwell_s": 1e-3} if suffix in (".t3p", ".tpx3") else {}))
    with pytest.raises(FormatError, match="is a device"):
        file_checks.check_regular(device)
    with socket.socket(socket.AF_UNIX) as line:
        line.bind(str(tmp_path / "s.mib"))
        with pytest.raises(FormatError, match=r"s\.mib is a socket"):
            file_checks.check_file(tmp_path / "s.mib")
    with pytest.raises(FormatError, match="is a folder; a file is expected"):
        file_checks.check_file(tmp_path)


def test_an_event_camera_has_no_more_pixels_than_its_events_show() -> None:
    file_checks.check_event_camera((4096, 4096), 0, "a.t3p")
    file_checks.check_event_camera((8192, 8192), 2**20, "a.t3p")
    with pytest.raises(FormatError, match="camera of 8192 x 8192 pixels is announced, and the file has 1000 events"):
        file_checks.check_event_camera((8192, 8192), 1000, "a.t3p")
    assert np.prod((4096, 4096)) == file_checks.SMALL_CAMERA
