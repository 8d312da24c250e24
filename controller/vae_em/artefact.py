"""Trained VAE with its latent prior: written by the training, loaded by the controller."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from controller.vae_em.hyperparameters import Hyperparameters
from controller.vae_em.latent_map import LatentMap
from controller.vae_em.network import Vae, VaeConfig
from controller.vae_em.prior_mean import SymmetricGrid
from controller.weights import SHIPPED
from learning.weights_file import Coefficients, WeightsFile
from twin.optics import Optics
from twin.state import StateSpace

FORMAT = "stemtwin-vae-1"


@dataclass(frozen=True)
class Artefact:
    """A trained encoder with its latent prior.

    Attributes:
        vae: network, in evaluation mode.
        prior: simulated prior of the latent map.
        optics, names: instrument and calibrated coefficients of the training.
        provenance: training settings and figures, plain values.
    """

    vae: Vae
    prior: LatentMap
    optics: Optics
    names: tuple[str, ...]
    provenance: Mapping[str, Any]


def _contents(artefact: Artefact) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    prior, h = artefact.prior, artefact.prior.hyperparameters
    arrays = {
        "axes": prior.axes,
        "origin": prior.origin,
        "node_values": prior.node_values,
        "range_nm": prior.range_nm,
        "log_floor": np.array([prior.log_floor]),
        "lengthscale": h.lengthscale,
        "signal_variance": h.signal_variance,
        "offset_variance": h.offset_variance,
        "log_noise": h.log_noise,
        "noise_slope": h.noise_slope,
        "freedom": np.array([h.freedom]),
        "correlation": np.array([h.correlation]),
    }
    tensors = {f"map.{k}": torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32)) for k, a in arrays.items()}
    tensors |= {f"vae.{name}": t for name, t in artefact.vae.state_dict().items()}
    shape = {"names": artefact.names, "vae": artefact.vae.config, "kernel": h.kernel, "nodes": prior.grid.nodes}
    return tensors, shape


def _rebuild(tensors: dict[str, torch.Tensor], metadata: dict[str, Any]) -> Artefact:
    vae = Vae(VaeConfig(**(metadata["vae"] | {"channels": tuple(metadata["vae"]["channels"])})))
    vae.load_state_dict({name[4:]: t for name, t in tensors.items() if name.startswith("vae.")})
    vae.eval()
    arrays = {name[4:]: t.double().numpy() for name, t in tensors.items() if name.startswith("map.")}
    range_nm = arrays["range_nm"]
    grid = SymmetricGrid(tuple(float(r) for r in range_nm), tuple(metadata["nodes"]))
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
    return Artefact(vae, prior, metadata["optics"], tuple(metadata["names"]), metadata["provenance"])


def _coefficients(artefact: Artefact, _: StateSpace) -> Coefficients:
    return Coefficients(artefact.names, artefact.prior.range_nm)


WEIGHTS = WeightsFile(FORMAT, "vae", SHIPPED, _contents, _rebuild, _coefficients)
save, load, load_for = WEIGHTS.save, WEIGHTS.load, WEIGHTS.load_for
