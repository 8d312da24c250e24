"""Scenarios, and how YAML becomes one: pydantic refuses unknown keys and bad values before anything is computed.

Does not build the microscope or the controller, which check their own options; `calibration/run.py` does.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, field, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Le
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from controller.base import names
from controller.canonical.units import with_tolerance_at
from scenarios.scan_section import CAMERAS, ScanSection
from scenarios.scenario_file import ScenarioError, description, library, parse_yaml, read
from twin import backends
from twin.day import KINDS, Day
from twin.errors import check_known, nearest, printable
from twin.instrument.limits import Limits
from twin.optics import Optics
from twin.options import located_problem, validated
from twin.references.camera_reference import ReferenceOptions
from twin.state import FIRST_ORDER, SECOND_ORDER, StateSpace
from twin.text import yaml_text

__all__ = ["Scenario", "ScenarioError", "description", "library", "load", "parse"]

SPACES: Mapping[str, StateSpace] = {"first_order": FIRST_ORDER, "second_order": SECOND_ORDER}
"""Shorthands for `space`."""

# Field names share their unit suffix, so that a loose cut-off is needed to find convergence_mrad from
# semi_angle_mrad; the suggestion is a hint, never an action.
NEAREST_KEY = 0.4

MOST_KEYS = 12
"""Levels of a dotted key; the deepest of a scenario has six."""

DAY_STREAM = 0x646179
"""Joined to a run's seed, so that the day it draws shares no random numbers with the run itself."""


@validated
class Task:
    """Length of a run, up to 100,000 frames.

    Attributes:
        observations: Ronchigrams the controller may take.
        stop: end early once the controller's own stop rule holds.
    """

    observations: Annotated[int, Ge(1), Le(100_000)] = 10
    stop: bool = False


@validated
class MicroscopeSection:
    """The microscope that a scenario runs on.

    Attributes:
        kind: "simulated", or a backend of `twin/backends`.
        options: of the backend.
        safety: limits of an instrument; the simulator and replays need none.
    """

    kind: str = backends.SIMULATED
    options: dict[str, Any] = field(default_factory=dict)
    safety: Limits = Limits()

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        backends.check_kind(kind)
        return kind

    def plain(self) -> dict[str, Any]:
        """Return data for YAML."""
        return {"kind": self.kind, "options": self.options, "safety": _drop_tuples(asdict(self.safety))}


class Scenario(BaseModel):
    """A reproducible experiment; with a controller and a seed it becomes a run.

    Attributes:
        name: names the run directory.
        description: one line for `stemtwin list scenarios`.
        optics: beam, aperture, computing grid, camera angles; known to the controller.
        space: the calibrated coefficients, their ranges and tolerances; known to the controller.
        day: the hidden parameters of the instrument.
        severity: draw the day per seed by `Day.random` instead; 1 is about the spread of the training days.
        everything: with a severity, draw corrector, drift and scan errors, too.
        kinds: with a severity, names of further departures of the day (docs/days.md).
        renderer: phase screen ("fast") or atoms and slices ("multislice").
        task: number of observations.
        microscope: the simulator by default.
        references: bad pixels, dark level, gain and centre of the camera, applied to every frame before the controller.
        controllers: options by controller name.
        scan: for `stemtwin acquire` and `stemtwin scan`; the same microscope and day can be calibrated, too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    description: str = ""
    optics: Optics = Optics()
    space: StateSpace = FIRST_ORDER
    day: Day = Day()
    severity: Annotated[float, Ge(0)] | None = None
    everything: bool = False
    kinds: tuple[str, ...] = ()
    renderer: Literal["fast", "multislice"] = "fast"
    task: Task = Task()
    microscope: MicroscopeSection = MicroscopeSection()
    references: ReferenceOptions | None = None
    controllers: dict[str, dict[str, Any]] = Field(default_factory=dict)
    scan: ScanSection | None = None

    @field_validator("optics", "space", "severity", mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, given: Any) -> Any:
        """Refuse true and false, which pydantic takes for 1 and 0."""
        for key, value in given.items() if isinstance(given, Mapping) else [(None, given)]:
            if isinstance(value, bool):
                place = () if key is None else (key,)
                context = {"error": ValueError(f"a number is expected, got {value}")}
                problem = {"type": "value_error", "loc": place, "input": value, "ctx": context}
                raise ValidationError.from_exception_data("number", [problem])  # type: ignore[list-item]
        return given

    @field_validator("severity")
    @classmethod
    def _day_or_severity(cls, severity: float | None, info: ValidationInfo) -> float | None:
        if severity is not None and info.data.get("day", Day()) != Day():
            raise ValueError("severity draws the whole day; give either day or severity")
        return severity

    @field_validator("kinds")
    @classmethod
    def _known_kinds(cls, kinds: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for kind in kinds:
            check_known(kind, KINDS, "a kind of day")
        if kinds and info.data.get("severity") is None:
            raise ValueError("kinds go with severity, which draws the day")
        return kinds

    @field_validator("everything")
    @classmethod
    def _of_a_drawn_day(cls, everything: bool, info: ValidationInfo) -> bool:
        if everything and info.data.get("severity") is None:
            raise ValueError("everything goes with severity, which draws the day")
        return everything

    @property
    def required_scan(self) -> ScanSection:
        """The scan.

        Raises:
            ScenarioError: the scenario has none.
        """
        if self.scan is None:
            raise ScenarioError(f"{self.name}: no scan in this scenario; see `scan:` in one of sto_001 or mos2_twisted")
        return self.scan

    def check_drawn(self) -> None:
        """Refuse a scenario whose day depends on a seed that is not chosen yet.

        Raises:
            ScenarioError: use `for_seed` first.
        """
        if self.severity is not None:
            raise ScenarioError(f"{self.name}: severity {self.severity:g} draws a day per seed; choose a seed first")

    def for_seed(self, seed: int) -> "Scenario":
        """Return the scenario with its day fixed: itself, or a copy with the day that `seed` draws at its severity.

        The day depends on seed and severity alone, so that every controller meets the same one.
        """
        if self.severity is None:
            return self
        rng = np.random.default_rng(np.random.SeedSequence([seed, DAY_STREAM]))
        day = Day.random(rng, self.severity, self.everything, self.kinds)
        return self.model_copy(update={"day": day, "severity": None, "everything": False, "kinds": ()})

    def resolved(self) -> dict[str, Any]:
        """Return plain data with every default filled in; `parse` gives the same scenario back."""
        drawn_later = {"day"} if self.severity is not None else {"severity"}
        apart = (
            {"optics", "space", "day", "scan", "microscope", "references"}
            | drawn_later
            | (set() if self.everything else {"everything"})
            | (set() if self.kinds else {"kinds"})
        )
        plain: dict[str, Any] = self.model_dump(mode="json", exclude=apart)
        plain["optics"] = asdict(self.optics)
        plain["space"] = {f.name: list(getattr(self.space, f.name)) for f in fields(self.space) if f.init}
        if self.severity is None:
            plain["day"] = _drop_tuples(asdict(self.day))
        if self.microscope != MicroscopeSection():
            plain["microscope"] = self.microscope.plain()
        if self.references is not None:
            plain["references"] = _drop_tuples({k: v for k, v in asdict(self.references).items() if v is not None})
        if self.scan is not None:
            plain["scan"] = _drop_tuples(asdict(self.scan))
        return plain


def load(name_or_path: str | Path, overrides: Iterable[str] = ()) -> Scenario:
    """Load a scenario from the library (bare name) or from a YAML file, with `a.b=c` overrides.

    Raises:
        ScenarioError: unknown scenario, malformed YAML, unknown key at any depth, wrong type, or a value
            that the optics, the state space, the day or the scan refuses.

    Example:
        >>> from scenarios import load_scenario
        >>> load_scenario("day_a", ["task.observations=3"]).task.observations
        3
        >>> load_scenario("day_a", ["day.dose=1e5"])
        Traceback (most recent call last):
        scenarios.scenario_file.ScenarioError: --set day.dose=1e5: day.dose is not a key here (did you mean dose_e?)
    """
    label, text = read(str(name_or_path))
    data = parse_yaml(text, label)
    data.setdefault("name", label.rsplit("/", 1)[-1].rsplit(".", 1)[0])
    return parse(data, label, overrides)


def parse(data: Mapping[str, Any], label: str, overrides: Iterable[str] = ()) -> Scenario:
    """Make a scenario from plain data; `label` opens every error message.

    Raises:
        ScenarioError: as in `load`.
    """
    merged, overrides = _plain(data), list(overrides)
    tolerance_given = _gives_tolerance(merged, overrides)
    if isinstance(merged.get("space"), str):
        merged["space"] = _named_space(merged["space"], label)
    sources = {}
    for override in overrides:
        sources[_override(merged, override)] = _label(override)
    try:
        scenario = Scenario.model_validate(merged)
    except ValidationError as error:
        where, message = _refusal(error)
        raise ScenarioError(f"{_source(where, sources, label, message)}: {message}") from None
    if not tolerance_given:
        scenario = scenario.model_copy(update={"space": with_tolerance_at(scenario.space, scenario.optics)})
    for name in scenario.controllers:
        if name not in names():
            where = f"controllers.{name}"
            raise ScenarioError(
                f"{_source(where, sources, label)}: {where} is not a controller{nearest(name, names())}"
            )
    return scenario


def _gives_tolerance(data: Mapping[str, Any], overrides: Iterable[str]) -> bool:
    """Whether the tolerances are the scenario's own; otherwise they follow its optics."""
    space = data.get("space")
    written = isinstance(space, Mapping) and "tolerance_nm" in space
    return written or any(override.strip().startswith("space.tolerance_nm") for override in overrides)


# --- plain data ----------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    """Copy deeply, so that overrides never reach the caller's data."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _drop_tuples(value: Any) -> Any:
    """Turn tuples into lists, for YAML."""
    if isinstance(value, dict):
        return {key: _drop_tuples(item) for key, item in value.items()}
    return [_drop_tuples(item) for item in value] if isinstance(value, tuple) else value


def _named_space(name: str, label: str) -> dict[str, Any]:
    if name not in SPACES:
        raise ScenarioError(
            f"{label}: space {printable(repr(name), 60)} is not a shorthand{nearest(name, SPACES)};"
            f" known: {', '.join(SPACES)}, or a mapping"
        )
    return {f.name: list(getattr(SPACES[name], f.name)) for f in fields(StateSpace) if f.init}


def _label(override: str) -> str:
    return f"--set {printable(override, 80)}"


def _override(data: dict[str, Any], override: str) -> str:
    """Write one `a.b=c` into `data`, in place; return its dotted key."""
    label = _label(override)
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise ScenarioError(f"{label}: an override is written key.key=value, for example day.dose_e=2e5")
    if len(keys) > MOST_KEYS:
        raise ScenarioError(f"{label}: a key has at most {MOST_KEYS} parts, got {len(keys)}")
    try:
        value: Any = yaml_text.loads(text)
    except yaml_text.YamlError as error:
        raise ScenarioError(f"{label}: {printable(repr(text), 60)} is not a YAML value: {error}") from None
    if keys == ["space"] and isinstance(value, str):
        value = _named_space(value, label)
    if keys[0] == "space" and len(keys) > 1:
        data.setdefault("space", _named_space("first_order", label))
    target = data
    for key in keys[:-1]:
        if not isinstance(target.get(key), dict):
            target[key] = {}
        target = target[key]
    target[keys[-1]] = value
    return ".".join(keys)


# --- refusing ------------------------------------------------------------------------------------

UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument", "invalid_key")
NO_SECTION = ("dataclass_type", "model_type", "model_attributes_type", "dict_type")
Place = tuple[str | int, ...]


@cache
def _keys() -> Mapping[Place, list[str]]:
    """Return the keys of every section by its place, from pydantic's own schema; a camera's kind is in its place."""
    schema = Scenario.model_json_schema()
    found: dict[Place, list[str]] = {}

    def walk(node: Mapping[str, Any], place: Place) -> None:
        if "$ref" in node:
            return walk(schema["$defs"][node["$ref"].rsplit("/", 1)[-1]], place)
        for key, child in node.get("properties", {}).items():
            found.setdefault(place, []).append(key)
            walk(child, (*place, key))
        for kind, reference in node.get("discriminator", {}).get("mapping", {}).items():
            walk({"$ref": reference}, (*place, kind))
        for choice in node.get("anyOf", ()):
            walk(choice, place)
        return None

    walk(schema, ())
    return found


def _refusal(error: ValidationError) -> tuple[str, str]:
    """Return the dotted key of the first mistake, an unknown key before all others, and a message that names it."""
    problems = error.errors(include_url=False)
    for problem in problems:
        *section, key = problem["loc"] or ("",)
        if problem["type"] in UNKNOWN_KEY:
            where = _dotted(problem["loc"])
            meant = _suggest(str(key), _keys().get(tuple(section), []))
            return where, f"{printable(where, 60)} is not a key here{meant}"
    where, message = located_problem(error)
    keys = _keys().get(problems[0]["loc"])
    if problems[0]["type"] in NO_SECTION and keys:
        got = printable(repr(problems[0]["input"]), 60)
        return where, f"{where} takes keys of its own ({', '.join(keys)}), got {got}"
    where = _dotted(where.split("."))
    opening = "" if message.startswith(f"{where}.") else f"{printable(where, 60)}: "
    return where, f"{opening}{message}".replace("got True", "got true").replace("got False", "got false")


def _dotted(place: Sequence[str | int]) -> str:
    """Join a place to a key as YAML has it: pydantic puts the kind of a camera between the camera and its fields."""
    parts = [
        part for i, part in enumerate(place) if i == 0 or (*place[:i],) != ("scan", "camera") or part not in CAMERAS
    ]
    return ".".join(map(str, parts))


def _suggest(key: str, known: Sequence[str]) -> str:
    """Suggest the same key elsewhere, or the nearest one in the same section."""
    elsewhere = [_dotted((*place, key)) for place, keys in _keys().items() if key in keys]
    if elsewhere:
        return f" (did you mean {elsewhere[0]}?)"
    return nearest(key, known, NEAREST_KEY) or f"; known: {', '.join(known)}"


def _source(where: str, sources: Mapping[str, str], label: str, message: str = "") -> str:
    """Return what set the value at a dotted key: its override, or the last override of a key above it, or the file.

    A section whose parts do not fit together is refused as a whole: the override of a part that the message names.
    """
    above = [source for key, source in sources.items() if f"{where}.".startswith(f"{key}.")]
    below = [
        source
        for key, source in sources.items()
        if f"{key}.".startswith(f"{where}.") and key.rpartition(".")[2] in message
    ]
    return (above or below or [label])[-1]
