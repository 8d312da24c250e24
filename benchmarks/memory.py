"""Peak memory of a scan that is streamed through a consumer: it must go with the block, not with the scan.

    python -m benchmarks.memory [--rows N] [--columns N] [--camera N] [--limit-mib M] [--json]

A process of its own scans SrTiO3 in one slice, 256 x 256 positions with frames of 128 x 128 by default (2 GiB of
uint16), sums them up and reports its largest resident memory, before the scan and after it. `--rows 16` is quicker and
tells as much: what a scan needs beyond its first rows is `per_row_mib`. Exit code 1 above the limit.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, dataclass

import numpy as np

LIMIT_MIB = 1024.0
FULL = (256, 256, 128)


@dataclass(frozen=True)
class Memory:
    """One scan.

    Attributes:
        rows, columns, camera: positions, and side of a frame.
        data_mib: all frames together, which nobody holds.
        before_mib: peak before the first block, specimen and libraries included.
        early_mib: peak after the first two rows.
        peak_mib: peak after the whole scan.
        electrons: counted by the consumer.
    """

    rows: int
    columns: int
    camera: int
    data_mib: float
    before_mib: float
    early_mib: float
    peak_mib: float
    electrons: float

    @property
    def per_row_mib(self) -> float:
        """Growth per row after the second."""
        return (self.peak_mib - self.early_mib) / max(self.rows - 2, 1)


def measure(rows: int, columns: int, camera: int) -> Memory:
    """The scan in a fresh process.

    Raises:
        CalledProcessError: it failed; its own message is on stderr.
    """
    command = [sys.executable, "-m", "benchmarks.memory", "--inside", str(rows), str(columns), str(camera)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return Memory(**json.loads(output.splitlines()[-1]))


def scan(rows: int, columns: int, camera: int) -> Memory:
    """The scan in this process, whose peak memory counts from its start."""
    from scenarios.acquire import peak_memory_mib
    from twin.acquisition import ScanSetup
    from twin.day import Day
    from twin.optics import Optics
    from twin.scan_plan import ScanPlan
    from twin.simulated import SimulatedMicroscope
    from twin.state import FIRST_ORDER

    side = 10 * 0.3905
    setup = ScanSetup(
        specimen="sto_001",
        specimen_options={"width_nm": side, "height_nm": side, "thickness_nm": 0.3905},
        optics=Optics(convergence_mrad=20.0, grid=256, sampling_nm=0.3905 / 30, camera_pixels=camera, binning=1),
    )
    day = Day(focal_spread_nm=0.0, source_size_nm=0.0)
    microscope = SimulatedMicroscope(Optics(), FIRST_ORDER, day, scan=setup)
    microscope.reset(np.random.default_rng(0))
    microscope.apply(-microscope.truth().state_nm)
    plan = ScanPlan(rows=rows, columns=columns, step_nm=0.9 * side / max(rows, columns), dose_e=1e4)
    blocks = microscope.scan(plan, block=columns)
    next(blocks)  # the specimen's transmission function, compiled loops
    before = early = peak_memory_mib() or float("nan")
    total, row_bytes = np.zeros((camera, camera)), 0
    for k, block in enumerate(blocks):
        assert block.frames is not None
        total += block.frames.sum(axis=0, dtype=np.float64)
        row_bytes = block.frames.nbytes
        if k == 1:
            early = peak_memory_mib() or float("nan")
    peak = peak_memory_mib() or float("nan")
    return Memory(rows, columns, camera, rows * row_bytes / 2**20, before, early, peak, float(total.sum()))


def main() -> None:
    """Measure once and compare with the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=FULL[0])
    parser.add_argument("--columns", type=int, default=FULL[1])
    parser.add_argument("--camera", type=int, default=FULL[2])
    parser.add_argument("--limit-mib", type=float, default=LIMIT_MIB)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--inside", type=int, nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(asdict(scan(*arguments.inside))))
        return
    found = measure(arguments.rows, arguments.columns, arguments.camera)
    if arguments.json:
        print(json.dumps({**asdict(found), "per_row_mib": found.per_row_mib}))
    else:
        print(
            f"{found.rows} x {found.columns} frames of {found.camera} x {found.camera} ({found.data_mib:.0f} MiB):"
            f" peak {found.peak_mib:.0f} MiB, {found.before_mib:.0f} MiB of it before the scan,"
            f" {found.per_row_mib:+.3f} MiB per further row; limit {arguments.limit_mib:.0f} MiB"
        )
    if not found.peak_mib < arguments.limit_mib:
        sys.exit(1)


if __name__ == "__main__":
    main()
