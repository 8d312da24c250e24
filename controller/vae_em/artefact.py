"""What training leaves behind and a controller loads: network, latent map, provenance; one safetensors file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from controller import weights_file
from controller.vae_em.hyperparameters import Hyperparameters
from controller.vae_em.latent_map import LatentMap
from controller.vae_em.network import Vae, VaeConfig
from controller.vae_em.prior_mean import SymmetricGrid
from controller.weights_file import Purpose
from twin.optics import Optics
from twin.state import StateSpace

FORMAT = "stemtwin-vae-1"


@dataclass(frozen=True)
class Artefact:
    """A trained encoder with its latent prior.

    Attributes:
        vae: network, in evaluation mode.
        prior: simulated prior of the latent map.
        optics: what it was trained for.
        names: calibrated coefficients it was trained for.
        provenance: training configuration and figures, plain values.
    """

    vae: Vae
    prior: LatentMap
    optics: Optics
    names: tuple[str, ...]
    provenance: Mapping[str, Any]


def save(artefact: Artefact, path: Path) -> None:
    """Write one safetensors file; everything that is not a tensor goes into its metadata as JSON."""
    prior, h = artefact.prior, artefact.prior.hyperparameters
    arrays = {
        "map.axes": prior.axes,
        "map.origin": prior.origin,
        "map.node_values": prior.node_values,
        "map.range_nm": prior.range_nm,
        "map.log_floor": np.array([prior.log_floor]),
        "map.lengthscale": h.lengthscale,
        "map.signal_variance": h.signal_variance,
        "map.offset_variance": h.offset_variance,
        "map.log_noise": h.log_noise,
        "map.noise_slope": h.noise_slope,
        "map.freedom": np.array([h.freedom]),
        "map.correlation": np.array([h.correlation]),
    }
    tensors = {name: torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32)) for name, a in arrays.items()}
    tensors |= {f"vae.{name}": t for name, t in artefact.vae.state_dict().items()}
    metadata = {
        "format": FORMAT,
        "optics": asdict(artefact.optics),
        "names": artefact.names,
        "vae": asdict(artefact.vae.config),
        "kernel": h.kernel,
        "nodes": prior.grid.nodes,
        "provenance": dict(artefact.provenance),
    }
    weights_file.write(path, tensors, metadata)


def load(path: Path) -> Artefact:
    """Read what `save` wrote.

    Raises:
        WeightsError: missing, damaged or of another format.
    """
    return weights_file.load(path, FORMAT, _assembled)


def _assembled(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> Artefact:
    config = json.loads(metadata["vae"])
    vae = Vae(VaeConfig(**(config | {"channels": tuple(config["channels"])})))
    vae.load_state_dict({name[4:]: t for name, t in tensors.items() if name.startswith("vae.")})
    vae.eval()
    arrays = {name[4:]: t.double().numpy() for name, t in tensors.items() if name.startswith("map.")}
    range_nm = arrays["range_nm"]
    grid = SymmetricGrid(tuple(float(r) for r in range_nm), tuple(json.loads(metadata["nodes"])))
    fitted = Hyperparameters(
        kernel=metadata["kernel"],
        lengthscale=arrays["lengthscale"],
        signal_variance=arrays["signal_variance"],
        offset_variance=arrays["offset_variance"],
        log_noise=arrays["log_noise"],
        noise_slope=arrays["noise_slope"],
        freedom=float(arrays["freedom"][0]),
        correlation=float(arrays["correlation"][0]),
    )
    prior = LatentMap(
        arrays["axes"], arrays["origin"], grid, arrays["node_values"], float(arrays["log_floor"][0]), range_nm, fitted
    )
    optics = Optics(**json.loads(metadata["optics"]))
    return Artefact(vae, prior, optics, tuple(json.loads(metadata["names"])), json.loads(metadata["provenance"]))


def load_for(name_or_path: str, optics: Optics, space: StateSpace) -> Artefact:
    """Load and make sure that the weights fit the instrument and the task.

    Raises:
        WeightsError: other optics, other coefficients, or a wider range than trained; says how to retrain.
    """
    path = weights_file.find(name_or_path)
    artefact = load(path)
    purpose = Purpose(artefact.optics, artefact.names, artefact.prior.range_nm, "stemtwin train vae")
    weights_file.check_fit(path, purpose, optics, space)
    return artefact
