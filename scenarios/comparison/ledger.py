"""The plan of a comparison, and the folder that holds its finished runs.

`compare.yaml` holds all settings; `runs/<scenario>/<controller>/<seed>.json` appear as runs finish.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from importlib.resources import files
from os.path import isfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from controller.base import names
from scenarios.choices import ChoiceError, split_choices
from scenarios.comparison.sweep import Failure, Job, RunRecord, digest, kind, resolve, sweep
from scenarios.folders import sentence, write_text
from scenarios.scenario_file import parse_yaml, read_text
from scenarios.schema import Scenario, ScenarioError, load
from scenarios.versions import versions
from twin.errors import check_known

Groups = Mapping[str, Mapping[str, Sequence[RunRecord]]]
"""Scenario name -> controller -> records in the order of their seeds."""

SHOWN_DIFFERENCES = 3


@dataclass(frozen=True)
class Plan:
    """All runs of a comparison.

    Attributes:
        arguments: scenario name -> its library name or path.
        scenarios: scenario name -> the scenario, overrides applied, before any controller's options.
        controllers: names, with options if any.
        seeds: the same for every scenario and controller.
        observations, overrides: as in `Job`.
    """

    arguments: Mapping[str, str]
    scenarios: Mapping[str, Scenario]
    controllers: tuple[str, ...]
    seeds: range
    observations: int | None
    overrides: tuple[str, ...]

    def job(self, scenario: str, controller: str, seed: int) -> Job:
        """Return one of the runs; `scenario` is a name of `scenarios`."""
        return Job(self.arguments[scenario], controller, seed, self.observations, self.overrides)

    def jobs(self) -> Iterator[tuple[tuple[str, str, int], Job]]:
        """Yield (scenario name, controller, seed) and job; all controllers run a seed before the next one begins."""
        for scenario in self.scenarios:
            for seed in self.seeds:
                for controller in self.controllers:
                    yield (scenario, controller, seed), self.job(scenario, controller, seed)

    def config(self) -> dict[str, Any]:
        """Return plain data for `compare.yaml`."""
        return {
            "versions": versions(),
            "code": code_digest(),
            "seeds": {"first": self.seeds.start, "runs": len(self.seeds)},
            "controllers": list(self.controllers),
            "scenarios": {name: scenario.resolved() for name, scenario in self.scenarios.items()},
        }


def split_controllers(text: str) -> tuple[str, ...]:
    """Return the controllers of a comma-separated list; `a:x=1,y=2,b` are a with two options, and b.

    Raises:
        ScenarioError: none, one twice, or an option without a controller.
    """
    try:
        found = split_choices(text, "controller", "--controllers")
    except ChoiceError as error:
        raise ScenarioError(str(error)) from None
    if len(set(found)) < len(found):
        raise ScenarioError(f"--controllers {text}: a controller is named twice")
    return found


def make_plan(
    scenarios: Iterable[str],
    controllers: tuple[str, ...],
    seeds: range,
    observations: int | None = None,
    overrides: Iterable[str] = (),
) -> Plan:
    """Load and check all scenarios and controllers; nothing is built.

    Raises:
        ScenarioError: an unknown scenario or controller, a bad override, or two scenarios of one name.
    """
    changes = tuple(overrides)
    counted = [f"task.observations={observations}"] if observations is not None else []
    arguments: dict[str, str] = {}
    found: dict[str, Scenario] = {}
    for argument in scenarios:
        path = Path(argument)
        # A worker may have another working directory.
        where = str(path.resolve()) if path.suffix in (".yaml", ".yml") and isfile(path) else argument
        scenario = load(where, [*counted, *changes])
        if scenario.name in found:
            raise ScenarioError(f"{argument} and {arguments[scenario.name]} are both named {scenario.name}")
        arguments[scenario.name], found[scenario.name] = where, scenario
    for controller in controllers:
        check_known(kind(controller), names(), "a controller", ScenarioError)
    plan = Plan(arguments, found, controllers, seeds, observations, changes)
    for name in found:
        for controller in controllers:
            resolve(plan.job(name, controller, seeds.start))
    return plan


def check_builds(plan: Plan) -> None:
    """Build each microscope and controller once.

    Raises:
        ScenarioError: as in `run.prepare`; names scenario and controller.
    """
    from scenarios.calibration.session import prepare

    for name in plan.scenarios:
        for controller in plan.controllers:
            prepare(resolve(plan.job(name, controller, plan.seeds.start)), kind(controller))


def code_digest() -> str:
    """Return the SHA-256 of the sources and weights that figures come from (packages twin and controller)."""
    total = hashlib.sha256()
    for package in ("twin", "controller"):
        root = Path(str(files(package)))
        for path in sorted(p for p in root.rglob("*") if p.suffix in (".py", ".safetensors")):
            total.update(f"{package}/{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return total.hexdigest()


class Ledger:
    """The folder of a comparison."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def finished(self, plan: Plan, resume: bool) -> dict[tuple[str, str, int], RunRecord]:
        """Return the finished runs of the plan; nothing is written.

        Raises:
            ScenarioError: the folder holds runs and `resume` is false, runs of other settings, or something else.
        """
        before = self._config()
        strange = sorted(path.name for path in self.folder.glob("*") if not path.name.startswith("."))
        if not before and strange and not (self.folder / "runs").is_dir():
            raise ScenarioError(f"{self.folder} has files of something else ({strange[0]}): choose another --out")
        if not resume and (before or any(self.folder.glob("runs/*/*/*.json"))):
            raise ScenarioError(f"{self.folder} already holds runs: continue with --resume, or choose another --out")
        differences = list(_differences(before, plan.config()))
        if differences:
            raise ScenarioError(
                f"{self.folder} holds runs of other settings: {'; '.join(differences[:SHOWN_DIFFERENCES])}"
                f"{' ...' if len(differences) > SHOWN_DIFFERENCES else ''}. Choose another --out"
            )
        return {key: record for key, job in plan.jobs() if (record := self._read(key, job)) is not None}

    def same_code(self, plan: Plan) -> bool:
        """Return whether the runs in the folder, if any, were made with this code."""
        code = plan.config()["code"]
        return bool(self._config().get("code", code) == code)

    def enter(self, plan: Plan) -> None:
        """Write the question down.

        Raises:
            ScenarioError: the folder cannot be written.
        """
        config, before = plan.config(), self._config()
        # Scenarios that are not asked for this time keep their settings on record.
        config["scenarios"] = {**before.get("scenarios", {}), **config["scenarios"]}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
            write_text(self.folder / "compare.yaml", text)
        except OSError as error:
            raise ScenarioError(sentence(error, self.folder)) from error

    def complete(
        self, plan: Plan, records: dict[tuple[str, str, int], RunRecord], lanes: Sequence[Executor]
    ) -> Iterator[RunRecord | Failure]:
        """Do the runs of the plan that are not in `records`; each is on disc and in `records` before it is yielded.

        Raises:
            SweepError: a worker died.
        """
        for outcome in sweep([job for key, job in plan.jobs() if key not in records], lanes):
            if isinstance(outcome, RunRecord):
                self.write(outcome)
                records[outcome.scenario, outcome.controller, outcome.seed] = outcome
            yield outcome

    def write(self, record: RunRecord) -> None:
        """Write a finished run, whole or not at all."""
        path = self.path(record.scenario, record.controller, record.seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, record.to_json() + "\n")

    def path(self, scenario: str, controller: str, seed: int) -> Path:
        """Return the file of a run; `urllib.parse.unquote` gives the controller back from its folder."""
        return self.folder / "runs" / scenario / quote(controller, safe="=,") / f"{seed}.json"

    def _config(self) -> dict[str, Any]:
        path = self.folder / "compare.yaml"
        try:
            return (
                _sections(parse_yaml(read_text(path, "the description of a comparison"), str(path)), path)
                if path.exists()
                else {}
            )
        except OSError as error:
            raise ScenarioError(f"{path}: {error.strerror or error}") from None

    def _read(self, key: tuple[str, str, int], job: Job) -> RunRecord | None:
        path = self.path(*key)
        if not path.exists():
            return None
        try:
            record = RunRecord.from_json(path.read_text(encoding="utf-8"))
            record.check(*key)
        except (OSError, ValueError) as error:
            raise ScenarioError(f"{path}: {error}; delete it to have the run repeated") from None
        if record.scenario_digest != digest(resolve(job), job.controller):
            raise ScenarioError(f"{path} was run with other settings; choose another --out")
        return record


def _sections(found: dict[str, Any], path: Path) -> dict[str, Any]:
    """Check the parts of `compare.yaml` that a resumed comparison needs."""
    for key in ("versions", "scenarios"):
        if not isinstance(found.get(key, {}), Mapping):
            raise ScenarioError(f"{path}: {key} takes keys of its own; delete the file or choose another --out")
    return found


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield differences that make figures incomparable: versions, and settings of scenarios that both have."""
    if not before:
        return
    yield from _unequal("versions", before.get("versions", {}), now["versions"])
    known = before.get("scenarios", {})
    for name, scenario in now["scenarios"].items():
        if name in known:
            yield from _unequal(name, known[name], scenario)


def _unequal(path: str, before: Any, now: Any) -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted({*before, *now}, key=str):
            yield from _unequal(f"{path}.{key}", before.get(key), now.get(key))
    elif before != now:
        yield f"{path} is {now} and was {before}"


def group(plan: Plan, records: Mapping[tuple[str, str, int], RunRecord], controllers: Iterable[str]) -> Groups:
    """Group records by scenario and controller."""
    chosen = list(controllers)
    return {
        scenario: {name: [records[scenario, name, seed] for seed in plan.seeds] for name in chosen}
        for scenario in plan.scenarios
    }
