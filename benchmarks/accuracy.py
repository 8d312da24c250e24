"""Accuracy of controllers over many seeded runs on library days.

    python -m benchmarks.accuracy --scenarios day_a day_b --controllers vae_em --runs 40 --observations 20

Every controller meets the same states, films and noise on the same seed.
"""

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scenarios.run import Session, observe, prepare
from scenarios.schema import load

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Job:
    """One run: `controller` may carry options, `vae_em:hard=true,candidates=500`."""

    scenario: str
    controller: str
    seed: int
    observations: int
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """Per observation: error norm, in spec, covered by the 90 % region, compute time; arrays of shape (T,)."""

    job: Job
    error_nm: Array
    in_spec: NDArray[np.bool_]
    covered_90: NDArray[np.bool_]
    seconds: Array


@lru_cache(maxsize=4)
def _session(scenario: str, controller: str, observations: int, overrides: tuple[str, ...]) -> Session:
    """Instrument and controller, kept in the worker: an atomic film takes seconds to build."""
    name, _, options = controller.partition(":")
    changes = [f"task.observations={observations}", *overrides]
    changes += [f"controllers.{name}.{option}" for option in options.split(",") if option]
    return prepare(load(scenario, changes), name)


def run(job: Job) -> Outcome:
    """One seeded run, start to end."""
    session = _session(job.scenario, job.controller, job.observations, job.overrides)
    steps = [step for step, _, _ in observe(session, job.seed)]
    return Outcome(
        job,
        np.array([s.error_nm for s in steps]),
        np.array([s.in_spec for s in steps]),
        np.array([s.covers_90 for s in steps]),
        np.array([s.seconds for s in steps]),
    )


def sweep(jobs: list[Job], workers: int) -> Iterator[Outcome]:
    """Outcomes in the order of the jobs."""
    if workers == 1:
        yield from map(run, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(run, jobs)


def summarise(outcomes: list[Outcome]) -> dict[str, dict[str, float]]:
    """Figures by number of observations over the runs of one controller on one day."""
    errors = np.stack([o.error_nm for o in outcomes])
    table = {}
    for k in range(1, errors.shape[1] + 1):
        column = errors[:, k - 1]
        table[str(k)] = {
            "median_error_nm": float(np.median(column)),
            "p90_error_nm": float(np.percentile(column, 90)),
            "in_spec": float(np.mean([o.in_spec[k - 1] for o in outcomes])),
            "coverage_90": float(np.mean([o.covered_90[k - 1] for o in outcomes])),
            "seconds_per_step": float(np.median([o.seconds[k - 1] for o in outcomes])),
        }
    return table


def main() -> None:
    """Run the sweep with a progress bar; print a table or JSON."""
    from tqdm import tqdm

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
    options = parser.parse_args()
    pairs = [(s, c) for s in options.scenarios for c in options.controllers]
    jobs = [
        Job(s, c, seed, options.observations, tuple(options.overrides))
        for s, c in pairs
        for seed in range(options.first_seed, options.first_seed + options.runs)
    ]
    for scenario, controller in pairs:  # refuse bad names before any work
        _session(scenario, controller, options.observations, tuple(options.overrides))
    _session.cache_clear()
    outcomes: dict[tuple[str, str], list[Outcome]] = {pair: [] for pair in pairs}
    for outcome in tqdm(sweep(jobs, options.workers), total=len(jobs), desc="runs"):
        outcomes[outcome.job.scenario, outcome.job.controller].append(outcome)
    figures: dict[str, Any] = {}
    for (scenario, controller), found in outcomes.items():
        figures.setdefault(scenario, {})[controller] = {"by_observation": summarise(found)}
    if options.out:
        options.out.write_text(json.dumps(figures, indent=1) + "\n")
    if options.json:
        print(json.dumps(figures))
    else:
        _print(figures)


def _print(figures: dict[str, Any]) -> None:
    row = "{:10s} {:34s} {:>6} {:>8} {:>7} {:>8} {:>8} {:>5}"
    print(row.format("scenario", "controller", "frames", "median", "p90", "in spec", "cover90", "ms"))
    for scenario, controllers in figures.items():
        for controller, figure in controllers.items():
            for k, f in figure["by_observation"].items():
                if int(k) in (2, 3, 5, 10, 15, 20):
                    errors = (f"{f['median_error_nm']:.2f}", f"{f['p90_error_nm']:.1f}")
                    shares = (f"{f['in_spec']:.2f}", f"{f['coverage_90']:.2f}")
                    print(row.format(scenario, controller, k, *errors, *shares, f"{1e3 * f['seconds_per_step']:.0f}"))


if __name__ == "__main__":
    main()
