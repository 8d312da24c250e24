"""The share that continuous integration runs, against its committed figures of the same seeds."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.reality import figures
from benchmarks.reality.figures import Run
from benchmarks.regression import BaselineError, sign_flip_p
from scenarios.calibration.results import write_text
from scenarios.versions import versions

BASELINE = Path(__file__).parents[1] / "baselines" / "reality.json"

LEVEL = 0.05
"""Probability that a change which moves figures at random fails by chance, all tests together (Bonferroni)."""
LOST_IN_SPEC, MORE_WRONG = 0.03, 0.01
"""Change of a share from which on it matters."""


def verdict(runs: Mapping[str, Run]) -> dict[str, list[int]]:
    """Per run: in spec after five frames, and declared calibrated while it was not."""
    return {key: [int(run[min(5, len(run)) - 1]["in_spec"]), int(figures.wrong(run))] for key, run in runs.items()}


def write(path: Path, runs: Mapping[str, Mapping[str, Run]], reason: str) -> None:
    """Write the verdicts of every controller's runs, by kind and seed."""
    plain = {
        "reason": reason,
        "versions": versions(),
        "in_spec_and_wrong": {controller: verdict(of_controller) for controller, of_controller in runs.items()},
    }
    text = json.dumps(plain, indent=1).replace("[\n    ", "[").replace(",\n    ", ", ").replace("\n   ]", "]")
    write_text(path, text + "\n")


def read(path: Path) -> dict[str, Any]:
    """The file.

    Raises:
        BaselineError: missing or malformed.
    """
    try:
        plain: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        plain["in_spec_and_wrong"].items()
    except FileNotFoundError:
        raise BaselineError(f"{path} does not exist: write it with --update --reason") from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise BaselineError(f"{path} is not a baseline: {error}") from error
    return plain


def compare(path: Path, runs: Mapping[str, Mapping[str, Run]]) -> tuple[list[str], bool]:
    """Lines on every controller, and whether a share has become worse, significantly and by enough to matter.

    Raises:
        BaselineError: the baseline is missing or of other runs.
    """
    before = read(path)
    lines, worse = [], False
    for controller, of_controller in runs.items():
        known, now = before["in_spec_and_wrong"].get(controller), verdict(of_controller)
        if known is None or known.keys() != now.keys():
            raise BaselineError(f"{path} is of other runs of {controller}: write a new one with --update --reason")
        for line, failed in _changes(controller, known, now, 0.5 * LEVEL / len(runs)):
            lines.append(line)
            worse = worse or failed
    return [*lines, f"baseline: {before['reason']}"], worse


def _changes(
    controller: str, known: Mapping[str, list[int]], now: Mapping[str, list[int]], level: float
) -> Iterator[tuple[str, bool]]:
    old, new = (np.array([table[key] for key in known], float) for table in (known, now))
    for place, (name, sign, relevant) in enumerate((("in spec", -1, LOST_IN_SPEC), ("wrong", 1, MORE_WRONG))):
        change = sign * (new[:, place] - old[:, place])
        p = sign_flip_p(change[change != 0]) if change.any() else 1.0
        failed = bool(p < level and change.mean() > relevant)
        shares = f"{100 * old[:, place].mean():.1f} -> {100 * new[:, place].mean():.1f} %"
        yield f"{controller}: {name} {shares}, p = {p:.2g}{'  WORSE' if failed else ''}", failed
