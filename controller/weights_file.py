"""Weights on disc: one safetensors file with its provenance, found by name, refused where they do not fit."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from twin.errors import StemtwinError
from twin.optics import Optics
from twin.state import StateSpace
from twin.suggest import nearest

Array = NDArray[np.floating]

SHIPPED = Path(__file__).parent / "weights"


class WeightsError(StemtwinError, ValueError):
    """Weights that are missing, damaged, or were trained for something else."""


@dataclass(frozen=True)
class Purpose:
    """What weights were trained for.

    Attributes:
        optics: beam and camera.
        names: calibrated coefficients.
        range_nm: their half-ranges, shape (n,).
        command: what trains others.
    """

    optics: Optics
    names: tuple[str, ...]
    range_nm: Array
    command: str


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """One file; metadata that is not text goes in as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, plain)


def read(path: Path, expected: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file in the format `expected`.

    Raises:
        WeightsError: missing, damaged or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: cannot be read as weights: {error}") from error
    if metadata.get("format") != expected:
        raise WeightsError(f"{path}: format {metadata.get('format')!r}, expected {expected!r}")
    return tensors, metadata


Trained = TypeVar("Trained")


def load(path: Path, expected: str, assemble: Callable[[dict[str, Tensor], dict[str, str]], Trained]) -> Trained:
    """What `assemble` makes of the tensors and metadata of a file in the format `expected`.

    Raises:
        WeightsError: as `read`, or a part is missing or of another shape.
    """
    tensors, metadata = read(path, expected)
    try:
        return assemble(tensors, metadata)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: a part is missing or does not fit: {error}") from error


def space_fields(space: StateSpace) -> dict[str, Any]:
    """A state space as JSON takes it."""
    return {key: value for key, value in asdict(space).items() if not key.startswith("_")}


def space_of(fields: Mapping[str, Sequence[Any]]) -> StateSpace:
    """A state space as JSON gives it."""
    return StateSpace(**{key: tuple(value) for key, value in fields.items()})


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
    known = ", ".join(sorted(shipped)) or "none"
    raise WeightsError(f"{name_or_path!r} are not shipped weights{nearest(name_or_path, shipped)}; known: {known}")


def check_fit(path: Path, purpose: Purpose, optics: Optics, space: StateSpace) -> None:
    """Make sure that weights fit the instrument and the task.

    Raises:
        WeightsError: other optics, other coefficients, or a wider range than trained; says how to retrain.
    """
    retrain = f"Retrain: {purpose.command} SCENARIO"
    for field, trained in asdict(purpose.optics).items():
        if getattr(optics, field) != trained:
            raise WeightsError(
                f"{path.name} was trained with {field} {trained}; this scenario has {getattr(optics, field)}. {retrain}"
            )
    if purpose.names != space.names:
        raise WeightsError(
            f"{path.name} was trained for {', '.join(purpose.names)}; this scenario calibrates"
            f" {', '.join(space.names)}. {retrain}"
        )
    if np.any(space.range_nm > purpose.range_nm * (1 + 1e-6)):
        raise WeightsError(
            f"{path.name} was trained for states within +-{purpose.range_nm.tolist()} nm; this scenario"
            f" reaches {space.range_nm.tolist()} nm. {retrain}"
        )
