"""The page of a comparison: tables and figures; every number in it is in summary.json."""

from collections.abc import Mapping, Sequence
from typing import Any

from scenarios.comparison import plots
from scenarios.page import Cell, Details, Heading, Picture, Section, Table, page
from scenarios.schema import Scenario
from twin.probe import quarter_pi_limit_nm

Figures = Mapping[str, Any]
Row = list[str | Cell]

SHOWN_AT = ("3", "5", "10", "20")

_SCENARIO_TEXT = (
    "error: norm of the state that a correction would leave, median (90th percentile) over runs, nm. in spec: runs with"
    " every coefficient within tolerance. within 2 nm: defocus and both components of two-fold astigmatism within 2 nm,"
    " others within π/4; within π/4: no coefficient changes the phase at the aperture's edge by π/4 or more; Strehl:"
    " median, of the calibrated coefficients. to spec: observations after which half of the runs stay in spec; 95 % of"
    " runs: observations after which 95 % are in spec. coverage 50 %, 90 %: share of runs whose credible region of that"
    " probability contains the truth after the last observation. stopped: runs whose stop rule fires; false stops:"
    " share of those that were not in spec when it first fired. OOD: runs that end outside the controller's training"
    " distribution by its own test. ms: computing time per observation."
)
_ERROR_TEXT = (
    "Lines: median over runs; shade (or the bar at the end): 10th to 90th percentile. Dotted: the tolerance of each"
    " coefficient. Dashed: the Cramér-Rao bound, as the median error of an estimator that reaches it. It holds for"
    " unbiased estimators that use power spectra of independent regions, at states where a frame is informative, on a"
    " known day made of phase screens: a fit of several frames of one region, or a prior, may lie below."
)
_PROBE_TEXT = (
    "The probe after correction by the last estimate. First columns: the errors of the calibrated coefficients alone."
    " Whole probe: with the day's other aberrations, which no controller here can correct. Phase: the largest over the"
    " aperture. Strehl: peak intensity over the perfect probe's. d50: diameter that holds half of the electrons."
    " Medians over runs; coherent probe, without focal spread or source size."
)
_PAIRS_TEXT = (
    "Median ratio of the error norms on the same runs, row over column: below 1 the row is better. In brackets the 95 %"
    " percentile bootstrap interval over 10,000 resamples of whole runs; green and red where it excludes 1. The"
    " intervals are not corrected for the number of pairs: one in twenty excludes 1 by chance."
)


def render(summary: Figures, scenarios: Mapping[str, Scenario]) -> str:
    """Return the page."""
    runs = sum(figures["runs"] for figures in summary["controllers"].values())
    probes = Section("Probe after correction", f"{_PROBE_TEXT} {_limits(scenarios)}", [_probes(summary)])
    sections = [
        Section("Figures by scenario", _SCENARIO_TEXT, _overview(summary, scenarios)),
        *_pictures(summary, scenarios),
        probes,
    ]
    if summary["differences"]:
        sections.append(Section("Differences, run by run", _PAIRS_TEXT, _pairs(summary)))
    lead = (
        f"{runs} runs on {', '.join(summary['scenarios'])}; every controller met the same days, initial states, films"
        " and noise."
    )
    return page(f"Comparison of {len(summary['controllers'])} controllers", lead, sections)


def _pictures(summary: Figures, scenarios: Mapping[str, Scenario]) -> list[Section]:
    shown = [
        ("Error against observations", _ERROR_TEXT, plots.error_curves(summary, scenarios)),
        (
            "In spec against observations",
            "Share of the runs with every coefficient within tolerance, and its 95 % (Wilson) interval.",
            plots.in_spec_curves(summary),
        ),
        (
            "Coverage of the credible regions",
            "Share of runs whose credible region contains the truth. A calibrated controller follows the dotted lines;"
            " grey: where sampling alone takes it in 19 cases of 20.",
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
    return [Section(title, text, [Picture(image, title)]) for title, text, image in shown]


def _overview(summary: Figures, scenarios: Mapping[str, Scenario]) -> list[Heading | Table]:
    """Three tables per scenario: accuracy and strict limits by number of frames; frames, time and dose to spec."""
    blocks: list[Heading | Table] = []
    for scenario, of_scenario in summary["scenarios"].items():
        controllers = of_scenario["controllers"]
        blocks.append(Heading(scenario, scenarios[scenario].description))
        blocks += [_accuracy(controllers, of_scenario["bound_median_nm"]), _strict(controllers)]
        blocks.append(Table(_EFFORT_HEAD, [_effort_row(name, figures) for name, figures in controllers.items()]))
    return blocks


def _accuracy(controllers: Figures, bound_nm: Mapping[str, float] | None) -> Table:
    present = _present(controllers)
    rows: list[Row] = []
    for name, figures in controllers.items():
        steps = [figures["by_observation"].get(k) for k in present]
        errors = [Cell(f"{s['median_error_nm']:.2f}", f"({s['p90_error_nm']:.1f})") if s else "–" for s in steps]
        rows.append([name, str(figures["runs"]), *errors, *(_cell(s, "in_spec", "{:.0%}") for s in steps)])
    if bound_nm is not None:
        rows.append(["Cramér-Rao bound", "", *(f"{bound_nm[k]:.2f}" for k in present), *("" for _ in present)])
    head = ["controller", "runs", *(f"error at {k}" for k in present), *(f"in spec at {k}" for k in present)]
    return Table(head, rows)


_STRICT = (
    ("within 2 nm", "within_2_nm", "{:.0%}"),
    ("within π/4", "within_pi_4", "{:.0%}"),
    ("Strehl", "strehl", "{:.2f}"),
)


def _strict(controllers: Figures) -> Table:
    """What the error means for an image of atoms, by number of frames."""
    present = _present(controllers)
    rows: list[Row] = []
    for name, figures in controllers.items():
        steps = [figures["by_observation"].get(k) for k in present]
        rows.append([name, *(_cell(step, key, form) for _, key, form in _STRICT for step in steps)])
    return Table(["controller", *(f"{label} at {k}" for label, _, _ in _STRICT for k in present)], rows)


def _present(controllers: Figures) -> list[str]:
    """Those of `SHOWN_AT` that were reached, and the last observation."""
    taken = {k for figures in controllers.values() for k in figures["by_observation"]}
    return sorted({*SHOWN_AT, max(taken, key=int)} & taken, key=int)


def _cell(figures: Figures | None, key: str, form: str) -> str:
    return form.format(figures[key]) if figures else "–"


_EFFORT_HEAD = [
    "controller", "to spec: frames", "time (s)", "dose (e)", "95 % of runs: frames",
    "coverage 50 %", "90 %", "stopped", "false stops", "OOD", "ms",
]  # fmt: skip


def _effort_row(name: str, figures: Figures) -> Row:
    last = figures["by_observation"][str(max(map(int, figures["by_observation"])))]
    return [
        name,
        _or_dash(figures["observations_to_spec"], "{:g}"),
        _or_dash(figures["simulated_s_to_spec"], "{:.3g}"),
        _or_dash(figures["dose_e_to_spec"], "{:.2g}"),
        _or_dash(figures["observations_to_95_percent"], "{:g}"),
        f"{last['coverage_50']:.0%}",
        f"{last['coverage_90']:.0%}",
        f"{figures['declared_in_spec']:.0%}",
        _or_dash(figures["false_in_spec"], "{:.1%}"),
        f"{last['misfit']:.0%}",
        f"{1e3 * last['seconds_per_step']:.0f}",
    ]


def _limits(scenarios: Mapping[str, Scenario]) -> str:
    """State the pi / 4 limit of each calibrated coefficient, for the first scenario's aperture."""
    first = next(iter(scenarios.values()))
    names = dict.fromkeys(name for scenario in scenarios.values() for name in scenario.space.names)
    limits = ", ".join(f"{name} {quarter_pi_limit_nm(name, first.optics):.2g} nm" for name in names)
    return f"A single coefficient makes a phase of π/4 at {first.optics.convergence_mrad:g} mrad at {limits}."


def _probes(summary: Figures) -> Table:
    head = ["scenario", "controller", "phase (rad)", "below π/4", "Strehl", "d50 (pm)", "perfect d50"]
    head += ["whole probe: phase", "Strehl", "d50 (pm)"]
    rows: list[Row] = []
    for scenario, of_scenario in summary["scenarios"].items():
        for name, figures in of_scenario["controllers"].items():
            whole = figures["with_residuals"]
            rows.append([
                scenario,
                name,
                f"{figures['residual_phase_rad']['median']:.2f}",
                f"{figures['residual_phase_rad']['share_below_quarter_pi']:.0%}",
                f"{figures['strehl']['median']:.3f}",
                f"{1e3 * figures['probe_d50_nm']['median']:.0f}",
                f"{1e3 * figures['probe_d50_nm']['perfect']:.0f}",
                f"{whole['residual_phase_rad']['median']:.2f}",
                f"{whole['strehl']['median']:.3f}",
                f"{1e3 * whole['probe_d50_nm']['median']:.0f}",
            ])  # fmt: skip
    return Table(head, rows)


def _pairs(summary: Figures) -> list[Heading | Table | Details]:
    by_scenario = {name: of_scenario["differences"] for name, of_scenario in summary["scenarios"].items()}
    if len(by_scenario) > 1:
        by_scenario["all scenarios together"] = summary["differences"]
    names = list(summary["controllers"])
    blocks: list[Heading | Table | Details] = []
    for title, pairs in by_scenario.items():
        blocks += [Heading(title), *_matrix(pairs, names), _every_pair(pairs)]
    return blocks


def _matrix(pairs: Figures, names: Sequence[str]) -> list[Table]:
    """Row over column at the last observation at which all pairs are compared; nothing if there is none."""
    common = [k for k in SHOWN_AT if all(k in by_observation for by_observation in pairs.values())]
    if not common:
        return []
    rows: list[Row] = []
    for row in names:
        cells: Row = [row]
        for column in names:
            if f"{row} - {column}" in pairs:
                figures = pairs[f"{row} - {column}"][common[-1]]
                cells.append(_ratio(figures["error_ratio"], *figures["error_ratio_interval"]))
            elif f"{column} - {row}" in pairs:
                figures = pairs[f"{column} - {row}"][common[-1]]
                low, high = figures["error_ratio_interval"]
                cells.append(_ratio(1 / figures["error_ratio"], 1 / high, 1 / low))
            else:
                cells.append("–")
        rows.append(cells)
    return [Table([f"after {common[-1]} frames", *names], rows)]


def _every_pair(pairs: Figures) -> Details:
    rows: list[Row] = [
        [
            pair,
            k,
            str(figures["runs"]),
            _ratio(figures["error_ratio"], *figures["error_ratio_interval"]),
            f"{figures['in_spec_difference']:+.0%}",
            "{:+.0%} to {:+.0%}".format(*figures["in_spec_difference_interval"]),
        ]
        for pair, by_observation in pairs.items()
        for k, figures in by_observation.items()
    ]
    head = ["pair", "frames", "runs", "error ratio", "in spec, difference", "interval"]
    return Details("every pair at every number of frames", Table(head, rows))


def _ratio(ratio: float, low: float, high: float) -> Cell:
    kind = "better" if high < 1 else "worse" if low > 1 else ""
    return Cell(f"{ratio:.2f}", f"[{low:.2f}, {high:.2f}]", kind)


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)
