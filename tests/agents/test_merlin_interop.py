"""The Merlin client against LiberTEM-live's simulated camera, byte for byte, in an interpreter that has it.

Set STEMTWIN_REFERENCE_PYTHON to that interpreter.
"""

import json
import os
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.sources import open_source
from twin import formats
from twin.formats.mib import MibReader, MibWriter
from twin.merlin_control import MerlinControl

PYTHON = os.environ.get("STEMTWIN_REFERENCE_PYTHON")
REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "real" / "Merlin_navigation4x2_ROI.zip"

pytestmark = [
    pytest.mark.interop,
    pytest.mark.timeout(120),
    pytest.mark.skipif(PYTHON is None, reason="STEMTWIN_REFERENCE_PYTHON is not set"),
]

SIMULATOR = """
import json, sys
from libertem_live.detectors.merlin.sim import CameraSim
given = json.loads(sys.argv[1])
sim = CameraSim(host="127.0.0.1", data_port=0, control_port=0, trigger_port=0, **given)
sim.start()
sim.wait_for_listen()
print(json.dumps([sim.server_t.port, sim.control_t.port]), flush=True)
sys.stdin.read()
"""


@contextmanager
def simulator(path: Path, scan: tuple[int, int], **options: Any) -> Iterator[tuple[int, int]]:
    """Data and control port of a camera that replays a .mib file."""
    assert PYTHON is not None
    given = json.dumps({"path": str(path), "nav_shape": scan, **options})
    process = subprocess.Popen(
        [PYTHON, "-c", SIMULATOR, given],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        data, control = json.loads(process.stdout.readline())
        yield data, control
    finally:
        process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
        process.stdout.close()


def scan_of(tmp_path: Path, depth: int, raw: bool = False, side: int = 64) -> tuple[Path, np.ndarray]:
    dtype = np.min_scalar_type((1 << depth) - 1)
    frames = np.random.default_rng(0).integers(0, 1 << depth, (6, 7, side, side)).astype(dtype)
    layout = formats.Layout((6, 7), (side, side), str(dtype), (1 << depth) - 1)
    with MibWriter(tmp_path / "scan.mib", layout, formats.Metadata(step_nm=0.1, dwell_s=1e-3), raw) as writer:
        writer.append(frames.reshape(-1, side, side))
    return tmp_path / "scan.hdr", frames


def received(port: int, **options: Any) -> tuple[np.ndarray, Any]:
    with open_source(f"merlin://127.0.0.1:{port}", start_timeout_s=60.0, **options) as source:
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
    with simulator(path, (6, 7), cached=cached) as (port, _):
        image, source = received(port)
    np.testing.assert_array_equal(image, frames)
    assert image.dtype == frames.dtype
    assert (source.health.fault_count, source.health.missing) == (0, 0)
    assert source.meta.metadata.step_nm == 0.1


def test_it_is_started_and_triggered_over_the_control_port_after_garbage(tmp_path: Path) -> None:
    path, frames = scan_of(tmp_path, 12)
    with simulator(path, (6, 7), garbage=True) as (port, control):
        with MerlinControl("127.0.0.1", control) as camera:
            assert [camera.get(name) for name in ("IMAGEX", "IMAGEY", "COUNTERDEPTH")] == ["64", "64", "12"]
        settings = {"hvbias": 120, "counterdepth": 12}
        image, source = received(port, control_port=control, settings=settings, start=True, trigger=True)
        with MerlinControl("127.0.0.1", control) as camera:
            assert camera.get("hvbias") == "120"
    np.testing.assert_array_equal(image, frames)
    assert "bytes of garbage were passed over" in source.health.faults[0]
    assert source.health.missing == 0


@pytest.mark.skipif(not REAL.exists(), reason="needs the recorded frames")
@pytest.mark.parametrize("name", ["001_4x2_6bit", "002_4x2_6bit_roi128"])
def test_a_recorded_scan_of_a_real_camera(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(REAL) as archive:
        archive.extractall(tmp_path)
    path = tmp_path / f"{name}.hdr"
    with MibReader(path.with_suffix(".mib"), (2, 4)) as reader:
        frames = reader.read(0, 8)
    with simulator(path, (2, 4)) as (port, _):
        image, source = received(port, scan=(2, 4))
    np.testing.assert_array_equal(image.reshape(8, *image.shape[2:]), frames)
    assert source.health.missing == 0
