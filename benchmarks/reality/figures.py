"""What a table of runs says: shares with their intervals, by kind and over all."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from scenarios.comparison.paired import wilson_interval

Run = Sequence[dict[str, Any]]
"""The records of one run as plain data, one per frame; see `runs.Record`."""

SHOWN = (3, 5, 8)
"""Frames after which the share in spec is shown."""
FAR_NM = 10.0
"""Length of an error of which a controller should warn."""


def first_claim(run: Run) -> dict[str, Any] | None:
    """The record at which the run was first declared calibrated; None if it never was."""
    return next((record for record in run if record["done"]), None)


def wrong(run: Run) -> bool:
    """Whether the run was declared calibrated while it was not."""
    claim = first_claim(run)
    return claim is not None and not claim["in_spec"]


def warned(record: dict[str, Any]) -> bool:
    """Whether the controller said that something is wrong."""
    return bool(record["misfit"] or record["reason"])


def warned_in_time(run: Run) -> bool:
    """Whether a warning came before any claim."""
    for record in run:
        if record["done"]:
            return False
        if warned(record):
            return True
    return False


def shares(runs: Sequence[Run]) -> dict[str, tuple[float, int]]:
    """Shares of the runs, each with the number of runs it is a share of.

    Returns:
        in_spec_K after K frames; holds: the 90 % region of the last frame; declared and wrong at any frame; said: a
        warning at the last of the first five frames; warned: a warning before any claim, of the runs whose error
        exceeds `FAR_NM` after three frames.
    """
    number = len(runs)
    found = {
        f"in_spec_{frame}": (_mean([run[frame - 1]["in_spec"] for run in runs]), number)
        for frame in SHOWN
        if all(len(run) >= frame for run in runs)
    }
    far = [run for run in runs if run[min(2, len(run) - 1)]["error_nm"] > FAR_NM]
    found["holds"] = _mean([run[-1]["covers_90"] for run in runs]), number
    found["declared"] = _mean([first_claim(run) is not None for run in runs]), number
    found["wrong"] = _mean([wrong(run) for run in runs]), number
    found["said"] = _mean([warned(run[min(5, len(run)) - 1]) for run in runs]), number
    found["warned"] = _mean([warned_in_time(run) for run in far]), len(far)
    return found


def median_step_s(runs: Sequence[Run]) -> float:
    """Median time of a step, without the first of each run."""
    return float(np.median([record["seconds"] for run in runs for record in run[1:] or run]))


def _mean(values: Sequence[bool]) -> float:
    return float(np.mean(values)) if values else float("nan")


WIDTH = 14


def header() -> str:
    """The table's head."""
    names = [f"in spec {frame}" for frame in SHOWN] + ["holds", "declared", "wrong", "said", "warned"]
    return f"{'kind':26s} {'controller':18s} {'runs':>4s} " + "".join(f"{n:>{WIDTH}s}" for n in names) + "   ms"


def row(kind: str, controller: str, runs: Sequence[Run]) -> str:
    """One row: every share in per cent with its 95 % interval (Wilson)."""
    found = shares(runs)
    names = [f"in_spec_{frame}" for frame in SHOWN] + ["holds", "declared", "wrong", "said", "warned"]
    cells = "".join(f"{_cell(found.get(name)):>{WIDTH}s}" for name in names)
    return f"{kind:26s} {controller:18s} {len(runs):4d} {cells} {1e3 * median_step_s(runs):4.0f}"


def _cell(share: tuple[float, int] | None) -> str:
    if share is None or share[1] == 0:
        return "-"
    low, high = wilson_interval(*share)
    return f"{100 * share[0]:.0f} ({100 * low:.0f}-{100 * high:.0f})"


def table(results: dict[tuple[str, str], list[Run]], readable: dict[str, bool]) -> Iterator[str]:
    """Every kind and controller; then all kinds whose frames determine the state, and all others."""
    yield header()
    for (kind, controller), runs in results.items():
        yield row(kind, controller, runs)
    for label, chosen in (("all that can be read", True), ("all that cannot", False)):
        for controller in dict.fromkeys(name for _, name in results):
            parts = [runs for (kind, name), runs in results.items() if name == controller and readable[kind] == chosen]
            together = [run for runs in parts for run in runs]
            if together:
                yield row(label, controller, together)
