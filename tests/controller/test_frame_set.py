"""Simulated frames on disk: shared, resumable, never mixed up."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from controller import frame_set
from controller.dataset import CLOSED_LOOP, Dataset, DayJob, DayRanges, StateMixture, nominal_ranges, simulate_day
from controller.frame_set import FrameSet, simulated
from learning.training import silent
from twin.optics import Optics
from twin.state import FIRST_ORDER

SMALL = Optics(convergence_mrad=14.0, grid=256, sampling_nm=0.05, camera_pixels=64, binning=4)
WANTED = FrameSet(SMALL, FIRST_ORDER, DayRanges(), StateMixture(), days=8, frames_per_day=4, seed=1)


pytestmark = pytest.mark.usefixtures("days_made")


class Interrupted(Exception):
    """Stands for a power cut."""


def same(one: Dataset, other: Dataset) -> bool:
    return all(getattr(one, f.name).tobytes() == getattr(other, f.name).tobytes() for f in fields(Dataset))


def test_frames_resume_with_the_shards_that_are_missing(tmp_path: Path, days_made: list[int]):
    seen = []
    whole = simulated(WANTED, tmp_path, lambda stage, done, total, note: seen.append((done, total)))
    assert days_made == list(range(8))
    assert seen == [(k, 8) for k in range(9)]
    assert whole.days.tolist() == np.repeat(np.arange(8), 4).tolist()
    days_made.clear()
    list(WANTED.shards(tmp_path).values())[1].unlink()
    seen.clear()
    again = simulated(WANTED, tmp_path, lambda stage, done, total, note: seen.append((done, total)))
    assert days_made == [3, 4, 5]
    assert seen[-3:] == [(6, 8), (7, 8), (8, 8)]
    assert same(again, whole)


def test_a_longer_set_begins_with_the_shorter_one(tmp_path: Path, days_made: list[int]):
    short = simulated(replace(WANTED, days=6), tmp_path, silent)
    days_made.clear()
    long = simulated(replace(WANTED, days=9), tmp_path, silent)
    assert days_made == [6, 7, 8]
    assert same(long.subset(long.days < 6), short)


def test_an_interrupted_shard_leaves_nothing_behind_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def cut(jobs: Sequence[DayJob], workers: int = 0) -> Iterator[Dataset]:
        yield simulate_day(jobs[0])
        raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(frame_set, "simulate", cut)
        with pytest.raises(Interrupted):
            simulated(WANTED, tmp_path, silent)
    assert list(tmp_path.rglob("*.npz")) == []


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 2},
        {"frames_per_day": 5},
        {"ranges": nominal_ranges()},
        {"states": CLOSED_LOOP},
        {"optics": replace(SMALL, energy_kev=200.0)},
    ],
)
def test_other_frames_have_a_folder_of_their_own(change: dict[str, object], tmp_path: Path):
    assert replace(WANTED, **change).folder(tmp_path) != WANTED.folder(tmp_path)
    assert replace(WANTED, days=100).folder(tmp_path) == WANTED.folder(tmp_path)
