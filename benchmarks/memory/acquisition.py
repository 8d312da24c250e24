"""Peak memory of a scan that is streamed through a consumer: it must go with the block, not with the scan.

    python -m benchmarks.memory.acquisition [--rows N] [--columns N] [--camera N] [--limit-mb M] [--json]

A process of its own scans SrTiO3 in one slice, 256 x 256 positions with frames of 128 x 128 by default (2 GiB of
uint16), sums them up and reports its largest resident memory, before the scan and after it. `--rows 16` is quicker and
as good a test: `per_row_mb` is the growth after the first rows. Exit code 1 above the limit.
"""

from dataclasses import dataclass

import numpy as np

from benchmarks.memory.peak import in_fresh_process, main, peak_mb

LIMIT_MB = 1000.0
FULL = (256, 256, 128)


@dataclass(frozen=True)
class Memory:
    """One scan; memory in millions of bytes.

    Attributes:
        rows, columns, camera: positions, and side of a frame.
        data_mb: all frames together, never held at once.
        before_mb: peak before the first block, specimen and libraries included.
        early_mb: peak after the first two rows.
        peak_mb: peak after the whole scan.
        per_row_mb: its growth per row after the second.
        electrons: counted by the consumer.
    """

    rows: int
    columns: int
    camera: int
    data_mb: float
    before_mb: float
    early_mb: float
    peak_mb: float
    per_row_mb: float
    electrons: float


def measure(rows: int, columns: int, camera: int) -> Memory:
    """The scan in a fresh process; raises CalledProcessError."""
    return Memory(**in_fresh_process("benchmarks.memory.acquisition", (rows, columns, camera)))


def scan(rows: int, columns: int, camera: int) -> Memory:
    """The scan in this process, whose peak memory counts from its start."""
    from twin.day import Day
    from twin.optics import Optics
    from twin.scan.plan import ScanPlan
    from twin.scan.setup import ScanSetup
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
    before = early = peak_mb()
    total, row_bytes = np.zeros((camera, camera)), 0
    for k, block in enumerate(blocks):
        assert block.frames is not None
        total += block.frames.sum(axis=0, dtype=np.float64)
        row_bytes = block.frames.nbytes
        if k == 1:
            early = peak_mb()
    peak = peak_mb()
    per_row = (peak - early) / max(rows - 2, 1)
    return Memory(rows, columns, camera, rows * row_bytes / 1e6, before, early, peak, per_row, float(total.sum()))


def describe(found: Memory) -> str:
    """One sentence."""
    return (
        f"{found.rows} x {found.columns} frames of {found.camera} x {found.camera} ({found.data_mb:.0f} MB):"
        f" peak {found.peak_mb:.0f} MB, {found.before_mb:.0f} MB of it before the scan,"
        f" {found.per_row_mb:+.3f} MB per further row."
    )


if __name__ == "__main__":
    main(__doc__, FULL, LIMIT_MB, scan, measure, describe)
