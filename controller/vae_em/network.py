"""Variational autoencoder of Ronchigram power spectra (van Hulst et al. 2026, section III)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

NEGATIVE_SLOPE = 0.2


@dataclass(frozen=True)
class VaeConfig:
    """Shape of the network.

    Attributes:
        height, width: of the half-plane spectrum; multiples of 32.
        channels: output channels of the five stride-2 convolutions.
        latent: latent dimension n_z.
        noise_std: fixed standard deviation of the decoder's Gaussian likelihood, in normalised units.
        preprocessing: of the spectra it reads, a name in `preprocess.READINGS`.
    """

    height: int = 128
    width: int = 64
    channels: tuple[int, int, int, int, int] = (12, 24, 48, 96, 128)
    latent: int = 3
    noise_std: float = 0.8
    preprocessing: str = "normalised"

    def __post_init__(self) -> None:
        for label in ("height", "width"):
            pixels = getattr(self, label)
            if pixels < 32 or pixels % 32:
                raise ValueError(f"spectrum {label} {pixels} is not a multiple of 32; use another optics.camera_pixels")


def downsample(inputs: int, outputs: int) -> nn.Sequential:
    """Stride-2 convolution, normalisation, activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.LeakyReLU(NEGATIVE_SLOPE)
    )


def downsampling(channels: Sequence[int]) -> list[nn.Module]:
    """Layers of one `downsample` after another, from one channel to the last of these."""
    return [layer for a, b in pairwise((1, *channels)) for layer in downsample(a, b)]


def _up(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(NEGATIVE_SLOPE),
    )


class Vae(nn.Module):
    """Encoder q(z | y) = N(mu(y), diag s2(y)) and decoder p(y | z) = N(g(z), noise_std^2) (eq 6)."""

    offset: Tensor
    spread: Tensor

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config
        widths = (1, *config.channels)
        corner = (config.channels[-1], config.height // 32, config.width // 32)
        flat = corner[0] * corner[1] * corner[2]
        self.register_buffer("offset", torch.zeros(1, 1, config.height, config.width))
        self.register_buffer("spread", torch.ones(()))
        self.down = nn.Sequential(*(downsample(a, b) for a, b in pairwise(widths)), nn.Flatten())
        self.mean = nn.Linear(flat, config.latent)
        self.log_variance = nn.Linear(flat, config.latent)
        self.expand = nn.Sequential(nn.Linear(config.latent, flat), nn.Unflatten(1, corner))
        reverse = widths[:0:-1]
        self.up = nn.Sequential(
            *(_up(a, b) for a, b in pairwise(reverse)),
            nn.ConvTranspose2d(reverse[-1], 1, 4, stride=2, padding=1),
        )

    def standardise(self, spectra: Tensor) -> Tensor:
        """Subtract the training mean per pixel and divide by a common scale: (N, H, W) to (N, 1, H, W)."""
        return (spectra[:, None] - self.offset) / self.spread

    def encode(self, standard: Tensor) -> tuple[Tensor, Tensor]:
        """Return latent mean and log-variance, each (N, latent)."""
        features = self.down(standard)
        return self.mean(features), self.log_variance(features)

    def decode(self, latent: Tensor) -> Tensor:
        """Return the mean spectrum in standardised units, (N, 1, H, W)."""
        decoded: Tensor = self.up(self.expand(latent))
        return decoded


def elbo(vae: Vae, standard: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Expected log-likelihood and KL term of the evidence lower bound (eq 7), nats per frame.

    Args:
        vae: network.
        standard: standardised spectra (N, 1, H, W).
        generator: of the reparametrisation noise.

    Returns:
        (log-likelihood, KL); the bound is their difference.
    """
    mean, log_variance = vae.encode(standard)
    noise = torch.randn(mean.shape, generator=generator)
    decoded = vae.decode(mean + noise * torch.exp(0.5 * log_variance))
    sigma2 = vae.config.noise_std**2
    constant = 0.5 * standard[0].numel() * float(np.log(2 * np.pi * sigma2))
    log_likelihood = -((standard - decoded) ** 2).sum((1, 2, 3)).mean() / (2 * sigma2) - constant
    kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
    return log_likelihood, kl


def encode_mean(vae: Vae, spectra: NDArray[np.floating], batch: int = 256) -> NDArray[np.float64]:
    """Encode spectra (N, H, W) by the encoder mean, (N, latent) (eq 8)."""
    vae.eval()
    with torch.no_grad():
        parts = [
            vae.encode(vae.standardise(torch.from_numpy(np.asarray(spectra[i : i + batch], np.float32))))[0]
            for i in range(0, len(spectra), batch)
        ]
    return torch.cat(parts).double().numpy()
