"""Neural posterior for one Ronchigram: defocus, astigmatism and the nuisance parameters of the day.

`q(x | frame) = sum_k w_k [N(x; m_k, S_k) + N(x; -m_k, S_k)] / 2`: an even spectrum cannot distinguish x from -x, so
the mixture is even by construction. `q(c | frame, x) = N(c; mu, (I + L L')^-1)` for the nuisance parameters c (film,
focal spread, source, camera, C30), with a standard normal prior, so that frames multiply in closed form. C30 changes
sign with x. Every sub-area of the frame has a mixture of its own over the local defocus and astigmatism, from which the
second order follows (`spectrum/sub_areas.py`).
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from controller.vae_em.network import NEGATIVE_SLOPE, downsample

EVEN = ("scale", "rotation_deg", "mtf_nyquist", "thickness_nm", "focal_spread_nm", "source_size_nm")
NUISANCES = (*EVEN, "C30")
"""Parameters of a day that its spectra depend on, each mapped to a standard normal over the training days.

The last changes sign with the state: the spectra are unchanged when all aberrations change sign together.
"""
TURNED = NUISANCES.index("rotation_deg")
"""Index of the parameter that changes sign under reflection."""
TOLD = 3
"""Number of quantities that are known of a frame, see `PosteriorNetwork.summarise`; the last of its features."""
STRETCH = 8.0
"""The state also enters the nuisance head as asinh(STRETCH x), which resolves the neighbourhood of zero."""


@dataclass(frozen=True)
class PosteriorConfig:
    """Shape of the network.

    Attributes:
        dimension: of the state x, n.
        height, width: spectrum, a half plane; both multiples of 32.
        patches, patch_height: sub-areas of a frame and the height of their spectra, twice their width.
        channels: output channels of the five stride-2 convolutions.
        patch_channels: output channels of the four convolutions of a sub-area.
        patch_features: number of features of a sub-area.
        patch_hidden: width of the sub-areas' mixture head.
        features: number of features of the whole frame, and again of all sub-areas together.
        hidden: width of the mixture head's two hidden layers.
        nuisance_hidden: width of the nuisance head's hidden layers, which run for every particle.
        components: antipodal pairs of Gaussians.
    """

    dimension: int = 3
    height: int = 128
    width: int = 64
    patches: int = 9
    patch_height: int = 48
    channels: tuple[int, int, int, int, int] = (16, 32, 64, 96, 128)
    patch_channels: tuple[int, int, int, int] = (12, 24, 48, 64)
    patch_features: int = 48
    patch_hidden: int = 64
    features: int = 96
    hidden: int = 128
    nuisance_hidden: int = 96
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
    """Antipodal Gaussian mixtures of the scaled state; any leading shape, then K components.

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
    """Gaussian posterior of the nuisance parameters, precision I + root root', any leading shape.

    Attributes:
        mean: (..., C).
        root: lower triangular, (..., C, C).
    """

    mean: Tensor
    root: Tensor


class PosteriorNetwork(nn.Module):
    """Maps spectra to features, features to mixtures, features and states to the nuisance posterior."""

    offset: Tensor
    spread: Tensor
    patch_offset: Tensor
    patch_spread: Tensor

    def __init__(self, config: PosteriorConfig) -> None:
        super().__init__()
        self.config = config
        flat = config.channels[-1] * (config.height // 32) * (config.width // 32)
        side = config.patch_height
        patch_flat = config.patch_channels[-1] * math.ceil(side / 16) * math.ceil(side / 32)
        self.register_buffer("offset", torch.zeros(1, 1, config.height, config.width))
        self.register_buffer("spread", torch.ones(()))
        self.register_buffer("patch_offset", torch.zeros(1, config.patches, side, side // 2))
        self.register_buffer("patch_spread", torch.ones(()))
        self.body = _trunk((1, *config.channels), flat, config.features)
        self.patch_body = _trunk((1, *config.patch_channels), patch_flat, config.patch_features)
        self.patch_join = nn.Sequential(
            nn.Linear(config.patches * config.patch_features, config.features), nn.LeakyReLU(NEGATIVE_SLOPE)
        )
        read = self.read
        self.head = nn.Sequential(
            nn.Linear(read, config.hidden),
            nn.SiLU(),
            nn.Linear(config.hidden, config.hidden),
            nn.SiLU(),
            nn.Linear(config.hidden, config.components * config.parameters_per_component),
        )
        per_area = config.components * config.parameters_per_component
        self.patch_head = nn.Sequential(
            nn.Linear(config.patch_features + config.patches + TOLD, config.patch_hidden),
            nn.SiLU(),
            nn.Linear(config.patch_hidden, per_area),
        )
        width, pairs = config.nuisance_hidden, config.dimension * (config.dimension + 1) // 2
        self.of_frame = nn.Linear(read, width)
        self.of_pairs = nn.Linear(2 * pairs, width, bias=False)
        self.of_state = nn.Linear(2 * config.dimension, width, bias=False)
        self.nuisance = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        # Row i of the root has i + 1 entries; the mean is one more.
        self.even = nn.Linear(width, sum(i + 2 for i in range(len(EVEN))))
        self.odd = nn.Linear(width, sum(i + 2 for i in range(len(EVEN), len(NUISANCES))), bias=False)

    @property
    def read(self) -> int:
        """Number of features of a frame."""
        return 2 * self.config.features + TOLD

    def summarise(self, spectra: Tensor, patches: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
        """Features of frames, (N, F), and of their sub-areas, (N, P, G), for the heads.

        Args:
            spectra: normalised, (N, H, W).
            patches: of the sub-areas, (N, P, h, w).
            told: known of each frame, (N, Q): `canonical.units.beam_scales`, then the centred log shot-noise floor.
        """
        whole = self.body((spectra[:, None] - self.offset) / self.spread)
        parts = ((patches - self.patch_offset) / self.patch_spread).flatten(0, 1)[:, None]
        features = self.patch_body(parts).reshape(*patches.shape[:2], -1)
        which = torch.eye(patches.shape[1]).expand(len(patches), -1, -1)
        areas = torch.cat([features, which, told[:, None].expand(-1, patches.shape[1], -1)], 2)
        return torch.cat([whole, self.patch_join(features.flatten(1)), told], 1), areas

    def mixture(self, features: Tensor) -> Mixture:
        """Map features of frames (..., F) to mixtures of the state (..., K)."""
        return self._mixture(self.head(features))

    def local_mixture(self, areas: Tensor) -> Mixture:
        """Map features of sub-areas (..., G) to mixtures of the local state (..., K)."""
        return self._mixture(self.patch_head(areas))

    def _mixture(self, raw: Tensor) -> Mixture:
        n, k = self.config.dimension, self.config.components
        out = raw.reshape(*raw.shape[:-1], k, self.config.parameters_per_component)
        weight, mean, scale, shear = out.split([1, n, n, n * (n - 1) // 2], -1)
        return Mixture(weight[..., 0].log_softmax(-1), mean, scale - 1.5, shear)

    def nuisances(self, features: Tensor, states: Tensor) -> Gain:
        """Posterior of the nuisance parameters for frames (..., F) taken at scaled states (..., n).

        Odd in the state for C30, even for the others, so that the posteriors at x and -x mirror each other.
        """
        count = len(NUISANCES)
        stretched = torch.asinh(STRETCH * states)
        common = self.of_frame(features) + self.of_pairs(even_features(states, stretched))
        signed = self.of_state(torch.cat([states, stretched], -1))
        plus, minus = self.nuisance(common + signed), self.nuisance(common - signed)
        even, odd = self.even(0.5 * (plus + minus)), self.odd(0.5 * (plus - minus))
        first = len(EVEN)
        mean = torch.cat([even[..., :first], odd[..., : count - first]], -1)
        root = torch.zeros(*mean.shape, count, dtype=mean.dtype)
        rows, columns = torch.tril_indices(first, first)
        root[..., rows, columns] = even[..., first:]
        rows, columns = torch.tril_indices(count - first, count, first)
        root[..., first + rows, columns] = odd[..., count - first :]
        return Gain(mean, root)


def _trunk(widths: tuple[int, ...], flat: int, features: int) -> nn.Sequential:
    """Stride-2 convolutions of these widths, followed by a dense layer."""
    layers = (downsample(a, b) for a, b in pairwise(widths))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, features), nn.LeakyReLU(NEGATIVE_SLOPE))


def even_features(states: Tensor, stretched: Tensor) -> Tensor:
    """Products of two components, plain and stretched, (..., n (n + 1)): a basis of even functions."""
    rows, columns = torch.tril_indices(states.shape[-1], states.shape[-1])
    return torch.cat([v[..., rows] * v[..., columns] for v in (states, stretched)], -1)


def nuisance_log_density(gain: Gain, nuisances: Tensor) -> Tensor:
    """log q(c | frame, x) at c (..., C), (...,)."""
    precision = torch.eye(nuisances.shape[-1]) + gain.root @ gain.root.mT
    offset = nuisances - gain.mean
    quadratic = torch.einsum("...i,...ij,...j->...", offset, precision, offset)
    half_log_det = torch.linalg.cholesky(precision).diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return half_log_det - 0.5 * quadratic - 0.5 * nuisances.shape[-1] * math.log(2 * math.pi)


def log_density(mixture: Mixture, states: Tensor) -> Tensor:
    """log q of each mixture at a scaled state (..., n), (...,)."""
    white_matrix = whitening(mixture)
    halves = []
    for sign in (1.0, -1.0):
        offset = states[..., None, :] - sign * mixture.mean
        white = torch.einsum("...ij,...j->...i", white_matrix, offset)
        halves.append(mixture.log_weight - math.log(2) - 0.5 * white.square().sum(-1) - mixture.log_scale.sum(-1))
    return torch.logsumexp(torch.cat(halves, -1), -1) - 0.5 * states.shape[-1] * math.log(2 * math.pi)


def whitening(mixture: Mixture) -> Tensor:
    """Whitening matrix W of every component, (..., K, n, n); the precision is W'W."""
    n = mixture.mean.shape[-1]
    rows, columns = torch.tril_indices(n, n, -1)
    lower = torch.eye(n, dtype=mixture.mean.dtype).repeat(*mixture.shear.shape[:-1], 1, 1)
    lower[..., rows, columns] = mixture.shear
    return lower * torch.exp(-mixture.log_scale)[..., None]


def packed(mixture: Mixture) -> NDArray[np.float32]:
    """Pack mixtures into one float32 array (..., K, 1 + n + n n) for `log_densities`.

    Per component: log of weight over twice its normalisation, mean, whitening matrix row by row.
    """
    n = mixture.mean.shape[-1]
    constant = mixture.log_weight - math.log(2) - mixture.log_scale.sum(-1) - 0.5 * n * math.log(2 * math.pi)
    parts = [constant[..., None], mixture.mean, whitening(mixture).flatten(-2)]
    values: NDArray[np.float32] = torch.cat(parts, -1).detach().numpy()
    return values


@numba.njit(cache=True, fastmath=True)
def log_densities(parameters, states, out):  # type: ignore[no-untyped-def]
    """Evaluate log q of one frame at M states.

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
