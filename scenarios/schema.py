"""What a scenario is, and how its YAML becomes one: every mistake is refused here, before any computing.

Does not build the microscope or the controller; `run.py` does.
"""

import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo, field_validator

from twin import backends
from twin.day import Day
from twin.errors import StemtwinError
from twin.instrument.limits import Limits
from twin.optics import Optics
from twin.options import located_problem
from twin.state import FIRST_ORDER, SECOND_ORDER, StateSpace
from twin.suggest import nearest

SPACES: Mapping[str, StateSpace] = {"first_order": FIRST_ORDER, "second_order": SECOND_ORDER}
"""Shorthands for `space`."""

# Field names share their unit suffix, so that a loose cut-off is needed to find convergence_mrad from
# semi_angle_mrad; the suggestion is a hint, never an action.
NEAREST_KEY = 0.4
CAMERA_KINDS = ("counting", "integrating", "event")
"""Pydantic puts the kind of a camera into the place of what is wrong with one."""
_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

DAY_STREAM = 0x646179
"""Joined to a run's seed, so that the day it draws shares no random numbers with the run itself."""


class ScenarioError(StemtwinError, ValueError):
    """A scenario that cannot be run; the message names file, key, value and the nearest valid choice."""


class Task(BaseModel):
    """What is asked of the controller.

    Attributes:
        observations: Ronchigrams it may take.
        stop: end early once the controller's own stop rule holds.
    """

    model_config = _STRICT

    observations: Annotated[int, Field(ge=1)] = 10
    stop: bool = False


class MicroscopeSection(BaseModel):
    """Which microscope is behind the seam.

    Attributes:
        kind: "simulated", or a backend of `twin/backends`.
        options: of the backend.
        safety: limits of an instrument; the simulator and replays need none.
    """

    model_config = _STRICT

    kind: str = backends.SIMULATED
    options: dict[str, Any] = Field(default_factory=dict)
    safety: Limits = Limits()

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        backends.check_kind(kind)
        return kind

    def plain(self) -> dict[str, Any]:
        """As data for YAML."""
        return {"kind": self.kind, "options": self.options, "safety": _drop_tuples(asdict(self.safety))}


class Scenario(BaseModel):
    """One reproducible experiment, but for its seed and its controller.

    Attributes:
        name: names the run directory.
        description: one line for `stemtwin list scenarios`.
        optics: beam, aperture, computing grid, camera angles; known to the controller.
        space: the calibrated coefficients, their ranges and tolerances; known to the controller.
        day: the hidden parameters of the instrument.
        severity: instead of `day`, one is drawn per seed by `Day.random`; 1 is about the training days' spread.
        everything: with a severity, draw corrector, drift and scan, too.
        renderer: phase screen ("fast") or atoms and slices ("multislice").
        task: how many observations.
        microscope: simulated unless it says otherwise.
        controllers: options by controller name.
        scan: for `stemtwin acquire`, a `scan_section.ScanSection`; the same microscope and day can be calibrated, too.
    """

    model_config = _STRICT

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    description: str = ""
    optics: Optics = Optics()
    space: StateSpace = FIRST_ORDER
    day: Day = Day()
    severity: Annotated[float, Field(ge=0)] | None = None
    everything: bool = False
    renderer: Literal["fast", "multislice"] = "fast"
    task: Task = Task()
    microscope: MicroscopeSection = MicroscopeSection()
    controllers: dict[str, dict[str, Any]] = Field(default_factory=dict)
    scan: Any = None  # its class is imported when there is one, see `_section`

    @field_validator("severity")
    @classmethod
    def _day_or_severity(cls, severity: float | None, info: ValidationInfo) -> float | None:
        if severity is not None and info.data.get("day", Day()) != Day():
            raise ValueError("severity draws the whole day; give either day or severity")
        return severity

    @field_validator("everything")
    @classmethod
    def _of_a_drawn_day(cls, everything: bool, info: ValidationInfo) -> bool:
        if everything and info.data.get("severity") is None:
            raise ValueError("everything goes with severity: it says what a drawn day has")
        return everything

    def check_drawn(self) -> None:
        """Refuse a scenario whose day depends on a seed that is not chosen yet.

        Raises:
            ScenarioError: use `for_seed` first.
        """
        if self.severity is not None:
            raise ScenarioError(f"{self.name}: severity {self.severity:g} draws a day per seed; choose a seed first")

    def for_seed(self, seed: int) -> "Scenario":
        """The scenario with its day fixed: itself, or a copy with the day that `seed` draws at its severity.

        The day depends on seed and severity alone, so that every controller meets the same one.
        """
        if self.severity is None:
            return self
        rng = np.random.default_rng(np.random.SeedSequence([seed, DAY_STREAM]))
        day = Day.random(rng, self.severity, self.everything)
        return self.model_copy(update={"day": day, "severity": None, "everything": False})

    def resolved(self) -> dict[str, Any]:
        """Plain data with every default filled in; `parse` gives the same scenario back."""
        drawn_later = {"day"} if self.severity is not None else {"severity"}
        apart = (
            {"optics", "space", "day", "scan", "microscope"}
            | drawn_later
            | (set() if self.everything else {"everything"})
        )
        plain: dict[str, Any] = self.model_dump(mode="json", exclude=apart)
        plain["optics"] = asdict(self.optics)
        plain["space"] = {f.name: list(getattr(self.space, f.name)) for f in fields(self.space) if f.init}
        if self.severity is None:
            plain["day"] = _drop_tuples(asdict(self.day))
        if self.microscope != MicroscopeSection():
            plain["microscope"] = self.microscope.plain()
        if self.scan is not None:
            plain["scan"] = _drop_tuples(asdict(self.scan))
        return plain


def library() -> list[str]:
    """Names of the scenarios that come with the package, sorted."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _library_files())


def description(name: str) -> str:
    """One line about a scenario of the library, without checking the rest of it."""
    return str(_parse_yaml(_read(name)[1], name).get("description", ""))


def load(name_or_path: str | Path, overrides: Iterable[str] = ()) -> Scenario:
    """A scenario from the library (bare name) or from a YAML file, with `a.b=c` overrides.

    Raises:
        ScenarioError: unknown scenario, malformed YAML, unknown key at any depth, wrong type, or a value
            that the optics, the state space or the day refuses.
    """
    label, text = _read(str(name_or_path))
    data = _parse_yaml(text, label)
    data.setdefault("name", label.rsplit("/", 1)[-1].rsplit(".", 1)[0])
    return parse(data, label, overrides)


def parse(data: Mapping[str, Any], label: str, overrides: Iterable[str] = ()) -> Scenario:
    """A scenario from plain data; `label` opens every error message.

    Raises:
        ScenarioError: as in `load`.
    """
    _check_keys(data, Scenario, "", label)
    merged = _plain(data)
    if isinstance(merged.get("space"), str):
        merged["space"] = _named_space(merged["space"], label)
    sources = {}
    for override in overrides:
        sources[_override(merged, override)] = f"--set {override}"
    _check_controllers(merged.get("controllers"), label)
    section = merged.pop("scan", None)
    prefix = ""
    try:
        scenario = Scenario.model_validate(merged)
        prefix = "scan."
        return scenario if section is None else scenario.model_copy(update={"scan": _validated(section)})
    except ValidationError as error:
        place, message = located_problem(error)
        where = ".".join(part for part in place.split(".") if part not in CAMERA_KINDS)
        raise ScenarioError(f"{_source(prefix + where, sources, label)}: {prefix}{where}: {message}") from None


# --- reading -------------------------------------------------------------------------------------


def _library_files() -> Iterator[Any]:
    folder = resources.files("scenarios") / "library"
    return (entry for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def _read(name_or_path: str) -> tuple[str, str]:
    """(label for messages, text)."""
    is_path = "/" in name_or_path or "\\" in name_or_path or name_or_path.endswith((".yaml", ".yml"))
    if not is_path:
        for entry in _library_files():
            if entry.name == f"{name_or_path}.yaml":
                return entry.name, entry.read_text(encoding="utf-8")
        names = library()
        raise ScenarioError(
            f"{name_or_path!r} is not a scenario{nearest(name_or_path, names)};"
            f" known: {', '.join(names)}, or a .yaml file"
        )
    path = Path(name_or_path)
    try:
        return path.name, path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ScenarioError(f"{name_or_path}: {reason}") from None


class _UniqueKeyLoader(yaml.SafeLoader):
    """`yaml.safe_load` that refuses a key written twice instead of keeping the last one in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key_node.value} is given twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def _parse_yaml(text: str, label: str) -> dict[str, Any]:
    try:
        data = yaml.load(text, _UniqueKeyLoader)
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ScenarioError(f"{label}:{line} is not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ScenarioError(f"{label}: is not valid YAML: {' '.join(str(error).split())}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ScenarioError(f"{label}: a scenario is a mapping of keys to values, got {type(data).__name__}")
    return data


def _plain(value: Any) -> Any:
    """A deep copy, so that overrides never reach the caller's data."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _drop_tuples(value: Any) -> Any:
    """Tuples to lists, for YAML."""
    if isinstance(value, dict):
        return {key: _drop_tuples(item) for key, item in value.items()}
    return [_drop_tuples(item) for item in value] if isinstance(value, tuple) else value


def _named_space(name: str, label: str) -> dict[str, Any]:
    if name not in SPACES:
        raise ScenarioError(
            f"{label}: space {name!r} is not a shorthand{nearest(name, SPACES)};"
            f" known: {', '.join(SPACES)}, or a mapping"
        )
    return {f.name: list(getattr(SPACES[name], f.name)) for f in fields(StateSpace) if f.init}


def _override(data: dict[str, Any], override: str) -> str:
    """Write one `a.b=c` into `data`, in place; returns its dotted key."""
    label = f"--set {override}"
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ScenarioError(f"{label}: an override is written key.key=value, for example day.dose_e=2e5")
    try:
        value: Any = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ScenarioError(f"{label}: {text!r} is not a YAML value") from None
    if keys == ["space"] and isinstance(value, str):
        value = _named_space(value, label)
    addition = value
    for key in reversed(keys):
        addition = {key: addition}
    _check_keys(addition, Scenario, "", label)
    if keys[0] == "space" and len(keys) > 1:
        data.setdefault("space", _named_space("first_order", label))
    target = data
    for key in keys[:-1]:
        if not isinstance(target.get(key), dict):
            target[key] = {}
        target = target[key]
    target[keys[-1]] = value
    return ".".join(keys)


# --- checking ------------------------------------------------------------------------------------


def _keys(kind: type) -> dict[str, Any]:
    """Key -> annotation of a model or dataclass."""
    hints = get_type_hints(kind)
    if issubclass(kind, BaseModel):
        return {name: hints[name] for name in kind.model_fields}
    return {f.name: hints[f.name] for f in fields(kind) if f.init}  # type: ignore[arg-type]


def _structure(annotation: Any, value: Any = None) -> type | None:
    """The model or dataclass inside an annotation, if there is one; of several, the one of the value's `kind`."""
    if get_origin(annotation) in (Union, types.UnionType):
        found = [kind for kind in map(_structure, get_args(annotation)) if kind is not None]
        wanted = value.get("kind") if isinstance(value, Mapping) else None
        same_kind = (kind for kind in found if getattr(kind, "kind", None) == wanted)
        return next(same_kind, found[0]) if found else None
    if isinstance(annotation, type) and (is_dataclass(annotation) or issubclass(annotation, BaseModel)):
        return annotation
    return None


def _section() -> type:
    """The class of `scan`."""
    from scenarios.scan_section import ScanSection

    return ScanSection


def _validated(section: Any) -> Any:
    """A `ScanSection` from plain data.

    Raises:
        ValidationError: it is none.
    """
    return TypeAdapter(_section()).validate_python(section)


def _paths(kind: type, prefix: str = "") -> Iterator[str]:
    """Every dotted key below `kind`."""
    for key, annotation in _keys(kind).items():
        yield prefix + key
        inner = _structure(annotation)
        if inner is not None:
            yield from _paths(inner, f"{prefix}{key}.")


def _check_keys(data: Mapping[Any, Any], kind: type, path: str, label: str) -> None:
    """Refuse unknown keys at any depth, suggesting the nearest here or the same key elsewhere."""
    known = _keys(kind)
    for key, value in data.items():
        if key not in known:
            raise ScenarioError(f"{label}: {path}{key} is not a key here{_suggest(str(key), known)}")
        is_scan = kind is Scenario and key == "scan" and value is not None
        inner = _section() if is_scan else _structure(known[key], value)
        if isinstance(value, bool) and known[key] in (int, float, float | None):
            raise ScenarioError(f"{label}: {path}{key} takes a number, got {str(value).lower()}")
        if inner is None or (value is None and type(None) in get_args(known[key])):
            continue
        if isinstance(value, Mapping):
            _check_keys(value, inner, f"{path}{key}.", label)
        elif not (inner is StateSpace and isinstance(value, str)):
            raise ScenarioError(
                f"{label}: {path}{key} takes keys of its own ({', '.join(_keys(inner))}), got {value!r}"
            )


def _suggest(key: str, known: Iterable[str]) -> str:
    elsewhere = [path for path in _paths(Scenario) if path.rsplit(".", 1)[-1] == key]
    if elsewhere:
        return f" (did you mean {elsewhere[0]}?)"
    return nearest(key, known, NEAREST_KEY) or f"; known: {', '.join(known)}"


def _check_controllers(options: Any, label: str) -> None:
    from controller.base import names

    for name in options if isinstance(options, dict) else ():
        if name not in names():
            raise ScenarioError(f"{label}: controllers.{name} is not a controller{nearest(str(name), names())}")


def _source(where: str, sources: Mapping[str, str], label: str) -> str:
    """Who set the value at a dotted key: the override of it, or the last one of a key above it, or the file."""
    above = [source for key, source in sources.items() if f"{where}.".startswith(f"{key}.")]
    return above[-1] if above else label
