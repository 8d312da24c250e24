"""Speed of riCOM: from a camera's big-endian frames to the image, against reading those frames from memory at all.

    python -m benchmarks.streaming.ricom

Frames per second of processor time on one thread, medians over interleaved rounds. The frames of a round are more than
the cache holds.
"""

import numpy as np
from numpy.typing import NDArray

from agents.base import StreamMeta
from agents.block import FrameBlock
from agents.com.ricom_kernel import kernel
from agents.com.ricom_scatter import RunningCorrelation
from agents.methods.phase.ricom import Options, Ricom
from benchmarks.rounds import Figure, rates
from benchmarks.streaming.frames import discs, reading
from twin.formats.dataset import Layout, Metadata

KERNEL_PX = 61
SCAN = (512, 512)
BUFFER_BYTES = 64 * 2**20
BLOCK = 128
"""Frames of a block: what a source hands over at once."""
ROUNDS = 7


def _pixels(count: int) -> NDArray[np.int32]:
    """Raster order, in blocks of `BLOCK`, (SCAN / BLOCK, BLOCK, 2)."""
    flat = np.arange(SCAN[0] * SCAN[1])
    return np.stack(np.divmod(flat, SCAN[1]), axis=1).astype(np.int32).reshape(-1, count, 2)


def _ricom(side: int, goal: float) -> Figure:
    """Frames of side x side pixels to the riCOM image with a 61 x 61 kernel; the reference reads the frames."""
    frames = discs(side, side / 4, BUFFER_BYTES)
    agent = Ricom(Options(kernel_px=KERNEL_PX))
    metadata = Metadata(step_nm=0.02, pixel_mrad=0.5, energy_kev=300.0, rotation_deg=30.0)
    agent.start(StreamMeta(Layout(SCAN, (side, side)), metadata, False))
    pixels, position = _pixels(BLOCK), 0

    def ours() -> object:
        nonlocal position
        for first in range(0, len(frames), BLOCK):
            agent.update(FrameBlock(frames[first : first + BLOCK], pixels[position % len(pixels)]))
            position += 1
        return agent

    mine, bound = rates([ours, reading(frames.reshape(-1).view(np.uint64))], ROUNDS)
    return Figure(mine / bound, goal, mine * len(frames), bound * len(frames), mine / bound)


def ricom_256() -> Figure:
    """256 x 256 frames: at least 40 % of what memory gives."""
    return _ricom(256, 0.40)


def ricom_128() -> Figure:
    """128 x 128 frames: at least 36 % of what memory gives."""
    return _ricom(128, 0.36)


def scatter_rate(size: int) -> float:
    """Positions per second of the kernel's update alone, raster order, at a kernel of size x size."""
    running = RunningCorrelation(kernel(size), SCAN)
    pixels, vectors = _pixels(BLOCK), np.random.default_rng(0).standard_normal((BLOCK, 2))

    def update() -> object:
        for pixel in pixels[:256]:
            running.add(pixel, vectors)
        return running

    return rates([update], ROUNDS)[0] * 256 * BLOCK


def main() -> None:
    """Measure and print."""
    for side, figure in ((256, ricom_256()), (128, ricom_128())):
        share = f"{figure.ratio:.0%} (goal {figure.goal:.0%}) of {figure.reference / 1e3:.0f} kHz"
        print(f"{side} x {side}: {figure.ours / 1e3:6.1f} kHz, {share} for reading the frames")
    for size in (11, 21, 61, 101):
        print(f"kernel {size:3d}: {scatter_rate(size) / 1e6:6.2f} M positions/s")


if __name__ == "__main__":
    main()
