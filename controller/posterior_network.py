"""Amortised posterior given one Ronchigram, of the state and of what else its day hides.

`q(x | frame) = sum_k w_k [N(x; m_k, S_k) + N(x; -m_k, S_k)] / 2`: a frame of an even spectrum cannot tell x from -x,
so the mixture is even by construction. `q(c | frame, x) = N(c; mu, (I + L L')^-1)` for the day's nuisances c, which
are standard normal before any frame: what frames say of them multiplies in closed form.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from controller.vae import NEGATIVE_SLOPE

Array = NDArray[np.floating]

NUISANCES = ("scale", "rotation_deg", "mtf_nyquist", "thickness_nm", "C30", "focal_spread_nm", "source_size_nm")
"""Hidden parameters of a day that bear on its spectra, each mapped to a standard normal over the training days."""
TURNED = NUISANCES.index("rotation_deg")
"""The one that changes sign in a mirror."""
STRETCH = 8.0
"""The state enters the nuisance head also as asinh(STRETCH x): the null's neighbourhood resolved."""


@dataclass(frozen=True)
class PosteriorConfig:
    """Shape of the network.

    Attributes:
        dimension: of the state, n.
        height, width: spectrum, a half plane; both multiples of 32.
        channels: output channels of the five stride-2 convolutions.
        features: width of what the head reads.
        hidden: width of the mixture head's two hidden layers.
        nuisance_hidden: likewise of the nuisance head's, which runs for every candidate.
        components: antipodal pairs of Gaussians.
    """

    dimension: int = 3
    height: int = 128
    width: int = 64
    channels: tuple[int, int, int, int, int] = (16, 32, 64, 96, 128)
    features: int = 128
    hidden: int = 128
    nuisance_hidden: int = 64
    components: int = 4

    def __post_init__(self) -> None:
        for label in ("height", "width"):
            pixels = getattr(self, label)
            if pixels < 32 or pixels % 32:
                raise ValueError(f"spectrum {label} {pixels} is not a multiple of 32; use another optics.camera_pixels")
        if self.components < 1:
            raise ValueError(f"components must be at least 1, got {self.components}")

    @property
    def parameters_per_component(self) -> int:
        """Log weight, mean, and the whitening matrix's diagonal and strict lower part."""
        n = self.dimension
        return 1 + 2 * n + n * (n - 1) // 2


@dataclass(frozen=True)
class Mixture:
    """Antipodal mixtures, scaled states; any leading shape, then K components.

    Attributes:
        log_weight: (..., K), normalised.
        mean: of the positive half, (..., K, n).
        log_scale: -log of the whitening matrix's diagonal, (..., K, n).
        shear: its strict lower part before that diagonal, row by row, (..., K, n (n - 1) / 2).
    """

    log_weight: Tensor
    mean: Tensor
    log_scale: Tensor
    shear: Tensor


@dataclass(frozen=True)
class Gain:
    """Gaussian knowledge of the nuisances: precision I + root root', any leading shape.

    Attributes:
        mean: (..., C).
        root: lower triangular, (..., C, C).
    """

    mean: Tensor
    root: Tensor


def _down(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.LeakyReLU(NEGATIVE_SLOPE)
    )


class PosteriorNetwork(nn.Module):
    """Spectrum to features, features and nuisances to a mixture."""

    offset: Tensor
    spread: Tensor

    def __init__(self, config: PosteriorConfig) -> None:
        super().__init__()
        self.config = config
        widths = (1, *config.channels)
        flat = config.channels[-1] * (config.height // 32) * (config.width // 32)
        self.register_buffer("offset", torch.zeros(1, 1, config.height, config.width))
        self.register_buffer("spread", torch.ones(()))
        self.body = nn.Sequential(
            *(_down(a, b) for a, b in pairwise(widths)),
            nn.Flatten(),
            nn.Linear(flat, config.features),
            nn.LeakyReLU(NEGATIVE_SLOPE),
        )
        self.head = nn.Sequential(
            nn.Linear(config.features + 1, config.hidden),
            nn.SiLU(),
            nn.Linear(config.hidden, config.hidden),
            nn.SiLU(),
            nn.Linear(config.hidden, config.components * config.parameters_per_component),
        )
        pairs = config.dimension * (config.dimension + 1) // 2
        count = len(NUISANCES)
        self.of_frame = nn.Linear(config.features + 1, config.nuisance_hidden)
        self.of_state = nn.Linear(2 * pairs, config.nuisance_hidden, bias=False)
        self.nuisance = nn.Sequential(
            nn.SiLU(),
            nn.Linear(config.nuisance_hidden, config.nuisance_hidden),
            nn.SiLU(),
            nn.Linear(config.nuisance_hidden, count + count * (count + 1) // 2),
        )

    def summarise(self, spectra: Tensor, log_floor: Tensor) -> Tensor:
        """Normalised spectra (N, H, W) and centred log shot-noise floors (N,) to features (N, F + 1)."""
        features: Tensor = self.body((spectra[:, None] - self.offset) / self.spread)
        return torch.cat([features, log_floor[:, None]], 1)

    def mixture(self, features: Tensor) -> Mixture:
        """Features (..., F + 1) to mixtures (..., K)."""
        n, k = self.config.dimension, self.config.components
        out = self.head(features).reshape(*features.shape[:-1], k, self.config.parameters_per_component)
        weight, mean, scale, shear = out.split([1, n, n, n * (n - 1) // 2], -1)
        return Mixture(weight[..., 0].log_softmax(-1), mean, scale - 1.5, shear)

    def nuisances(self, features: Tensor, states: Tensor) -> Gain:
        """What frames (..., F + 1) say of the nuisances if their scaled states (..., n) are these."""
        count = len(NUISANCES)
        out = self.nuisance(self.of_frame(features) + self.of_state(even_features(states)))
        mean, packed = out.split([count, count * (count + 1) // 2], -1)
        rows, columns = torch.tril_indices(count, count)
        root = torch.zeros(*out.shape[:-1], count, count, dtype=out.dtype)
        root[..., rows, columns] = packed
        return Gain(mean, root)


def even_features(states: Tensor) -> Tensor:
    """Products of two components, plain and stretched: all that an even function needs, (..., n (n + 1))."""
    rows, columns = torch.tril_indices(states.shape[-1], states.shape[-1])
    stretched = torch.asinh(STRETCH * states)
    return torch.cat([v[..., rows] * v[..., columns] for v in (states, stretched)], -1)


def nuisance_log_density(gain: Gain, nuisances: Tensor) -> Tensor:
    """log q(c | frame, x) at c (..., C), shape (...,)."""
    precision = torch.eye(nuisances.shape[-1]) + gain.root @ gain.root.mT
    offset = nuisances - gain.mean
    quadratic = torch.einsum("...i,...ij,...j->...", offset, precision, offset)
    half_log_det = torch.linalg.cholesky(precision).diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return half_log_det - 0.5 * quadratic - 0.5 * nuisances.shape[-1] * math.log(2 * math.pi)


def log_density(mixture: Mixture, states: Tensor) -> Tensor:
    """log q at scaled states (..., n), one per mixture, (...,)."""
    white_matrix = whitening(mixture)
    halves = []
    for sign in (1.0, -1.0):
        offset = states[..., None, :] - sign * mixture.mean
        white = torch.einsum("...ij,...j->...i", white_matrix, offset)
        halves.append(mixture.log_weight - math.log(2) - 0.5 * white.square().sum(-1) - mixture.log_scale.sum(-1))
    return torch.logsumexp(torch.cat(halves, -1), -1) - 0.5 * states.shape[-1] * math.log(2 * math.pi)


def whitening(mixture: Mixture) -> Tensor:
    """The matrix W of every component, (..., K, n, n): its precision is W'W."""
    n = mixture.mean.shape[-1]
    rows, columns = torch.tril_indices(n, n, -1)
    lower = torch.eye(n, dtype=mixture.mean.dtype).repeat(*mixture.shear.shape[:-1], 1, 1)
    lower[..., rows, columns] = mixture.shear
    return lower * torch.exp(-mixture.log_scale)[..., None]


def packed(mixture: Mixture) -> NDArray[np.float32]:
    """Mixtures as one float32 array (..., K, 1 + n + n n) for `log_densities`.

    Per component: log of weight over twice its normalisation, mean, whitening matrix row by row.
    """
    n = mixture.mean.shape[-1]
    constant = mixture.log_weight - math.log(2) - mixture.log_scale.sum(-1) - 0.5 * n * math.log(2 * math.pi)
    parts = [constant[..., None], mixture.mean, whitening(mixture).flatten(-2)]
    values: NDArray[np.float32] = torch.cat(parts, -1).detach().numpy()
    return values


@numba.njit(cache=True, fastmath=True)
def log_densities(parameters, states, out):  # type: ignore[no-untyped-def]
    """log q of one frame at many states.

    Args:
        parameters: from `packed`, (K, 1 + n + n n).
        states: scaled, (n, M), contiguous along states.
        out: (M,), written.
    """
    axes, count = states.shape
    for m in range(count):
        total = 0.0
        for k in range(parameters.shape[0]):
            p = parameters[k]
            plus, minus = 0.0, 0.0
            for a in range(axes):
                along, mean = 0.0, 0.0
                for b in range(a + 1):
                    white = p[1 + axes + a * axes + b]
                    along += white * states[b, m]
                    mean += white * p[1 + b]
                plus += (along - mean) ** 2
                minus += (along + mean) ** 2
            total += np.exp(p[0] - 0.5 * plus) + np.exp(p[0] - 0.5 * minus)
        out[m] = np.log(total + 1e-30)
