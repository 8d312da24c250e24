"""What training the amortised posterior leaves behind and a controller loads; one safetensors file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import gamma

from controller import weights_file
from controller.dataset import StateMixture
from controller.posterior_network import PosteriorConfig, PosteriorNetwork
from controller.posterior_precision import PrecisionMap
from controller.weights_file import Purpose, WeightsError
from twin.optics import Optics
from twin.state import StateSpace

Array = NDArray[np.floating]

FORMAT = "stemtwin-posterior-1"


@dataclass(frozen=True)
class PosteriorArtefact:
    """A trained amortised posterior.

    Attributes:
        network: in evaluation mode.
        precision: what a frame at a state is expected to tell, for input selection.
        space: the task it was trained for.
        optics: the instrument it was trained for.
        states: distribution of the training states, which each frame's posterior is divided by.
        log_floor: mean log shot-noise floor of the training frames.
        correlation: intra-class correlation of a run's frames beyond the model, see `calibration.py`.
        deviance: mean and variance over training days of a run's deviance after each number of frames, (T, 2).
        provenance: training configuration and figures, plain values.
    """

    network: PosteriorNetwork
    precision: PrecisionMap
    space: StateSpace
    optics: Optics
    states: StateMixture
    log_floor: float
    correlation: float
    deviance: tuple[tuple[float, float], ...]
    provenance: Mapping[str, Any]

    def fits(self, frames: int, deviance: float) -> float:
        """Share of training days whose runs deviate at least as much after so many frames.

        A gamma distribution with the moments met in training; later frames than those deviate like the last.
        """
        mean, variance = self.deviance[min(frames, len(self.deviance)) - 1]
        longer = max(1.0, frames / len(self.deviance))
        shape, scale = mean**2 / variance, variance / mean
        return float(gamma.sf(deviance / longer, shape, scale=scale))


def save(artefact: PosteriorArtefact, path: Path) -> None:
    """Write one safetensors file; everything that is not a tensor goes into its metadata as JSON."""
    tensors = {f"network.{name}": t for name, t in artefact.network.state_dict().items()}
    tensors |= {f"precision.{name}": t for name, t in artefact.precision.state_dict().items()}
    space = {key: value for key, value in asdict(artefact.space).items() if not key.startswith("_")}
    metadata = {
        "format": FORMAT,
        "optics": asdict(artefact.optics),
        "space": space,
        "network": asdict(artefact.network.config),
        "states": asdict(artefact.states),
        "log_floor": artefact.log_floor,
        "correlation": artefact.correlation,
        "deviance": artefact.deviance,
        "provenance": dict(artefact.provenance),
    }
    weights_file.write(path, tensors, metadata)


def load(path: Path) -> PosteriorArtefact:
    """Read what `save` wrote.

    Raises:
        WeightsError: missing, damaged or of another format.
    """
    tensors, metadata = weights_file.read(path, FORMAT)
    try:
        plain = {key: json.loads(value) for key, value in metadata.items() if key != "format"}
        config = PosteriorConfig(**(plain["network"] | {"channels": tuple(plain["network"]["channels"])}))
        network, precision = PosteriorNetwork(config), PrecisionMap(config.dimension)
        for prefix, module in (("network.", network), ("precision.", precision)):
            mine = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
            module.load_state_dict(mine)
            module.eval()
        space = StateSpace(**{key: tuple(value) for key, value in plain["space"].items()})
        states = StateMixture(**(plain["states"] | {"near": tuple(tuple(part) for part in plain["states"]["near"])}))
        return PosteriorArtefact(
            network,
            precision,
            space,
            Optics(**plain["optics"]),
            states,
            plain["log_floor"],
            plain["correlation"],
            tuple((mean, variance) for mean, variance in plain["deviance"]),
            plain["provenance"],
        )
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: a part is missing or does not fit: {error}") from error


def load_for(name_or_path: str, optics: Optics, space: StateSpace) -> PosteriorArtefact:
    """Load and make sure that the weights fit the instrument and the task.

    Raises:
        WeightsError: other optics, other coefficients, or a wider range than trained; says how to retrain.
    """
    path = weights_file.find(name_or_path)
    artefact = load(path)
    trained = artefact.space
    purpose = Purpose(artefact.optics, trained.names, trained.range_nm, "stemtwin train posterior")
    weights_file.check_fit(path, purpose, optics, space)
    return artefact
