"""The Merlin client against LiberTEM-live's simulated camera, byte for byte, in an interpreter that has it.

Set STEMTWIN_REFERENCE_PYTHON to that interpreter.
"""

import os
import zipfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.sources import open_source
from benchmarks.wire.libertem_simulator import Ports, simulated
from twin import formats
from twin.formats.mib import MibReader, MibWriter
from twin.instrument.merlin_control import MerlinControl

PYTHON = os.environ.get("STEMTWIN_REFERENCE_PYTHON")
REAL = Path(__file__).resolve().parents[4] / "shared" / "data" / "real" / "Merlin_navigation4x2_ROI.zip"

pytestmark = [
    pytest.mark.interop,
    pytest.mark.timeout(120),
    pytest.mark.skipif(PYTHON is None, reason="STEMTWIN_REFERENCE_PYTHON is not set"),
]


def simulator(path: Path, scan: tuple[int, int], **options: Any) -> AbstractContextManager[Ports]:
    assert PYTHON is not None
    return simulated(PYTHON, path, scan, **options)


def scan_of(tmp_path: Path, depth: int, raw: bool = False, side: int = 64) -> tuple[Path, np.ndarray]:
    dtype = np.min_scalar_type((1 << depth) - 1)
    frames = np.random.default_rng(0).integers(0, 1 << depth, (6, 7, side, side)).astype(dtype)
    layout = formats.Layout((6, 7), (side, side), str(dtype), (1 << depth) - 1)
    with MibWriter(tmp_path / "scan.mib", layout, formats.Metadata(step_nm=0.1, dwell_s=1e-3), raw) as writer:
        writer.append(frames.reshape(-1, side, side))
    return tmp_path / "scan.hdr", frames


def received(port: int, **options: Any) -> tuple[np.ndarray, Any]:
    with open_source(f"merlin://127.0.0.1:{port}", start_timeout_s=200.0, **options) as source:
        layout = source.meta.layout
        image = np.zeros((*layout.scan, *layout.camera), layout.dtype)
        for block in source.blocks():
            image[tuple(block.pixel.T)] = block.frames
    return image, source


@pytest.mark.parametrize(
    ("depth", "raw", "cached"),
    [(12, False, None), (12, False, "MEM"), (24, False, None), (6, True, None), (12, True, None)],
)
def test_a_scan_is_read_byte_for_byte(tmp_path: Path, depth: int, raw: bool, cached: str | None) -> None:
    path, frames = scan_of(tmp_path, depth, raw)
    with simulator(path, (6, 7), cached=cached) as (_, port):
        image, source = received(port)
    np.testing.assert_array_equal(image, frames)
    assert image.dtype == frames.dtype
    assert (source.health.fault_count, source.health.missing) == (0, 0)
    assert source.meta.metadata.step_nm == 0.1


def test_it_is_started_and_triggered_over_the_control_port_after_garbage(tmp_path: Path) -> None:
    path, frames = scan_of(tmp_path, 12)
    with simulator(path, (6, 7), garbage=True) as (control, port):
        with MerlinControl("127.0.0.1", control) as camera:
            assert [camera.get(name) for name in ("IMAGEX", "IMAGEY", "COUNTERDEPTH")] == ["64", "64", "12"]
        settings = {"hvbias": 120, "counterdepth": 12}
        image, source = received(port, control_port=control, settings=settings, start=True, trigger=True)
        with MerlinControl("127.0.0.1", control) as camera:
            assert camera.get("hvbias") == "120"
    np.testing.assert_array_equal(image, frames)
    assert "bytes of garbage were skipped" in source.health.faults[0]
    assert source.health.missing == 0


@pytest.mark.skipif(not REAL.exists(), reason="needs the recorded frames")
@pytest.mark.parametrize("name", ["001_4x2_6bit", "002_4x2_6bit_roi128"])
def test_a_recorded_scan_of_a_real_camera(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(REAL) as archive:
        archive.extractall(tmp_path)
    path = tmp_path / f"{name}.hdr"
    with MibReader(path.with_suffix(".mib"), (2, 4)) as reader:
        frames = reader.read(0, 8)
    with simulator(path, (2, 4)) as (_, port):
        image, source = received(port, scan=(2, 4))
    np.testing.assert_array_equal(image.reshape(8, *image.shape[2:]), frames)
    assert source.health.missing == 0
