"""Simulated scans on disc, some hundred megabytes: segment sums without noise, so that every pass draws new counts."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agents.segment_net.simulation import SIDE, random_scan
from agents.segmented.segments import COUNT
from learning.stored import read_simulated
from twin.arrays import Floats
from twin.text.aside import written_aside

CHUNK = 25
"""Scans in a file."""
STORED = 1000.0
"""Factor of the stored fractions of the beam: half precision is coarse near zero."""


@dataclass(frozen=True, eq=False)
class ScanSet:
    """Scans of one seed.

    Attributes:
        sums: fraction of the beam times `STORED`, (N, 34, side, side), half precision.
        truth: true phase, rad, (N, side, side).
        sampling: scan step over the resolution element, (N,).
        resolution_nm: resolution element, (N,).
        atomic: the specimen has atoms, (N,).
    """

    sums: NDArray[np.float16]
    truth: NDArray[np.float32]
    sampling: Floats
    resolution_nm: Floats
    atomic: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.truth)

    def part(self, first: int, stop: int) -> "ScanSet":
        """Scans `first` to `stop - 1`."""
        kept = slice(first, stop)
        return ScanSet(
            self.sums[kept], self.truth[kept], self.sampling[kept], self.resolution_nm[kept], self.atomic[kept]
        )

    def expected(self, number: int, beam_e: float) -> NDArray[np.float32]:
        """Expected counts of a scan at a dose, (34, side, side)."""
        return np.asarray(self.sums[number], np.float32) * np.float32(beam_e / STORED)


def simulated(folder: Path, count: int, seed: int, progress: Callable[[int], None] = lambda done: None) -> ScanSet:
    """Simulate scans in files of `CHUNK`, or read the files that are there.

    Args:
        folder: made if missing.
        count: number of scans.
        seed: of all of them; a scan does not depend on how many there are.
        progress: called with the number of scans at hand.

    Raises:
        DamagedFile: a file that was cut off.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sums = np.empty((count, COUNT, SIDE, SIDE), np.float16)
    truth = np.empty((count, SIDE, SIDE), np.float32)
    rest = np.empty((count, 3))
    for first in range(0, count, CHUNK):
        part = slice(first, min(first + CHUNK, count))
        path = folder / f"scans_{seed}_{part.start}_{part.stop}.npz"
        if not path.exists():
            _simulate(path, seed, range(part.start, part.stop))
        file = read_simulated(path)
        sums[part], truth[part], rest[part] = file["sums"], file["truth"], file["rest"]
        progress(part.stop)
    return ScanSet(sums, truth, rest[:, 0], rest[:, 1], rest[:, 2] > 0)


def _simulate(path: Path, seed: int, numbers: range) -> None:
    scans = [random_scan((seed, number)) for number in numbers]
    rest = [(s.conditions.sampling, s.conditions.resolution_nm, s.atomic) for s in scans]
    with written_aside(path) as partial, partial.open("wb") as file:
        np.savez(
            file,
            sums=np.stack([s.sums * STORED for s in scans]).astype(np.float16),
            truth=np.stack([s.truth for s in scans]),
            rest=np.array(rest, np.float64),
        )
