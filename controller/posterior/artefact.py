"""Trained neural posterior: written by the training, loaded by the controllers."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from scipy.stats import gamma
from torch import Tensor

from controller.dataset import StateMixture
from controller.posterior.check import FrameCheck
from controller.posterior.network import PosteriorConfig, PosteriorNetwork
from controller.posterior.precision import PrecisionMap
from controller.spectrum import sub_areas
from controller.weights import SHIPPED
from learning.weights_file import Coefficients, WeightsFile
from twin.arrays import Array
from twin.optics import Optics
from twin.state import StateSpace

FORMAT = "stemtwin-posterior-4"
Moments = tuple[tuple[float, float], ...]
"""Mean and variance after 1, 2, ... frames."""


@dataclass(frozen=True)
class PosteriorArtefact:
    """A trained neural posterior.

    Attributes:
        network: in evaluation mode.
        precision: expected precision of the first order from one frame, by state; selects inputs.
        higher: expected precision of the second order, in units of `higher_nm`, by state.
        check: expected appearance of a frame, for the OOD test.
        space: the task; weights serve this one and its first order alone.
        optics: instrument.
        states: distribution of the training states, divided out of the posterior of each frame.
        log_floor: mean log shot-noise floor of the training frames.
        area_weight: weight of the sub-areas' log-likelihood for the second order, because they overlap.
        correlation: intra-class correlation of the errors of a run's frames, see `calibration.py`.
        usual: mean and variance of each OOD measure over training days, after each number of frames.
        provenance: training settings and figures, plain values.
    """

    network: PosteriorNetwork
    precision: PrecisionMap
    higher: PrecisionMap
    check: FrameCheck
    space: StateSpace
    optics: Optics
    states: StateMixture
    log_floor: float
    area_weight: float
    correlation: float
    usual: Mapping[str, Moments]
    provenance: Mapping[str, Any]

    @property
    def first(self) -> StateSpace:
        """First order of the task, whose density the network's mixtures describe."""
        return self.space.only(self.space.is_first_order)

    @property
    def higher_nm(self) -> float:
        """Standard deviation of the second order over the training frames, its unit among the nuisances."""
        assert self.states.higher_nm is not None
        return self.states.higher_nm

    @property
    def directions(self) -> Array:
        """Local state of each sub-area per unit of the second order, both scaled, (P, n, m)."""
        return scaled_directions(self.optics, self.first, self.higher_nm)


def tail(moments: Moments, frames: int, value: float, adds_up: bool = True) -> float:
    """Probability of at least this value on a training day, from a gamma distribution with the training moments.

    Args:
        moments: after each number of frames.
        frames: number of frames of the run.
        value: of the measure.
        adds_up: whether the measure is a sum over frames: beyond the frames of training, it then grows in proportion.
    """
    mean, variance = moments[min(frames, len(moments)) - 1]
    longer = max(1.0, frames / len(moments)) if adds_up else 1.0
    shape, scale = mean**2 / variance, variance / mean
    return float(gamma.sf(value / longer, shape, scale=scale))


@lru_cache(maxsize=8)
def scaled_directions(optics: Optics, first: StateSpace, higher_nm: float) -> Array:
    """`sub_areas.geometry` for a second order in units of `higher_nm` and a first in units of its range, (P, n, m)."""
    return sub_areas.geometry(optics) * higher_nm / first.range_nm[:, None]


def _contents(artefact: PosteriorArtefact) -> tuple[dict[str, Tensor], dict[str, Any]]:
    parts = {"network": artefact.network, "precision": artefact.precision, "higher": artefact.higher}
    parts |= {"check": artefact.check}
    tensors = {f"{part}.{name}": t for part, module in parts.items() for name, t in module.state_dict().items()}
    metadata = {
        "space": artefact.space,
        "network": artefact.network.config,
        "states": artefact.states,
        "log_floor": artefact.log_floor,
        "area_weight": artefact.area_weight,
        "correlation": artefact.correlation,
        "usual": dict(artefact.usual),
    }
    return tensors, metadata


def _rebuild(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> PosteriorArtefact:
    lists = {key: tuple(value) for key, value in metadata["network"].items() if isinstance(value, list)}
    config = PosteriorConfig(**(metadata["network"] | lists))
    n = config.dimension
    network, precision, higher = PosteriorNetwork(config), PrecisionMap(n), PrecisionMap(n, len(sub_areas.NAMES))
    check = FrameCheck(n, network.read)
    parts = {"network.": network, "precision.": precision, "higher.": higher, "check.": check}
    for prefix, module in parts.items():
        module.load_state_dict({key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)})
        module.eval()
    return PosteriorArtefact(
        network,
        precision,
        higher,
        check,
        metadata["space"],
        metadata["optics"],
        StateMixture(**(metadata["states"] | {"near": tuple(tuple(part) for part in metadata["states"]["near"])})),
        metadata["log_floor"],
        metadata["area_weight"],
        metadata["correlation"],
        {name: tuple((mean, variance) for mean, variance in table) for name, table in metadata["usual"].items()},
        metadata["provenance"],
    )


def _coefficients(artefact: PosteriorArtefact, space: StateSpace) -> Coefficients:
    """Either the whole task or its first order alone."""
    trained = artefact.space if space.dimension == artefact.space.dimension else artefact.first
    return Coefficients(trained.names, trained.range_nm)


WEIGHTS = WeightsFile(FORMAT, "posterior", SHIPPED, _contents, _rebuild, _coefficients)
save, load, load_for = WEIGHTS.save, WEIGHTS.load, WEIGHTS.load_for


def weights_for(optics: Optics) -> str:
    """Name of the shipped weights for a beam: where the narrow training knows it, those are sharper.

    Example:
        >>> weights_for(Optics()), weights_for(Optics(energy_kev=200.0, convergence_mrad=25.0))
        ('posterior', 'posterior_wide')
    """
    known = WEIGHTS.optics("posterior")
    same = (optics.energy_kev, optics.convergence_mrad) == (known.energy_kev, known.convergence_mrad)
    return "posterior" if same else "posterior_wide"
