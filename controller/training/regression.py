"""Network of cnn_regression, on frames of the posterior."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor, nn

from controller.calibration import closed_loop, intra_class_correlation
from controller.dataset import Dataset, DayRanges, joined
from controller.frame_set import simulated
from controller.posterior.examples import Examples, Symmetries, frame_sets, mirror_mean
from controller.posterior.network import NUISANCES
from controller.regression import network as regression_network
from controller.regression.network import (
    Decoded,
    ErrorModel,
    Regression,
    RegressionNetwork,
    even_part,
    fit_errors,
    read_even,
)
from controller.strategies import cnn_regression
from learning import optimisation
from learning.torch_state import seeded
from learning.training import Training, TrainingRun, fit_network
from twin.arrays import Array
from twin.options import Count, NonNegative, validated
from twin.state import SECOND_ORDER, StateSpace


@validated
class Options(optimisation.Options):
    """Settings of the training.

    Attributes:
        days: simulated days over the whole range; a tenth is held out.
        loop_days: further days, with states where a closed loop takes its frames; a tenth is held out.
        frames_per_day: frames of each day.
        weight_decay: weight decay of AdamW.
        calibration_runs: closed-loop runs that calibrate the estimate, one simulated day each.
    """

    days: Annotated[int, Ge(2)] = 750
    loop_days: Annotated[int, Ge(2)] = 950
    frames_per_day: Annotated[int, Ge(2)] = 16
    epochs: Count = 10
    weight_decay: NonNegative = 1e-2
    calibration_runs: Count = 40


def split(sets: tuple[Dataset, ...]) -> tuple[Dataset, Dataset]:
    """Return the training frames, and those of the last tenth of each set's days."""
    held = [data.days >= data.days.max() + 1 - max(1, (data.days.max() + 1) // 10) for data in sets]
    training = joined([data.subset(~keep) for data, keep in zip(sets, held, strict=True)])
    return training, joined([data.subset(keep) for data, keep in zip(sets, held, strict=True)])


def without_nuisances(data: Dataset, log_floor: float) -> Examples:
    """Scale frames as the posterior's training does; the nuisance parameters, which are not used here, are zero."""
    return Examples.of(data, np.zeros((len(data.days), len(NUISANCES)), np.float32), SECOND_ORDER, log_floor)


def fit(training: Examples, test: Examples, options: Options, run: TrainingRun) -> RegressionNetwork:
    """Fit `even_part` of the states by least squares with Huber's loss."""
    space = run.space
    with seeded(options.seed):
        height, width = training.spectra.shape[1:]
        network = RegressionNetwork(height, width, space.dimension)
    network.offset.copy_(mirror_mean(training.spectra[::4].float().mean(0)))
    network.spread.fill_((training.spectra[::8].float() - network.offset).std())
    symmetries, scale = Symmetries.of(space), space.range_nm

    def loss(chosen: Tensor, generator: torch.Generator, _: float) -> Tensor:
        batch = symmetries.scramble(training.chosen(chosen), generator)
        targets = torch.from_numpy(even_part(batch.states.numpy() * scale)).float()
        return nn.functional.huber_loss(network(batch.spectra, batch.log_floor), targets, delta=0.5)

    def note(_: int) -> str:
        return f"held-out median {np.median(error_nm(network.eval(), test, space)):.2f} nm"

    decay = options.weight_decay
    fit_network(network, options, len(training), loss, run, "fitting the regression", note, decay, clip=5.0)
    return network.eval()


def decoded(network: RegressionNetwork, data: Examples) -> Decoded:
    """Outputs of the network, decoded."""
    return Decoded.of(read_even(network, data.spectra, data.log_floor), network.dimension)


def error_nm(network: RegressionNetwork, test: Examples, space: StateSpace) -> Array:
    """Norm of the error of single frames, for the better sign, nm, (N,)."""
    means, truth = decoded(network, test).states_nm(), test.states.numpy() * space.range_nm
    both = [np.linalg.norm(means - sign * truth, axis=1) for sign in (1.0, -1.0)]
    return np.minimum(*both)


def learn_errors(network: RegressionNetwork, test: Examples, space: StateSpace) -> ErrorModel:
    """Fit the error model on held-out days."""
    truth, volume = test.states.numpy() * space.range_nm, float(np.prod(2 * space.range_nm))
    return fit_errors(decoded(network, test), test.log_floor.double().numpy(), truth, volume)


def train(options: Options, run: TrainingRun) -> Regression:
    """Simulate frames, fit the network, fit its errors, calibrate their correlation in closed loop."""
    sets = frame_sets(run.optics, options.days, options.loop_days, options.frames_per_day, options.seed)
    whole, loop = (simulated(frames, run.frames, run.progress, run.workers) for frames in sets)
    log_floor = float(np.log(whole.floors).mean())
    training, test = (without_nuisances(data, log_floor) for data in split((whole, loop)))
    network = fit(training, test, options, run)
    error = error_nm(network, test, run.space)
    figures = {
        "ranges": asdict(DayRanges()),
        "held_out_median_nm": round(float(np.median(error)), 3),
        "held_out_p90_nm": round(float(np.quantile(error, 0.9)), 2),
    }
    errors = learn_errors(network, test, run.space)
    trained = Regression(network, errors, run.space, run.optics, log_floor, 0.0, figures)
    runs = options.calibration_runs
    distances = closed_loop(
        cnn_regression.CnnRegression(run.space, trained, cnn_regression.Options()),
        run.optics,
        run.space,
        DayRanges(),
        runs,
        options.seed,
        lambda done: run.progress("calibrating the regression", done, runs, ""),
    )
    return replace(trained, correlation=intra_class_correlation(distances, run.space.dimension))


def summary(trained: Regression, _: TrainingRun) -> Mapping[str, str]:
    """Return the held-out error and the correlation."""
    return {
        "held out": f"{trained.provenance['held_out_median_nm']:.2f} nm median error of one frame, for the better sign",
        "correlation": f"{trained.correlation:.3f} between the errors of a run's frames",
    }


TRAINING = Training(
    Options,
    train,
    regression_network.WEIGHTS,
    summary,
    last_stages=("calibration_runs",),
    threads=1,
    controllers=("cnn_regression",),
)
