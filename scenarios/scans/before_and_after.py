"""The loop closes: a scan, a calibration, the same scan again, and one page that shows what it was good for.

The page is self-contained HTML. Truth is asked for the figures, never for the calibration.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import yaml
from numpy.typing import NDArray

from agents.base import Agent, Reconstruction
from agents.stream import Progress
from scenarios.calibration import page as report
from scenarios.calibration import run as calibration
from scenarios.calibration.instruments import Bench
from scenarios.calibration.results import Result, write_text
from scenarios.choices import name_and_options, split_choices
from scenarios.scans import acquire
from scenarios.scans.half_dose import Halves
from scenarios.scans.imaging import ImagingMicroscope
from scenarios.scans.scan import open_scan
from scenarios.scans.stream import Recorded, choose_agents, make_folder, record, without_nan
from scenarios.scans.truth import information_limit_nm, ring_correlation, true_phase
from scenarios.schema import Scenario, ScenarioError
from twin.probe import probe_d50_nm, strehl_ratio
from twin.scan.acquisition import Acquisition
from twin.simulated import SimulatedMicroscope, check_reach
from twin.types import Microscope, ScanBlock

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """One of the two scans.

    Attributes:
        recorded: what the agents found.
        resolution_nm: by agent, see `scans.truth.information_limit_nm`; NaN where the halves share nothing.
        state_nm: true calibrated aberrations at its begin, (n,).
        probe_d50_nm: diameter that holds half of the probe.
        strehl: intensity at the probe's centre against a perfect one.
    """

    recorded: Recorded
    resolution_nm: Mapping[str, float]
    state_nm: tuple[float, ...]
    probe_d50_nm: float
    strehl: float

    def summary(self) -> dict[str, Any]:
        """The figures as JSON data."""
        plain = self.recorded.summary()
        for name, agent in plain["agents"].items():
            agent["resolution_nm"] = self.resolution_nm.get(name)
        plain |= {"state_nm": self.state_nm, "probe_d50_nm": self.probe_d50_nm, "strehl": self.strehl}
        return {key: without_nan(value) for key, value in plain.items()}


@dataclass(frozen=True)
class Loop:
    """Scan, calibration, scan; what came after an interrupt is None.

    `failure` says why there is no second scan where nobody interrupted: the calibration stopped, or left a probe that
    the scan's window does not hold.
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
        """Of the worse of both scans: "complete", "incomplete" or "interrupted"."""
        if self.after is None:
            return "incomplete" if self.failure else "interrupted"
        found = {part.recorded.streamed.status for part in (self.before, self.after)}
        return next(status for status in ("interrupted", "incomplete", "complete") if status in found)

    @property
    def errors(self) -> bool:
        """Whether an agent was left behind."""
        parts = [self.before, *([] if self.after is None else [self.after])]
        return any(part.recorded.streamed.errors for part in parts)

    def summary(self) -> dict[str, Any]:
        """The figures as JSON data."""
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
        seed: of everything.
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


def ready(
    scenario: Scenario,
    seed: int,
    agents: Iterable[str],
    controller: str,
    *,
    images: str | None = None,
    out: Path | None = None,
) -> Prepared:
    """Everything checked, nothing computed and nothing written.

    Args:
        scenario: with a `scan` whose window holds the uncorrected probe.
        seed: of it all.
        agents: lists of names, see `stream.choose_agents`.
        controller: its name, with options if any.
        images: an agent whose image of the scan the controller sees instead of Ronchigrams.
        out: folder; default `runs/<scenario>/scan/<seed>`.

    Raises:
        ScenarioError: whatever one of the parts refuses.
    """
    agents = tuple(agents)
    choose_agents(agents)
    scenario = scenario.for_seed(seed)
    if scenario.scan is None or scenario.scan.camera is None:
        raise ScenarioError(f"{scenario.name}: a scan with a camera is needed; see `scan:` in calibrate_and_scan")
    scenario = scenario.model_copy(update={"scan": replace(scenario.scan, corrected=False)})
    scanner, session = _session(scenario, controller, images)
    try:
        blocks = acquire.begin(scanner, scenario, seed)
    except ValueError as error:
        raise ScenarioError(f"{scenario.name}: {error}") from error
    out = Path("runs") / scenario.name / "scan" / str(seed) if out is None else out
    return Prepared(scenario, seed, agents, scanner, blocks, session, out)


def calibrate_and_scan(prepared: Prepared, progress: Callable[[Progress], None] | None = None) -> Loop:
    """Scan in the state that the session starts from, calibrate, scan the same region again.

    Calibration and second scan are one session; the first scan is a session of its own from the same state, so that it
    costs the calibration neither dose nor time. Both scans meet the same specimen and the same random numbers.

    Args:
        prepared: from `ready`; used up.
        progress: of the scans.

    Raises:
        ScenarioError: a folder that cannot be written, or transmission functions too large.
    """
    scenario, seed, scanner, out = prepared.scenario, prepared.seed, prepared.scanner, prepared.out
    section = scenario.scan
    make_folder(out)
    try:
        truth = true_phase(Acquisition(section, scenario.day), section.plan)
        before = _part(prepared, prepared.first, truth, out / "before", progress)
    except (ValueError, OSError) as error:
        raise ScenarioError(f"{scenario.name}: {error}") from error
    result, after, failure = None, None, ""
    if before.recorded.streamed.status != "interrupted":
        result = calibration.run(prepared.session, seed, out / "calibration")
        if result.status == "stopped":
            failure = f"the calibration stopped: {result.reason}"
        elif result.status == "complete":
            try:
                blocks = scanner.scan(section.plan, block=section.plan.shape[1])
                after = _part(prepared, blocks, truth, out / "after", progress)
            except (ValueError, OSError) as error:
                failure = f"no second scan: {error}"
    loop = Loop(scenario, seed, prepared.session.name, before, result, after, out / "report.html", failure)
    write_text(out / "summary.json", json.dumps(loop.summary(), indent=1) + "\n")
    write_text(loop.report, render(loop, truth))
    return loop


def _session(
    scenario: Scenario, controller: str, images: str | None
) -> tuple[SimulatedMicroscope, calibration.Session]:
    """The microscope that scans, and the calibration on it."""
    choices = split_choices(controller, "controller", "--calibrate")
    if len(choices) != 1:
        raise ScenarioError(f"--calibrate {controller}: one controller is enough")
    name, options = name_and_options(choices[0], "--calibrate")
    options = {**scenario.controllers.get(name, {}), **options}
    scenario = scenario.model_copy(update={"controllers": {**scenario.controllers, name: options}})
    session = calibration.prepare(scenario, name)
    scanner = acquire.prepare(scenario)
    microscope: Microscope = scanner
    if images is not None:
        agents = list(choose_agents([images]).values())
        if len(agents) != 1:
            raise ScenarioError(f"--images {images}: a controller looks at one image")
        _check_window(scenario)
        microscope = ImagingMicroscope(scanner, scenario.scan, scenario.scan.plan, agents[0])
    return scanner, replace(session, bench=Bench(microscope, scanner, scanner))


def _check_window(scenario: Scenario) -> None:
    """Refuse images that some input would bring out of the scan's window; the scans before and after have no inputs.

    Raises:
        ScenarioError: with the window needed.
    """
    try:
        check_reach(scenario.scan.optics, scenario.space, scenario.day)
    except ValueError as error:
        raise ScenarioError(f"{scenario.name}: --images: scan.optics: {error}") from error


def _part(
    prepared: Prepared,
    blocks: Iterator[ScanBlock],
    truth: Floats,
    out: Path,
    progress: Callable[[Progress], None] | None,
) -> Part:
    """One scan with all agents, each of them twice more on half the dose."""
    # The state before the first block: during the scan it may drift.
    section, state_nm = prepared.scenario.scan, prepared.scanner.truth().state_nm
    chosen = choose_agents(prepared.agents)
    # Iterative agents would take three times as long.
    halves = {f"halves of {label}": label for label, agent in chosen.items() if not hasattr(agent, "finish")}
    aside: dict[str, Agent] = {name: Halves(partial(_again, prepared.agents, label)) for name, label in halves.items()}
    with open_scan(blocks, section, prepared.seed) as source:
        recorded = record(source, chosen, out, progress, truth, aside=aside)
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
    """One more of the agents."""
    return choose_agents(agents)[label]


def resolution(halves: Reconstruction, step_nm: float) -> float:
    """Information limit of two half-dose images, nm; NaN where they share nothing or have holes."""
    first, second = (image.values for image in halves.images.values())
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return math.nan
    return information_limit_nm(*ring_correlation(first, second, step_nm))


# --- the page ------------------------------------------------------------------------------------


def rows(loop: Loop) -> list[tuple[str, str, str]]:
    """Label, before, after: the figures worth comparing."""
    both = (loop.before, loop.after)
    lines: list[tuple[str, str, str]] = []

    def compare(label: str, figure: Callable[[Part], float | None], form: str) -> None:
        before, after = ("-" if part is None else _number(figure(part), form) for part in both)
        lines.append((label, before, after))

    for i, name in enumerate(loop.scenario.space.names):
        compare(f"{name}, true (nm)", lambda part, i=i: part.state_nm[i], "+.1f")  # type: ignore[misc]
    compare("half of the probe within (nm)", lambda part: part.probe_d50_nm, ".3f")
    compare("Strehl ratio", lambda part: part.strehl, ".3f")
    for label in loop.before.recorded.streamed.results:
        compare(f"{label}: correlation with truth", partial(_likeness, label=label), ".3f")
        if label in loop.before.resolution_nm:
            compare(f"{label}: resolution (nm)", partial(_resolved, label=label), ".3f")
    return lines


def problems(loop: Loop) -> list[tuple[str, str]]:
    """Which scan, and what an operator has to know of it."""
    parts = [("before", loop.before), *([] if loop.after is None else [("after", loop.after)])]
    found = [(word, words) for word, part in parts for words in part.recorded.problems]
    return [*found, ("after", loop.failure)] if loop.failure else found


def _number(value: float | None, form: str) -> str:
    if value is None:
        return "-"
    return "none" if math.isnan(value) else format(value, form)


def _likeness(part: Part, label: str) -> float | None:
    return next(iter(part.recorded.likeness.get(label, {}).values()), None)


def _resolved(part: Part, label: str) -> float | None:
    return part.resolution_nm.get(label)


def render(loop: Loop, truth: Floats) -> str:
    """The page, as text."""
    scenario = loop.scenario
    settings = yaml.safe_dump(scenario.resolved(), sort_keys=False, allow_unicode=True)
    parts = [
        report.section("Before and after", _TABLE_TEXT, _table(rows(loop))),
        *_problems(loop),
        *_pictures(loop, truth),
        report.section("Settings", "The resolved scenario.", f"<pre>{escape(settings)}</pre>"),
    ]
    title = f"{escape(scenario.name)} \u00b7 {escape(loop.controller)} \u00b7 seed {loop.seed}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{report.CSS}</style></head>\n'
        f'<body><main><h1>Scan, calibration, scan: {title}</h1><p class="lead">{_headline(loop)}</p>\n'
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


_TABLE_TEXT = (
    "True aberrations at the begin of each scan, the probe that they make, and for every agent the normalised"
    " cross-correlation of its image with the true phase and the finest detail that reconstructions of two halves of"
    " the dose share (Fourier ring correlation above 1/7; none: they share nothing)."
)


def _headline(loop: Loop) -> str:
    """HTML, with a link to the calibration's own page."""
    result = loop.calibrated
    if result is None:
        return "interrupted before the calibration"
    words = f"Calibration: {escape(report.headline(result))}."
    if result.report is None:
        return words
    page = result.report.relative_to(loop.report.parent).as_posix()
    return f'{words} <a href="{escape(quote(page))}">Its own report</a>.'


def _table(lines: list[tuple[str, str, str]]) -> str:
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    head = "<thead><tr><th></th><th>before</th><th>after</th></tr></thead>"
    return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>'


def _problems(loop: Loop) -> list[str]:
    found = "".join(f"<li>{escape(word)}: {escape(words)}</li>" for word, words in problems(loop))
    return [report.section("Problems", "", f"<ul>{found}</ul>")] if found else []


def _pictures(loop: Loop, truth: Floats) -> list[str]:
    from scenarios.scans.reconstruction_plots import before_and_after, doubts

    sections = []
    step_nm = loop.scenario.scan.plan.step_nm
    for label, found in loop.before.recorded.streamed.results.items():
        later = None if loop.after is None else loop.after.recorded.streamed.results.get(label)
        png = before_and_after(found, later, truth, step_nm)
        words = "<br>".join(escape(line) for line in doubts(later if later is not None else found))
        sections.append(report.section(label, words, report.picture(png, f"{label} before and after")))
    return sections
