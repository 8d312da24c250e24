"""A network for one day: the trained one, fitted further to images simulated under the day's conditions."""

import copy
from dataclasses import replace

import torch
from torch import Tensor

from agents.defects.conditions import Ranges
from agents.defects.fitting import calibrate, loss_of, patches, simulated
from agents.defects.network import Trained
from learning import optimisation
from learning.torch_state import one_thread
from learning.training import Progress, silent
from twin.options import Count, Positive, Seed, validated
from twin.zcontrast.profile import ZContrast


@validated
class AdaptOptions(optimisation.Options):
    """Settings of the adaptation.

    Attributes:
        days: simulated images; a fifth calibrates the probabilities.
        epochs: passes over the others.
    """

    days: Count = 200
    epochs: Count = 6
    batch: Count = 16
    learning_rate: Positive = 1e-3
    seed: Seed = 0


def adapted(
    trained: Trained, beam: ZContrast, ranges: Ranges, options: AdaptOptions, progress: Progress = silent
) -> Trained:
    """Fit a trained network further to images whose conditions are drawn from intervals; the first one stays.

    Args:
        trained: the network to begin with.
        beam: beam and detector.
        ranges: of the day's conditions.
        options: of the fit.
        progress: called during the simulation and the fit.
    """
    network = copy.deepcopy(trained.network)
    images = []
    progress("simulating the day", 0, options.days, "")
    for image in simulated(beam, ranges, options.days, options.seed + 1):
        images.append(image)
        progress("simulating the day", len(images), options.days, "")
    held = max(1, options.days // 5)
    data = patches(images[held:] or images)
    optimiser = torch.optim.AdamW(network.parameters(), lr=options.learning_rate)
    few = replace(options, batch=min(options.batch, len(data)))

    def loss(chosen: Tensor, generator: torch.Generator, _: float) -> Tensor:
        return loss_of(network, data, chosen, generator)

    with one_thread():
        for epoch in range(options.epochs):
            optimisation.one_epoch(network, optimiser, few, epoch, len(data), loss, clip=5.0)
            progress("fitting to the day", epoch + 1, options.epochs, "")
        calibrate(network.eval(), images[:held])
    return replace(trained, network=network)
