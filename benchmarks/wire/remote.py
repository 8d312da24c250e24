"""What it costs to put the microscope behind a network: a calibration step over loopback against one in process.

    python -m benchmarks.wire.remote [--rounds N] [--scenario NAME] [--set KEY.KEY=VALUE] [--json]

A step is an input and a Ronchigram. Microscopes of one scenario and seed take turns, so that a busy machine slows all
alike, in an order that changes from round to round: in process, and served by a program of its own (control channel and
camera); both bare, and guarded as a run has its instruments: within limits and with an audit log that is synced to
disc. Milliseconds by the wall clock, medians over the rounds; `extra` is the median of the differences within a round,
remote less in process; `quiet` are the same of the lower deciles, for what a step costs when nobody else computes. All
give the same frames, which is checked in every round.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scenarios.calibration.instruments import simulator
from scenarios.schema import Scenario, load
from twin.arrays import Array
from twin.backends import remote
from twin.instrument.audit import AuditLog
from twin.instrument.limits import Limits
from twin.instrument.safety import SafeMicroscope
from twin.types import Frame, Microscope

GOAL_MS = 10.0
SEED = 0


@contextmanager
def served(scenario: str, changes: list[str]) -> Iterator[int]:
    """`stemtwin serve` in a program of its own; the port of its control channel."""
    command = [sys.executable, "-c", "from scenarios.cli import main; main()", "serve", scenario]
    options = [word for change in changes for word in ("--set", change)]
    program = subprocess.Popen(
        [*command, *options, "--json", "--port", "0", "--free", "--mode", "ronchigram"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert program.stdout is not None
        yield int(json.loads(program.stdout.readline())["ports"]["control"])
    finally:
        program.terminate()
        program.communicate(timeout=10)


def step_ms(microscope: Microscope, delta_nm: Array) -> tuple[float, Frame]:
    """One step, and how long it took."""
    begun = time.perf_counter()
    microscope.apply(delta_nm)
    frame = microscope.acquire()
    return (time.perf_counter() - begun) * 1e3, frame


def measured(microscopes: list[Microscope], scenario: Scenario, rounds: int) -> NDArray[np.float64]:
    """Milliseconds of a step, (rounds, microscopes); the first rounds, which warm up, are left out."""
    rng, space = np.random.default_rng(SEED), scenario.space
    for microscope in microscopes:
        microscope.reset(np.random.default_rng(SEED))
    spent, here = np.zeros((rounds + 3, len(microscopes))), space.zero
    for row in spent:
        target = rng.uniform(-1.0, 1.0, space.dimension) * space.input
        delta, here = target - here, target
        frames: list[Frame] = []
        for which in rng.permutation(len(microscopes)):
            row[which], frame = step_ms(microscopes[which], delta)
            frames.append(frame)
        if any(frame != frames[0] for frame in frames):
            raise RuntimeError("the frames differ")
    return spent[3:]


def figures(name: str, changes: list[str], rounds: int) -> dict[str, float]:
    """Medians of all four, and what the wire adds."""
    scenario = load(name, changes).for_seed(SEED)
    with tempfile.TemporaryDirectory() as folder, served(name, changes) as one, served(name, changes) as two:
        bare, inner = (
            remote.make({"host": f"127.0.0.1:{port}"}, scenario.optics, scenario.space) for port in (one, two)
        )
        near, far = (
            SafeMicroscope(each, Limits(), AuditLog(Path(folder) / f"{number}.jsonl"))
            for number, each in enumerate((simulator(scenario), inner))
        )
        spent = measured([simulator(scenario), bare, near, far], scenario, rounds)
    medians, quiet = np.median(spent, axis=0), np.percentile(spent, 10.0, axis=0)
    return {
        "rounds": rounds,
        "in_process_ms": float(medians[0]),
        "remote_ms": float(medians[1]),
        "extra_ms": float(np.median(spent[:, 1] - spent[:, 0])),
        "guarded_in_process_ms": float(medians[2]),
        "guarded_remote_ms": float(medians[3]),
        "guarded_extra_ms": float(np.median(spent[:, 3] - spent[:, 2])),
        "quiet_extra_ms": float(quiet[1] - quiet[0]),
        "quiet_guarded_extra_ms": float(quiet[3] - quiet[2]),
        "goal_ms": GOAL_MS,
    }


def main() -> None:
    """Measure and print; exit 1 if a step over the wire takes 10 ms more than one in process, or longer."""
    parser = argparse.ArgumentParser(description="A calibration step over loopback against one in process.")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--scenario", default="nominal")
    parser.add_argument("--set", action="append", default=[], dest="changes", help="one value of the scenario")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    found = figures(chosen.scenario, chosen.changes, chosen.rounds)
    if chosen.json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        for name, value in found.items():
            sys.stdout.write(f"{name:22} {value:.2f}\n")
    if max(found["extra_ms"], found["guarded_extra_ms"]) >= GOAL_MS:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
