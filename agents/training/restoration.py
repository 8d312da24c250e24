"""Network of restore, on images with and without errors."""

import math
from collections.abc import Mapping
from typing import Annotated

import numpy as np
import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from agents.restoration import losses
from agents.restoration.discriminator import PATCH, Discriminator, discriminator_loss, generator_loss
from agents.restoration.network import HEADS, WEIGHTS, Generator, Restoration
from agents.restoration.pairs import random_pair
from agents.restoration.scenes import BEAMS
from agents.restoration.wiener import scale_free_wiener
from learning import optimisation
from learning.torch_state import seeded
from learning.training import Training, TrainingRun, fit_network
from twin.options import Count, NonNegative, validated

OF_A_HEAD = 2 / 3
"""Share of the images that each head is trained with."""


@validated
class Options(optimisation.Options):
    """Settings of the training; the factors weigh the terms of the loss (Friedrich 2023, eqs 2.32 to 2.43).

    Attributes:
        images: pairs of each epoch; every epoch has new ones.
        side_px: side of the images, a multiple of four.
        beams: beams whose probes the images show.
        features: channels of the network.
        absolute: factor of the absolute error.
        square: factor of the square error.
        whitening: factor of the multi-local whitening transform loss.
        fourier: factor of the Fourier space loss.
        mean: factor of the error of each image's mean.
        std: factor of the error of each image's standard deviation.
        logarithm: factor of the logarithm of each image's square error, under which every dose weighs the same.
        adversarial: factor of the adversarial loss; 0 trains no discriminator.
    """

    images: Count = 1000
    epochs: Count = 16
    batch: Count = 8
    side_px: Annotated[int, Ge(PATCH + 2), Le(1024)] = 96
    beams: Annotated[int, Ge(1), Le(len(BEAMS))] = len(BEAMS)
    features: Annotated[int, Ge(4), Le(256)] = 48
    absolute: NonNegative = 0.5
    square: NonNegative = 0.5
    whitening: NonNegative = 0.1
    fourier: NonNegative = 0.5
    mean: NonNegative = 0.1
    std: NonNegative = 0.1
    logarithm: NonNegative = 1.0
    adversarial: NonNegative = 0.0


class _Trained(nn.Module):
    """Generator and, for the adversarial part, discriminator: one set of weights to checkpoint."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.generator = Generator(options.features)
        self.discriminator = Discriminator() if options.adversarial else None


def pairs(options: Options, epoch: int, chosen: list[int]) -> tuple[Tensor, Tensor]:
    """Noisy images with their filtered selves, (B, 2, side, side), and truths, (B, 1, side, side), of one batch.

    The same numbers give the same pairs.
    """
    side = options.side_px - options.side_px % 4
    made = [random_pair(side, options.beams, np.random.default_rng([options.seed, epoch, k])) for k in chosen]
    noisy = np.stack([np.stack([image, scale_free_wiener(image)]) for image, _ in made])
    truth = np.stack([image[None] for _, image in made])
    return torch.from_numpy(noisy).float(), torch.from_numpy(truth).float()


def loss_of(network: _Trained, noisy: Tensor, truth: Tensor, used: Tensor, options: Options) -> Tensor:
    """Loss of one batch: eq 2.41 of the heads' mean, the logarithm of each head, and eq 2.43 of the discriminator.

    Args:
        network: generator and discriminator.
        noisy, truth: images as by `pairs`.
        used: whether a head is trained with an image, (B, HEADS).
        options: factors of the terms.
    """
    found = network.generator(noisy)
    middle = found.mean(1, keepdim=True)
    each = torch.stack([losses.logarithm(truth, found[:, head : head + 1]) for head in range(HEADS)], 1)
    total = options.logarithm * (each * used).sum() / used.sum().clamp(min=1.0)
    for name, term in losses.TERMS.items():
        if factor := getattr(options, name):
            total = total + factor * term(truth, middle).mean()
    if network.discriminator is not None:
        total = total + options.adversarial * generator_loss(network.discriminator, noisy[:, :1], truth, middle)
        total = total + discriminator_loss(network.discriminator, noisy[:, :1], truth, middle)
    return total


def fit(options: Options, run: TrainingRun) -> Generator:
    """Fit the generator to pairs that are drawn as they are needed."""
    with seeded(options.seed):
        network = _Trained(options)
    held = pairs(options, 10**6, list(range(min(options.images, 48))))

    def loss(chosen: Tensor, generator: torch.Generator, passes: float) -> Tensor:
        noisy, truth = pairs(options, int(passes), chosen.tolist())
        used = (torch.rand((len(chosen), HEADS), generator=generator) < OF_A_HEAD).float()
        return loss_of(network, noisy, truth, used, options)

    def note(_: int) -> str:
        return f"held-out error {decibel(network.generator, *held):.2f} dB"

    fit_network(network, options, options.images, loss, run, "fitting the restoration", note, clip=5.0)
    return network.generator.eval()


@torch.no_grad()
def decibel(network: Generator, noisy: Tensor, truth: Tensor) -> float:
    """Mean ratio of the square error of the heads' mean to the truth's variance, in dB: lower is better."""
    found = network.eval()(noisy).mean(1, keepdim=True)
    return float(losses.logarithm(truth, found).mean()) * 10 / math.log(10)


@torch.no_grad()
def spread_factor(network: Generator, noisy: Tensor, truth: Tensor) -> float:
    """Rms error of the mean of the heads over their rms spread, median over images that were not trained with."""
    heads = network(noisy)
    error = ((heads.mean(1) - truth[:, 0]) ** 2).mean(dim=(1, 2))
    spread = heads.var(1).mean(dim=(1, 2))
    return float(torch.sqrt((error / spread.clamp(min=1e-12)).median()))


def train(options: Options, run: TrainingRun) -> Restoration:
    """Fit the network, then compare the spread of its heads with their error."""
    network = fit(options, run)
    noisy, truth = pairs(options, 10**6 + 1, list(range(min(options.images, 96))))
    figures = {"held_out_db": round(decibel(network, noisy, truth), 2)}
    return Restoration(network, spread_factor(network, noisy, truth), run.optics, figures)


def summary(trained: Restoration, _: TrainingRun) -> Mapping[str, str]:
    """Return the held-out error and the factor of the spread."""
    return {
        "held out": f"square error {trained.provenance['held_out_db']:.2f} dB of the variance of the image",
        "spread": f"error {trained.spread_factor:.2f} times the spread of the heads",
    }


TRAINING = Training(Options, train, WEIGHTS, summary, threads=1)
