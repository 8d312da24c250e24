"""A scan, a calibration, and the same scan again, with one report (`scans/page.py`).

The truth is used for the figures, never for the calibration.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from agents.base import Agent, Reconstruction
from agents.stream import Progress
from scenarios.calibration import session as calibration
from scenarios.calibration.instruments import Bench
from scenarios.calibration.results import Result
from scenarios.calibration.run import run as run_calibration
from scenarios.choices import name_and_options, split_choices
from scenarios.folders import NotWritten, sentence, write_text
from scenarios.scans import acquire
from scenarios.scans.half_dose import Halves
from scenarios.scans.imaging import ImagingMicroscope
from scenarios.scans.scan import open_scan
from scenarios.scans.stream import (
    BEFORE,
    REPORT,
    SUMMARY,
    Recorded,
    choose_agents,
    make_folder,
    results_folder,
    without_nan,
)
from scenarios.scans.stream import run as reconstruct
from scenarios.scans.truth import information_limit_nm, ring_correlation, true_phase
from scenarios.schema import Scenario, ScenarioError
from twin import interrupt
from twin.arrays import Floats
from twin.probe import probe_d50_nm, strehl_ratio
from twin.scan.acquisition import Acquisition
from twin.simulated import SimulatedMicroscope, check_reach
from twin.types import Microscope, ScanBlock


@dataclass(frozen=True)
class Part:
    """One of the two scans.

    Attributes:
        recorded: the agents' results.
        resolution_nm: by agent, see `scans.truth.information_limit_nm`; NaN where the two halves are uncorrelated.
        state_nm: true calibrated aberrations at the beginning of the scan, (n,).
        probe_d50_nm: diameter that holds half of the electrons of the probe.
        strehl: peak intensity of the probe over that of a perfect one.
    """

    recorded: Recorded
    resolution_nm: Mapping[str, float]
    state_nm: tuple[float, ...]
    probe_d50_nm: float
    strehl: float

    def summary(self) -> dict[str, Any]:
        """Return the figures as JSON data."""
        plain = self.recorded.summary()
        for name, agent in plain["agents"].items():
            agent["resolution_nm"] = self.resolution_nm.get(name)
        plain |= {"state_nm": self.state_nm, "probe_d50_nm": self.probe_d50_nm, "strehl": self.strehl}
        return {key: without_nan(value) for key, value in plain.items()}


@dataclass(frozen=True)
class Loop:
    """Scan, calibration, scan; None for the parts after an interrupt.

    `failure` is the reason for a missing second scan without an interrupt: the calibration stopped, or it left a probe
    that the scan's window does not hold.
    """

    scenario: Scenario
    seed: int
    controller: str
    before: Part
    calibrated: Result | None
    after: Part | None
    report: Path
    failure: str = ""

    @property
    def status(self) -> str:
        """The worse status of the two scans: "complete", "incomplete" or "interrupted"."""
        if self.after is None:
            return "incomplete" if self.failure else "interrupted"
        found = {part.recorded.streamed.status for part in (self.before, self.after)}
        return next(status for status in ("interrupted", "incomplete", "complete") if status in found)

    @property
    def errors(self) -> bool:
        """Whether an agent failed."""
        parts = [self.before, *([] if self.after is None else [self.after])]
        return any(part.recorded.streamed.errors for part in parts)

    def summary(self) -> dict[str, Any]:
        """Return the figures as JSON data."""
        return {
            "scenario": self.scenario.name,
            "seed": self.seed,
            "controller": self.controller,
            "status": self.status,
            "before": self.before.summary(),
            "calibration": None if self.calibrated is None else without_nan(self.calibrated.summary()),
            "after": None if self.after is None else self.after.summary(),
            "failure": self.failure or None,
            "report": str(self.report),
        }


@dataclass(frozen=True)
class Prepared:
    """A loop about to begin; it runs once.

    Attributes:
        scenario: with its day drawn and its scan uncorrected.
        seed: of both scans and the calibration.
        agents: lists of names.
        scanner: the microscope of both scans.
        first: blocks of the first scan.
        session: the calibration, on the same microscope.
        out: folder.
    """

    scenario: Scenario
    seed: int
    agents: tuple[str, ...]
    scanner: SimulatedMicroscope
    first: Iterator[ScanBlock]
    session: calibration.Session
    out: Path


def prepare(
    scenario: Scenario,
    seed: int,
    agents: Iterable[str],
    controller: str,
    *,
    images: str | None = None,
    out: Path | None = None,
    overwrite: bool = False,
) -> Prepared:
    """Check everything; nothing is computed and nothing is written.

    Args:
        scenario: with a `scan` whose window holds the uncorrected probe.
        seed: of both scans and the calibration.
        agents: lists of names, see `stream.choose_agents`.
        controller: its name, with options if any.
        images: an agent whose image of the scan replaces the Ronchigrams for the controller.
        out, overwrite: see `scan.prepare`.

    Raises:
        ScenarioError: scenario, agents or controller cannot be used.
    """
    agents = tuple(agents)
    choose_agents(agents)
    scenario = scenario.for_seed(seed)
    if scenario.scan is None or scenario.scan.camera is None:
        raise ScenarioError(f"{scenario.name}: a scan with a camera is needed; see `scan:` in calibrate_and_scan")
    scenario = scenario.model_copy(update={"scan": replace(scenario.scan, corrected=False)})
    scanner, session = _session(scenario, controller, images)
    blocks = acquire.begin(scanner, scenario, seed)
    out = results_folder(out, Path("runs") / scenario.name / "scan" / str(seed), overwrite)
    return Prepared(scenario, seed, agents, scanner, blocks, session, out)


def run(prepared: Prepared, progress: Callable[[Progress], None] | None = None) -> Loop:
    """Scan in the state that the session starts from, calibrate, and scan the same region again.

    Calibration and second scan are one session; the first scan is a session of its own from the same state, so that it
    costs the calibration neither dose nor time. Both scans meet the same specimen and the same random numbers.

    Args:
        prepared: from `prepare`; used up.
        progress: of the scans.

    Raises:
        ScenarioError: a folder that cannot be written, or transmission functions too large.
    """
    scenario, seed, scanner, out = prepared.scenario, prepared.seed, prepared.scanner, prepared.out
    section = scenario.required_scan
    make_folder(out)
    try:
        truth = true_phase(Acquisition(section, scenario.day), section.plan)
        before = _part(prepared, prepared.first, truth, out / BEFORE, progress)
    except (ValueError, OSError) as error:
        raise ScenarioError(f"{scenario.name}: {error}") from error
    result, after, failure = None, None, ""
    if before.recorded.streamed.status != "interrupted":
        result = run_calibration(prepared.session, seed, out / "calibration")
        if result.status == "stopped":
            failure = f"the calibration stopped: {result.reason}"
        elif result.status == "complete":
            try:
                blocks = scanner.scan(section.plan, block=section.plan.shape[1])
                after = _part(prepared, blocks, truth, out / "after", progress)
            except (ValueError, OSError) as error:
                failure = f"no second scan: {error}"
    from scenarios.scans.page import render

    loop = Loop(scenario, seed, prepared.session.name, before, result, after, out / REPORT, failure)
    with interrupt.session(patient=True):  # an interrupt waits: what was computed is written
        try:
            write_text(out / SUMMARY, json.dumps(loop.summary(), indent=1) + "\n")
            write_text(loop.report, render(loop, truth))
        except OSError as error:
            raise NotWritten(f"the report could not be written: {sentence(error, out)}") from error
    return loop


def _session(
    scenario: Scenario, controller: str, images: str | None
) -> tuple[SimulatedMicroscope, calibration.Session]:
    """The microscope that scans, and the calibration on it."""
    choices = split_choices(controller, "controller", "--calibrate")
    if len(choices) != 1:
        raise ScenarioError(f"--calibrate {controller}: give one controller")
    name, options = name_and_options(choices[0], "--calibrate")
    options = {**scenario.controllers.get(name, {}), **options}
    scenario = scenario.model_copy(update={"controllers": {**scenario.controllers, name: options}})
    session = calibration.prepare(scenario, name)
    scanner = acquire.scanning_microscope(scenario)
    microscope: Microscope = scanner
    if images is not None:
        agents = list(choose_agents([images]).values())
        if len(agents) != 1:
            raise ScenarioError(f"--images {images}: a controller takes one image")
        _check_window(scenario)
        section = scenario.required_scan
        microscope = ImagingMicroscope(scanner, section, section.plan, agents[0])
    return scanner, replace(session, bench=Bench(microscope, scanner, scanner))


def _check_window(scenario: Scenario) -> None:
    """Refuse a scan window that does not hold the probe at every input; the scans before and after have no inputs.

    Raises:
        ScenarioError: with the window needed.
    """
    try:
        check_reach(scenario.required_scan.optics, scenario.space, scenario.day)
    except ValueError as error:
        raise ScenarioError(f"{scenario.name}: --images: scan.optics: {error}") from error


def _part(
    prepared: Prepared,
    blocks: Iterator[ScanBlock],
    truth: Floats,
    out: Path,
    progress: Callable[[Progress], None] | None,
) -> Part:
    """Run one scan with all agents, and two more of each on half the dose."""
    # The state before the first block: it may drift during the scan.
    section, state_nm = prepared.scenario.required_scan, prepared.scanner.truth().state_nm
    chosen = choose_agents(prepared.agents)
    # Iterative agents would take three times as long.
    halves = {f"halves of {label}": label for label, agent in chosen.items() if not hasattr(agent, "finish")}
    aside: dict[str, Agent] = {name: Halves(partial(_again, prepared.agents, label)) for name, label in halves.items()}
    with open_scan(blocks, section, prepared.seed) as source:
        recorded = reconstruct(source, chosen, out, progress, truth, aside=aside)
    resolution_nm = {
        label: resolution(recorded.aside[name], section.plan.step_nm)
        for name, label in halves.items()
        if name in recorded.aside
    }
    scenario = prepared.scenario
    aberrations = scenario.space.to_aberrations(state_nm) + scenario.day.residual
    return Part(
        recorded=recorded,
        resolution_nm=resolution_nm,
        state_nm=tuple(float(value) for value in state_nm),
        probe_d50_nm=probe_d50_nm(aberrations, section.optics),
        strehl=strehl_ratio(aberrations, section.optics),
    )


def _again(agents: Iterable[str], label: str) -> Agent:
    """Build one of the agents again."""
    return choose_agents(agents)[label]


def resolution(halves: Reconstruction, step_nm: float) -> float:
    """Return the information limit of two half-dose images, nm; NaN where they are uncorrelated or have gaps."""
    first, second = (image.values for image in halves.images.values())
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return math.nan
    return information_limit_nm(*ring_correlation(first, second, step_nm))
