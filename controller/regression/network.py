"""A regression network: the state, up to sign, from a Ronchigram's power spectrum, with a calibrated error.

The classical learned baseline: least squares on an even function of the state, and an error model fitted afterwards.
Where different states give similar spectra, it predicts an average of them with a wider error.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor, nn

from controller.preprocess import Spectrum
from controller.vae_em.network import downsampling
from controller.weights import SHIPPED
from learning.weights_file import WeightsFile
from twin.arrays import Array
from twin.optics import Optics
from twin.state import StateSpace

FORMAT = "stemtwin-regression-1"
KNEE_NM = 5.0
"""The network predicts log(1 + |x| / knee): relative accuracy far from the null, absolute accuracy near it."""
DOUBT = 1e-3
"""Probability that a reading is unrelated to the state; bounds the influence of one bad frame."""
CHANNELS = (12, 24, 48, 96, 128)
HIDDEN = 128


def even_part(states_nm: Array) -> Array:
    """Even function of states (N, n) that determines them up to sign: log(1 + |x| / knee) x x' / |x|^2.

    Unlike the state up to sign, it is continuous. Symmetric matrices, packed to (N, n (n + 1) / 2); off-diagonal
    elements are multiplied by sqrt(2), so that distances are those of the matrices (Frobenius norm).
    """
    rows, columns, scale = _packing(states_nm.shape[1])
    size = np.linalg.norm(states_nm, axis=1, keepdims=True)
    direction = states_nm / np.maximum(size, 1e-9)
    packed: Array = np.log1p(size / KNEE_NM) * direction[:, rows] * direction[:, columns] * scale
    return packed


@dataclass(frozen=True)
class Decoded:
    """Eigendecomposition of an `even_part`, or of the mean of several, which least squares predicts.

    Attributes:
        direction: leading eigenvector, its sign arbitrary, (N, n).
        leading: its eigenvalue, (N,); log(1 + |x| / knee) of a single state.
        trace: sum of all, (N,); the mean of log(1 + |x| / knee) over a mixture.
    """

    direction: Array
    leading: Array
    trace: Array

    @classmethod
    def of(cls, packed: Array, dimension: int) -> "Decoded":
        """From (N, n (n + 1) / 2)."""
        rows, columns, scale = _packing(dimension)
        matrices = np.zeros((len(packed), dimension, dimension))
        matrices[:, rows, columns] = packed / scale
        matrices[:, columns, rows] = packed / scale
        values, vectors = np.linalg.eigh(matrices)
        leading = np.maximum(values[:, -1], 1e-6)
        return cls(vectors[:, :, -1], leading, np.maximum(values.sum(1), leading))

    @property
    def spread(self) -> Array:
        """Directional ambiguity, (N,): 0 for one direction, up to 1 - 1 / n for all directions equally."""
        return 1.0 - self.leading / self.trace

    def states_nm(self, weights: tuple[float, float, float] = (0.0, 0.0, 1.0)) -> Array:
        """States up to sign, (N, n), of size `weights` times (1, trace, leading) in log(1 + |x| / knee)."""
        size = np.maximum(weights[0] + weights[1] * self.trace + weights[2] * self.leading, 1e-6)
        return np.asarray(KNEE_NM * np.expm1(size)[:, None] * self.direction)


def _packing(dimension: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    rows, columns = np.tril_indices(dimension)
    return rows, columns, np.where(rows == columns, 1.0, math.sqrt(2.0))


class RegressionNetwork(nn.Module):
    """Spectra (N, H, W) and centred log shot-noise floors (N,) to `even_part`, (N, n (n + 1) / 2)."""

    offset: Tensor
    spread: Tensor

    def __init__(self, height: int, width: int, dimension: int) -> None:
        super().__init__()
        self.dimension = dimension
        flat = CHANNELS[-1] * (height // 32) * (width // 32)
        self.register_buffer("offset", torch.zeros(height, width))
        self.register_buffer("spread", torch.ones(()))
        self.body = nn.Sequential(*downsampling(CHANNELS), nn.Flatten())
        self.head = nn.Sequential(
            nn.Linear(flat + 1, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU(),
            nn.Linear(HIDDEN, dimension * (dimension + 1) // 2),
        )  # fmt: skip

    def forward(self, spectra: Tensor, log_floor: Tensor) -> Tensor:
        features = self.body(((spectra - self.offset) / self.spread)[:, None])
        values: Tensor = self.head(torch.cat([features, log_floor[:, None]], 1))
        return values


@dataclass(frozen=True)
class Reading:
    """Likelihood of the state x in one frame: the Gaussian pair +-N(mean, cov), with a wide and a uniform part.

    Attributes:
        mean_nm: (n,), its sign arbitrary.
        cov_nm2: (n, n).
        loose: weight of the wide part; the weight of the uniform part is `DOUBT`.
        widening: ratio of the standard deviations of the wide part to those of the narrow one.
    """

    mean_nm: Array
    cov_nm2: Array
    loose: float
    widening: float


Linear = tuple[float, float, float, float]


@dataclass(frozen=True)
class ErrorModel:
    """Error of a reading: a Gaussian along and across its direction, and a wider one of the same shape.

    Log widths and the logit of the wide part's weight are linear in (1, log size, centred log floor, `Decoded.spread`).

    Attributes:
        size: coefficients of the log size, see `Decoded.states_nm`.
        along, across: coefficients of the log standard deviations, nm.
        loose: coefficients of the logit of the wide part's weight.
        log_widening: log ratio of the standard deviations.
    """

    size: tuple[float, float, float]
    along: Linear
    across: Linear
    loose: Linear
    log_widening: float

    def terms(self, means_nm: Array, log_floor: Array, spread: Array) -> tuple[Array, Array, Array]:
        """Log standard deviations along and across, nm, and logit of the wide part's weight; each (N,)."""
        basis = _basis(means_nm, log_floor, spread)
        along, across, loose = (basis @ np.asarray(part) for part in (self.along, self.across, self.loose))
        return along, across, loose

    def reading(self, decoded: Decoded, log_floor: float) -> Reading:
        """Reading of one frame, from the output of the network."""
        mean = decoded.states_nm(self.size)
        along, across, loose = (float(t[0]) for t in self.terms(mean, np.array([log_floor]), decoded.spread))
        inside = np.outer(decoded.direction[0], decoded.direction[0])
        cov = math.exp(2 * along) * inside + math.exp(2 * across) * (np.eye(mean.shape[1]) - inside)
        return Reading(mean[0], cov, 1 / (1 + math.exp(-loose)), math.exp(self.log_widening))

    def log_density(self, decoded: Decoded, log_floor: Array, states_nm: Array, volume_nm: float) -> Array:
        """Log density of the true states (N, n) given the outputs, (N,); the uniform part fills the volume."""
        means = decoded.states_nm(self.size)
        along, across, loose = self.terms(means, log_floor, decoded.spread)
        tight = _log_pair(decoded.direction, means, states_nm, along, across) - np.logaddexp(0.0, loose)
        wide = _log_pair(decoded.direction, means, states_nm, along + self.log_widening, across + self.log_widening)
        both = np.logaddexp(tight, wide - np.logaddexp(0.0, -loose))
        total: Array = np.logaddexp(math.log1p(-DOUBT) + both, math.log(DOUBT / volume_nm))
        return total


def _basis(means_nm: Array, log_floor: Array, spread: Array) -> Array:
    size = np.log1p(np.linalg.norm(means_nm, axis=1) / KNEE_NM)
    return np.stack([np.ones_like(size), size, log_floor, spread], 1)


def _log_pair(direction: Array, means_nm: Array, states_nm: Array, along: Array, across: Array) -> Array:
    """log of [N(x; m, S) + N(x; -m, S)] / 2 with log standard deviations along and across the direction, (N,)."""
    n = means_nm.shape[1]
    halves = []
    for sign in (1.0, -1.0):
        offset = states_nm - sign * means_nm
        parallel2 = np.sum(offset * direction, axis=1) ** 2
        rest2 = np.maximum(np.sum(offset**2, axis=1) - parallel2, 0.0)
        halves.append(-0.5 * (parallel2 * np.exp(-2 * along) + rest2 * np.exp(-2 * across)))
    pair: Array = np.logaddexp(*halves) - math.log(2) - along - (n - 1) * across - 0.5 * n * math.log(2 * math.pi)
    return pair


def fit_errors(decoded: Decoded, log_floor: Array, states_nm: Array, volume_nm: float) -> ErrorModel:
    """Fit the size by least squares, then the errors by maximum likelihood, on held-out frames.

    Args:
        decoded: outputs of the network.
        log_floor: centred, (N,).
        states_nm: truths, (N, n).
        volume_nm: of the states' range, nm^n.
    """
    columns = np.stack([np.ones_like(decoded.trace), decoded.trace, decoded.leading], 1)
    size = np.linalg.lstsq(columns, np.log1p(np.linalg.norm(states_nm, axis=1) / KNEE_NM), rcond=None)[0]

    def model(theta: Array) -> ErrorModel:
        along, across, loose = ((float(a), float(b), float(c), float(d)) for a, b, c, d in theta[:-1].reshape(3, 4))
        weights = (float(size[0]), float(size[1]), float(size[2]))
        return ErrorModel(weights, along, across, loose, float(theta[-1]))

    def cost(theta: Array) -> float:
        # Weak regularisation: some slopes are hardly constrained by the frames.
        density = model(theta).log_density(decoded, log_floor, states_nm, volume_nm)
        return float(-density.mean() + 1e-4 * np.sum(theta**2))

    begin = np.array([1.0, 0.3, 0.0, 0.0, 1.0, 0.3, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0])
    return model(minimize(cost, begin, method="L-BFGS-B").x)


@dataclass(frozen=True)
class Regression:
    """A trained regression network with its error model.

    Attributes:
        network: in evaluation mode.
        errors: error model of its readings.
        space, optics: task and instrument of the training.
        log_floor: mean log shot-noise floor of the training frames.
        correlation: intra-class correlation of the errors of a run's frames, see `calibration.py`.
        provenance: training settings and figures, plain values.
    """

    network: RegressionNetwork
    errors: ErrorModel
    space: StateSpace
    optics: Optics
    log_floor: float
    correlation: float
    provenance: Mapping[str, Any]

    def even(self, spectrum: Spectrum) -> Array:
        """Output of the network for one frame, an `even_part`, (n (n + 1) / 2,)."""
        floor = torch.tensor([self._log_floor(spectrum)]).float()
        values: Array = read_even(self.network, torch.from_numpy(spectrum.values[None]), floor)[0]
        return values

    def read(self, spectrum: Spectrum) -> Reading:
        """Reading of one frame."""
        decoded = Decoded.of(self.even(spectrum)[None], self.space.dimension)
        return self.errors.reading(decoded, self._log_floor(spectrum))

    def _log_floor(self, spectrum: Spectrum) -> float:
        return math.log(spectrum.floor) - self.log_floor


def read_even(network: RegressionNetwork, spectra: Tensor, log_floor: Tensor, batch: int = 256) -> Array:
    """Outputs of the network, (N, n (n + 1) / 2), for spectra (N, H, W) of any float type."""
    with torch.no_grad():
        parts = [network(spectra[i : i + batch].float(), log_floor[i : i + batch]) for i in
                 range(0, len(spectra), batch)]  # fmt: skip
    return np.asarray(torch.cat(parts).double().numpy())


def _contents(trained: Regression) -> tuple[dict[str, Tensor], dict[str, Any]]:
    keys = ("space", "errors", "log_floor", "correlation")
    return trained.network.state_dict(), {key: getattr(trained, key) for key in keys}


def _rebuild(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> Regression:
    space, errors = metadata["space"], metadata["errors"]
    height, width = tensors["offset"].shape
    network = RegressionNetwork(height, width, space.dimension)
    network.load_state_dict(tensors)
    log_widening = errors.pop("log_widening")
    model = ErrorModel(**{key: tuple(value) for key, value in errors.items()}, log_widening=log_widening)
    further = (metadata[key] for key in ("optics", "log_floor", "correlation", "provenance"))
    return Regression(network.eval(), model, space, *further)


WEIGHTS = WeightsFile(FORMAT, "regression", SHIPPED, _contents, _rebuild)
save, load, load_for = WEIGHTS.save, WEIGHTS.load, WEIGHTS.load_for
