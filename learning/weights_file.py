"""Weights on disc: one safetensors file with its provenance, found by name, refused where it does not fit."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor

from learning.stored import save_whole
from twin.arrays import Array
from twin.errors import StemtwinError, nearest
from twin.optics import Optics
from twin.state import StateSpace
from twin.text import json_text

Trained = TypeVar("Trained", bound=Any)
"""A frozen dataclass with `optics` and `provenance` among its fields."""


class WeightsError(StemtwinError, ValueError):
    """Weights that are missing, damaged, or were trained for something else."""


@dataclass(frozen=True)
class Coefficients:
    """Calibrated coefficients that weights were trained for.

    Attributes:
        names: Krivanek names.
        range_nm: half-ranges of the training states, shape (n,).
    """

    names: tuple[str, ...]
    range_nm: Array


def of_space(trained: Any, _: StateSpace) -> Coefficients:
    """Coefficients of `trained.space`."""
    return Coefficients(trained.space.names, trained.space.range_nm)


@dataclass(frozen=True)
class WeightsFile(Generic[Trained]):
    """One kind of weights file: how a trained object becomes tensors and metadata, and back.

    The optics and the provenance of the object are written and read here; they are the fingerprint of every file.

    Attributes:
        format: name of the format and its version, compared on loading.
        training: name of the training that writes such files, for error messages.
        shipped: folder of the weights that come with the package.
        contents: return an object's tensors and the metadata that rebuild it, see `write`.
        rebuild: return the object from tensors and decoded metadata.
        coefficients: return those that an object was trained for, given the space that is asked for.

    Example:
        >>> import tempfile, torch
        >>> @dataclass(frozen=True)
        ... class Line:
        ...     slope: Tensor
        ...     optics: Optics
        ...     provenance: Mapping[str, Any]
        >>> file = WeightsFile(
        ...     "line-1",
        ...     "line",
        ...     Path("weights"),
        ...     lambda line: ({"slope": line.slope}, {}),
        ...     lambda tensors, metadata: Line(tensors["slope"], metadata["optics"], metadata["provenance"]),
        ...     lambda line, space: Coefficients(("C10",), np.array([120.0])),
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "mine.safetensors"
        ...     file.save(Line(torch.tensor([2.0]), Optics(), {"seconds": 3}), path)
        ...     line = file.load_for(str(path), Optics(), StateSpace(("C10",), (60.0,), (60.0,), (10.0,)))
        >>> line.slope, line.provenance
        (tensor([2.]), {'seconds': 3})
    """

    format: str
    training: str
    shipped: Path
    contents: Callable[[Trained], tuple[Mapping[str, Tensor], Mapping[str, Any]]]
    rebuild: Callable[[dict[str, Tensor], dict[str, Any]], Trained]
    coefficients: Callable[[Trained, StateSpace], Coefficients] = of_space

    def save(self, trained: Trained, path: Path) -> None:
        """Write one safetensors file; everything that is not a tensor goes into its metadata as JSON."""
        tensors, metadata = self.contents(trained)
        fingerprint = {"optics": trained.optics, "provenance": dict(trained.provenance)}
        write(path, tensors, {"format": self.format, **metadata, **fingerprint})

    def load(self, path: Path) -> Trained:
        """Read what `save` wrote.

        Raises:
            WeightsError: missing, damaged, of another format, or a part is missing or of another shape.
        """
        tensors, text = read(path, self.format)
        try:
            return self.rebuild(tensors, _values(text))
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            raise WeightsError(f"{path}: a part is missing or does not fit: {error}") from error

    def load_for(self, name_or_path: str, optics: Optics, space: StateSpace) -> Trained:
        """Load shipped weights by name, or a file by path, for an instrument and a task.

        Raises:
            WeightsError: as `load`; or other optics, other coefficients, a wider range than trained. The message says
                how to retrain.
        """
        path = find(name_or_path, self.shipped)
        trained = self.load(path)
        check_optics(path, trained.optics, optics, self.retrain)
        check_coefficients(path, self.coefficients(trained, space), space, self.retrain)
        return trained

    def optics(self, name_or_path: str) -> Optics:
        """Return the optics that shipped weights, by name, or a file, by path, were trained for.

        Raises:
            WeightsError: missing, damaged or of another format.
        """
        path = find(name_or_path, self.shipped)
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path}: cannot be read as weights: {error}") from error
        check_format(path, metadata, self.format)
        try:
            return Optics(**_decoded(metadata["optics"]))
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{path}: a part is missing or does not fit: {error}") from error

    @property
    def retrain(self) -> str:
        """Last sentence of a refusal."""
        return f"Retrain: stemtwin train {self.training} SCENARIO"


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write one file; metadata are stored as JSON (a dataclass as its public fields), plain words as they are.

    Raises:
        OSError: it cannot be written, for example on a full disc; an earlier file is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    save_whole(path, tensors, {key: _encoded(value) for key, value in metadata.items()})


def _encoded(value: Any) -> str:
    if is_dataclass(value) and not isinstance(value, type):
        value = {name: part for name, part in asdict(value).items() if not name.startswith("_")}
    if isinstance(value, str) and _decoded(value) == value:
        return value
    return json.dumps(value)


def _decoded(text: str) -> Any:
    try:
        return json_text.loads(text, finite=False)
    except json.JSONDecodeError:
        return text


def read(path: Path, expected: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata, as stored, of a file in the format `expected`.

    Raises:
        WeightsError: missing, damaged or of another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: cannot be read as weights: {error}") from error
    check_format(path, metadata, expected)
    return tensors, metadata


def check_format(path: Path, metadata: Mapping[str, str], expected: str) -> None:
    """Refuse a file of another format.

    Raises:
        WeightsError: names both.
    """
    if metadata.get("format") != expected:
        raise WeightsError(f"{path}: format {metadata.get('format')!r}, expected {expected!r}")


def _values(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Metadata as `write` was given them, `optics` and `space` as objects."""
    values = {key: _decoded(text) for key, text in metadata.items()}
    values["optics"] = Optics(**values["optics"])
    if "space" in values:
        values["space"] = StateSpace(**{key: tuple(value) for key, value in values["space"].items()})
    return values


def find(name_or_path: str, shipped: Path) -> Path:
    """Return a file given by path, or a shipped one given by its bare name.

    Raises:
        WeightsError: neither exists; names the nearest shipped ones.
    """
    path = Path(name_or_path)
    if path.suffix == ".safetensors":
        if not path.exists():
            raise WeightsError(f"{path}: no such file")
        if not path.is_file():  # a pipe would be waited for, deaf to Ctrl-C
            raise WeightsError(f"{path}: weights are a file; this is a folder, a pipe or a device")
        return path
    names = {p.stem: p for p in shipped.glob("*.safetensors")}
    if name_or_path in names:
        return names[name_or_path]
    known = ", ".join(sorted(names)) or "none"
    raise WeightsError(f"{name_or_path!r} are not shipped weights{nearest(name_or_path, names)}; known: {known}")


def check_optics(path: Path, trained: Optics, optics: Optics, retrain: str) -> None:
    """Refuse weights that were trained with other optics.

    Raises:
        WeightsError: names the first quantity that differs.
    """
    for field, value in asdict(trained).items():
        if getattr(optics, field) != value:
            raise WeightsError(
                f"{path.name} was trained with {field} {value}; this scenario has {getattr(optics, field)}. {retrain}"
            )


def check_coefficients(path: Path, trained: Coefficients, space: StateSpace, retrain: str) -> None:
    """Refuse weights that were trained for other coefficients or a narrower range.

    Raises:
        WeightsError: names both.
    """
    if trained.names != space.names:
        raise WeightsError(
            f"{path.name} was trained for {', '.join(trained.names)}; this scenario calibrates"
            f" {', '.join(space.names)}. {retrain}"
        )
    if np.any(space.range_nm > trained.range_nm * (1 + 1e-6)):
        raise WeightsError(
            f"{path.name} was trained for states within +-{trained.range_nm.tolist()} nm; this scenario"
            f" reaches {space.range_nm.tolist()} nm. {retrain}"
        )
