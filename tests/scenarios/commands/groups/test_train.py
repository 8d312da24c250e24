"""`stemtwin train`: trainings are found, their options are the command's, refusals are one line."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import controller.training
from scenarios.cli import app
from scenarios.commands.groups.train import explained, load, trainings


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, ["train", *words], env={"COLUMNS": "200"})


def test_the_list_of_trainings_needs_no_torch() -> None:
    program = (
        "import sys; from typer.testing import CliRunner; from scenarios.cli import app\n"
        "print(CliRunner().invoke(app, ['train', '--help']).output); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    for name in ("posterior", "ppo", "quality", "regression", "vae"):
        assert f"\n  {name} " in done.stdout
    assert done.stdout.split()[-1] == "False"


@pytest.mark.parametrize("name", trainings())
def test_help_explains_every_option(name: str) -> None:
    shown = invoke(name, "--help")
    assert shown.exit_code == 0
    options = load(name).TRAINING.options
    assert explained(options).keys() == {field.name for field in fields(options)}
    for option in (*explained(options), "workers", "threads", "out", "work", "frames"):
        assert f"--{option.replace('_', '-')} " in shown.output
    assert "resume" in shown.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vea"], "did you mean vae"),
        (["vae", "--days", "1"], "stemtwin: days: input should be greater than or equal to 2, got 1"),
        (["vae", "--days", "many"], "--days"),
        (["vae", "--dyas", "30"], "--days"),
        (["vae", "--days", "2", "--frames-per-day", "2"], "stemtwin: 2 training frames do not fill a batch of 64"),
        (["quality", "dya_a"], "stemtwin: 'dya_a' is not a scenario (did you mean day_a?)"),
        (["ppo", "--reader", "regresion"], "did you mean regression?"),
    ],
)
def test_a_mistake_is_answered_in_one_line(words: list[str], message: str, tmp_path: Path) -> None:
    done = invoke(*words, *(("--work", str(tmp_path / "work")) if len(words) > 1 else ()))
    assert done.exit_code == 2
    assert message in done.output
    assert not list(tmp_path.iterdir())


def test_a_training_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    monkeypatch.delitem(sys.modules, "controller.training.ppo", raising=False)
    done = invoke("ppo")
    assert done.exit_code == 2
    assert done.output == "stemtwin: training ppo needs stable_baselines3: pip install 'stemtwin[rl]'\n"


LINE = '''"""A straight line through the origin.

For tests.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from learning import optimisation
from learning.training import Training, TrainingRun
from learning.weights_file import Coefficients, WeightsFile
from twin.optics import Optics
from twin.options import Count, Positive, Seed, validated


@validated
class Options:
    """Settings.

    Attributes:
        slope: true slope.
        epochs: passes over the examples.
        batch: examples per step.
        learning_rate: maximum learning rate.
        seed: seed of the order.
    """

    slope: Positive = 2.0
    epochs: Count = 30
    batch: Count = 8

    learning_rate: Positive = 0.3
    seed: Seed = 1


@dataclass(frozen=True)
class Line:
    slope: torch.Tensor
    optics: Optics
    provenance: Mapping[str, Any]


def train(options: Options, run: TrainingRun) -> Line:
    x = torch.linspace(-1, 1, 64)[:, None]
    line = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(line.weight)

    def loss(chosen: torch.Tensor, generator: torch.Generator, passes: float) -> torch.Tensor:
        return torch.nn.functional.mse_loss(line(x[chosen]), options.slope * x[chosen])

    def report(epoch: int) -> None:
        run.progress("fitting the line", epoch, options.epochs, "")

    optimiser = torch.optim.SGD(line.parameters(), lr=0.3)
    optimisation.fit(line, optimiser, options, len(x), loss, run.work / "line.safetensors", report)
    return Line(line.weight.detach(), run.optics, {"error": abs(line.weight.item() - options.slope)})


WEIGHTS: WeightsFile[Line] = WeightsFile(
    "line-1",
    "line",
    Path("weights"),
    lambda line: ({"slope": line.slope}, {}),
    lambda tensors, metadata: Line(tensors["slope"], metadata["optics"], metadata["provenance"]),
    lambda line, space: Coefficients(space.names, np.asarray(space.range_nm)),
)
TRAINING = Training(Options, train, WEIGHTS, lambda line, run: {"slope": f"{line.slope.item():.2f}"})
'''


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one training in one file, which the package of trainings also looks into."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "line.py").write_text(LINE)
    monkeypatch.setattr(controller.training, "__path__", [*controller.training.__path__, str(folder)])
    monkeypatch.setitem(sys.modules, "controller.training.line", None)
    del sys.modules["controller.training.line"]
    return folder


def test_a_new_training_is_one_file(line: Path, tmp_path: Path) -> None:
    assert re.search(r"line +A straight line through the origin\.", invoke("--help").output)
    assert "For tests." in invoke("line", "--help").output
    work = str(tmp_path / "work")
    done = invoke("line", "day_a", "--slope", "3.5", "--work", work)
    assert done.exit_code == 0, done.output
    assert "slope   3.50" in done.output
    out = tmp_path / "work" / "line.safetensors"
    assert str(out) in done.output
    found = load("line").WEIGHTS.load(out)
    assert found.slope.item() == pytest.approx(3.5, abs=0.01)
    assert found.provenance["training"]["slope"] == 3.5
    refused = invoke("line", "day_a", "--slope", "4.5", "--work", work)
    assert refused.exit_code == 2
    assert refused.output == f"stemtwin: {work} holds a training with other slope; choose another folder or delete it\n"
