"""Training of the regression baseline on the frames of the amortised posterior; resumable after every epoch."""

import json
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from controller.calibration import closed_loop, intra_class_correlation
from controller.dataset import Dataset, DayRanges, joined
from controller.posterior.network import NUISANCES
from controller.regression.network import (
    Decoded,
    ErrorModel,
    Regression,
    RegressionNetwork,
    even_part,
    fit_errors,
    read_even,
    save,
)
from controller.strategies.cnn_regression import CnnRegression, Options
from controller.training.examples import Examples, Symmetries
from controller.training.frames import FrameSet, Progress, simulated
from controller.training.optimisation import load_checkpoint, one_epoch, save_checkpoint
from controller.training.posterior import PosteriorTraining, examples
from controller.training.vae import timed_in
from twin.optics import Optics
from twin.state import SECOND_ORDER, StateSpace

Array = NDArray[np.floating]


@dataclass(frozen=True)
class RegressionTraining:
    """Everything a training follows from.

    Attributes:
        optics, space: instrument and task.
        days, loop_days, frames_per_day: frames, the same as `PosteriorTraining`'s; a tenth of the days is held out.
        epochs, batch, learning_rate, weight_decay: of the network's fit, AdamW with one cycle.
        calibration_runs: closed-loop runs that calibrate the estimate, one simulated day each.
        seed: of everything.
    """

    optics: Optics
    space: StateSpace
    days: int = 750
    loop_days: int = 950
    frames_per_day: int = 16
    epochs: int = 10
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    calibration_runs: int = 40
    seed: int = 1

    @property
    def frame_sets(self) -> tuple[FrameSet, FrameSet]:
        """Over the whole range, and where a closed loop goes."""
        per_day = self.frames_per_day
        return PosteriorTraining(
            self.optics, SECOND_ORDER, self.days, self.loop_days, per_day, batch=self.batch, seed=self.seed
        ).frame_sets

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


def split(sets: tuple[Dataset, ...]) -> tuple[Dataset, Dataset]:
    """Frames to train on, and those of the last tenth of each set's days."""
    held = [data.days >= data.days.max() + 1 - max(1, (data.days.max() + 1) // 10) for data in sets]
    training = joined([data.subset(~keep) for data, keep in zip(sets, held, strict=True)])
    return training, joined([data.subset(keep) for data, keep in zip(sets, held, strict=True)])


def without_nuisances(data: Dataset, log_floor: float) -> Examples:
    """As the posterior's training takes them; nothing here asks for the nuisances."""
    return examples(data, np.zeros((len(data.days), len(NUISANCES)), np.float32), SECOND_ORDER, log_floor)


def fit_network(
    training: Examples, test: Examples, config: RegressionTraining, work: Path, progress: Progress
) -> RegressionNetwork:
    """Least squares (Huber's) on `even_part`; a checkpoint after every epoch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        height, width = training.spectra.shape[1:]
        network = RegressionNetwork(height, width, config.space.dimension)
    mean = training.spectra[::4].float().mean(0)
    network.offset.copy_((mean + mean[(-torch.arange(len(mean))) % len(mean)]) / 2)
    network.spread.fill_((training.spectra[::8].float() - network.offset).std())
    symmetries, scale = Symmetries.of(config.space), config.space.range_nm

    def loss(chosen: Tensor, generator: torch.Generator, _: float) -> Tensor:
        seen = symmetries.scramble(training.chosen(chosen), generator)
        wanted = torch.from_numpy(even_part(seen.states.numpy() * scale)).float()
        return nn.functional.huber_loss(network(seen.spectra, seen.log_floor), wanted, delta=0.5)

    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    checkpoint = work / "network.safetensors"
    done = load_checkpoint(network, optimiser, checkpoint) if checkpoint.exists() else 0
    for epoch in range(done, config.epochs):
        one_epoch(network, optimiser, config, epoch, len(training), loss, clip=5.0)
        save_checkpoint(network, optimiser, epoch + 1, checkpoint)
        median = float(np.median(held_out_error(network.eval(), test, config.space)))
        progress("fitting the regression", epoch + 1, config.epochs, f"held-out median {median:.2f} nm")
    return network.eval()


def decoded(network: RegressionNetwork, data: Examples) -> Decoded:
    """The network's answers for frames."""
    return Decoded.of(read_even(network, data.spectra, data.log_floor), network.dimension)


def held_out_error(network: RegressionNetwork, test: Examples, space: StateSpace) -> Array:
    """Error norm of single frames, the sign given, nm, (N,)."""
    means, truth = decoded(network, test).states_nm(), test.states.numpy() * space.range_nm
    both = [np.linalg.norm(means - sign * truth, axis=1) for sign in (1.0, -1.0)]
    return np.minimum(*both)


def learn_errors(network: RegressionNetwork, test: Examples, space: StateSpace) -> ErrorModel:
    """The answers' errors on held-out days."""
    truth, volume = test.states.numpy() * space.range_nm, float(np.prod(2 * space.range_nm))
    return fit_errors(decoded(network, test), test.log_floor.double().numpy(), truth, volume)


def train_regression(
    config: RegressionTraining, out: Path, work: Path, frames: Path, progress: Progress, workers: int = 0
) -> Regression:
    """Everything from nothing (or from what `work` and `frames` already hold) to one weights file at `out`.

    Raises:
        ResumeError: `work` holds another configuration's files.
    """
    free = ("calibration_runs",)
    trained = timed_in(work, config.plain(), free, lambda: _train(config, work, frames, progress, workers))
    save(trained, out)
    return trained


def _train(config: RegressionTraining, work: Path, frames: Path, progress: Progress, workers: int) -> Regression:
    """The stages one after the other."""
    whole, loop = (simulated(wanted, frames, progress, workers) for wanted in config.frame_sets)
    log_floor = float(np.log(whole.floors).mean())
    seen, unseen = split((whole, loop))
    training, test = (without_nuisances(data, log_floor) for data in (seen, unseen))
    network = fit_network(training, test, config, work, progress)
    error = held_out_error(network, test, config.space)
    provenance = {
        "training": config.plain(),
        "ranges": asdict(DayRanges()),
        "held_out_median_nm": round(float(np.median(error)), 3),
        "held_out_p90_nm": round(float(np.quantile(error, 0.9)), 2),
        "versions": {name: version(name) for name in ("torch", "numpy")},
    }
    errors = learn_errors(network, test, config.space)
    trained = Regression(network, errors, config.space, config.optics, log_floor, 0.0, provenance)
    runs = config.calibration_runs
    distances = closed_loop(
        CnnRegression(config.space, trained, Options()),
        config.optics,
        config.space,
        DayRanges(),
        runs,
        config.seed,
        lambda done: progress("calibrating the regression", done, runs, ""),
    )
    return replace(trained, correlation=intra_class_correlation(distances, config.space.dimension))
