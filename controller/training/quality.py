"""Network of bo_scalar: size of the aberrations.

It learns from the frames of the training vae, if they are there.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor, nn

from controller.dataset import Dataset, DayRanges, StateMixture
from controller.frame_set import FrameSet, held_out, simulated
from controller.merit import quality_network
from controller.merit.quality_network import Quality, QualityNetwork, target
from controller.symmetry import mirrored
from learning import optimisation
from learning.torch_state import seeded
from learning.training import Training, TrainingRun, fit_network
from twin.options import Count, Positive, validated


@validated
class Options(optimisation.Options):
    """Settings of the training.

    Attributes:
        days: simulated days; a twentieth is held out.
        frames_per_day: frames of each day.
    """

    days: Annotated[int, Ge(2)] = 1200
    frames_per_day: Annotated[int, Ge(2)] = 16
    epochs: Count = 8
    learning_rate: Positive = 3e-3


def fit(training: Dataset, test: Dataset, options: Options, run: TrainingRun) -> QualityNetwork:
    """Fit log(1 + |x| / knee) by least squares; show R^2 on the test frames."""
    spectra = torch.from_numpy(training.spectra)
    targets = torch.from_numpy(target(training.states_nm)).float()
    with seeded(options.seed):
        network = QualityNetwork(spectra.shape[1], spectra.shape[2])
    network.offset.copy_(spectra.float().mean(0))
    network.spread.fill_((spectra[::4].float() - network.offset).std())

    def loss(chosen: Tensor, generator: torch.Generator, _: float) -> Tensor:
        chunk = mirrored(spectra[chosen].float(), torch.rand(len(chosen), generator=generator) < 0.5)
        return nn.functional.mse_loss(network(chunk), targets[chosen])

    def note(_: int) -> str:
        return f"held-out R2 {r2(network.eval(), test):.4f}"

    fit_network(network, options, len(spectra), loss, run, "fitting the quality network", note, weight_decay=1e-3)
    return network.eval()


def r2(network: QualityNetwork, data: Dataset) -> float:
    """Coefficient of determination of log(1 + |x| / knee)."""
    with torch.no_grad():
        parts = [network(torch.from_numpy(part).float()) for part in np.array_split(data.spectra, 8)]
    targets = target(data.states_nm)
    return float(1 - np.mean((torch.cat(parts).numpy() - targets) ** 2) / targets.var())


def train(options: Options, run: TrainingRun) -> Quality:
    """Simulate frames of random days and fit the network."""
    ranges = DayRanges()
    days, count = options.days, options.frames_per_day
    frames = FrameSet(run.optics, run.space, ranges, StateMixture(), days, count, options.seed)
    data = simulated(frames, run.frames, run.progress, run.workers)
    held = held_out(data.days, days)
    test = data.subset(held)
    network = fit(data.subset(~held), test, options, run)
    figures = {"ranges": asdict(ranges), "held_out_r2": round(r2(network, test), 4)}
    range_nm = tuple(float(r) for r in run.space.range_nm)
    return Quality(network, run.optics, run.space.names, range_nm, figures)


def summary(trained: Quality, _: TrainingRun) -> Mapping[str, str]:
    """Return R^2 on the held-out days."""
    return {"held-out R2": f"{trained.provenance['held_out_r2']:.3f} of log(1 + |x| / 5 nm)"}


TRAINING = Training(Options, train, quality_network.WEIGHTS, summary, controllers=("bo_scalar",))
