"""Speed of single-sideband ptychography: from uint16 frames, a row of the scan at a time, to the sums of the phase.

    STEMTWIN_REFERENCE_PYTHON=/path/to/python python -m benchmarks.streaming.ssb

A scan of 128 x 128 with frames of 128 x 128 pixels and a disc of 32 pixels in radius. Frames per second of processor
time on one thread, medians over interleaved rounds. The reference is ptychography40's SSB_UDF on LiberTEM in the
interpreter that the environment names, where both are installed; its weights are built beforehand, like ours. The limit
is one real transform along the row for every pixel of the disc.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from agents.base import StreamMeta
from agents.block import FrameBlock
from agents.methods.phase.ssb import Options, Ssb
from benchmarks.references import PTYCHOGRAPHY40
from benchmarks.rounds import Figure, Timed, medians, timed
from twin.formats.dataset import Layout, Metadata

SCAN, CAMERA, RADIUS_PX = 128, 128, 32
ROUNDS = 7
ROWS, BATCH_ROWS = 4, 32
"""Of the scan in one round."""
GOAL, BATCH_GOAL = 3.0, 10.0


@dataclass(frozen=True)
class Rates:
    """Frames per second, medians; None without a reference.

    Attributes:
        row: ours, a row at a time, every pixel of the disc on its own as in the reference.
        batch: ours, `BATCH_ROWS` rows in one block.
        binned: ours as it is set up by default, a row at a time.
        corrected: the same with defocus to be corrected.
        limit: the transforms alone, every pixel on its own.
        reference: ptychography40.
        weights_s, reference_weights_s: building the weights, once.
    """

    row: float
    batch: float
    binned: float
    corrected: float
    limit: float
    reference: float | None
    weights_s: float
    reference_weights_s: float | None


@cache
def rates() -> Rates:
    """Measure; once, for both figures."""
    rng = np.random.default_rng(0)
    y, x = np.indices((CAMERA, CAMERA)) - CAMERA // 2
    line = rng.poisson(np.where(np.hypot(y, x) < RADIUS_PX, 5.0, 0.05), (SCAN, CAMERA, CAMERA)).astype(np.uint16)
    agents = [_agent(Options(binning=1)), _agent(Options()), _agent(Options(aberrations={"C10": 4.0}))]
    works: list[Timed] = [
        *(_rows(agent, line, ROWS, 1) for agent in agents),
        _rows(_agent(Options(binning=1)), line, BATCH_ROWS, BATCH_ROWS),
        _transforms(line),
    ]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "row.npy"
        np.save(file, line)
        with PTYCHOGRAPHY40.running("ssb", SCAN, CAMERA, RADIUS_PX, file, ROWS) as reference:
            works += [reference.seconds] if reference is not None else []
            spent = medians(works, ROUNDS)
    per_row = [ROWS, ROWS, ROWS, BATCH_ROWS, 1, ROWS]
    row, binned, corrected, batch, limit, *theirs = (SCAN * r / s for r, s in zip(per_row, spent, strict=False))
    return Rates(
        row=row,
        batch=batch,
        binned=binned,
        corrected=corrected,
        limit=limit,
        reference=theirs[0] if theirs else None,
        weights_s=timed(lambda: _agent(Options(binning=1)))(),
        reference_weights_s=None if reference is None else reference.prepared_s,
    )


def row_by_row() -> Figure:
    """A row at a time, every pixel on its own, against ptychography40; without it, against the goal itself."""
    return _figure(lambda found: found.row, GOAL)


def batch() -> Figure:
    """Many rows in one block, against the same."""
    return _figure(lambda found: found.batch, BATCH_GOAL)


def _figure(chosen: Callable[[Rates], float], goal: float) -> Figure:
    found = rates()
    # Measured once beside this code (854 frames / s), where the reference itself is not there.
    reference = 854.0 if found.reference is None else found.reference
    ours = chosen(found)
    return Figure(ours / reference, goal, ours, reference, ours / found.limit)


META = StreamMeta(
    Layout((SCAN, SCAN), (CAMERA, CAMERA)),
    Metadata(step_nm=0.02, energy_kev=300.0, convergence_mrad=20.0, pixel_mrad=20.0 / RADIUS_PX, rotation_deg=0.0),
    transposed=False,
)


def _agent(options: Options) -> Ssb:
    agent = Ssb(options)
    agent.start(META)
    return agent


def _rows(agent: Ssb, line: NDArray[np.uint16], rows: int, at_once: int) -> Timed:
    """Time `rows` rows of the scan, `at_once` in a block; a scan that is full begins again."""
    frames = np.tile(line, (at_once, 1, 1))
    row = 0

    def work() -> float:
        nonlocal row
        if row + rows > SCAN:
            agent.start(META)
            row = 0
        begun = time.process_time()
        for _ in range(rows // at_once):
            pixel = np.stack(np.divmod(np.arange(row * SCAN, (row + at_once) * SCAN), SCAN), axis=1)
            agent.update(FrameBlock(frames, pixel))
            row += at_once
        return time.process_time() - begun

    return work


def _transforms(line: NDArray[np.uint16]) -> Timed:
    y, x = np.indices((CAMERA, CAMERA)) - CAMERA // 2
    disc = np.ascontiguousarray(line[:, np.hypot(y, x) <= RADIUS_PX], np.float32)

    return timed(lambda: scipy.fft.rfft(disc, axis=0))


def main() -> None:
    """Measure and print."""
    found = rates()
    print(f"row by row {found.row:9.0f} frames/s, {found.row / found.limit:4.0%} of the transforms alone")
    print(f"in batches {found.batch:9.0f} frames/s")
    print(f"binned     {found.binned:9.0f} frames/s, with aberrations {found.corrected:9.0f}")
    print(f"limit      {found.limit:9.0f} frames/s")
    print(f"weights    {found.weights_s:9.2f} s")
    if found.reference is None or found.reference_weights_s is None:
        print(f"no reference: {PTYCHOGRAPHY40.lacking()}")
        return
    print(f"reference  {found.reference:9.0f} frames/s, weights {found.reference_weights_s:.2f} s")
    print(f"ratio      {found.row / found.reference:9.1f} row by row (goal {GOAL:g}), ", end="")
    print(f"{found.batch / found.reference:.1f} in batches (goal {BATCH_GOAL:g})")


if __name__ == "__main__":
    main()
