"""One self-contained HTML page per run: the verdict, the pictures, the table, the settings.

Nothing is loaded from elsewhere: figures travel inside as PNG.
"""

import base64
from html import escape

import numpy as np
import yaml

from controller.base import Estimate
from scenarios.calibration.results import Result, Step
from twin.types import Frame

CSS = """
:root { --ink: #1b2733; --soft: #5d6b78; --line: #dfe4e9; --good: #15803d; --bad: #b91c1c; --paper: #f6f7f9; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.05rem; margin: 0 0 4px; }
.lead { color: var(--soft); margin: 2px 0 18px; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px; margin-top: 16px; }
section > p { color: var(--soft); margin: 0 0 12px; }
img { display: block; width: 100%; height: auto; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(145px, 1fr)); gap: 12px; }
.card { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; }
.card b { display: block; font-size: 1.25rem; font-weight: 650; white-space: nowrap; }
.card span { color: var(--soft); font-size: .85rem; }
.card.good { border-color: var(--good); } .card.good b { color: var(--good); }
.card.bad { border-color: var(--bad); } .card.bad b { color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .84rem; }
th, td { padding: 4px 7px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; } td:first-child, th:first-child { text-align: left; }
.yes { color: var(--good); } .no { color: var(--bad); }
pre { background: var(--paper); padding: 12px; border-radius: 6px; overflow-x: auto; font-size: .82rem; margin: 0; }
"""

_TABLE_TEXT = (
    "u: input applied before the exposure, nm. C ± std: initial state as believed after it, nm. sign: probability of"
    " that sign. error: norm of the state that a correction would leave now. in 50 %, 90 %: whether the credible"
    " region holds the truth. ms: controller computing time."
)


def render(result: Result) -> str:
    """The page, as text. A run without a single observation yields the verdict and the settings only."""
    scenario = result.scenario
    parts = [_verdict(result)]
    if result.before is not None and result.estimate is not None:
        parts += _figures(result, result.before, result.estimate)
        parts.append(section("Observations", _TABLE_TEXT, _table(result)))
    settings = yaml.safe_dump(scenario.resolved(), sort_keys=False, allow_unicode=True)
    parts.append(
        section("Settings", "The resolved scenario; config.yaml beside this page.", f"<pre>{escape(settings)}</pre>")
    )
    title = f"{escape(scenario.name)} · {escape(result.controller)} · seed {result.seed}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{CSS}</style></head>\n'
        f'<body><main><h1>Calibration of {title}</h1><p class="lead">{escape(scenario.description)}</p>\n'
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


def headline(result: Result) -> str:
    """The verdict in words, one line."""
    taken = _count(len(result.steps), "observation")
    if result.status == "interrupted":
        return f"interrupted after {taken}"
    if result.status == "stopped":
        return f"stopped after {taken}: {result.reason}"
    if not result.scored:
        return f"corrected after {taken}; nobody knows the truth here"
    last = result.steps[-1]
    verdict = "in spec" if last.in_spec else "out of spec"
    return f"{verdict}: {last.error_nm:.2f} nm from the truth after {taken}"


MISFIT = "the controller says that this day is unlike those it was trained for"
"""Said of a run that ends so: its estimate may be off by more than it thinks."""


def _verdict(result: Result) -> str:
    if not result.steps:
        return f'<div class="cards">{_card(result.status, result.reason or "no observation was taken", "bad")}</div>'
    last = result.steps[-1]
    scores = [
        _card("in spec" if last.in_spec else "out of spec", _tolerances(result), "good" if last.in_spec else "bad"),
        _card(f"{last.error_nm:.2f} nm", "error of the estimate"),
    ]
    doses = [result.cost["most_e_per_nm2"]] if result.cost else []
    cards = [
        *(scores if result.scored else ()),
        *((_card("stopped", result.reason, "bad"),) if result.status == "stopped" else ()),
        *((_card("unlike training", MISFIT, "bad"),) if last.misfit else ()),
        _card(str(len(result.steps)), "observations" + ("" if result.status == "complete" else f", {result.status}")),
        _card(f"{last.dose_e:.2g} e", "electrons on the specimen"),
        *(_card(f"{dose:.2g} e/nm²", "dose of the most exposed region") for dose in doses),
        _card(f"{last.simulated_s:.1f} s", "instrument time"),
        _card(f"{1e3 * float(np.median([s.seconds for s in result.steps])):.0f} ms", "controller time per observation"),
    ]
    return f'<div class="cards">{"".join(cards)}</div>'


def _tolerances(result: Result) -> str:
    """Coefficients of equal tolerance together."""
    space = result.scenario.space
    if len(set(space.tolerance_nm)) == 1:
        return f"every coefficient within {space.tolerance_nm[0]:g} nm"
    groups: dict[float, list[str]] = {}
    for name, tolerance in zip(space.names, space.tolerance_nm, strict=True):
        groups.setdefault(tolerance, []).append(name)
    return "; ".join(f"{', '.join(names)} within {tolerance:g} nm" for tolerance, names in groups.items())


def _figures(result: Result, before: Frame, estimate: Estimate) -> list[str]:
    from scenarios.calibration import plots

    scenario, space = result.scenario, result.scenario.space
    after = result.correction.frame if result.correction else None
    truth = np.asarray(result.steps[-1].truth_nm) if result.scored else np.full(space.dimension, np.nan)
    parts = [
        section(
            "Ronchigram and power spectrum",
            _correction_text(result),
            picture(plots.ronchigrams(before, after, scenario.optics), "Ronchigrams and power spectra"),
        ),
        section(
            "What the controller believes about the initial state",
            f"Probability of the estimate's sign against its mirror image: {estimate.sign_probability:.3f}.",
            picture(plots.posterior(estimate, truth, space), "Posterior of the initial state"),
        ),
    ]
    if result.scored:
        text = "A calibrated posterior forecasts its own error: the curves run together, the points stay in the bands."
        curve = picture(plots.error_curve(result.steps, space), "Error against the number of observations")
        parts.append(section("Error and uncertainty", text, curve))
    return parts


def _correction_text(result: Result) -> str:
    if result.correction is None:
        return "The run ended before the correction was applied."
    if not result.scored:
        return "Before and after the correction. Spectra: log scale, black is shot noise."
    names = result.scenario.space.names
    left = ", ".join(f"{n} {v:+.2f}" for n, v in zip(names, result.correction.state_nm, strict=True))
    return escape(f"True state after the correction: {left} nm. Spectra: log scale, black is shot noise.")


def _table(result: Result) -> str:
    names = result.scenario.space.names
    head = ["#", *(f"u {n}" for n in names), *(f"{n} ± std" for n in names)]
    head += ["sign", "error (nm)", "in spec", "in 50 %", "in 90 %", "ms"]
    rows = "".join(_table_row(step) for step in result.steps)
    told = result.steps[-1].truth_nm if result.scored else ()
    truth = "".join(f"<td><b>{value:+.1f}</b></td>" for value in told)
    foot = f'<tr><td>truth</td><td colspan="{len(names)}"></td>{truth}<td colspan="6"></td></tr>'
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{rows}{foot}</tbody></table></div>'


def _table_row(step: Step) -> str:
    cells = [str(step.observation), *(f"{v:+.1f}" for v in step.input_nm)]
    cells += [f"{m:+.1f} ± {s:.1f}" for m, s in zip(step.estimate_nm, step.std_nm, strict=True)]
    known = bool(np.isfinite(step.error_nm))
    scores = [f"{step.error_nm:.2f}", *map(_mark, (step.in_spec, step.covers_50, step.covers_90))]
    cells += [f"{step.sign_probability:.2f}", *(scores if known else ["", "", "", ""]), f"{1e3 * step.seconds:.0f}"]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _mark(yes: bool) -> str:
    return '<span class="yes">yes</span>' if yes else '<span class="no">no</span>'


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _card(value: str, label: str, kind: str = "") -> str:
    return f'<div class="card {kind}"><b>{escape(value)}</b><span>{escape(label)}</span></div>'


def section(title: str, text: str, body: str) -> str:
    """A box of the page; `text` and `body` are HTML."""
    return f"<section><h2>{escape(title)}</h2><p>{text}</p>{body}</section>"


def picture(png: bytes, alt: str) -> str:
    """An image that travels inside the page."""
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
