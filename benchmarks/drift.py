"""Calibration under drift: who holds it for 30 simulated minutes at one frame per 10 s (docs/drift.md).

    python -m benchmarks.drift --runs 8 --set renderer=fast [--out drift.png] [--json]

Finished runs stay in a folder and count when it is run again. Two figures per frame: the error of the estimate, which
is what the best correction would leave, and how far the state itself is from zero, which is what a user would see
without one.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.exit_codes import exit_codes
from scenarios.calibration.results import Step
from scenarios.comparison.executors import SweepError, lanes
from scenarios.comparison.ledger import Ledger, check_builds, group, make_plan, split_controllers
from scenarios.comparison.sweep import Failure, RunRecord
from twin.arrays import Array

SCENARIO = "day_drift"
CONTROLLERS = "vae_em,neural_posterior,neural_posterior:memory_s=40,kalman"
SETTLED = 10
"""Calibration is to be held from this frame on."""
SHOWN = (10, 60, 120, 180)
TOLERANCE_NM = 10.0


def state_nm(step: Step) -> Array:
    """The true state at a frame, (n,): what scoring compared the estimate with."""
    parts = (step.error_component_nm, step.estimate_nm, step.cumulative_nm)
    total: Array = np.sum([np.asarray(part) for part in parts], axis=0)
    return total


def summarise(runs: Sequence[Sequence[Step]]) -> dict[str, Any]:
    """Figures of one controller over runs of one length."""
    errors = np.array([[step.error_nm for step in run] for run in runs])
    held = np.array([[step.in_spec for step in run] for run in runs])[:, SETTLED - 1 :]
    covers = np.array([[step.covers_90 for step in run] for run in runs])[:, SETTLED - 1 :]
    states = np.array([[state_nm(step) for step in run] for run in runs])
    near = np.all(np.abs(states) < TOLERANCE_NM, axis=2)[:, SETTLED - 1 :]
    distances = np.linalg.norm(states, axis=2)
    frames = errors.shape[1]
    return {
        "runs": len(runs),
        "frames": frames,
        "by_observation": {
            str(k): {
                "median_error_nm": float(np.median(errors[:, k - 1])),
                "p90_error_nm": float(np.percentile(errors[:, k - 1], 90)),
                "median_state_nm": float(np.median(distances[:, k - 1])),
            }
            for k in SHOWN
            if k <= frames
        },
        "in_spec": float(held.mean()),
        "runs_always_in_spec": float(held.all(axis=1).mean()),
        "state_in_spec": float(near.mean()),
        "coverage_90": float(covers.mean()),
        "seconds_per_step": float(np.median([step.seconds for run in runs for step in run])),
        "curve": {
            "minutes": [step.simulated_s / 60 for step in runs[0]],
            "median_nm": np.median(errors, axis=0).tolist(),
            "low_nm": np.percentile(errors, 10, axis=0).tolist(),
            "high_nm": np.percentile(errors, 90, axis=0).tolist(),
            "state_nm": np.median(distances, axis=0).tolist(),
        },
    }


def figures(
    controllers: str, runs: int, frames: int | None, overrides: Sequence[str], workers: int, folder: Path
) -> dict[str, Any]:
    """Run what `folder` does not hold yet; controller -> figures.

    Raises:
        ScenarioError: a bad override, an unknown controller, or a folder with runs of other settings.
        SweepError: a run failed.
    """
    from tqdm import tqdm

    plan = make_plan([SCENARIO], split_controllers(controllers), range(runs), frames, overrides)
    check_builds(plan)
    ledger = Ledger(folder)
    records: dict[tuple[str, str, int], RunRecord] = ledger.finished(plan, resume=True)
    ledger.enter(plan)
    total = sum(1 for _ in plan.jobs())
    with lanes(None, workers, total - len(records)) as ready:
        for outcome in tqdm(ledger.complete(plan, records, ready), total=total, initial=len(records), desc="runs"):
            if isinstance(outcome, Failure):
                raise SweepError(f"{outcome.job}: {outcome.error}")
    of_each = group(plan, records, plan.controllers)[SCENARIO]
    return {name: summarise([record.steps for record in found]) for name, found in of_each.items()}


STYLES = (("#8a94a0", "-"), ("#c2410c", "--"), ("#0f766e", "-."), ("#1d4ed8", "-"), ("#7c3aed", ":"))
"""Colour and line of each controller, in their order."""


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Error of the estimate and distance of the state from zero against time; medians, and the error's band."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.0), layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, sharex=True)
    for (name, values), (colour, line) in zip(found.items(), STYLES, strict=False):
        curve = values["curve"]
        minutes = curve["minutes"]
        left.plot(minutes, curve["median_nm"], line, color=colour, label=name, linewidth=1.5)
        left.fill_between(minutes, curve["low_nm"], curve["high_nm"], color=colour, alpha=0.1, linewidth=0)
        right.plot(minutes, curve["state_nm"], line, color=colour, linewidth=1.5)
    left.set(ylabel="error of the estimate (nm)", yscale="log", ylim=(0.3, 60))
    left.set_title("What the best correction leaves: median, 10-90 %", loc="left", fontsize=10)
    right.set(ylabel="distance of the state from zero (nm)", yscale="log", ylim=(1, 100))
    right.set_title("Where the instrument stands meanwhile: median", loc="left", fontsize=10)
    for axes in (left, right):
        axes.axhline(TOLERANCE_NM, color="#1b2733", linewidth=0.8, linestyle=(0, (2, 3)))
        axes.set(xlabel="instrument time (min)", xlim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
    right.annotate("tolerance of a component", (1, TOLERANCE_NM), (0, -3), ("axes fraction", "data"), "offset points",
                   ha="right", va="top", fontsize=8)  # fmt: skip
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=140)


def report(found: Mapping[str, Any]) -> None:
    """The table."""
    row = "{:36s} {:>5} {:>8} {:>7} {:>8} | {:>8} {:>8} {:>8} {:>5}"
    print(row.format("controller", "frame", "median", "p90", "state", "in spec", "state in", "cover90", "ms"))
    for name, values in found.items():
        shares = [f"{values[key]:.3f}" for key in ("in_spec", "state_in_spec", "coverage_90")]
        rest = [*shares, f"{1e3 * values['seconds_per_step']:.0f}"]
        for k, figure in values["by_observation"].items():
            cells = [f"{figure[key]:.2f}" for key in ("median_error_nm", "p90_error_nm", "median_state_nm")]
            print(row.format(name, k, *cells, *rest))
            name, rest = "", [""] * len(rest)


@exit_codes("benchmarks.drift")
def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Exit code: 0 done, 1 a run failed, 2 bad input, 130 Ctrl-C."""
    parser = argparse.ArgumentParser(description="Error under drift over 30 simulated minutes.")
    parser.add_argument("--controllers", default=CONTROLLERS, help="names, with options as NAME:a=b,c=d")
    parser.add_argument("--runs", type=int, default=8, help="seeds per controller")
    parser.add_argument("--observations", type=int, help="frames per run [default: the scenario's, 180]")
    parser.add_argument("--set", nargs="*", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument(
        "--runs-in", type=Path, default=Path("runs/drift"), help="folder of the runs; those in it count"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/drift.png"), help="figure to write")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args(arguments)
    asked = (options.controllers, options.runs, options.observations, options.overrides)
    found = figures(*asked, options.workers, options.runs_in)
    draw(found, options.out)
    if options.json:
        print(json.dumps(found))
    else:
        report(found)
        print(f"figure: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
