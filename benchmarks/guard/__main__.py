"""Random sessions of the guard with drivers that fail, judged by where the corrector truly stood.

    python -m benchmarks.guard [--sessions N] [--seed S] [--kind KIND]

Counts commands that take the corrector beyond a step or a total, sessions that end "restored" elsewhere or without a
last word, and commands without a line in the log before them: all of them have to be 0. A position is good for
`read_back_nm` with read-back, for rounding without. The kinds of driver, and what no guard can know:
`benchmarks.guard.drivers` and `odd_drivers`. Waiting takes no time, the log is in memory. Also measures what the guard
costs.
"""

import argparse
import gc
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.guard.drivers import Driver, reading
from benchmarks.guard.kinds import KINDS
from benchmarks.guard.sessions import VIOLATIONS, Session
from twin.instrument.audit import AuditLog
from twin.instrument.limits import Limits
from twin.instrument.safety import SafeMicroscope

GOAL_MS = 0.5


def sessions(count: int, seed: int, kinds: list[str]) -> dict[str, Counter[str]]:
    """Run sessions of random kinds; return violations, sessions, commands and last words by kind."""
    rng = np.random.default_rng(seed)
    weights = np.array([KINDS[kind][1] for kind in kinds])
    found = {kind: Counter[str]() for kind in kinds}
    for number in range(count):
        if number % 200 == 0:
            gc.collect()  # and with the guards go their threads
        kind = kinds[number] if number < len(kinds) else str(rng.choice(kinds, p=weights / weights.sum()))
        session = Session(kind, seed + number)
        judge = session.run()
        found[kind] += judge.violations
        found[kind].update(sessions=1, commands=judge.commands)
        found[kind][session.log.lines[-1][0]] += 1
        if sum(judge.violations.values()):
            sys.stderr.write(f"{kind}, seed {seed + number}: {dict(+judge.violations)}\n")
    return found


def cost_ms(commands: int = 1000) -> tuple[float, float]:
    """Return the milliseconds of a command beside its fsync, without and with read-back.

    The lower decile: what it costs when nobody else computes.
    """
    spent = []
    for kind in (Driver, reading(Driver)):
        rng = np.random.default_rng(0)
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(os, "fsync"):
            inner = kind(rng, lambda what, here, there: None)
            with SafeMicroscope(inner, Limits(), AuditLog(Path(folder) / "audit.jsonl")) as guard:
                guard.reset(rng)
                times = []
                for number in range(commands):
                    delta = np.full(3, 5.0 if number % 2 else -5.0)
                    begun = time.perf_counter()
                    guard.apply(delta)
                    times.append(time.perf_counter() - begun)
        spent.append(float(np.percentile(times, 10.0)) * 1e3)
    return spent[0], spent[1]


def table(found: dict[str, Counter[str]]) -> str:
    """Return the figures of all kinds."""
    columns = ("sessions", "commands", "end", "restored", "not restored", *VIOLATIONS)
    rows = [["kind of driver", *columns]]
    total = sum(found.values(), Counter[str]())
    rows += [[name, *(f"{counts[key]:,}" for key in columns)] for name, counts in (*found.items(), ("all", total))]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = [
        "  ".join(cell.rjust(w) if k else cell.ljust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Run and print; exit 1 on any violation."""
    parser = argparse.ArgumentParser(description="Random sessions of the guard with drivers that fail.")
    parser.add_argument("--sessions", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=sorted(KINDS), action="append", help="only this kind; may be repeated")
    chosen = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is started deaf to it
    begun = time.perf_counter()
    found = sessions(chosen.sessions, chosen.seed, chosen.kind or list(KINDS))
    sys.stdout.write(table(found) + f"\n{time.perf_counter() - begun:.0f} s\n")
    without, with_reading = cost_ms()
    sys.stdout.write(
        f"a command beside its fsync: {without:.2f} ms; with read-back {with_reading:.2f} ms (goal {GOAL_MS:g} ms)\n"
    )
    violations = sum(counts[name] for counts in found.values() for name in VIOLATIONS)
    if violations or max(without, with_reading) > GOAL_MS:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
