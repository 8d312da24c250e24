"""What every training found has to do: explain itself, resume where it was interrupted, write weights that load.

Trainings are found, not listed: a new file is under this contract by itself.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from controller import dataset, frame_set
from learning.training import Progress, TrainingRun, silent
from learning.weights_file import WeightsError
from learning.work_folder import ResumeError
from scenarios.commands.groups.train import load, trainings
from twin.optics import Optics
from twin.options import checked_options
from twin.registry import describe
from twin.state import FIRST_ORDER

OPTICS = Optics(convergence_mrad=14.0, grid=256, sampling_nm=0.05, camera_pixels=64, binning=4)
SMALL = {
    "scans": 16, "days": 10, "loop_days": 10, "frames_per_day": 4, "epochs": 2, "batch": 8, "latent": 2, "modes": 1,
    "calibration_runs": 2, "steps": 1500, "runs": 32, "legs": 2,
    "images": 16, "side_px": 36, "beams": 1, "features": 8,
}  # fmt: skip
"""Values that make a training small, by the name of the option."""
NEEDS = {"ppo": ("reader", "regression")}
"""Option of a training that takes the weights of another."""

FEWER: dict[str, Any] = {
    "controller.calibration.OBSERVATIONS": 6,
    "controller.calibration.HELD_AT": (2, 6),
    "controller.training.posterior.OBSERVATIONS": 6,
    "controller.posterior.check.STEPS": 50,
    "controller.posterior.precision.STEPS": 50,
    "controller.training.vae.PRIOR_STEPS": 20,
    "controller.training.vae.CALIBRATION_CANDIDATES": 100,
    "controller.training.ppo.SURROGATE_RUNS": 256,
    "agents.restoration.scenes.ELEMENTS": (78, 6),
    "agents.restoration.scenes.HEAVIEST": 3,
    "agents.defects.sheet.C10_STEP_NM": 10.0,
}
"""Constants that only decide how well the later stages fit, how long closed-loop runs are, or how many columns are
computed beforehand."""
NAMES = sorted(trainings())


@dataclass(frozen=True)
class Finished:
    """A training that was not interrupted: what it made, where, and the stages it reported."""

    trained: Any
    work: Path
    out: Path
    stages: list[str]


class Bench:
    """Trains small weights; frames are shared and simulated in this process, finished trainings are kept."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.finished: dict[str, Finished] = {}

    def train(self, name: str, work: Path, out: Path, progress: Progress = silent, **changes: Any) -> Any:
        training = load(name).TRAINING
        given = {item.name: SMALL[item.name] for item in fields(training.options) if item.name in SMALL}
        if name in NEEDS:
            option, other = NEEDS[name]
            given[option] = str(self.straight(other).out)
        run = TrainingRun(OPTICS, FIRST_ORDER, work, self.root / "frames", progress)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(frame_set, "simulate", lambda jobs, workers: map(dataset.simulate_day, jobs))
            for constant, value in FEWER.items():
                patch.setattr(constant, value)
            return training(checked_options(training.options, given | changes), run, out)

    def straight(self, name: str) -> Finished:
        if name not in self.finished:
            work, out, stages = self.root / name, self.root / f"{name}.safetensors", list[str]()
            trained = self.train(name, work, out, lambda stage, *_: stages.append(stage))
            self.finished[name] = Finished(trained, work, out, stages)
        return self.finished[name]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("trainings"))


@pytest.mark.parametrize("name", NAMES)
def test_it_describes_itself_in_one_line(name: str) -> None:
    line = describe(trainings()[name], name)
    assert line.endswith(".")
    assert len(line) < 70  # a line of `stemtwin train --help`


@pytest.mark.parametrize("name", NAMES)
def test_its_options_have_defaults_and_its_free_ones_exist(name: str) -> None:
    training = load(name).TRAINING
    known = {item.name for item in fields(training.options)}
    assert set(training.last_stages) <= known
    assert training.options() == checked_options(training.options, {})


@pytest.mark.parametrize("name", NAMES)
def test_an_interrupted_training_ends_with_the_same_weights(name: str, bench: Bench, tmp_path: Path) -> None:
    straight, out = bench.straight(name), tmp_path / "mine.safetensors"
    fitting = next(stage for stage in straight.stages if not stage.startswith("simulating"))

    def interrupt(stage: str, done: int, total: int, note: str) -> None:
        if stage == fitting and 0 < done < total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.train(name, tmp_path, out, interrupt)
    assert not out.exists()
    torch.rand(17)  # whatever else happened meanwhile
    resumed: list[tuple[str, int]] = []
    bench.train(name, tmp_path, out, lambda stage, done, *_: resumed.append((stage, done)))
    assert (fitting, 1) not in resumed
    one, other = load_file(straight.out), load_file(out)
    assert one.keys() == other.keys()
    assert [key for key in one if not torch.equal(one[key], other[key])] == []


@pytest.mark.parametrize("name", NAMES)
def test_its_weights_load_where_they_fit_and_nowhere_else(name: str, bench: Bench, tmp_path: Path) -> None:
    straight, training = bench.straight(name), load(name).TRAINING
    loaded = training.file.load_for(str(straight.out), OPTICS, FIRST_ORDER)
    assert loaded.provenance == straight.trained.provenance
    assert {"training", "versions", "seconds"} <= loaded.provenance.keys()
    summary = training.summary(loaded, TrainingRun(OPTICS, FIRST_ORDER, tmp_path, tmp_path))
    assert summary
    assert all(isinstance(text, str) for text in summary.values())
    with pytest.raises(WeightsError, match=f"Retrain: stemtwin train {name} SCENARIO"):
        training.file.load_for(str(straight.out), replace(OPTICS, energy_kev=200.0), FIRST_ORDER)
    with pytest.raises(ResumeError, match=r"other seed; choose another folder"):
        bench.train(name, straight.work, tmp_path / "other.safetensors", seed=2)
