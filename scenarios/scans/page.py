"""The page of a scan, a calibration and the same scan again."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import yaml

from scenarios.calibration.page import headline
from scenarios.page import Items, Listing, Picture, Section, Table, page
from twin.arrays import Floats

if TYPE_CHECKING:
    from scenarios.scans.before_and_after import Loop, Part


_TABLE_TEXT = (
    "True aberrations at the beginning of each scan and the probe that they make; for every agent the normalised"
    " cross-correlation of its image with the true phase, and the resolution: the finest detail that the"
    " reconstructions of two halves of the dose share (Fourier ring correlation above 1/7; none: uncorrelated)."
)


def render(loop: "Loop", truth: Floats) -> str:
    """Return the page; `truth` is the true phase in the shape of the scan."""
    found = problems(loop)
    settings = yaml.safe_dump(loop.scenario.resolved(), sort_keys=False, allow_unicode=True)
    sections = [
        Section("Before and after", _TABLE_TEXT, [Table(["", "before", "after"], rows(loop))]),
        *([Section("Problems", "", [Items([f"{scan}: {words}" for scan, words in found])])] if found else []),
        *_pictures(loop, truth),
        Section("Settings", "The resolved scenario.", [Listing(settings)]),
    ]
    title = f"Scan, calibration, scan: {loop.scenario.name} · {loop.controller} · seed {loop.seed}"
    return page(title, _lead(loop), sections, _link(loop))


def rows(loop: "Loop") -> list[tuple[str, str, str]]:
    """Return label, before and after of every figure."""
    both = (loop.before, loop.after)
    lines: list[tuple[str, str, str]] = []

    def compare(label: str, figure: "Callable[[Part], float | None]", form: str) -> None:
        before, after = ("-" if part is None else _number(figure(part), form) for part in both)
        lines.append((label, before, after))

    for i, name in enumerate(loop.scenario.space.names):
        compare(f"{name}, true (nm)", lambda part, i=i: part.state_nm[i], "+.1f")  # type: ignore[misc]
    compare("half of the probe within (nm)", lambda part: part.probe_d50_nm, ".3f")
    compare("Strehl ratio", lambda part: part.strehl, ".3f")
    for label in loop.before.recorded.streamed.results:
        compare(f"{label}: correlation with truth", partial(_likeness, label=label), ".3f")
        if label in loop.before.resolution_nm:
            compare(f"{label}: resolution (nm)", lambda part, label=label: part.resolution_nm.get(label), ".3f")  # type: ignore[misc]
    return lines


def problems(loop: "Loop") -> list[tuple[str, str]]:
    """Return scan ("before" or "after") and message of every problem."""
    parts = [("before", loop.before), *([] if loop.after is None else [("after", loop.after)])]
    found = [(scan, words) for scan, part in parts for words in part.recorded.problems]
    return [*found, ("after", loop.failure)] if loop.failure else found


def _number(value: float | None, form: str) -> str:
    if value is None:
        return "-"
    return "none" if math.isnan(value) else format(value, form)


def _likeness(part: "Part", label: str) -> float | None:
    return next(iter(part.recorded.likeness.get(label, {}).values()), None)


def _lead(loop: "Loop") -> str:
    if loop.calibrated is None:
        return "interrupted before the calibration"
    return f"Calibration: {headline(loop.calibrated)}."


def _link(loop: "Loop") -> tuple[str, str] | None:
    """Link to the calibration's own page."""
    if loop.calibrated is None or loop.calibrated.report is None:
        return None
    return ("Its own report", loop.calibrated.report.relative_to(loop.report.parent).as_posix())


def _pictures(loop: "Loop", truth: Floats) -> Sequence[Section]:
    from scenarios.scans.reconstruction_plots import before_and_after, doubts

    sections = []
    step_nm = loop.scenario.required_scan.plan.step_nm
    for label, before in loop.before.recorded.streamed.results.items():
        after = None if loop.after is None else loop.after.recorded.streamed.results.get(label)
        png = before_and_after(before, after, truth, step_nm)
        words = "\n".join(doubts(after if after is not None else before))
        sections.append(Section(label, words, [Picture(png, f"{label} before and after")]))
    return sections
