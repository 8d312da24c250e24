"""Studies of many seeded runs. Each run is a line of a file: a study that is repeated goes on where it stopped."""

import argparse
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

Run = Callable[[float, int], Mapping[str, Any]]
"""A run at a dose, with a seed."""


def arguments(about: str | None, studies: Collection[str], runs: int) -> argparse.Namespace:
    """Read the command line: `study`, `runs`, and `out`, which is made."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=studies)
    parser.add_argument("--runs", type=int, default=runs, help="seeds (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of the runs (default: %(default)s)")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    return given


def finished(path: Path) -> dict[tuple[float, int], dict[str, Any]]:
    """Runs of an earlier call, by dose and seed."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {(run["dose"], run["seed"]): run for run in map(json.loads, lines)}


def runs(path: Path, run: Run, wanted: Iterable[tuple[float, int]]) -> Iterator[dict[str, Any]]:
    """Yield the runs wanted, (dose, seed); those that the file lacks are done, and written at once."""
    done = finished(path)
    for dose, seed in wanted:
        if (dose, seed) not in done:
            done[dose, seed] = {"dose": dose, "seed": seed, **run(dose, seed)}
            with path.open("a") as file:
                file.write(json.dumps(done[dose, seed]) + "\n")
        yield done[dose, seed]
