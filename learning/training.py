"""One skeleton for all trainings: checked options, a claimed work folder, provenance, one weights file at the end.

A training is one file in the folder `training` of a package; the file's name is the training's name, the first line of
its docstring describes it, and its `TRAINING` holds the rest.
"""

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from learning.weights_file import WeightsFile
from learning.work_folder import claim, stopwatch
from twin.errors import StemtwinError
from twin.optics import Optics
from twin.state import StateSpace

if TYPE_CHECKING:
    from torch import nn

    from learning import optimisation

Options = TypeVar("Options", bound=Any)
Trained = TypeVar("Trained", bound=Any)
Progress = Callable[[str, int, int, str], None]
"""Called with (stage, done, total, note): with done = 0 when a stage begins, with done = total when it ends."""

VERSIONS = ("gpytorch", "numpy", "scipy", "stemtwin", "torch")
"""Packages whose versions go into the provenance."""


class MissingPackage(StemtwinError, ImportError):
    """A training needs a package that is not installed."""


def silent(stage: str, done: int, total: int, note: str) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class TrainingRun:
    """One call of a training: instrument and task, folders, progress display.

    Attributes:
        optics, space: instrument and calibrated coefficients.
        work: folder of the checkpoints; a second call resumes there.
        frames: folder of simulated frames, shared by all trainings.
        progress: called during each stage.
        workers: simulating processes; 0 is one per core.
    """

    optics: Optics
    space: StateSpace
    work: Path
    frames: Path
    progress: Progress = silent
    workers: int = 0


@dataclass(frozen=True)
class Training(Generic[Options, Trained]):
    """How one kind of weights is trained.

    Attributes:
        options: settings, a class made by `twin.options.validated`; its `Attributes:` section explains each.
        train: return the trained object; its provenance holds figures of its own.
        file: kind of weights file that the object is saved to.
        summary: return figures to print at the end, as (name, text).
        last_stages: options that no checkpoint depends on; they may differ when a work folder is resumed.
        further: return settings beside optics, space and options that the result depends on, or replace some of these.
        label: return the name of the work folder and of the weights file, if not the training's name.
        packages: further packages whose versions go into the provenance.
        threads: torch threads if the caller chooses none; 0 is one per core.
        controllers: names of the controllers that take such weights as their option `weights`, the principal one first.
    """

    options: type[Options]
    train: Callable[[Options, TrainingRun], Trained]
    file: WeightsFile[Trained]
    summary: Callable[[Trained, TrainingRun], Mapping[str, str]] = lambda trained, run: {}
    last_stages: Collection[str] = ()
    further: Callable[[Options, TrainingRun], Mapping[str, Any]] = lambda options, run: {}
    label: Callable[[Options], str] | None = None
    packages: Collection[str] = ()
    threads: int = 0
    controllers: Sequence[str] = ()

    def __call__(self, options: Options, run: TrainingRun, out: Path) -> Trained:
        """Train from nothing, or from what the folders of `run` already hold, and write one weights file.

        Raises:
            ResumeError: the work folder holds a training with other settings.
        """
        settings = plain({"optics": asdict(run.optics), "space": asdict(run.space), **asdict(options)})
        settings |= plain(self.further(options, run))
        claim(run.work, settings, self.last_stages)
        with stopwatch(run.work / "seconds") as elapsed:
            trained = self.train(options, run)
        made = {"versions": {name: version(name) for name in (*VERSIONS, *self.packages)}, "seconds": round(elapsed())}
        trained = replace(trained, provenance=plain({"training": settings, **trained.provenance, **made}))
        self.file.save(trained, out)
        return trained


def fit_network(
    network: "nn.Module",
    options: "optimisation.Options",
    count: int,
    loss: "optimisation.Loss",
    run: TrainingRun,
    stage: str,
    note: Callable[[int], str],
    weight_decay: float = 0.0,
    clip: float = math.inf,
) -> None:
    """Fit a network by AdamW, with progress after every pass and a checkpoint in the work folder of the run.

    Args:
        network: trained in place.
        options: of the fit.
        count: number of examples.
        loss: of a batch, see `optimisation.Loss`.
        run: gives work folder and progress.
        stage: what the progress display calls the fit.
        note: called after every pass with the number of passes; text behind the progress, such as a held-out error.
        weight_decay: of AdamW.
        clip: largest norm of the gradient.
    """
    import torch

    from learning import optimisation

    def report(epoch: int) -> None:
        run.progress(stage, epoch, options.epochs, note(epoch))

    run.progress(stage, 0, options.epochs, "")
    optimiser = torch.optim.AdamW(network.parameters(), lr=options.learning_rate, weight_decay=weight_decay)
    optimisation.fit(network, optimiser, options, count, loss, run.work / "network.safetensors", report, clip)


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings after a round trip through JSON: tuples become lists."""
    values: dict[str, Any] = json.loads(json.dumps(settings))
    return values
