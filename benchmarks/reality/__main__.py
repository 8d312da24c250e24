"""The table of kinds: in spec, region, declared, declared and wrong, for controllers on disturbed frames.

    python -m benchmarks.reality --runs 8 --controllers neural_posterior vae_em --out FOLDER
    python -m benchmarks.reality --kinds "two spots" vacuum --renderer fast
    python -m benchmarks.reality --share                      # few runs of every kind, on phase screens

Finished runs stay in the folder and count when it is run again.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.reality.kinds import KINDS
from benchmarks.reality.runs import run, simulated
from controller.base import load
from scenarios.schema import load as load_scenario
from twin.errors import StemtwinError, check_known


class UnknownKind(StemtwinError, ValueError):
    """No kind of disturbance has that name."""


SHOWN = (3, 5)
SHARE = ("--runs", "2", "--renderer", "fast", "--controllers", "neural_posterior", "vae_em")
"""Settings of the share that a hosted check can afford."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.reality", description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), metavar="KIND", help="names; all by default")
    parser.add_argument("--controllers", nargs="+", default=["neural_posterior", "vae_em"], metavar="NAME")
    parser.add_argument("--runs", type=int, default=8, help="seeds per kind and controller")
    parser.add_argument("--first-seed", type=int, default=9000, help="seeds are this one and those after it")
    parser.add_argument("--frames", type=int, default=5, help="Ronchigrams per run")
    parser.add_argument("--renderer", choices=("fast", "multislice"), default="multislice")
    parser.add_argument("--scenario", default="day_a", help="the day that is disturbed")
    parser.add_argument("--out", type=Path, default=Path("runs/reality"), help="folder of finished runs")
    parser.add_argument("--share", action="store_true", help="few runs of every kind, on phase screens")
    return parser


def figures(records: Sequence[Sequence[dict[str, object]]], frame: int) -> dict[str, float]:
    """Shares over runs after a number of frames; `declared` and `wrong` at any frame up to it."""
    last = [run[frame - 1] for run in records]
    first_done = [next((r for r in run[:frame] if r["done"]), None) for run in records]
    return {
        "median_nm": float(np.median([float(str(r["error_nm"])) for r in last])),
        "in_spec": float(np.mean([bool(r["in_spec"]) for r in last])),
        "covers_90": float(np.mean([bool(r["covers_90"]) for r in last])),
        "declared": float(np.mean([r is not None for r in first_done])),
        "wrong": float(np.mean([r is not None and not r["in_spec"] for r in first_done])),
        "said": float(np.mean([bool(r["misfit"] or r["reason"]) for r in last])),
    }


def finished(options: argparse.Namespace, name: str, controller: str) -> list[list[dict[str, object]]]:
    """Run what the folder does not hold yet; the records of every seed."""
    file = options.out / f"{options.scenario}_{options.renderer}_{controller}_{name.replace(' ', '_')}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    known = {}
    if file.exists():
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            known[entry["seed"], len(entry["records"])] = entry["records"]
    scenario, kind, built = load_scenario(options.scenario), KINDS[name], None
    for seed in range(options.first_seed, options.first_seed + options.runs):
        if (seed, options.frames) in known:
            continue
        if built is None:
            chosen = load(controller, scenario.optics, scenario.space)
            built = chosen, simulated(scenario.optics, scenario.space, kind, scenario.day, options.renderer)
        records = [r.plain() for r in run(*built, scenario.space, kind, options.frames, seed)]
        with file.open("a") as out:
            out.write(json.dumps({"seed": seed, "records": records}) + "\n")
        known[seed, options.frames] = records
    seeds = range(options.first_seed, options.first_seed + options.runs)
    return [known[seed, options.frames] for seed in seeds]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Exit code: 0 done, 2 bad input."""
    options = _parser().parse_args(arguments)
    if options.share:
        options = _parser().parse_args([*SHARE, *(arguments or sys.argv[1:])])
    import torch

    torch.set_num_threads(1)
    write = sys.stdout.write
    head = f"{'kind':22s} {'controller':20s} frames  median  in spec  region  declared  wrong  said\n"
    write(head)
    try:
        for name in options.kinds:
            check_known(name, KINDS, "a kind", UnknownKind)
            for controller in options.controllers:
                records = finished(options, name, controller)
                for frame in [shown for shown in SHOWN if shown <= options.frames]:
                    f = figures(records, frame)
                    shares = "  ".join(
                        f"{100 * f[key]:5.0f}%" for key in ("in_spec", "covers_90", "declared", "wrong", "said")
                    )
                    write(f"{name:22s} {controller:20s} {frame:6d}  {f['median_nm']:6.2f}  {shares}\n")
                sys.stdout.flush()
    except StemtwinError as error:
        sys.stderr.write(f"benchmarks.reality: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
