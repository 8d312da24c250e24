"""The page of a calibration run: verdict, figures, table, settings."""

import numpy as np
import yaml

from controller.base import Estimate
from scenarios.calibration.results import Result, Step
from scenarios.page import Card, Cards, Cell, Listing, Picture, Section, Table, page
from twin.types import Frame

_TABLE_TEXT = (
    "u: input applied before the exposure, nm. C ± std: estimate of the initial state after it, nm. sign: probability"
    " of the estimate's sign. error: norm of the state that a correction would leave now. in spec: every coefficient"
    " within its tolerance. 2 nm: the first order within 2 nm; π/4: every coefficient below π/4 of phase at the"
    " aperture's edge. Strehl: peak of the probe over the perfect one's, by the calibrated coefficients. in 50 %, 90 %:"
    " whether the credible region contains the truth. ms: computing time of the controller."
)
MISFIT = "outside the training distribution (OOD test)"
"""Label of a run whose last frames do not fit the controller's training days: its error may exceed its std."""


def render(result: Result) -> str:
    """Return the page. A run without observations has the verdict and the settings only."""
    scenario = result.scenario
    blocks: list[Section | Cards] = [_verdict(result)]
    if result.before is not None and result.estimate is not None:
        blocks += _figures(result, result.before, result.estimate)
        blocks.append(Section("Observations", _TABLE_TEXT, _tables(result)))
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
    if last.in_spec and last.error_nm >= min(result.scenario.space.tolerance_nm):
        return f"in spec, {_tolerances(result)}: {last.error_nm:.2f} nm from the truth in all after {taken}"
    verdict = "in spec" if last.in_spec else "out of spec"
    return f"{verdict}: {last.error_nm:.2f} nm from the truth after {taken}"


def estimated(result: Result) -> str:
    """Return the last estimate of the initial state, with standard deviations."""
    last, names = result.steps[-1], result.scenario.space.names
    values = zip(names, last.estimate_nm, last.std_nm, strict=True)
    return ", ".join(f"{name} {mean:+.2f} ± {std:.2f}" for name, mean, std in values) + " nm"


def _assurance(last: Step) -> str:
    """What to do next where there is no ground truth."""
    if last.misfit:
        return "outside the training distribution: check the frames before you rely on it"
    return "in spec by the controller's stop rule" if last.done else "not certain yet: take more observations"


def probe_line(result: Result) -> str:
    """Return the quality of the probe after the correction; empty without a correction or ground truth."""
    if result.correction is None or not result.correction.state_nm:
        return ""
    left = result.strict(result.correction.state_nm)
    return f"Strehl ratio {left['strehl']:.2f}, half of the electrons within {result.probe_d50_nm:.3f} nm"


def strict_line(result: Result) -> str:
    """Return the strict verdicts of the state after the correction; empty without one or ground truth."""
    if result.correction is None or not result.correction.state_nm:
        return ""
    left = result.strict(result.correction.state_nm)
    return (
        f"{'within' if left['within_2_nm'] else 'not within'} 2 nm,"
        f" {'within' if left['within_pi_4'] else 'not within'} π/4 of phase at the aperture's edge"
    )


def strict_verdict(result: Result) -> tuple[bool, str]:
    """Return whether a state after the correction that is known fulfils both strict verdicts, and that in words."""
    if result.correction is None or not result.correction.state_nm:
        return False, ""
    left = result.strict(result.correction.state_nm)
    fine = bool(left["within_2_nm"] and left["within_pi_4"])
    return fine, "strictly in spec" if fine else "not strictly"


def saturation_line(result: Result) -> str:
    """Return which frames are saturated and by how much; empty if none is."""
    cut = [step for step in result.steps if step.saturated > 0]
    if not cut:
        return ""
    worst = max(step.saturated for step in cut)
    which = f"in {len(cut)} of {_count(len(result.steps), 'frame')}"
    return f"up to {100 * worst:.2g} % of the lit pixels are saturated, {which}: lower the dose or the exposure"


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
    saturation = saturation_line(result)
    return Cards([
        *((rehearsal,) if result.dry_run else ()),
        *(scores if result.scored else [Card(estimated(result), f"estimate; {_assurance(last)}")]),
        *_probe_cards(result),
        *((Card("saturated", saturation, "bad"),) if saturation else ()),
        *((Card("stopped", result.reason, "bad"),) if result.status == "stopped" else ()),
        *((Card("OOD", MISFIT, "bad"),) if last.misfit else ()),
        Card(str(len(result.steps)), "observations" + ("" if result.status == "complete" else f", {result.status}")),
        Card(f"{last.dose_e:.2g} e", "electrons on the specimen"),
        *(Card(f"{dose:.2g} e/nm²", "dose of the most exposed region") for dose in doses),
        Card(f"{last.simulated_s:.1f} s", "instrument time"),
        Card(f"{milliseconds:.0f} ms", "controller time per observation"),
    ])  # fmt: skip


def _probe_cards(result: Result) -> list[Card]:
    """The probe after the correction, by the calibrated coefficients alone."""
    if result.correction is None or not result.correction.state_nm:
        return []
    left = result.strict(result.correction.state_nm)
    fine, words = strict_verdict(result)
    return [
        Card(words, strict_line(result), "good" if fine else ""),
        Card(f"{left['strehl']:.2f}", "Strehl ratio after the correction, by the calibrated coefficients alone"),
        Card(f"{result.probe_d50_nm:.3f} nm", "diameter with half of the electrons"),
    ]


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


MOST_TOGETHER = 4
"""Coefficients up to which inputs and estimates fit into one table."""


def _tables(result: Result) -> list[Table]:
    """Inputs and estimates by observation; of many coefficients in two tables."""
    names = result.scenario.space.names
    inputs = [f"u {name}" for name in names]
    split = len(names) > MOST_TOGETHER
    saturated = any(step.saturated > 0 for step in result.steps)
    head = [*(f"{name} ± std" for name in names), "sign"]
    head += ["error (nm)", "in spec", "2 nm", "π/4", "Strehl", "in 50 %", "in 90 %"] if result.scored else []
    head += [*(["saturated"] if saturated else []), "ms"]
    moved = [[f"{v:+.1f}" for v in step.input_nm] for step in result.steps]
    rows: list[list[str | Cell]] = []
    for step, u in zip(result.steps, moved, strict=True):
        rows.append([str(step.observation), *([] if split else u), *_row(result, step, saturated)])
    if result.scored:
        truth = [Cell(f"{value:+.1f}", strong=True) for value in result.steps[-1].truth_nm]
        rows.append(["truth", *([] if split else [""] * len(names)), *truth, *([""] * (len(head) - len(names)))])
    whole = Table(["#", *([] if split else inputs), *head], rows)
    return [whole, Table(["#", *inputs], [[str(k), *u] for k, u in enumerate(moved, 1)])] if split else [whole]


def _row(result: Result, step: Step, saturated: bool) -> list[str | Cell]:
    """Estimate, verdicts and time of an observation."""
    estimates = (f"{m:+.1f} ± {s:.1f}" for m, s in zip(step.estimate_nm, step.std_nm, strict=True))
    row: list[str | Cell] = [*estimates, f"{step.sign_probability:.2f}"]
    if result.scored:
        left = result.strict(step.error_component_nm)
        marks = map(_mark, (step.in_spec, left["within_2_nm"], left["within_pi_4"]))
        row += [f"{step.error_nm:.2f}", *marks, f"{left['strehl']:.2f}", *map(_mark, (step.covers_50, step.covers_90))]
    if saturated:
        row.append(Cell(f"{100 * step.saturated:.2g} %", kind="no" if step.saturated else ""))
    return [*row, f"{1e3 * step.seconds:.0f}"]


def _mark(yes: bool) -> Cell:
    return Cell("yes", kind="yes") if yes else Cell("no", kind="no")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
