"""Images of a scan's detectors, gathered block by block, and the files that hold them."""

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from scenarios.folders import write_bytes
from scenarios.scan_section import ScanSection
from twin.arrays import Floats
from twin.scan.plan import ScanPlan
from twin.types import ScanBlock


@dataclass
class Images:
    """Every signal on the scan's grid, and the mean frame.

    Attributes:
        plan: gives the grid.
        camera: (H, W).
        by_name: (rows, columns) of each signal; NaN at positions without data.
        frame_sum: counts of all frames, or all events, (H, W); None without a camera.
        visited: number of positions so far.
        clock_s: instrument clock at the end of the last one.
        intended_nm: positions of a list, by block, (n, 2) each.
    """

    plan: ScanPlan
    camera: tuple[int, int]
    by_name: dict[str, Floats] = field(default_factory=dict)
    frame_sum: Floats | None = None
    visited: int = 0
    clock_s: float = 0.0
    intended_nm: list[Floats] = field(default_factory=list)

    def add(self, block: ScanBlock) -> None:
        """Add the next block."""
        row, column = block.path.pixel.T
        for name, values in block.signals.items():
            image = self.by_name.setdefault(name, np.full(self.plan.shape, np.nan))
            image[row, column] = values
        if block.frames is not None:
            self._count(block.frames.sum(axis=0, dtype=np.float64))
        if block.events is not None:
            hits = np.bincount(block.events["pixel"], minlength=self.camera[0] * self.camera[1])
            self._count(hits.reshape(self.camera).astype(np.float64))
        if self.plan.pattern == "list":
            self.intended_nm.append(block.path.intended_nm)
        self.visited += len(block)
        self.clock_s = float(block.clock_s[-1])

    def _count(self, total: Floats) -> None:
        self.frame_sum = total if self.frame_sum is None else self.frame_sum + total

    @property
    def mean_frame(self) -> Floats | None:
        """Counts per frame, (H, W)."""
        return None if self.frame_sum is None else self.frame_sum / self.visited

    def save(self, signals: Path, picture: Path, section: ScanSection) -> None:
        """Write the arrays as .npz and a picture of them as .png."""
        from scenarios.scans import plots

        arrays: dict[str, Floats] = dict(self.by_name)
        if self.plan.pattern == "list":
            arrays["intended_nm"] = np.concatenate(self.intended_nm)
        if self.mean_frame is not None:
            arrays["mean_frame"] = self.mean_frame
        packed = io.BytesIO()
        np.savez_compressed(packed, allow_pickle=False, **arrays)
        write_bytes(signals, packed.getvalue())
        write_bytes(picture, plots.signals(self.by_name, self.mean_frame, section))
