"""Peak memory of agents on a long stream: it must go with the scan's images, never with its frames.

    python -m benchmarks.memory.streaming [--rows N] [--columns N] [--camera N] [--limit-mb M] [--json]

A process of its own runs 1024 x 1024 frames of 256 x 256 (128 GiB of big-endian uint16, made as they are asked for)
through riCOM and three detectors in one pass, looks at every image four times on the way, and reports its largest
resident memory. Exit code 1 above the limit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from agents.base import StreamMeta, load
from agents.block import Block, FrameBlock
from agents.source import Health, Source
from agents.stream import Progress, run
from benchmarks.memory.peak import in_fresh_process, main, peak_mb
from twin.formats.dataset import Layout, Metadata

LIMIT_MB = 500.0
FULL = (1024, 1024, 256)
AGENTS = ("ricom", "bf", "abf", "adf")
BLOCK = 64
"""Frames of a block: what a source hands over at once."""
SHIFTS = 3
"""The disc wanders over a square of this many pixels along a side."""
DISC_COUNTS = 5.0
"""Per pixel."""
LOOKS = 4

Frames = NDArray[np.unsignedinteger]


@dataclass(frozen=True)
class StreamMemory:
    """One stream; memory in millions of bytes.

    Attributes:
        rows, columns, camera: positions, and side of a frame.
        data_mb: all frames together, never held at once.
        before_mb: peak before the first block, libraries included.
        peak_mb: peak after the last results.
        frames_per_s: of source and agents together, without the looks.
        source_share: of that time, what was spent on making frames.
        look_s: a look at all images of the whole scan.
        known: share of positions that every image knows.
        bf_counts: mean of the bright field.
    """

    rows: int
    columns: int
    camera: int
    data_mb: float
    before_mb: float
    peak_mb: float
    frames_per_s: float
    source_share: float
    look_s: float
    known: float
    bf_counts: float


class Generated(Source):
    """A disc that wanders, in raster order. Every block is memory of its own: one who keeps it will be seen.

    Args:
        shape: (rows, columns) of the scan.
        camera: side of a frame; the bright field reaches to a quarter of it, and the disc nearly.
    """

    def __init__(self, shape: tuple[int, int], camera: int) -> None:
        self.health = Health()
        beam = Metadata(
            step_nm=0.02, energy_kev=300.0, convergence_mrad=20.0, pixel_mrad=80.0 / camera, rotation_deg=0.0
        )
        self.meta = StreamMeta(Layout(shape, (camera, camera)), beam, transposed=False)
        self.seconds = 0.0
        self._few = discs(camera, BLOCK + SHIFTS**2 - 1)

    def blocks(self) -> Iterator[Block]:
        count, columns = self.meta.layout.count, self.meta.layout.scan[1]
        for first in range(0, count, BLOCK):
            begun = perf_counter()
            flat = np.arange(first, min(first + BLOCK, count))
            begin = first // BLOCK % SHIFTS**2
            frames, pixel = self._few[begin : begin + len(flat)].copy(), np.stack(np.divmod(flat, columns), axis=1)
            self.seconds += perf_counter() - begun
            self.health.received += len(flat)
            yield FrameBlock(frames, pixel)


def discs(camera: int, count: int) -> Frames:
    """Frames of a noisy disc at `SHIFTS`^2 places in turn, big-endian uint16, (count, camera, camera)."""
    y, x = np.indices((camera, camera)) - camera // 2
    expected = np.where(np.hypot(y, x) <= camera / 4 - SHIFTS, DISC_COUNTS, 0.05)
    still = np.random.default_rng(0).poisson(expected)
    frames = np.empty((count, camera, camera), ">u2")
    for n, frame in enumerate(frames):
        frame[:] = np.roll(still, divmod(n % SHIFTS**2, SHIFTS), axis=(0, 1))
    return frames


def measure(rows: int, columns: int, camera: int) -> StreamMemory:
    """The stream in a fresh process; raises CalledProcessError."""
    return StreamMemory(**in_fresh_process("benchmarks.memory.streaming", (rows, columns, camera)))


def stream(rows: int, columns: int, camera: int) -> StreamMemory:
    """The stream in this process, whose peak memory counts from its start.

    Raises:
        RuntimeError: an agent or the source failed.
    """
    agents = {name: load(name) for name in AGENTS}
    source = Generated((rows, columns), camera)
    looks_s: list[float] = []

    def look(progress: Progress) -> None:
        if progress.positions >= (len(looks_s) + 1) * progress.total / LOOKS:
            begun = perf_counter()
            for agent in agents.values():
                agent.result()
            looks_s.append(perf_counter() - begun)

    before = peak_mb()
    done = run(source, agents, look, every_s=0.0)
    peak = peak_mb()
    if done.errors or done.status != "complete":
        raise RuntimeError(f"{done.status}: {done.errors or done.health}")
    images = [image.values for name in AGENTS for image in done.results[name].images.values()]
    seconds = done.seconds - sum(looks_s[:-1])  # the last one comes when the clock has stopped
    return StreamMemory(
        rows=rows,
        columns=columns,
        camera=camera,
        data_mb=done.positions * source.meta.layout.frame_bytes / 1e6,
        before_mb=before,
        peak_mb=peak,
        frames_per_s=done.positions / seconds,
        source_share=source.seconds / seconds,
        look_s=looks_s[-1],
        known=min(float(np.isfinite(image).mean()) for image in images),
        bf_counts=done.results["bf"].figures["bf_mean"],
    )


def describe(found: StreamMemory) -> str:
    """One sentence."""
    return (
        f"{found.rows} x {found.columns} frames of {found.camera} x {found.camera} ({found.data_mb:.0f} MB)"
        f" through {', '.join(AGENTS)}: peak {found.peak_mb:.0f} MB, {found.before_mb:.0f} MB of it before the"
        f" first frame. {found.frames_per_s:.0f} frames/s, {found.source_share:.0%} of the time for making them;"
        f" a look at all images {found.look_s:.2f} s."
    )


if __name__ == "__main__":
    main(__doc__, FULL, LIMIT_MB, stream, measure, describe)
