"""The discriminator of the adversarial part: patches, conditional on the noisy image, relative to the average.

Friedrich 2023, section 2.5, Fig 2.11: Isola et al.'s 70 x 70 discriminator without padding, with instance norm; a
relativistic average loss (eqs 2.30, 2.31, 2.40, 2.43). Our images are smaller than the thesis's, so that there is one
halving less: its patches have 34 x 34 pixels.
"""

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import logsigmoid

PATCH = 34
"""Side of what one output sees, and of the smallest image."""


class Discriminator(nn.Module):
    """Noisy image and restored or true one, (N, 2, H, W), to C of eqs 2.30 and 2.31, one number per patch."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(2, width, 4, stride=2), nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2), nn.InstanceNorm2d(2 * width), nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 4), nn.InstanceNorm2d(4 * width), nn.LeakyReLU(0.2),
            nn.Conv2d(4 * width, 1, 4),
        )  # fmt: skip

    def forward(self, noisy: Tensor, image: Tensor) -> Tensor:
        values: Tensor = self.layers(torch.cat([noisy, image], 1))
        return values


def generator_loss(network: Discriminator, noisy: Tensor, truth: Tensor, found: Tensor) -> Tensor:
    """Adversarial loss of the generator (eq 2.40); the discriminator's weights take no part."""
    fixed = {name: value.detach() for name, value in network.named_parameters()}
    real = functional_call(network, fixed, (noisy, truth))
    made = functional_call(network, fixed, (noisy, found))
    # log(1 - sigma(z)) = log sigma(-z)
    return -(logsigmoid(made.mean() - real).mean() + logsigmoid(made - real.mean()).mean())


def discriminator_loss(network: Discriminator, noisy: Tensor, truth: Tensor, found: Tensor) -> Tensor:
    """Loss of the discriminator (eq 2.43); the generator's weights take no part."""
    real, made = network(noisy, truth), network(noisy, found.detach())
    return -(logsigmoid(real - made.mean()).mean() + logsigmoid(real.mean() - made).mean())
