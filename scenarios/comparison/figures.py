"""Figures of a comparison: everything in summary.json, and the table of runs.

`comparison/plots.py` and `comparison/page.py` show them.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from scenarios.calibration.results import Step, Vector, write_text
from scenarios.comparison.paired import error_ratio, share_difference
from scenarios.schema import Scenario
from scenarios.strict_spec import pair_lengths_nm, within_quarter_pi, within_strict_nm
from twin.aberrations import TERMS, Aberrations, index
from twin.arrays import Array
from twin.optics import Optics
from twin.probe import QUARTER_PI_LIMIT_RAD, probe_d50_nm, residual_phase_rad, strehl_ratio
from twin.text import json_text

COMPARED_AT = (3, 5, 10, 20)
"""Observations at which controllers are compared in pairs."""

WANTED_SHARE = 0.95
"""Share of runs in spec that `observations_to_95_percent` refers to."""

DRAWN_DAYS = 3
"""Number of days whose median is the bound of a scenario with a day per seed."""


class Record(Protocol):
    """The part of `sweep.RunRecord` that figures need."""

    @property
    def seed(self) -> int: ...
    @property
    def truth_nm(self) -> Vector: ...
    @property
    def steps(self) -> tuple[Step, ...]: ...


Groups = Mapping[str, Mapping[str, Sequence[Record]]]


@dataclass(frozen=True)
class Run:
    """A record with its scenario."""

    record: Record
    scenario: Scenario
    length: int

    def step(self, observation: int) -> Step | None:
        """Return the step after that many frames; the last one of a run that stopped by itself."""
        if observation > self.length:
            return None
        return self.record.steps[min(observation, len(self.record.steps)) - 1]


def summarise(groups: Groups, scenarios: Mapping[str, Scenario], cache: Path | None = None) -> dict[str, Any]:
    """Return everything that summary.json holds.

    Args:
        groups: scenario name -> controller -> records in the order of their seeds.
        scenarios: by name, overrides applied.
        cache: folder for the Cramer-Rao bounds, which take seconds per scenario; None keeps none.

    Returns:
        `controllers` pools the scenarios, `scenarios` has each by itself. No value is infinite or NaN: a median that
        does not exist (most runs never get there) is None.
    """
    runs = {name: _runs(group, scenarios[name]) for name, group in groups.items()}
    pooled: dict[str, list[Run]] = {}
    for group in runs.values():
        for controller, found in group.items():
            pooled.setdefault(controller, []).extend(found)
    return {
        "controllers": {controller: figures(found) for controller, found in pooled.items()},
        "differences": differences(pooled),
        "scenarios": {
            name: {
                "controllers": {controller: figures(found) for controller, found in group.items()},
                **_bounds(scenarios[name], _longest(group.values()), cache),
                "differences": differences(group),
            }
            for name, group in runs.items()
        },
    }


def _runs(group: Mapping[str, Sequence[Record]], scenario: Scenario) -> dict[str, list[Run]]:
    longest = max((len(record.steps) for records in group.values() for record in records), default=0)
    return {
        controller: [Run(r, scenario, longest if scenario.task.stop else len(r.steps)) for r in records]
        for controller, records in group.items()
    }


def _longest(found: Iterable[Sequence[Run]]) -> int:
    return max((run.length for runs in found for run in runs), default=0)


# --- one controller ------------------------------------------------------------------------------


def figures(runs: Sequence[Run]) -> dict[str, Any]:
    """Return every figure of one controller."""
    reached = [_to_spec(run) for run in runs]
    by_observation = {str(k): _at(runs, k) for k in range(1, _longest([runs]) + 1)}
    return {
        "runs": len(runs),
        "by_observation": by_observation,
        "observations_to_spec": _median(reached, lambda step: float(step.observation)),
        "simulated_s_to_spec": _median(reached, lambda step: step.simulated_s),
        "dose_e_to_spec": _median(reached, lambda step: step.dose_e),
        "observations_to_95_percent": _to_share(by_observation),
        **stop_rule([run.record.steps for run in runs]),
        "per_coefficient": _per_coefficient(runs),
        **_probe(runs),
    }


def _at(runs: Sequence[Run], observation: int) -> dict[str, float]:
    steps = [step for run in runs if (step := run.step(observation)) is not None]
    errors = [step.error_nm for step in steps]
    p10, median, p90 = np.percentile(errors, (10, 50, 90))
    return {
        "median_error_nm": float(median),
        "p10_error_nm": float(p10),
        "p90_error_nm": float(p90),
        "in_spec": float(np.mean([step.in_spec for step in steps])),
        "coverage_50": float(np.mean([step.covers_50 for step in steps])),
        "coverage_90": float(np.mean([step.covers_90 for step in steps])),
        "misfit": float(np.mean([step.misfit for step in steps])),
        **_higher_orders(runs, observation),
        **_strict(runs, observation),
        # Of the runs that had not stopped.
        "seconds_per_step": float(
            np.median([s.seconds for s in steps if s.observation == observation] or [steps[-1].seconds])
        ),
    }


def _higher_orders(runs: Sequence[Run], observation: int) -> dict[str, float]:
    """Return, beyond the first order, the median error of each pair and the share of runs within all limits.

    The limits: the first order in spec, and every other coefficient (a pair by its length) below its pi / 4 phase.
    """
    lengths: dict[str, list[float]] = {}
    good = []
    for run in runs:
        space, optics, step = run.scenario.space, run.scenario.optics, run.step(observation)
        if step is None or space.is_first_order.all():
            continue
        error, first = np.asarray(step.error_component_nm), space.is_first_order
        higher = space.only(~first)
        within = within_quarter_pi(error[~first], higher, optics)
        good.append(bool(within and np.all(np.abs(error[first]) < space.tolerance[first])))
        for name, length in pair_lengths_nm(error[~first], higher).items():
            lengths.setdefault(f"median_{name}_nm", []).append(length)
    if not good:
        return {}
    return {name: float(np.median(values)) for name, values in lengths.items()} | {
        "first_in_spec_others_within_quarter_pi": float(np.mean(good))
    }


def _strict(runs: Sequence[Run], observation: int) -> dict[str, float]:
    """Return the shares of runs within the strict limits, and the median Strehl ratio of what was calibrated."""
    left = [
        (np.asarray(step.error_component_nm), run.scenario.space, run.scenario.optics)
        for run in runs
        if (step := run.step(observation)) is not None
    ]
    return {
        "within_2_nm": float(np.mean([within_strict_nm(*found) for found in left])),
        "within_pi_4": float(np.mean([within_quarter_pi(*found) for found in left])),
        "strehl": float(np.median([strehl_ratio(space.to_aberrations(e), optics) for e, space, optics in left])),
    }


def _to_spec(run: Run) -> Step | None:
    """Return the first step after which the run stays in spec; None if it ends out of spec."""
    first = None
    for step in reversed(run.record.steps):
        if not step.in_spec:
            break
        first = step
    return first


def _median(reached: Sequence[Step | None], quantity: Callable[[Step], float]) -> float | None:
    """Return the median over runs, infinity for those that never get there; None if it is infinite."""
    median = float(np.median([math.inf if step is None else quantity(step) for step in reached]))
    return median if math.isfinite(median) else None


def _to_share(by_observation: Mapping[str, Mapping[str, float]]) -> int | None:
    """Return the first observation after which `WANTED_SHARE` of the runs stays in spec; None if it never does."""
    first = None
    for k in sorted(map(int, by_observation), reverse=True):
        if by_observation[str(k)]["in_spec"] < WANTED_SHARE:
            break
        first = k
    return first


def stop_rule(runs: Sequence[Sequence[Step]]) -> dict[str, float | None]:
    """Return how often and when the stop rule first fires, and its share of false stops (out of spec at that time)."""
    declared = [next((step for step in steps if step.done), None) for steps in runs]
    fired = [step for step in declared if step is not None]
    return {
        "false_in_spec": float(np.mean([not step.in_spec for step in fired])) if fired else None,
        "declared_in_spec": len(fired) / len(runs),
        "observations_to_declaration": _median(declared, lambda step: float(step.observation)),
    }


def _per_coefficient(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Return the absolute error of each coefficient after the last observation, over the runs that calibrate it."""
    errors: dict[str, list[float]] = {}
    for run in runs:
        for name, error in zip(run.scenario.space.names, run.record.steps[-1].error_component_nm, strict=True):
            errors.setdefault(name, []).append(abs(error))
    return {
        name: {"median_abs_nm": float(np.median(found)), "p90_abs_nm": float(np.percentile(found, 90))}
        for name, found in errors.items()
    }


def _probe(runs: Sequence[Run]) -> dict[str, Any]:
    """Return figures of the probe after correction by the last estimate.

    First with the errors of the calibrated coefficients alone, which the controller is responsible for;
    `with_residuals` adds the day's other aberrations, without their drift.
    """
    left = [(run.scenario.optics, _left(run)) for run in runs]
    whole = [
        (optics, found + run.scenario.for_seed(run.record.seed).day.residual)
        for run, (optics, found) in zip(runs, left, strict=True)
    ]
    return {**probe_figures(left), "with_residuals": probe_figures(whole)}


def _left(run: Run) -> Aberrations:
    return run.scenario.space.to_aberrations(np.asarray(run.record.steps[-1].error_component_nm))


def probe_figures(probes: Sequence[tuple[Optics, Aberrations]]) -> dict[str, dict[str, float]]:
    """Return phase over the aperture, Strehl ratio and size: medians over probes, and a share or a worse percentile."""
    phase = [residual_phase_rad(aberrations, optics) for optics, aberrations in probes]
    strehl = [strehl_ratio(aberrations, optics) for optics, aberrations in probes]
    size = [probe_d50_nm(aberrations, optics) for optics, aberrations in probes]
    perfect = [probe_d50_nm(Aberrations(), optics) for optics in dict(probes)]
    below = float(np.mean([value < QUARTER_PI_LIMIT_RAD for value in phase]))
    return {
        "residual_phase_rad": {"median": float(np.median(phase)), "share_below_quarter_pi": below},
        "strehl": {"median": float(np.median(strehl)), "p10": float(np.percentile(strehl, 10))},
        "probe_d50_nm": {
            "median": float(np.median(size)),
            "p90": float(np.percentile(size, 90)),
            "perfect": float(np.median(perfect)),
        },
    }


# --- in pairs ------------------------------------------------------------------------------------


def differences(group: Mapping[str, Sequence[Run]]) -> dict[str, dict[str, Any]]:
    """Compare every pair of controllers, "a - b", by observation; see `paired.py` for the intervals."""
    return {f"{a} - {b}": _difference(group[a], group[b]) for a, b in combinations(group, 2)}


def _difference(first: Sequence[Run], second: Sequence[Run]) -> dict[str, Any]:
    partners = {(run.scenario.name, run.record.seed): run for run in second}
    out: dict[str, Any] = {}
    for k in COMPARED_AT:
        pairs = []
        for run in first:
            partner = partners.get((run.scenario.name, run.record.seed))
            a, b = run.step(k), partner.step(k) if partner else None
            if a is not None and b is not None:
                pairs.append((a, b))
        if pairs:
            errors = [[pair[side].error_nm for pair in pairs] for side in (0, 1)]
            in_spec = [[pair[side].in_spec for pair in pairs] for side in (0, 1)]
            out[str(k)] = {"runs": len(pairs), **error_ratio(*errors), **share_difference(*in_spec)}
    return out


# --- the floor -----------------------------------------------------------------------------------


def _bounds(scenario: Scenario, observations: int, cache: Path | None) -> dict[str, dict[str, float] | None]:
    """Return the Cramer-Rao bound of the error norm by number of frames, root mean square and median, or None.

    Days that drift or stay on one region have none: their frames are not independent. Nor have spaces with coma or
    three-fold astigmatism, on which spectra of sub-areas carry far more information than that of a whole frame. For a
    scenario that draws its days: the median over the first `DRAWN_DAYS` of them.
    """
    from controller.spectrum.cramer_rao import bound_nm, median_over_rms

    drawn = [scenario.for_seed(seed) for seed in range(DRAWN_DAYS if scenario.severity is not None else 1)]
    odd_in_angle = any(TERMS[index(name)].n % 2 == 0 for name in scenario.space.names)
    if odd_in_angle or any(one.day.same_region or one.day.drift.active for one in drawn):
        return {"bound_nm": None, "bound_median_nm": None}
    information = [_information(one, cache) for one in drawn]
    rms = float(np.median([bound_nm(one, 1) for one in information]))
    if not math.isfinite(rms):
        return {"bound_nm": None, "bound_median_nm": None}
    median = rms * float(np.median([median_over_rms(one) for one in information]))
    frames = range(1, observations + 1)
    return {
        "bound_nm": {str(k): rms / math.sqrt(k) for k in frames},
        "bound_median_nm": {str(k): median / math.sqrt(k) for k in frames},
    }


def _information(scenario: Scenario, cache: Path | None) -> Array:
    """Return the Fisher information of one frame on x0, shape (n, n), per nm^2; from the cache if possible."""
    from controller.spectrum.cramer_rao import digest, frame_information

    key = digest(scenario.optics, scenario.space, scenario.day)
    path = cache / f"{key}.json" if cache else None
    if path is not None and path.exists():
        return np.asarray(json_text.loads(path.read_text(encoding="utf-8")))
    # Six digits: the same on machines and thread counts that sum in another order.
    found = np.asarray(
        [[float(f"{v:.6g}") for v in row] for row in frame_information(scenario.optics, scenario.space, scenario.day)]
    )
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(found.tolist()) + "\n")
    return found


# --- files ---------------------------------------------------------------------------------------


def write_report(summary: Mapping[str, Any], groups: Groups, scenarios: Mapping[str, Scenario], folder: Path) -> None:
    """Write `folder/report.html`, and `folder/runs.csv` with one line per observation of every run."""
    from scenarios.comparison.page import render

    write_text(folder / "runs.csv", table(groups, scenarios))
    write_text(folder / "report.html", render(summary, scenarios))


def table(groups: Groups, scenarios: Mapping[str, Scenario]) -> str:
    """Return every step of every run as CSV; a column per coefficient, empty for runs that do not calibrate it."""
    coefficients = list(dict.fromkeys(name for scenario in scenarios.values() for name in scenario.space.names))
    vectors = ("cumulative_nm", "estimate_nm", "std_nm", "error_component_nm")
    scalars = [name for name in Step.__dataclass_fields__ if not name.endswith("_nm") or name == "error_nm"]
    buffer = io.StringIO(newline="")
    rows = csv.writer(buffer)
    labels = [f"{vector.removesuffix('_nm')}_{name}_nm" for vector in vectors for name in coefficients]
    rows.writerow(["scenario", "controller", "seed", *scalars, *(f"truth_{n}_nm" for n in coefficients), *labels])
    for scenario, group in groups.items():
        names = scenarios[scenario].space.names
        for controller, records in group.items():
            for record in records:
                truth = _cells(record.truth_nm, names, coefficients)
                for step in record.steps:
                    cells = [int(v) if isinstance(v := getattr(step, name), bool) else v for name in scalars]
                    wide = [c for vector in vectors for c in _cells(getattr(step, vector), names, coefficients)]
                    rows.writerow([scenario, controller, record.seed, *cells, *truth, *wide])
    return buffer.getvalue()


def _cells(values: Vector, names: Sequence[str], columns: Sequence[str]) -> list[float | str]:
    by_name: dict[str, float] = dict(zip(names, values, strict=True))
    return [by_name.get(column, "") for column in columns]
