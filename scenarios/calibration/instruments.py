"""The microscope of a run: the simulator or a backend, wrapped for safety, recording or a dry run."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scenarios.schema import Scenario, ScenarioError
from scenarios.versions import versions
from twin import backends
from twin.instrument.audit import AuditLog, read
from twin.instrument.dry_run import DryRun
from twin.instrument.guard.camera import counts_digest
from twin.instrument.limits import Limits
from twin.instrument.recorder import RecordingMicroscope, ResumedMicroscope
from twin.instrument.recording import Recording
from twin.instrument.safety import SafeMicroscope
from twin.simulated import SimulatedMicroscope
from twin.types import HasTruth, Microscope


@dataclass(frozen=True)
class Wiring:
    """Wrappers of a run's microscope.

    Attributes:
        record: file of a recording to make.
        resume: continue that recording.
        dry_run: leave the instrument untouched; the simulator stands in.
        audit: log of an instrument's commands; continued, never replaced. No instrument moves without one.
        seed, controller: for the recording's provenance.
        show: receives the lines of a dry run.
    """

    record: Path | None = None
    resume: bool = False
    dry_run: bool = False
    audit: Path | None = None
    seed: int | None = None
    controller: str = ""
    show: Callable[[str], None] = print


@dataclass(frozen=True)
class Bench:
    """A microscope as a run uses it, and the parts behind it.

    Attributes:
        microscope: the outermost wrapper.
        truth: for the scorer; None without ground truth.
        simulator: has the account of time and electrons; None behind a backend.
        guard: aborts when a run ends early; None around simulators and replays.
    """

    microscope: Microscope
    truth: HasTruth | None
    simulator: SimulatedMicroscope | None
    guard: SafeMicroscope | None = None


def simulator(scenario: Scenario) -> SimulatedMicroscope:
    """Build the simulator of a scenario."""
    return SimulatedMicroscope(scenario.optics, scenario.space, scenario.day, scenario.renderer)


def build(scenario: Scenario, wiring: Wiring | None = None) -> Bench:
    """Build the microscope of a scenario; nothing is connected or exposed yet.

    Raises:
        ValueError: the microscope, its limits or the recording are refused.
    """
    wiring = wiring or Wiring()
    if wiring.resume and wiring.record is None:
        raise ValueError("--resume goes on with a recording: name it with --record FILE")
    if wiring.dry_run and wiring.record is not None:
        raise ValueError("--dry-run has nothing to record: its frames are the simulator's")
    bare = _bare(scenario, wiring)
    if wiring.record is None:
        return bare
    if not wiring.resume:
        recorder = RecordingMicroscope(bare.microscope, wiring.record, _provenance(scenario, wiring), bare.truth)
        return Bench(recorder, bare.truth, bare.simulator, bare.guard)
    if bare.guard is not None and not bare.guard.can_resume:
        raise ValueError(f"{bare.guard.capabilities.name} cannot take up a session: it does not know where it stands")
    recording = Recording(wiring.record)
    _check_same_run(recording, scenario, wiring)
    if bare.guard is not None and not bare.guard.repeats_sessions:
        _check_log(recording, scenario.microscope.safety, wiring.audit)
    resumed = ResumedMicroscope(bare.microscope, wiring.record, bare.truth)
    return Bench(resumed, bare.truth, bare.simulator, bare.guard)


def _bare(scenario: Scenario, wiring: Wiring) -> Bench:
    section = scenario.microscope
    if section.kind == backends.SIMULATED:
        for label, given, usual in (("options", section.options, {}), ("safety", section.safety, Limits())):
            if given != usual:
                raise ValueError(f"microscope.{label}: the simulator has none; its settings are day and renderer")
        if wiring.dry_run:
            raise ValueError("--dry-run is for instruments; the simulator moves nothing")
        simulated = simulator(scenario)
        return Bench(simulated, simulated, simulated)
    found = backends.load(section.kind, section.options, scenario.optics, scenario.space)
    if not backends.is_instrument(section.kind):
        if wiring.dry_run:
            raise ValueError(f"--dry-run is for instruments; {section.kind} moves nothing")
        return Bench(found, found if isinstance(found, HasTruth) else None, None)
    if wiring.dry_run:
        # Without the audit log: it lists commands that were sent, and a dry run sends none.
        stand_in = simulator(scenario)
        rehearsal = SafeMicroscope(DryRun(found, stand_in, wiring.show), section.safety)
        return Bench(rehearsal, stand_in, stand_in, rehearsal)
    if wiring.audit is None:
        raise ValueError(f"{section.kind} is an instrument and needs an audit log: use `stemtwin calibrate`")
    guard = SafeMicroscope(found, section.safety, AuditLog(wiring.audit))
    return Bench(guard, found if isinstance(found, HasTruth) else None, None, guard)


def _provenance(scenario: Scenario, wiring: Wiring) -> dict[str, Any]:
    return {
        "scenario": scenario.resolved(),
        "controller": wiring.controller,
        "seed": wiring.seed,
        "versions": versions(),
    }


def _check_same_run(recording: Recording, scenario: Scenario, wiring: Wiring) -> None:
    """Refuse to continue the recording of another run; a run may only get longer.

    Raises:
        ScenarioError: names what differs.
    """
    # By way of text: tuples are lists on disc.
    wanted = json.loads(json.dumps(_provenance(scenario, wiring)))
    before = recording.attributes.get("provenance")
    found = [] if not isinstance(before, Mapping) else list(_different(_comparable(before), _comparable(wanted), ""))
    if not isinstance(before, Mapping) or found:
        what = "; ".join(found[:3]) or "it does not say of which run"
        raise ScenarioError(f"{recording.path} cannot be gone on with: {what}")


def _check_log(recording: Recording, limits: Limits, audit: Path | None) -> None:
    """Refuse to continue under a dose budget without the log of the dose spent.

    Raises:
        ScenarioError: names log and recording.
    """
    if (limits.dose_e is None and limits.region_dose_e is None) or audit is None:
        return
    logged: set[str] = set()
    for entry in read(audit):
        if entry["event"] == "reset":
            logged.clear()
        elif entry["event"] == "frame":
            logged.add(str(entry.get("counts")))
    places = recording.trace(len(recording.sessions) - 1).places if recording.sessions else ()
    missing = sum(counts_digest(recording.frame(int(place))) not in logged for place in places)
    if missing:
        raise ScenarioError(
            f"{audit} does not know {missing} of the {len(places)} frames of {recording.path}: how much of the dose is"
            " spent cannot be told. Give the --out of the recorded run"
        )


def _comparable(provenance: Mapping[str, Any]) -> dict[str, Any]:
    scenario = {k: v for k, v in dict(provenance.get("scenario", {})).items() if k not in ("task", "description")}
    return {"controller": provenance.get("controller"), "seed": provenance.get("seed"), "scenario": scenario}


def _different(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _different(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key} was {old!r} and is {new!r}"


def address_overrides(text: str) -> list[str]:
    """`--microscope KIND[:ADDRESS]` as overrides of the scenario.

    Raises:
        ScenarioError: no such kind, or one that takes no address.
    """
    try:
        kind, options = backends.from_address(text)
    except ValueError as error:
        raise ScenarioError(f"--microscope {error}") from error
    return [f"microscope.kind={kind}", *(f"microscope.options.{k}={json.dumps(v)}" for k, v in options.items())]
