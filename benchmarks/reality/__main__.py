"""The table of kinds: in spec, region, declared, declared and wrong, for controllers on days unlike training.

    python -m benchmarks.reality --runs 8 --controllers neural_posterior vae_em --workers 2
    python -m benchmarks.reality --kinds vibration vacuum --renderer fast
    python -m benchmarks.reality --kinds optics cameras         # groups: days, others, optics, cameras
    python -m benchmarks.reality --share                        # few runs on phase screens, against the baseline
    python -m benchmarks.reality --share --update --reason "why"

Every share stands with its 95 % interval (Wilson). Finished runs stay in the folder and count when it is run again.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.exit_codes import exit_codes
from benchmarks.reality import baseline, figures
from benchmarks.reality.figures import Run
from benchmarks.reality.kinds import GROUPS, KINDS
from benchmarks.reality.runs import Job, run_all
from twin.errors import StemtwinError, check_known


class UnknownKind(StemtwinError, ValueError):
    """No kind or group has that name."""


SHARE = ("--runs", "1", "--frames", "5", "--renderer", "fast", "--first-seed", "85000", "--kinds", "days", "others")
"""Settings of the share that continuous integration runs, on seeds of its own."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks.reality", description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", default=list(GROUPS), metavar="KIND", help="names or groups; all")
    parser.add_argument("--controllers", nargs="+", default=["neural_posterior", "vae_em"], metavar="NAME")
    parser.add_argument("--runs", type=int, default=8, help="seeds per kind and controller")
    parser.add_argument("--first-seed", type=int, default=80000, help="seeds are this one and those after it")
    parser.add_argument("--frames", type=int, default=8, help="Ronchigrams per run")
    parser.add_argument("--renderer", choices=("fast", "multislice"), default="multislice")
    parser.add_argument("--severity", type=float, default=1.0, help="of the random days and their departures")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path, default=Path("runs/reality"), help="folder of finished runs")
    parser.add_argument("--share", action="store_true", help="the runs of continuous integration, checked")
    parser.add_argument("--update", action="store_true", help="with --share: write a new baseline")
    parser.add_argument("--reason", help="with --update: why the figures may change")
    parser.add_argument("--baseline", type=Path, default=baseline.BASELINE, help="the baseline's file")
    return parser


def chosen(names: Sequence[str]) -> list[str]:
    """The kinds of these names and groups, each once.

    Raises:
        UnknownKind: names the nearest.
    """
    kinds: dict[str, None] = {}
    for name in names:
        check_known(name, [*GROUPS, *KINDS], "a kind", UnknownKind)
        kinds |= dict.fromkeys(GROUPS.get(name, (name,)))
    return list(kinds)


def _known(file: Path) -> dict[Job, Run]:
    if not file.exists():
        return {}
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    return {Job(**entry["job"]): entry["records"] for entry in entries}


def finished(options: argparse.Namespace) -> dict[Job, Run]:
    """Do what the folder does not hold yet; the records of every job, in the order of the table."""
    from tqdm import tqdm

    seeds = range(options.first_seed, options.first_seed + options.runs)
    settings = options.severity, options.renderer, options.frames
    jobs = [
        Job(kind, controller, seed, *settings)
        for kind in chosen(options.kinds)
        for controller in options.controllers
        for seed in seeds
    ]
    file = options.out / "runs.jsonl"
    # The share is measured anew each time: what it found before was found by other code.
    known = {} if options.share else _known(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    left = [job for job in jobs if job not in known]
    with file.open("a") as out, tqdm(total=len(left), desc="runs", disable=None) as bar:
        for job, records in run_all(left, options.workers):
            out.write(json.dumps({"job": asdict(job), "records": records}) + "\n")
            out.flush()
            known[job] = records
            bar.update()
    return {job: known[job] for job in jobs}


def _judged(options: argparse.Namespace, runs: dict[Job, Run]) -> int:
    """Compare the share with its baseline, or write that; 1 when something got worse."""
    by_controller: dict[str, dict[str, Run]] = {}
    for job, records in runs.items():
        by_controller.setdefault(job.controller, {})[f"{job.kind} {job.seed}"] = records
    if options.update:
        baseline.write(options.baseline, by_controller, options.reason)
        return 0
    lines, worse = baseline.compare(options.baseline, by_controller)
    print("\n".join(lines))
    return int(worse)


@exit_codes("benchmarks.reality")
def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Exit code: 0 done, 1 worse than the baseline, 2 bad input, 130 Ctrl-C."""
    parser, given = _parser(), list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    if options.share:
        options = parser.parse_args([*SHARE, *given])
    if options.update and not (options.share and options.reason):
        parser.error("--update needs --share, and --reason: a baseline says why it changed")
    runs = finished(options)
    results: dict[tuple[str, str], list[Run]] = {}
    for job, records in runs.items():
        results.setdefault((job.kind, job.controller), []).append(records)
    print("\n".join(figures.table(results, {name: kind.readable for name, kind in KINDS.items()})))
    return _judged(options, runs) if options.share else 0


if __name__ == "__main__":
    sys.exit(main())
