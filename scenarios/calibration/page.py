"""The page of a calibration run: verdict, figures, table, settings."""

import numpy as np
import yaml

from controller.base import Estimate
from scenarios.calibration.results import Result, Step
from scenarios.page import Card, Cards, Cell, Listing, Picture, Section, Table, page
from twin.probe import probe_d50_nm, strehl_ratio
from twin.types import Frame

_TABLE_TEXT = (
    "u: input applied before the exposure, nm. C ± std: estimate of the initial state after it, nm. sign: probability"
    " of the estimate's sign. error: norm of the state that a correction would leave now. in 50 %, 90 %: whether the"
    " credible region contains the truth. ms: computing time of the controller."
)
MISFIT = "outside the training distribution (OOD test)"
"""Label of a run whose last frames do not fit the controller's training days: its error may exceed its std."""


def render(result: Result) -> str:
    """Return the page. A run without observations has the verdict and the settings only."""
    scenario = result.scenario
    blocks: list[Section | Cards] = [_verdict(result)]
    if result.before is not None and result.estimate is not None:
        blocks += _figures(result, result.before, result.estimate)
        blocks.append(Section("Observations", _TABLE_TEXT, [_table(result)]))
    settings = yaml.safe_dump(scenario.resolved(), sort_keys=False, allow_unicode=True)
    blocks.append(Section("Settings", "The resolved scenario; config.yaml beside this page.", [Listing(settings)]))
    rehearsal = "DRY RUN: " if result.dry_run else ""
    title = f"{rehearsal}Calibration of {scenario.name} · {result.controller} · seed {result.seed}"
    return page(title, scenario.description, blocks)


def headline(result: Result) -> str:
    """Return the verdict in one line."""
    return f"dry run, nothing was sent: {_verdict_line(result)}" if result.dry_run else _verdict_line(result)


def _verdict_line(result: Result) -> str:
    taken = _count(len(result.steps), "observation")
    if result.status == "interrupted":
        return f"interrupted after {taken}"
    if result.status == "stopped":
        return f"stopped after {taken}: {result.reason}"
    last = result.steps[-1]
    if not result.scored:
        return f"corrected after {taken}: {estimated(result)}; {_assurance(last)}"
    verdict = "in spec" if last.in_spec else "out of spec"
    return f"{verdict}: {last.error_nm:.2f} nm from the truth after {taken}"


def estimated(result: Result) -> str:
    """Return the last estimate of the initial state, with standard deviations."""
    last, names = result.steps[-1], result.scenario.space.names
    values = zip(names, last.estimate_nm, last.std_nm, strict=True)
    return ", ".join(f"{name} {mean:+.2f} ± {std:.2f}" for name, mean, std in values) + " nm"


def _assurance(last: Step) -> str:
    """What to do next where nobody knows the truth."""
    if last.misfit:
        return "outside the training distribution: check the frames before you rely on it"
    return "in spec by the controller's stop rule" if last.done else "not certain yet: take more observations"


def probe_line(result: Result) -> str:
    """Return the quality of the probe after the correction; empty without a correction or ground truth."""
    if result.correction is None or not result.correction.state_nm:
        return ""
    left = result.scenario.space.to_aberrations(np.array(result.correction.state_nm))
    strehl, optics = strehl_ratio(left, result.scenario.optics), result.scenario.optics
    return f"Strehl ratio {strehl:.2f}, half of the electrons within {probe_d50_nm(left, optics):.3f} nm"


def _verdict(result: Result) -> Cards:
    if not result.steps:
        return Cards([Card(result.status, result.reason or "no observation was taken", "bad")])
    last = result.steps[-1]
    scores = [
        Card("in spec" if last.in_spec else "out of spec", _tolerances(result), "good" if last.in_spec else "bad"),
        Card(f"{last.error_nm:.2f} nm", "error of the estimate"),
    ]
    doses = [result.cost["most_e_per_nm2"]] if result.cost else []
    milliseconds = 1e3 * float(np.median([step.seconds for step in result.steps]))
    rehearsal = Card("dry run", "nothing was sent to the instrument; the simulator gave these frames", "bad")
    probe = probe_line(result)
    return Cards([
        *((rehearsal,) if result.dry_run else ()),
        *(scores if result.scored else [Card(estimated(result), f"estimate; {_assurance(last)}")]),
        *((Card(probe, "probe after the correction, by the calibrated coefficients"),) if probe else ()),
        *((Card("stopped", result.reason, "bad"),) if result.status == "stopped" else ()),
        *((Card("OOD", MISFIT, "bad"),) if last.misfit else ()),
        Card(str(len(result.steps)), "observations" + ("" if result.status == "complete" else f", {result.status}")),
        Card(f"{last.dose_e:.2g} e", "electrons on the specimen"),
        *(Card(f"{dose:.2g} e/nm²", "dose of the most exposed region") for dose in doses),
        Card(f"{last.simulated_s:.1f} s", "instrument time"),
        Card(f"{milliseconds:.0f} ms", "controller time per observation"),
    ])  # fmt: skip


def _tolerances(result: Result) -> str:
    """List the tolerances, coefficients of equal tolerance together."""
    space = result.scenario.space
    if len(set(space.tolerance_nm)) == 1:
        return f"every coefficient within {space.tolerance_nm[0]:g} nm"
    groups: dict[float, list[str]] = {}
    for name, tolerance in zip(space.names, space.tolerance_nm, strict=True):
        groups.setdefault(tolerance, []).append(name)
    return "; ".join(f"{', '.join(names)} within {tolerance:g} nm" for tolerance, names in groups.items())


def _figures(result: Result, before: Frame, estimate: Estimate) -> list[Section]:
    from scenarios.calibration import plots

    scenario, space = result.scenario, result.scenario.space
    after = result.correction.frame if result.correction else None
    truth = np.asarray(result.steps[-1].truth_nm) if result.scored else np.full(space.dimension, np.nan)
    ronchigrams = Picture(plots.ronchigrams(before, after, scenario.optics), "Ronchigrams and power spectra")
    posterior = Picture(plots.posterior(estimate, truth, space), "Posterior of the initial state")
    sign = f"Probability of the estimate's sign against its mirror image: {estimate.sign_probability:.3f}."
    sections = [
        Section("Ronchigram and power spectrum", _correction_text(result), [ronchigrams]),
        Section("Posterior of the initial state", sign, [posterior]),
    ]
    if result.scored:
        text = "For a calibrated posterior, error and forecast run together and the points stay in the bands."
        curve = Picture(plots.error_curve(result.steps, space), "Error against the number of observations")
        sections.append(Section("Error and uncertainty", text, [curve]))
    return sections


def _correction_text(result: Result) -> str:
    if result.correction is None:
        return "The run ended before the correction was applied."
    spectra = "Spectra: log scale, black is shot noise."
    if not result.scored:
        return f"Before and after the correction. {spectra}"
    names = result.scenario.space.names
    state = ", ".join(f"{n} {v:+.2f}" for n, v in zip(names, result.correction.state_nm, strict=True))
    return f"True state after the correction: {state} nm. {spectra}"


def _table(result: Result) -> Table:
    names = result.scenario.space.names
    head = ["#", *(f"u {n}" for n in names), *(f"{n} ± std" for n in names)]
    head += ["sign", "error (nm)", "in spec", "in 50 %", "in 90 %", "ms"]
    rows: list[list[str | Cell]] = [_row(step) for step in result.steps]
    if result.scored:
        truth = [Cell(f"{value:+.1f}", strong=True) for value in result.steps[-1].truth_nm]
        rows.append(["truth", *([""] * len(names)), *truth, *([""] * 6)])
    return Table(head, rows)


def _row(step: Step) -> list[str | Cell]:
    estimates = (f"{m:+.1f} ± {s:.1f}" for m, s in zip(step.estimate_nm, step.std_nm, strict=True))
    scores: list[str | Cell] = ["", "", "", ""]
    if np.isfinite(step.error_nm):
        scores = [f"{step.error_nm:.2f}", *map(_mark, (step.in_spec, step.covers_50, step.covers_90))]
    inputs = (f"{v:+.1f}" for v in step.input_nm)
    sign, milliseconds = f"{step.sign_probability:.2f}", f"{1e3 * step.seconds:.0f}"
    return [str(step.observation), *inputs, *estimates, sign, *scores, milliseconds]


def _mark(yes: bool) -> Cell:
    return Cell("yes", kind="yes") if yes else Cell("no", kind="no")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
