"""Simulated frames on disc, in resumable shards; trainings that ask for the same frames share them."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from controller.dataset import PLAIN_FRAMES, Dataset, DayJob, DayRanges, Recipe, StateMixture, joined, simulate
from learning.stored import DamagedFile, read_simulated
from learning.training import Progress
from twin.optics import Optics
from twin.state import StateSpace
from twin.text.aside import written_aside

SHARD_DAYS = 50
VERSION = 4
"""Part of every digest; raised when the same set would give other frames."""


@dataclass(frozen=True)
class FrameSet:
    """Everything that simulated frames follow from.

    Attributes:
        optics, space: instrument and task.
        ranges: distribution of the days.
        states: distribution of the states.
        days, frames_per_day: numbers.
        seed: of everything; day i of a longer set is day i of a shorter one.
        patches: whether the spectra of sub-areas are stored, too.
        recipe: renderer, preprocessing and departures.
    """

    optics: Optics
    space: StateSpace
    ranges: DayRanges
    states: StateMixture
    days: int
    frames_per_day: int
    seed: int
    patches: bool = False
    recipe: Recipe = PLAIN_FRAMES

    def folder(self, root: Path) -> Path:
        """Folder of the shards, the same for sets that differ only in their number of days."""
        plain = asdict(self) | {"version": VERSION}
        del plain["days"], plain["space"]["tolerance_nm"]  # no frame depends on them
        if self.recipe == PLAIN_FRAMES:
            del plain["recipe"]
        text = json.dumps(plain, sort_keys=True)
        return root / hashlib.sha256(text.encode()).hexdigest()[:12]

    def job(self, index: int) -> DayJob:
        """How one of the days is simulated."""
        settings = (self.optics, self.space, self.ranges, self.frames_per_day, self.seed, index)
        return DayJob(*settings, self.states, self.patches, self.recipe)

    def shards(self, root: Path) -> dict[range, Path]:
        """Days of each shard and its file; a last, incomplete shard has a name of its own."""
        spans = [range(a, min(a + SHARD_DAYS, self.days)) for a in range(0, self.days, SHARD_DAYS)]
        return {span: self.folder(root) / f"days-{span.start:05d}-{span.stop:05d}.npz" for span in spans}


def held_out_days(count: int) -> int:
    """Number of held-out days among `count`: the last twentieth, at least one."""
    return max(1, count // 20)


def held_out(days: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    """True for frames of the held-out days, given the day of each frame, (N,)."""
    return days >= count - held_out_days(count)


def simulated(wanted: FrameSet, root: Path, progress: Progress, workers: int = 0) -> Dataset:
    """Return the frames of every day; read the shards that exist under `root` and simulate the others.

    Args:
        wanted: which frames.
        root: folder of all sets.
        progress: called after every simulated day.
        workers: simulating processes; 0 is one per core.
    """
    shards = wanted.shards(root)
    missing = [day for span, path in shards.items() if not path.exists() for day in span]
    folder = wanted.folder(root)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "frames.json").write_text(json.dumps(asdict(wanted), indent=1))
    jobs = [wanted.job(day) for day in missing]
    made: list[Dataset] = []
    if missing:
        progress("simulating days", wanted.days - len(missing), wanted.days, "")
    ends = {span.stop - 1: path for span, path in shards.items()}
    for count, (day, data) in enumerate(zip(missing, simulate(jobs, workers), strict=True), 1):
        made.append(data)
        progress("simulating days", wanted.days - len(missing) + count, wanted.days, "")
        if day in ends:
            _write(joined(made), ends[day])
            made = []
    return joined([_read(path) for path in shards.values()])


def _write(data: Dataset, path: Path) -> None:
    with written_aside(path) as partial, partial.open("wb") as file:
        np.savez(file, **asdict(data))


def _read(path: Path) -> Dataset:
    """Read simulated frames.

    Raises:
        DamagedFile: cut off, or a part is missing.
    """
    stored = read_simulated(path)
    lacking = [part.name for part in fields(Dataset) if part.name not in stored]
    if lacking:
        raise DamagedFile(f"{path}: damaged; delete it, and it is simulated anew (no {lacking[0]} in it)")
    return Dataset(**{part.name: stored[part.name] for part in fields(Dataset)})
