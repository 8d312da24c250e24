"""The sparse stream against LiberTEM's own client and LiberTEM-live's simulator, in an interpreter that has them.

Set STEMTWIN_REFERENCE_PYTHON to that interpreter.
"""

import os
import socket
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest

from agents.sources import open_source
from twin.wire.csr import AcquisitionEnd, AcquisitionStart, Chunk, Message, ScanEnd, ScanStart, encode

PYTHON = os.environ.get("STEMTWIN_REFERENCE_PYTHON")

pytestmark = [
    pytest.mark.interop,
    pytest.mark.timeout(120),
    pytest.mark.skipif(PYTHON is None, reason="STEMTWIN_REFERENCE_PYTHON is not set"),
]

SIMULATOR = """
import sys
from libertem_live.detectors.asi_tpx3.sim import TpxCameraSim
sim = TpxCameraSim(paths=[sys.argv[1]], cached="MEM", port=0, sleep=0.0)
sim.start()
sim.wait_for_listen()
print(sim.server_t.port, flush=True)
sys.stdin.read()
"""

CLIENT = """
import sys, tempfile
import numpy as np
from libertem_asi_tpx3 import ASITpx3Connection, CamClient
folder = tempfile.mkdtemp()
connection = ASITpx3Connection(
    uri="127.0.0.1:" + sys.argv[1], chunks_per_stack=4, num_slots=20, bytes_per_chunk=10**6, handle_path=folder + "/shm"
)
connection.start_passive()
start = connection.wait_for_arm(20.0)
client, frames = CamClient(connection.get_socket_path()), []
while len(frames) < 24:
    stack = connection.get_next_stack(32)
    for _, *parts in client.get_chunks(stack):
        indptr, index, value = (np.frombuffer(p, t) for p, t in zip(parts, (np.uint32, np.uint32, np.uint16)))
        for begin, end in zip(indptr[:-1], indptr[1:]):
            frame = np.zeros(256, np.uint16)
            frame[index[begin:end]] = value[begin:end]
            frames.append(frame)
    client.done(stack)
print(start.get_nav_shape(), start.get_sig_shape(), flush=True)
np.save(sys.argv[2], np.array(frames))
client.close()
connection.close()
"""


def scan(metadata: dict[str, float]) -> tuple[bytes, np.ndarray]:
    """A stream of 4 x 6 positions, and its frames, (24, 16, 16)."""
    frames = np.random.default_rng(0).poisson(0.3, (24, 16, 16)).astype(np.uint16)
    made: list[Message] = [AcquisitionStart((4, 6), (16, 16), sequence=3), ScanStart(9, metadata)]
    for part in np.split(frames.reshape(24, -1), [5, 6, 20]):
        row, index = np.nonzero(part)
        bounds = np.r_[0, np.cumsum(np.bincount(row, minlength=len(part)))]
        made.append(Chunk(bounds.astype("<u4"), index.astype("<u4"), part[row, index].astype("<u2")))
    return b"".join(map(encode, [*made, ScanEnd(9), AcquisitionEnd(3)])), frames


def test_our_client_reads_their_simulator(tmp_path: Path) -> None:
    data, frames = scan({"dwell_s": 1e-6})
    (tmp_path / "stream.bin").write_bytes(data)
    assert PYTHON is not None
    with subprocess.Popen(
        [PYTHON, "-c", SIMULATOR, str(tmp_path / "stream.bin")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            with open_source(f"csr://127.0.0.1:{int(process.stdout.readline())}", timeout_s=20.0) as source:
                got = np.concatenate([block.frames for block in source.blocks()])
        finally:
            process.kill()
    assert np.array_equal(got, frames)
    assert source.meta.metadata.dwell_s == 1e-6
    assert source.health.fault_count == 0


def test_their_client_reads_our_bytes(tmp_path: Path) -> None:
    # Without metadata: their client takes the header's length, and not the JSON that follows.
    data, frames = scan({})
    assert PYTHON is not None
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30.0)

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(data)
                done.wait(60.0)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        arguments = [PYTHON, "-c", CLIENT, str(server.getsockname()[1]), str(tmp_path / "got.npy")]
        made = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
        done.set()
        thread.join(5.0)
    assert made.stdout == "(4, 6) (16, 16)\n", made.stderr
    assert np.array_equal(np.load(tmp_path / "got.npy").reshape(frames.shape), frames)
