"""Simulated frames on disk: every training that asks for the same ones shares them; made in shards, resumable."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from controller.dataset import Dataset, DayJob, DayRanges, StateMixture, joined, simulate
from twin.optics import Optics
from twin.state import StateSpace

Progress = Callable[[str, int, int, str], None]
"""Called with (stage, done, total, note)."""

SHARD_DAYS = 50
VERSION = 3
"""Part of every digest: raised when the same set would give other frames."""


@dataclass(frozen=True)
class FrameSet:
    """Everything that simulated frames follow from.

    Attributes:
        optics, space: instrument and task.
        ranges: where the days come from.
        states: where the states lie.
        days, frames_per_day: how many.
        seed: of everything; day i of a longer set is day i of a shorter one.
        patches: whether the spectra of sub-areas are wanted, too.
    """

    optics: Optics
    space: StateSpace
    ranges: DayRanges
    states: StateMixture
    days: int
    frames_per_day: int
    seed: int
    patches: bool = False

    def folder(self, root: Path) -> Path:
        """Where its shards lie: one folder for sets that differ in their length alone."""
        plain = asdict(self) | {"version": VERSION}
        del plain["days"], plain["space"]["tolerance_nm"]  # no frame depends on them
        text = json.dumps(plain, sort_keys=True)
        return root / hashlib.sha256(text.encode()).hexdigest()[:12]

    def shards(self, root: Path) -> dict[range, Path]:
        """Days of each shard and its file; a last one that is not full has a name of its own."""
        spans = [range(a, min(a + SHARD_DAYS, self.days)) for a in range(0, self.days, SHARD_DAYS)]
        return {span: self.folder(root) / f"days-{span.start:05d}-{span.stop:05d}.npz" for span in spans}


def simulated(wanted: FrameSet, root: Path, progress: Progress, workers: int = 0) -> Dataset:
    """The frames of every day; shards already under `root` are read, missing ones are made.

    Args:
        wanted: which frames.
        root: where sets of frames are kept.
        progress: called after every day made.
        workers: simulating processes; 0 is one per core.
    """
    shards = wanted.shards(root)
    missing = [day for span, path in shards.items() if not path.exists() for day in span]
    folder = wanted.folder(root)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "frames.json").write_text(json.dumps(asdict(wanted), indent=1))
    of_each = (wanted.optics, wanted.space, wanted.ranges, wanted.frames_per_day, wanted.seed)
    jobs = [DayJob(*of_each, day, wanted.states, wanted.patches) for day in missing]
    made: list[Dataset] = []
    ends = {span.stop - 1: path for span, path in shards.items()}
    for count, (day, data) in enumerate(zip(missing, simulate(jobs, workers), strict=True), 1):
        made.append(data)
        progress("simulating days", wanted.days - len(missing) + count, wanted.days, "")
        if day in ends:
            _write(joined(made), ends[day])
            made = []
    return joined([_read(path) for path in shards.values()])


def _write(data: Dataset, path: Path) -> None:
    partial = path.with_suffix(".part.npz")
    np.savez(partial, **asdict(data))
    partial.rename(path)


def _read(path: Path) -> Dataset:
    with np.load(path, allow_pickle=False) as stored:
        return Dataset(**{field.name: stored[field.name] for field in fields(Dataset)})
