"""What training leaves behind and a controller loads: network, latent map, provenance; one safetensors file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from controller.hyperparameters import Hyperparameters
from controller.latent_map import LatentMap
from controller.prior_mean import SymmetricGrid
from controller.vae import Vae, VaeConfig
from twin.optics import Optics
from twin.state import StateSpace

SHIPPED = Path(__file__).parent / "weights"
FORMAT = "stemtwin-vae-1"


class WeightsError(ValueError):
    """Weights that are missing, damaged, or were trained for something else."""


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
    tensors |= {f"vae.{name}": t.contiguous() for name, t in artefact.vae.state_dict().items()}
    metadata = {
        "format": FORMAT,
        "optics": json.dumps(asdict(artefact.optics)),
        "names": json.dumps(artefact.names),
        "vae": json.dumps(asdict(artefact.vae.config)),
        "kernel": h.kernel,
        "nodes": json.dumps(prior.grid.nodes),
        "provenance": json.dumps(dict(artefact.provenance)),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata)


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: cannot be read as weights: {error}") from error
    if metadata.get("format") != FORMAT:
        raise WeightsError(f"{path}: format {metadata.get('format')!r}, expected {FORMAT!r}")
    return tensors, metadata


def load(path: Path) -> Artefact:
    """Read what `save` wrote.

    Raises:
        WeightsError: missing, damaged or of another format.
    """
    tensors, metadata = _read(path)
    try:
        return _assembled(tensors, metadata)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: a part is missing or does not fit: {error}") from error


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


def find(name_or_path: str) -> Path:
    """A file by path, or shipped weights by bare name.

    Raises:
        WeightsError: neither; names the nearest shipped ones.
    """
    path = Path(name_or_path)
    if path.suffix == ".safetensors":
        if not path.exists():
            raise WeightsError(f"{path}: no such file")
        return path
    shipped = {p.stem: p for p in SHIPPED.glob("*.safetensors")}
    if name_or_path in shipped:
        return shipped[name_or_path]
    near = get_close_matches(name_or_path, shipped, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise WeightsError(f"{name_or_path!r} are not shipped weights{hint}; known: {', '.join(sorted(shipped)) or 'none'}")


def load_for(name_or_path: str, optics: Optics, space: StateSpace) -> Artefact:
    """Load and make sure that the weights fit the instrument and the task.

    Raises:
        WeightsError: other optics, other coefficients, or a wider range than trained; says how to retrain.
    """
    path = find(name_or_path)
    artefact = load(path)
    retrain = "Retrain: stemtwin train vae SCENARIO"
    for field, trained in asdict(artefact.optics).items():
        if getattr(optics, field) != trained:
            raise WeightsError(
                f"{path.name} was trained with {field} {trained}; this scenario has {getattr(optics, field)}. {retrain}"
            )
    if artefact.names != space.names:
        raise WeightsError(
            f"{path.name} was trained for {', '.join(artefact.names)}; this scenario calibrates"
            f" {', '.join(space.names)}. {retrain}"
        )
    if np.any(space.range_nm > artefact.prior.range_nm * (1 + 1e-6)):
        raise WeightsError(
            f"{path.name} was trained for states within +-{artefact.prior.range_nm.tolist()} nm; this scenario"
            f" reaches {space.range_nm.tolist()} nm. {retrain}"
        )
    return artefact
