"""What training the amortised posterior leaves behind and a controller loads; one safetensors file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import gamma
from torch import Tensor

from controller import weights_file
from controller.dataset import StateMixture
from controller.posterior.check import FrameCheck
from controller.posterior.network import PosteriorConfig, PosteriorNetwork
from controller.posterior.precision import PrecisionMap
from controller.spectrum import sub_areas
from controller.weights_file import Purpose
from twin.optics import Optics
from twin.state import StateSpace

Array = NDArray[np.floating]

FORMAT = "stemtwin-posterior-3"
Moments = tuple[tuple[float, float], ...]
"""Mean and variance after one frame, two, ..."""


@dataclass(frozen=True)
class PosteriorArtefact:
    """A trained amortised posterior.

    Attributes:
        network: in evaluation mode.
        precision: what a frame at a state of the first order is expected to tell of it, for input selection.
        higher: likewise what it is expected to tell of the second order, in units of `higher_nm`.
        space: the tasks it was trained for: this one, and its first order alone.
        optics: the instrument it was trained for.
        states: distribution of the training states, which each frame's posterior is divided by.
        log_floor: mean log shot-noise floor of the training frames.
        check: what a frame should look like, for the misfit test.
        area_weight: what the sub-areas count for the second order, for they overlap.
        correlation: intra-class correlation of a run's frames beyond the model, see `calibration.py`.
        usual: mean and variance over training days, after each number of frames, of each measure of `posterior.misfit`.
        provenance: training configuration and figures, plain values.
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
        """The first order of the task: what the network's mixtures are about."""
        return self.space.only(self.space.is_first_order)

    @property
    def higher_nm(self) -> float:
        """Unit of the second order among the nuisances: its standard deviation over the training frames."""
        assert self.states.higher_nm is not None
        return self.states.higher_nm

    @property
    def directions(self) -> Array:
        """The local states of the sub-areas that a unit of the second order makes, both scaled, (P, n, m)."""
        return scaled_directions(self.optics, self.first, self.higher_nm)


def tail(moments: Moments, frames: int, value: float, adds_up: bool = True) -> float:
    """Share of training days whose runs have at least this value after so many frames.

    A gamma distribution with the moments met in training. Later frames than those add like the average one, or, of a
    value that does not add up over frames, nothing.
    """
    mean, variance = moments[min(frames, len(moments)) - 1]
    longer = max(1.0, frames / len(moments)) if adds_up else 1.0
    shape, scale = mean**2 / variance, variance / mean
    return float(gamma.sf(value / longer, shape, scale=scale))


@lru_cache(maxsize=8)
def scaled_directions(optics: Optics, first: StateSpace, higher_nm: float) -> Array:
    """`sub_areas.geometry` from units of `higher_nm` to those of the range, (P, n, m)."""
    return sub_areas.geometry(optics) * higher_nm / first.range_nm[:, None]


def save(artefact: PosteriorArtefact, path: Path) -> None:
    """Write one safetensors file; everything that is not a tensor goes into its metadata as JSON."""
    tensors = {f"network.{name}": t for name, t in artefact.network.state_dict().items()}
    tensors |= {f"precision.{name}": t for name, t in artefact.precision.state_dict().items()}
    tensors |= {f"higher.{name}": t for name, t in artefact.higher.state_dict().items()}
    tensors |= {f"check.{name}": t for name, t in artefact.check.state_dict().items()}
    metadata = {
        "format": FORMAT,
        "optics": asdict(artefact.optics),
        "space": weights_file.space_fields(artefact.space),
        "network": asdict(artefact.network.config),
        "states": asdict(artefact.states),
        "log_floor": artefact.log_floor,
        "area_weight": artefact.area_weight,
        "correlation": artefact.correlation,
        "usual": dict(artefact.usual),
        "provenance": dict(artefact.provenance),
    }
    weights_file.write(path, tensors, metadata)


def load(path: Path) -> PosteriorArtefact:
    """Read what `save` wrote.

    Raises:
        WeightsError: missing, damaged or of another format.
    """
    return weights_file.load(path, FORMAT, _assembled)


def _assembled(tensors: dict[str, Tensor], metadata: dict[str, str]) -> PosteriorArtefact:
    plain = {key: json.loads(value) for key, value in metadata.items() if key != "format"}
    lists = {key: tuple(value) for key, value in plain["network"].items() if isinstance(value, list)}
    config = PosteriorConfig(**(plain["network"] | lists))
    n = config.dimension
    network, precision, higher = PosteriorNetwork(config), PrecisionMap(n), PrecisionMap(n, len(sub_areas.NAMES))
    check = FrameCheck(n, network.read)
    parts = {"network.": network, "precision.": precision, "higher.": higher, "check.": check}
    for prefix, module in parts.items():
        mine = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
        module.load_state_dict(mine)
        module.eval()
    return PosteriorArtefact(
        network,
        precision,
        higher,
        check,
        weights_file.space_of(plain["space"]),
        Optics(**plain["optics"]),
        StateMixture(**(plain["states"] | {"near": tuple(tuple(part) for part in plain["states"]["near"])})),
        plain["log_floor"],
        plain["area_weight"],
        plain["correlation"],
        {name: tuple((mean, variance) for mean, variance in table) for name, table in plain["usual"].items()},
        plain["provenance"],
    )


def load_for(name_or_path: str, optics: Optics, space: StateSpace) -> PosteriorArtefact:
    """Load and make sure that the weights fit the instrument and the task.

    Raises:
        WeightsError: other optics, other coefficients, or a wider range than trained; says how to retrain.
    """
    path = weights_file.find(name_or_path)
    artefact = load(path)
    trained = artefact.space if len(space.names) == artefact.space.dimension else artefact.first
    purpose = Purpose(artefact.optics, trained.names, trained.range_nm, "stemtwin train posterior")
    weights_file.check_fit(path, purpose, optics, space)
    return artefact
