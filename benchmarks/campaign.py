"""The long comparisons behind docs/accuracy.md and docs/paper.md, each by its name; resumable; tables follow from them.

    python -m benchmarks.campaign                        # lists them
    python -m benchmarks.campaign hand_over --workers 2  # run it, write benchmarks/baselines/accuracy_hand_over.json
    python -m benchmarks.campaign ablation --share 10 --day day_a --fast    # a share: prints its table, stores nothing
    python -m benchmarks.campaign --tables               # rewrite the tables of the pages

A comparison is one of `stemtwin compare`: its folder, runs/campaign/NAME, has every run and a report.
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.exit_codes import exit_codes
from scenarios.comparison.executors import SweepError
from scenarios.comparison.ledger import make_plan
from scenarios.comparison.run import prepare
from scenarios.comparison.run import run as run_comparison

BASELINES = Path(__file__).parent / "baselines"
DOCS = Path(__file__).parent.parent / "docs"
PAGES = (DOCS / "accuracy.md", DOCS / "paper.md")
DIGITS = 4

SINGLE_FACTORS = (
    "day_actuator", "day_camera", "day_coma", "day_focal_spread", "day_low_dose", "day_source", "day_spherical",
    "day_thick",
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Scenarios and controllers, and the runs of each.

    Attributes:
        scenarios, controllers, runs, first_seed, observations: as `stemtwin compare` takes them.
        shown: observations with a column in the table.
        steps: by controller, what it changes about the one before it; the table then compares neighbours in pairs.
    """

    scenarios: tuple[str, ...]
    controllers: tuple[str, ...]
    runs: int
    first_seed: int
    observations: int
    shown: tuple[int, ...]
    steps: Mapping[str, str] = field(default_factory=dict)


def ladder(first: str, steps: Sequence[tuple[str, str]], last: tuple[str, str]) -> dict[str, str]:
    """Controllers with one option more each, between a first and a last one, and what each step changes.

    Example:
        >>> list(ladder("a", [("x=1", "one"), ("y=2", "two")], ("b", "the rest")))
        ['a', 'a:x=1', 'a:x=1,y=2', 'b']
    """
    rungs = [f"{first}:{','.join(option for option, _ in steps[: k + 1])}" for k in range(len(steps))]
    return {first: "all of the paper's choices", **dict(zip(rungs, (text for _, text in steps), strict=True))} | {
        last[0]: last[1]
    }


ABLATION = ladder(
    "vae_em_paper",
    (
        ("noise=by_state", "noise by state and dose"),
        ("likelihood=student_t", "Student's t likelihood"),
        ("design_effect=true", "design effect"),
        ("offset=true", "offset common to a day"),
        (
            "refinement={rounds: 1, perturb_nm: null}",
            "weights over the density of candidates, perturbed by the width of the posterior",
        ),
        ("selection=information", "input of the largest expected information"),
    ),
    ("vae_em", "up to three refinements; random training days, six latents, four day modes"),
)  # fmt: skip
"""From the paper's version to the default one, a step at a time."""
BAYESIAN_OPTIMISATION = ("bo_contrast", "bo_scalar", "bo_turbo", "bo_multi")

CAMPAIGN = {
    "neural_posterior": Comparison(("day_a", "day_b"), ("neural_posterior",), 100, 20000, 10, (2, 3, 5, 10)),
    "library_days": Comparison((*SINGLE_FACTORS, "random_1"), ("neural_posterior",), 100, 20000, 5, (3, 5)),
    "inexact_inputs": Comparison(
        ("day_actuator", "day_a"), ("neural_posterior", "neural_posterior:input_error=0.05"), 100, 20000, 10, (3, 5, 10)
    ),
    "hand_over": Comparison(("day_c",), ("neural_posterior", "neural_posterior_em"), 100, 20000, 20, (3, 5, 10, 20)),
    "hand_over_random": Comparison(
        ("random_2",), ("neural_posterior", "neural_posterior_em"), 100, 20000, 20, (3, 5, 10, 20)
    ),
    "vae_em_against_bo": Comparison(
        ("day_a",), ("vae_em", *BAYESIAN_OPTIMISATION), 100, 20000, 20, (3, 10, 20)
    ),
    "fixed_map": Comparison(("day_b",), ("vae_em", "vae_fixed"), 100, 20000, 20, (3, 5, 10, 20)),
    "second_order": Comparison(("day_a_second_order",), ("neural_posterior",), 100, 20000, 36, (10, 20, 36)),
    "second_order_rivals": Comparison(
        ("day_a_second_order",), ("vae_em", "bo_contrast", "bo_scalar", "bo_turbo", "bo_multi"), 10, 20000, 36,
        (10, 20, 36),
    ),
    "side_by_side": Comparison(
        ("day_a",),
        (
            "vae_em", "neural_posterior", "spectrum_ml", "two_ronchigram", "cnn_regression", "ppo", "coordinate_scan",
            "nelder_mead", "random",
        ),
        10, 20000, 20, (3, 10, 20),
    ),
    "error_curves": Comparison(
        ("day_a", "day_b", "day_c", "random_1"),
        ("vae_em", "vae_em_paper", "vae_em:prior_mean=false", *BAYESIAN_OPTIMISATION),
        100, 20000, 20, (3, 10, 20),
    ),
    "ablation": Comparison(("day_a", "day_b", "day_c"), tuple(ABLATION), 100, 20000, 20, (3, 10, 20), ABLATION),
}  # fmt: skip
"""In the order in which they matter."""


def run(name: str, folder: Path, workers: int) -> Path:
    """Do what is missing of a comparison and write its baseline.

    Raises:
        ScenarioError: the folder holds runs of other settings.
        SweepError: a run or a worker failed.
    """
    found = figures(CAMPAIGN[name], folder / name, workers)
    baseline(name).write_text(json.dumps(found, indent=1) + "\n")
    return baseline(name)


def figures(chosen: Comparison, folder: Path, workers: int, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Do what is missing of a comparison in a folder and return its figures by scenario.

    Raises:
        ScenarioError, SweepError: as in `run`.
    """
    seeds = range(chosen.first_seed, chosen.first_seed + chosen.runs)
    plan = make_plan(chosen.scenarios, chosen.controllers, seeds, chosen.observations, overrides)
    compared = run_comparison(prepare(plan, folder, resume=True), workers=workers)
    if compared.failures:
        raise SweepError(compared.left_out)
    return {scenario: _kept(found) for scenario, found in compared.summary["scenarios"].items()}


def baseline(name: str) -> Path:
    """File of a comparison's figures; it exists once all runs have been done."""
    return BASELINES / f"accuracy_{name}.json"


def _kept(found: Any) -> Any:
    """Figures with a few digits: a baseline is read, and its changes are looked at."""
    if isinstance(found, dict):
        return {key: _kept(value) for key, value in found.items()}
    if isinstance(found, list):
        return [_kept(value) for value in found]
    if isinstance(found, float) and math.isfinite(found) and found:
        return round(found, DIGITS - 1 - math.floor(math.log10(abs(found))))
    return found


def table(name: str) -> str:
    """The comparison's figures as a Markdown table; the command that makes them while there are none."""
    if not baseline(name).exists():
        return f"Not run yet: `python -m benchmarks.campaign {name}` ({frames(CAMPAIGN[name])} frames)."
    return markdown(CAMPAIGN[name], json.loads(baseline(name).read_text()))


def frames(chosen: Comparison) -> int:
    """Number of frames of all runs."""
    return len(chosen.scenarios) * len(chosen.controllers) * chosen.runs * chosen.observations


def markdown(chosen: Comparison, found: Mapping[str, Any]) -> str:
    """Figures by scenario as a Markdown table."""
    rows = list(_rows(found, chosen.shown, chosen.steps))
    columns = [k for k in rows[0] if any(row[k] for row in rows)]
    lines = [columns, ["---"] * len(columns), *([row[k] for k in columns] for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _rows(
    found: Mapping[str, Any], shown: Sequence[int], steps: Mapping[str, str] | None = None
) -> Iterator[dict[str, str]]:
    for scenario, of_scenario in found.items():
        before = ""
        for controller, figures in of_scenario["controllers"].items():
            at = figures["by_observation"]
            row = {"day": f"`{scenario}`"}
            if steps:
                row |= {"step": steps[controller]} | _against(before, controller, of_scenario["differences"], shown)
                before = controller
            else:
                row["controller"] = f"`{controller}`"
            for k in shown:
                row[f"{k} frames: median / p90 (nm); in spec"] = (
                    f"{at[str(k)]['median_error_nm']:.2f} / {at[str(k)]['p90_error_nm']:.1f};"
                    f" {at[str(k)]['in_spec']:.0%}"
                )
            row["coverage of the 90 % region"] = (
                " / ".join(f"{100 * at[str(k)]['coverage_90']:.0f}" for k in shown) + " %"
            )
            row |= _higher_orders(at, shown)
            row |= _strict(figures, at, shown)
            ood = [at[str(k)]["misfit"] for k in shown]
            row["OOD"] = " / ".join(f"{100 * v:.0f}" for v in ood) + " %" if any(ood) else ""
            row["stopped; false stops"] = _stopped(figures)
            row["ms per step"] = " / ".join(f"{1e3 * at[str(k)]['seconds_per_step']:.0f}" for k in shown)
            yield row


def _against(before: str, now: str, differences: Mapping[str, Any], shown: Sequence[int]) -> dict[str, str]:
    """Error of a controller over that of the one before it, the median of all pairs with its 95 % interval."""
    row = {}
    for k in shown:
        title = f"error / error before, {k} frames (95 %)"
        row[title] = ""
        if before:
            pair = differences[f"{before} - {now}"][str(k)]
            low, high = sorted(1 / bound for bound in pair["error_ratio_interval"])
            row[title] = f"{1 / pair['error_ratio']:.2f} ({low:.2f} to {high:.2f})"
    return row


def _higher_orders(at: Mapping[str, Any], shown: Sequence[int]) -> dict[str, str]:
    pairs = [key for key in at[str(shown[0])] if re.fullmatch(r"median_C\d+_nm", key)]
    row = {f"{key.split('_')[1]}, median (nm)": " / ".join(f"{at[str(k)][key]:.0f}" for k in shown) for key in pairs}
    if pairs:
        shares = [at[str(k)]["first_in_spec_others_within_quarter_pi"] for k in shown]
        row["first order in spec, the others within pi/4"] = " / ".join(f"{100 * s:.0f}" for s in shares) + " %"
    return row


def _strict(figures: Mapping[str, Any], at: Mapping[str, Any], shown: Sequence[int]) -> dict[str, str]:
    """Columns of the strict limits, where a comparison has them, and of the probe after the last frame."""
    row = {}
    if all("within_2_nm" in at[str(k)] for k in shown):
        for label, key in (("within 2 nm", "within_2_nm"), ("every coefficient within pi/4", "within_pi_4")):
            row[label] = " / ".join(f"{100 * at[str(k)][key]:.0f}" for k in shown) + " %"
    below = figures["residual_phase_rad"]["share_below_quarter_pi"]
    size_pm = 1e3 * figures["probe_d50_nm"]["median"]
    row["last frame: Strehl; d50 (pm); whole phase below pi/4"] = (
        f"{figures['strehl']['median']:.2f}; {size_pm:.0f}; {below:.0%}"
    )
    return row


def _stopped(figures: Mapping[str, Any]) -> str:
    if not figures["declared_in_spec"]:
        return "never"
    return f"{figures['declared_in_spec']:.0%}; {figures['false_in_spec']:.1%}"


MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(page: str) -> str:
    """The page with every table between `<!-- table: NAME -->` and `<!-- end -->` replaced."""
    return MARKED.sub(lambda found: f"{found[1]}{table(found[2])}\n{found[3]}", page)


@exit_codes("benchmarks.campaign")
def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Exit code: 0 done, 1 a run failed, 2 bad input, 130 Ctrl-C."""
    parser = argparse.ArgumentParser(description="The long comparisons behind docs/accuracy.md.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="comparisons to run; none lists them")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path, default=Path("runs/campaign"), help="where their folders go")
    parser.add_argument("--tables", action="store_true", help="rewrite the tables of docs/accuracy.md")
    parser.add_argument("--share", type=int, metavar="RUNS", help="only so many runs; prints the table, stores nothing")
    parser.add_argument("--day", action="append", metavar="NAME", help="with --share: only this scenario")
    parser.add_argument("--observations", type=int, metavar="N", help="with --share: only so many frames of each run")
    parser.add_argument("--fast", action="store_true", help="with --share: frames by phase screens")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in CAMPAIGN]
    if unknown:
        parser.error(f"{unknown[0]!r} is no comparison; there are {', '.join(CAMPAIGN)}")
    for name in options.names:
        print(_share(name, options) if options.share else run(name, options.out, options.workers))
    if options.tables:
        for page in PAGES:
            page.write_text(filled(page.read_text()))
    elif not options.names:
        for name, chosen in CAMPAIGN.items():
            words = f"{', '.join(chosen.controllers)} on {', '.join(chosen.scenarios)}"
            print(f"{name:20} {frames(chosen):6} frames: {words}")
    return 0


def _share(name: str, options: argparse.Namespace) -> str:
    """Table of the first runs of a comparison, on some of its days."""
    whole = CAMPAIGN[name]
    days = tuple(options.day or whole.scenarios)
    count = options.observations or whole.observations
    shown = tuple(k for k in whole.shown if k <= count)
    chosen = replace(whole, scenarios=days, runs=options.share, observations=count, shown=shown)
    overrides = ["renderer=fast"] if options.fast else []
    return markdown(chosen, figures(chosen, options.out / f"{name}_share", options.workers, overrides))


if __name__ == "__main__":
    sys.exit(main())
