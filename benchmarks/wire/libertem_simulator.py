"""LiberTEM-live's simulated Merlin camera, in an interpreter that has it: to measure and to read beside our own."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Ports = tuple[int, int]
"""Control and data."""

# Its memfd cache wants the package pymemfd, for a call that Python has too.
PROGRAM = """
import json, os, sys, types
sys.modules.setdefault("memfd", types.SimpleNamespace(memfd_create=os.memfd_create))
from libertem_live.detectors.merlin.sim import CameraSim
given = json.loads(sys.argv[1])
sim = CameraSim(host="127.0.0.1", data_port=0, control_port=0, trigger_port=0, **given)
sim.start()
sim.wait_for_listen()
print(json.dumps([sim.control_t.port, sim.server_t.port]), flush=True)
sys.stdin.read()
"""


@contextmanager
def simulated(
    python: str, path: Path, scan: tuple[int, int], core: int | None = None, **options: Any
) -> Iterator[Ports]:
    """A camera that replays a .mib file.

    Args:
        python: interpreter with LiberTEM-live.
        path: of the file's .hdr or .mib.
        scan: rows and columns.
        core: the processor core that it is kept to.
        options: further ones of its `CameraSim`.
    """
    given = json.dumps({"path": str(path), "nav_shape": scan, **options})
    pinned = [] if core is None else ["taskset", "-c", str(core)]
    process = subprocess.Popen(
        [*pinned, python, "-c", PROGRAM, given],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        control, data = json.loads(process.stdout.readline())
        yield control, data
    finally:
        process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
        process.stdout.close()
