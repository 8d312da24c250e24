"""LiberTEM-live, unmodified, on our servers: it controls the camera, receives a whole scan and sums it up as we do.

Set STEMTWIN_REFERENCE_PYTHON to an interpreter that has it.
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from fakes.counting import counting_bench

from twin.server.event_stream import EventStream
from twin.server.frame_supply import PreparedScan, RonchigramSupply, ScanSupply
from twin.server.listener import Listener
from twin.server.merlin_camera import MerlinCamera, MerlinControl, MerlinData

ROOT = Path(__file__).parents[3]
PYTHON = os.environ.get("STEMTWIN_REFERENCE_PYTHON")
ROWS, COLUMNS = 12, 17

pytestmark = [
    pytest.mark.interop,
    pytest.mark.skipif(PYTHON is None, reason="STEMTWIN_REFERENCE_PYTHON is not set"),
]

MERLIN = r"""
import sys
import numpy as np
from libertem.udf.sum import SumUDF
from libertem.udf.sumsigudf import SumSigUDF
from libertem_live.api import Hooks, LiveContext

control, data, rows, columns, scans = map(int, sys.argv[1:6])


class Start(Hooks):
    def on_ready_for_data(self, env):
        with conn.control() as camera:
            assert camera.get("TRIGGERSTART") == b"0"
            camera.set("TRIGGERSTART", 5)
            camera.cmd("STARTACQUISITION")
            camera.cmd("SOFTTRIGGER")


context = LiveContext.make_with("inline")
hosts = {"api_host": "127.0.0.1", "api_port": control, "data_host": "127.0.0.1", "data_port": data}
told = {}
with context, context.make_connection("merlin").open(**hosts) as conn:
    with conn.control() as camera:
        told["depth"] = int(camera.get("COUNTERDEPTH"))
        try:
            camera.set("COUNTERDEPTH", 7)
        except Exception as error:
            told["refused"] = str(error)
    for k in range(scans):
        acquisition = context.make_acquisition(
            conn=conn, nav_shape=(rows, columns), hooks=Start(), frames_per_partition=64
        )
        frame, image = context.run_udf(dataset=acquisition, udf=[SumUDF(), SumSigUDF()])
        told[f"frame{k}"], told[f"image{k}"] = frame["intensity"].data, image["intensity"].data
        with conn.control() as camera:
            camera.set("TRIGGERSTART", 0)
np.savez(sys.argv[6], **told)
"""

EVENTS = r"""
import sys
import numpy as np
from libertem.udf.sum import SumUDF
from libertem.udf.sumsigudf import SumSigUDF
from libertem_live.api import LiveContext

port, rows, columns = map(int, sys.argv[1:4])
context = LiveContext.make_with("inline")
with context, context.make_connection("asi_tpx3").open(
    data_host="127.0.0.1", data_port=port, chunks_per_stack=4, bytes_per_chunk=150000
) as conn:
    pending = conn.wait_for_acquisition(20.0)
    acquisition = context.make_acquisition(conn=conn, pending_aq=pending, frames_per_partition=64)
    frame, image = context.run_udf(dataset=acquisition, udf=[SumUDF(), SumSigUDF()])
    shape = np.array(pending.nav_shape)
np.savez(sys.argv[4], frame=frame["intensity"].data, image=image["intensity"].data, shape=shape)
"""


def run(program: str, *arguments: object) -> None:
    assert PYTHON is not None
    # LiberTEM asks for as many threads as there are cores, and warns when the surroundings allow fewer.
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    command = [PYTHON, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def expected() -> np.ndarray:
    """The scan itself, (N, H, W)."""
    blocks = counting_bench(ROWS, COLUMNS).scan(block=1000)
    return np.concatenate([block.frames for block in blocks]).astype(np.int64)


@pytest.mark.parametrize("prepare", [False, True])
def test_libertem_live_controls_the_camera_and_sums_up_whole_scans(tmp_path: Path, prepare: bool) -> None:
    bench, scan = counting_bench(ROWS, COLUMNS), expected()
    supply = PreparedScan(bench) if prepare else ScanSupply(bench)
    camera = MerlinCamera({"SCAN": supply, "RONCHIGRAM": RonchigramSupply(bench)})
    with Listener(MerlinControl(camera)) as control, Listener(MerlinData(camera, paced=False)) as data:
        run(MERLIN, control.port, data.port, ROWS, COLUMNS, 2, tmp_path / "told.npz")
    with np.load(tmp_path / "told.npz") as told:
        for k in range(2):
            np.testing.assert_array_equal(told[f"frame{k}"], scan.sum(axis=0))
            np.testing.assert_array_equal(told[f"image{k}"].reshape(-1), scan.sum(axis=(1, 2)))
        assert int(told["depth"]) == 12
        assert str(told["refused"]) == "Param out of range"


def test_libertem_live_sums_up_the_event_stream(tmp_path: Path) -> None:
    scan = expected()
    service = EventStream(counting_bench(ROWS, COLUMNS), paced=False, armed=True)
    with Listener(service) as listener:
        run(EVENTS, listener.port, ROWS, COLUMNS, tmp_path / "told.npz")
    with np.load(tmp_path / "told.npz") as told:
        assert told["shape"].tolist() == [ROWS, COLUMNS]
        np.testing.assert_array_equal(told["frame"], scan.sum(axis=0))
        np.testing.assert_array_equal(told["image"].reshape(-1), scan.sum(axis=(1, 2)))
