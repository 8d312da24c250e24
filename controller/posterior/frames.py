"""The posteriors of a run's frames: what the network reads from each, and how much each counts.

A frame is read once. Its Gaussian mixture over the first order, the mixtures of its sub-areas and its features are
kept; the counts are not.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from controller.canonical import units
from controller.posterior.artefact import PosteriorArtefact
from controller.posterior.network import NUISANCES, log_densities, packed
from controller.preprocess import Patches, Spectrum
from controller.spectrum import sub_areas
from twin.arrays import Array
from twin.optics import Optics
from twin.state import StateSpace

MARGINALISED = (*NUISANCES, *sub_areas.NAMES)
"""Parameters integrated out in closed form, C in number, each scaled to about unit variance."""
SECOND_ORDER = slice(len(NUISANCES), len(MARGINALISED))
"""The second order of the aberrations among them."""
LEAST_WEIGHT = 1e-3
"""Frames whose weight has decayed below this are dropped."""


@dataclass(frozen=True)
class FramePosteriors:
    """The T frames of a run, as the network reads them.

    Attributes:
        trained: the network, and the training density its posteriors are divided by.
        prior: prior precision of each of `MARGINALISED`, (C,).
        features: (T, F).
        mixtures: posterior of the first order, (T, K, 1 + n + n n), see `posterior.network.packed`.
        areas: the same for each of P sub-areas, (T, P, K, 1 + n + n n).
        inputs_nm: cumulative inputs to the first order, (T, n).
        shifts: cumulative inputs to the marginalised parameters, in their units, (T, C).
        weights: 1 for a frame that counts in full, less for one that is being forgotten, (T,).
        dispersion: variance inflation by the run's own scatter, see `posterior.scatter`.
    """

    trained: PosteriorArtefact
    prior: Array
    features: torch.Tensor
    mixtures: NDArray[np.float32]
    areas: NDArray[np.float32]
    inputs_nm: Array
    shifts: Array
    weights: Array
    dispersion: float = 1.0

    @classmethod
    def none(cls, trained: PosteriorArtefact, space: StateSpace) -> "FramePosteriors":
        """An empty run in `space`, which holds the first order alone or the second as well."""
        n, count, network = trained.first.dimension, len(MARGINALISED), trained.network
        prior = np.ones(count)
        higher = ~space.is_first_order
        if higher.any():
            # A normal with the variance of the uniform prior in the start box.
            prior[SECOND_ORDER] = 3 * (trained.higher_nm / space.start[higher]) ** 2
        mixture = (network.config.components, 1 + n + n * n)
        return cls(
            trained,
            prior,
            torch.zeros((0, network.read)),
            np.zeros((0, *mixture), np.float32),
            np.zeros((0, network.config.patches, *mixture), np.float32),
            np.zeros((0, n)),
            np.zeros((0, count)),
            np.zeros(0),
        )

    def __len__(self) -> int:
        return len(self.inputs_nm)

    def append(
        self, spectrum: Spectrum, patches: Patches, input_nm: Array, beam: Optics | None = None
    ) -> "FramePosteriors":
        """Add a frame taken at a cumulative input, (n,) for the first order or longer for the whole state.

        Its beam is that of `beam`, or of the trained optics.
        """
        trained, n = self.trained, self.trained.first.dimension
        features, seen = summarise(trained, spectrum, patches, beam)
        with torch.no_grad():
            mixture, areas = packed(trained.network.mixture(features)), packed(trained.network.local_mixture(seen))
        shift = np.zeros(len(MARGINALISED))
        if len(input_nm) > n:
            shift[SECOND_ORDER] = input_nm[n:] / trained.higher_nm
        return replace(
            self,
            features=torch.cat([self.features, features]),
            mixtures=np.concatenate([self.mixtures, mixture]),
            areas=np.concatenate([self.areas, areas]),
            inputs_nm=np.vstack([self.inputs_nm, input_nm[:n]]),
            shifts=np.vstack([self.shifts, shift]),
            weights=np.append(self.weights, 1.0),
        )

    def forget(self, factor: float) -> "FramePosteriors":
        """Multiply all weights by a forgetting factor; drop frames below `LEAST_WEIGHT`."""
        if factor == 1.0:
            return self
        weights = self.weights * factor
        keep = weights > LEAST_WEIGHT
        return replace(
            self,
            features=self.features[torch.from_numpy(keep)],
            mixtures=self.mixtures[keep],
            areas=self.areas[keep],
            inputs_nm=self.inputs_nm[keep],
            shifts=self.shifts[keep],
            weights=weights[keep],
        )

    @property
    def count(self) -> float:
        """Sum of the weights: the number of frames while none is forgotten."""
        return float(self.weights.sum())

    @property
    def variance_inflation(self) -> float:
        """Factor on the posterior variance; divides the run's log-likelihood (a power posterior).

        Kish's design effect 1 + (T - 1) rho, because the frames of a run share systematic errors (rho is their
        intra-class correlation), times the dispersion of this run.
        """
        return (1.0 + max(0, self.count - 1) * self.trained.correlation) * self.dispersion


def summarise(
    trained: PosteriorArtefact, spectrum: Spectrum, patches: Patches, beam: Optics | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of one frame of a beam, (1, F), and of its sub-areas, (1, P, G)."""
    scales = units.beam_scales(beam or trained.optics, trained.optics)
    told = torch.tensor([[*scales, np.log(spectrum.floor) - trained.log_floor]], dtype=torch.float32)
    with torch.no_grad():
        whole, parts = torch.from_numpy(spectrum.values[None]), torch.from_numpy(patches.values[None])
        return trained.network.summarise(whole, parts, told)


def deviance(frames: FramePosteriors, state_nm: Array) -> float:
    """Distance of all frames' posteriors from an initial state (n,), chi-square-like with n degrees per frame.

    Twice the log of each posterior's peak over its value at the state: the squared Mahalanobis distance of a single
    Gaussian.
    """
    total, log_density = 0.0, np.empty(1)
    for mixture, input_nm, weight in zip(frames.mixtures, frames.inputs_nm, frames.weights, strict=True):
        scaled = (state_nm + input_nm) / frames.trained.first.range_nm
        log_densities(mixture, np.ascontiguousarray(scaled[:, None]), log_density)
        total += weight * 2.0 * max(0.0, float(mixture[:, 0].max()) - float(log_density[0]))
    return total
