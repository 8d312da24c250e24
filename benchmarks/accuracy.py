"""Accuracy of controllers over many seeded runs on library days, and the check that it has not got worse.

    python -m benchmarks.accuracy --scenarios day_a day_b --controllers vae_em --runs 40 --observations 20
    python -m benchmarks.accuracy --check                     # against benchmarks/baselines/accuracy_ci.json
    python -m benchmarks.accuracy --update --reason "why"     # rewrite that file

Every controller meets the same states, films and noise on the same seed. `stemtwin compare` does the same with
a folder and a report.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import regression
from benchmarks.exit_codes import exit_codes
from benchmarks.scored_runs import CI
from scenarios.comparison.executors import SweepError, lanes
from scenarios.comparison.figures import stop_rule
from scenarios.comparison.ledger import Plan, check_builds, make_plan
from scenarios.comparison.sweep import Failure, RunRecord, sweep

PRINTED = (2, 3, 5, 10, 15, 20)


def summarise(records: Sequence[RunRecord]) -> dict[str, dict[str, float]]:
    """Figures by number of observations over the runs of one controller on one day, all of one length."""
    table = {}
    for steps in zip(*(record.steps for record in records), strict=True):
        errors = [step.error_nm for step in steps]
        table[str(steps[0].observation)] = {
            "median_error_nm": float(np.median(errors)),
            "p90_error_nm": float(np.percentile(errors, 90)),
            "in_spec": float(np.mean([step.in_spec for step in steps])),
            "coverage_90": float(np.mean([step.covers_90 for step in steps])),
            "misfit": float(np.mean([step.misfit for step in steps])),
            "seconds_per_step": float(np.median([step.seconds for step in steps])),
        }
    return table


def figures(plan: Plan, workers: int) -> dict[str, Any]:
    """Run the plan with a progress bar; scenario -> controller -> `by_observation`.

    Raises:
        SweepError: a run failed.
    """
    from tqdm import tqdm

    jobs = [job for _, job in plan.jobs()]
    records: dict[tuple[str, str, int], RunRecord] = {}
    with lanes(None, workers, len(jobs)) as ready:
        for outcome in tqdm(sweep(jobs, ready), total=len(jobs), desc="runs"):
            if isinstance(outcome, Failure):
                raise SweepError(f"{outcome.job}: {outcome.error}")
            records[outcome.scenario, outcome.controller, outcome.seed] = outcome
    return {
        scenario: {
            controller: of_controller([records[scenario, controller, seed] for seed in plan.seeds])
            for controller in plan.controllers
        }
        for scenario in plan.scenarios
    }


def of_controller(records: Sequence[RunRecord]) -> dict[str, Any]:
    """Figures by number of observations, and of the stop rule."""
    return {"by_observation": summarise(records), **stop_rule([record.steps for record in records])}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Accuracy of controllers over many seeded runs.")
    parser.add_argument("--scenarios", nargs="+", default=["day_a", "day_b", "day_c"], help="library names or files")
    parser.add_argument("--controllers", nargs="+", default=["vae_em"], help="names, with options as NAME:a=b,c=d")
    parser.add_argument("--runs", type=int, default=40, help="seeds per scenario and controller")
    parser.add_argument("--first-seed", type=int, default=0, help="seeds are this one and those after it")
    parser.add_argument("--observations", type=int, default=20, help="Ronchigrams per run")
    parser.add_argument(
        "--set", nargs="*", default=[], dest="overrides", metavar="KEY=VALUE", help="scenario overrides"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path, help="write the JSON object here too")
    guard = parser.add_argument_group("regression check, on a small fixed set of its own")
    guard.add_argument("--check", action="store_true", help="compare with the baseline; exit 1 when worse")
    guard.add_argument("--update", action="store_true", help="write a new baseline")
    guard.add_argument("--reason", help="with --update: why the figures may change")
    guard.add_argument("--rows", nargs="+", default=[], metavar="ROW", help="only these rows of the baseline")
    guard.add_argument("--baseline", type=Path, default=regression.BASELINE, help="the baseline's file")
    return parser


@exit_codes("benchmarks.accuracy")
def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Exit code: 0 done, 1 worse than the baseline or a run failed, 2 bad input, 130 Ctrl-C."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.update and not options.reason:
        parser.error("--update needs --reason: a baseline says why it changed")
    if options.update:
        regression.update(CI, options.baseline, options.reason, options.workers, options.rows)
        return 0
    if options.check:
        return regression.check(CI, options.baseline, options.workers, options.rows)
    seeds = range(options.first_seed, options.first_seed + options.runs)
    plan = make_plan(options.scenarios, tuple(options.controllers), seeds, options.observations, options.overrides)
    check_builds(plan)
    found = figures(plan, options.workers)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    if options.json:
        print(json.dumps(found))
    else:
        _print(found)
    return 0


def _print(found: Mapping[str, Any]) -> None:
    row = "{:10s} {:34s} {:>6} {:>8} {:>7} {:>8} {:>8} {:>5}"
    print(row.format("scenario", "controller", "frames", "median", "p90", "in spec", "cover90", "ms"))
    for scenario, controllers in found.items():
        for controller, figure in controllers.items():
            for k, f in figure["by_observation"].items():
                if int(k) in PRINTED:
                    errors = (f"{f['median_error_nm']:.2f}", f"{f['p90_error_nm']:.1f}")
                    shares = (f"{f['in_spec']:.2f}", f"{f['coverage_90']:.2f}")
                    print(row.format(scenario, controller, k, *errors, *shares, f"{1e3 * f['seconds_per_step']:.0f}"))


if __name__ == "__main__":
    sys.exit(main())
