"""The page of a comparison: tables and pictures, self-contained; every figure in it is in summary.json."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from scenarios.calibration.page import CSS, picture, section
from scenarios.comparison import plots
from scenarios.schema import Scenario
from twin.probe import quarter_pi_limit_nm

Figures = Mapping[str, Any]

SHOWN_AT = ("3", "5", "10", "20")

_CSS = """
main { max-width: 1180px; } h3 { font-size: .95rem; margin: 18px 0 6px; }
td.better { background: #e6f4ea; } td.worse { background: #fdecea; } td small { color: var(--soft); }
.scroll + .scroll { margin-top: 14px; }
details { margin-top: 10px; } summary { cursor: pointer; color: var(--soft); font-size: .88rem; }
"""

_SCENARIO_TEXT = (
    "error: norm of the state that a correction would leave, median (90th percentile) over runs, nm. in spec: runs with"
    " every coefficient within tolerance. to spec: from when on half of the runs stay in spec; 95 % of runs: from when"
    " on so many are in spec. 50 % and 90 % region: how many of these hold the truth after the last observation."
    " declared: runs in which the controller's stop rule says that it is there; wrongly: the share of those that were"
    " not in spec when it first said so. unlike: runs at whose end the controller says that the day is unlike its"
    " training. ms: computing per observation."
)
_ERROR_TEXT = (
    "Lines: median over runs; shade (or the bar at the end): 10th to 90th percentile. Dotted: the tolerance of each"
    " coefficient. Dashed: the Cramér-Rao bound, as the median error of an estimator that reaches it. It holds for"
    " unbiased estimators that use power spectra of independent regions, at states where a frame says much, on a day"
    " that is fully known and made of phase screens: a fit of several frames of one region, or a prior, may lie below."
)
_PROBE_TEXT = (
    "The probe after correction by the last estimate. What calibration left: the errors of the calibrated coefficients"
    " alone. Whole probe: with the day's other aberrations, which no controller here can correct. Phase: the largest"
    " over the aperture. Strehl: peak intensity over the perfect probe's. d50: diameter that holds half of the"
    " electrons. Medians over runs; coherent probe, without focal spread or source size."
)
_PAIRS_TEXT = (
    "Median ratio of the error norms on the same runs, row over column: below 1 the row is better. In brackets the 95 %"
    " percentile bootstrap interval over 10,000 resamples of whole runs; green and red where it excludes 1. The"
    " intervals are not corrected for the number of pairs: one in twenty excludes 1 by chance."
)


def render(summary: Figures, scenarios: Mapping[str, Scenario]) -> str:
    """The page, as text."""
    runs = sum(found["runs"] for found in summary["controllers"].values())
    names = ", ".join(summary["scenarios"])
    parts = [section("Figures by scenario", _SCENARIO_TEXT, _overview(summary, scenarios))]
    parts += _pictures(summary, scenarios)
    parts.append(section("Probe after correction", f"{_PROBE_TEXT} {_limits(scenarios)}", _probes(summary)))
    if summary["differences"]:
        parts.append(section("Differences, run by run", _PAIRS_TEXT, _pairs(summary)))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Comparison of controllers</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{CSS}{_CSS}</style></head>\n'
        f"<body><main><h1>Comparison of {len(summary['controllers'])} controllers</h1>"
        f'<p class="lead">{runs} runs on {escape(names)}; every controller met the same days, initial states, films'
        " and noise.</p>\n" + "\n".join(parts) + "\n</main></body></html>\n"
    )


def _pictures(summary: Figures, scenarios: Mapping[str, Scenario]) -> list[str]:
    shown = [
        ("Error against observations", _ERROR_TEXT, plots.error_curves(summary, scenarios)),
        (
            "In spec against observations",
            "Share of the runs with every coefficient within tolerance, and its 95 % (Wilson) interval.",
            plots.in_spec_curves(summary),
        ),
        (
            "Coverage of the credible regions",
            "An honest controller runs along the dotted lines; grey is where chance alone takes it, 19 times in 20.",
            plots.coverage_curves(summary),
        ),
        (
            "Error by coefficient",
            "After the last observation: marker at the median of |error|, line up to the 90th percentile.",
            plots.coefficient_errors(summary, scenarios),
        ),
        (
            "Computing time",
            "All scenarios together: marker at the median over observations, line over their range.",
            plots.computing_time(summary),
        ),
    ]
    return [section(title, text, picture(image, title)) for title, text, image in shown]


def _overview(summary: Figures, scenarios: Mapping[str, Scenario]) -> str:
    """Two tables per scenario: accuracy by number of frames, and what it takes to get there."""
    parts = []
    for scenario, of_scenario in summary["scenarios"].items():
        controllers = of_scenario["controllers"]
        parts.append(f"<h3>{escape(scenario)}</h3><p>{escape(scenarios[scenario].description)}</p>")
        parts.append(_accuracy(controllers, of_scenario["bound_median_nm"]))
        parts.append(_table(_EFFORT_HEAD, [_effort_row(name, found) for name, found in controllers.items()]))
    return "".join(parts)


def _accuracy(controllers: Figures, bound_nm: Mapping[str, float] | None) -> str:
    taken = {k for found in controllers.values() for k in found["by_observation"]}
    last = max(taken, key=int)
    present = sorted({*SHOWN_AT, last} & taken, key=int)
    rows = []
    for name, found in controllers.items():
        steps = [found["by_observation"].get(k) for k in present]
        errors = [f"{s['median_error_nm']:.2f} <small>({s['p90_error_nm']:.1f})</small>" if s else "–" for s in steps]
        shares = [f"{s['in_spec']:.0%}" if s else "–" for s in steps]
        rows.append([_td(cell) for cell in (escape(name), str(found["runs"]), *errors, *shares)])
    if bound_nm is not None:
        floor = [f"{bound_nm[k]:.2f}" for k in present]
        rows.append([_td(cell) for cell in ("<i>Cramér-Rao bound</i>", "", *floor, *("" for _ in present))])
    head = ["controller", "runs", *(f"error at {k}" for k in present), *(f"in spec at {k}" for k in present)]
    return _table(head, rows)


_EFFORT_HEAD = [
    "controller", "to spec: frames", "time (s)", "dose (e)", "95 % of runs: frames",
    "50 % region", "90 % region", "declared", "wrongly", "unlike", "ms",
]  # fmt: skip


def _effort_row(name: str, found: Figures) -> list[str]:
    last = found["by_observation"][str(max(map(int, found["by_observation"])))]
    return [
        _td(escape(name)),
        _td(_or_dash(found["observations_to_spec"], "{:g}")),
        _td(_or_dash(found["simulated_s_to_spec"], "{:.3g}")),
        _td(_or_dash(found["dose_e_to_spec"], "{:.2g}")),
        _td(_or_dash(found["observations_to_95_percent"], "{:g}")),
        _td(f"{last['coverage_50']:.0%}"),
        _td(f"{last['coverage_90']:.0%}"),
        _td(f"{found['declared_in_spec']:.0%}"),
        _td(_or_dash(found["false_in_spec"], "{:.1%}")),
        _td(f"{last['misfit']:.0%}"),
        _td(f"{1e3 * last['seconds_per_step']:.0f}"),
    ]


def _limits(scenarios: Mapping[str, Scenario]) -> str:
    """The pi / 4 limit of each calibrated coefficient, for the first scenario's aperture."""
    first = next(iter(scenarios.values()))
    names = dict.fromkeys(name for scenario in scenarios.values() for name in scenario.space.names)
    limits = ", ".join(f"{name} {quarter_pi_limit_nm(name, first.optics):.2g} nm" for name in names)
    return f"A single coefficient makes a phase of π/4 at {first.optics.convergence_mrad:g} mrad at {limits}."


def _probes(summary: Figures) -> str:
    head = ["scenario", "controller", "phase (rad)", "below π/4", "Strehl", "d50 (pm)", "perfect d50"]
    head += ["whole probe: phase", "Strehl", "d50 (pm)"]
    rows = []
    for scenario, of_scenario in summary["scenarios"].items():
        for name, found in of_scenario["controllers"].items():
            whole = found["with_residuals"]
            rows.append([
                _td(escape(scenario)),
                _td(escape(name)),
                _td(f"{found['residual_phase_rad']['median']:.2f}"),
                _td(f"{found['residual_phase_rad']['share_below_quarter_pi']:.0%}"),
                _td(f"{found['strehl']['median']:.3f}"),
                _td(f"{1e3 * found['probe_d50_nm']['median']:.0f}"),
                _td(f"{1e3 * found['probe_d50_nm']['perfect']:.0f}"),
                _td(f"{whole['residual_phase_rad']['median']:.2f}"),
                _td(f"{whole['strehl']['median']:.3f}"),
                _td(f"{1e3 * whole['probe_d50_nm']['median']:.0f}"),
            ])  # fmt: skip
    return _table(head, rows)


def _pairs(summary: Figures) -> str:
    found = {name: of_scenario["differences"] for name, of_scenario in summary["scenarios"].items()}
    if len(found) > 1:
        found["all scenarios together"] = summary["differences"]
    names = list(summary["controllers"])
    return "".join(f"<h3>{escape(name)}</h3>{_matrix(pairs, names)}{_list(pairs)}" for name, pairs in found.items())


def _matrix(pairs: Figures, names: Sequence[str]) -> str:
    """Row over column at the last observation at which all pairs are compared."""
    common = [k for k in SHOWN_AT if all(k in by_observation for by_observation in pairs.values())]
    if not common:
        return ""
    rows = []
    for row in names:
        cells = [_td(escape(row))]
        for column in names:
            if f"{row} - {column}" in pairs:
                found = pairs[f"{row} - {column}"][common[-1]]
                cells.append(_ratio(found["error_ratio"], *found["error_ratio_interval"]))
            elif f"{column} - {row}" in pairs:
                found = pairs[f"{column} - {row}"][common[-1]]
                low, high = found["error_ratio_interval"]
                cells.append(_ratio(1 / found["error_ratio"], 1 / high, 1 / low))
            else:
                cells.append(_td("–"))
        rows.append(cells)
    return _table([f"after {common[-1]} frames", *names], rows)


def _list(pairs: Figures) -> str:
    rows = [
        [
            _td(escape(pair)),
            _td(k),
            _td(str(found["runs"])),
            _ratio(found["error_ratio"], *found["error_ratio_interval"]),
            _td(f"{found['in_spec_difference']:+.0%}"),
            _td("{:+.0%} to {:+.0%}".format(*found["in_spec_difference_interval"])),
        ]
        for pair, by_observation in pairs.items()
        for k, found in by_observation.items()
    ]
    head = ["pair", "frames", "runs", "error ratio", "in spec, difference", "interval"]
    return f"<details><summary>every pair at every count of frames</summary>{_table(head, rows)}</details>"


def _ratio(ratio: float, low: float, high: float) -> str:
    kind = "better" if high < 1 else "worse" if low > 1 else ""
    return _td(f"{ratio:.2f} <small>[{low:.2f}, {high:.2f}]</small>", kind)


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _td(html: str, kind: str = "") -> str:
    return f'<td class="{kind}">{html}</td>' if kind else f"<td>{html}</td>"


def _table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
