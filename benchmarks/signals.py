"""Interrupted sessions of an instrument: after two signals the corrector stands at its last good state, always.

    python -m benchmarks.signals --times 20

Every ordered pair of SIGINT, SIGTERM and SIGHUP, at gaps from 0 to 100 ms, on discs where fsync takes 0 and 20 ms,
arrives at a random moment of a calibration. The instrument is a file: it outlives the program. Counted as lost is a
session that ends elsewhere, with another last word than `restored`, with an exit code of neither signal, or later than
30 s.

Each session is a process of its own, forked from this one after everything is imported, with the handlers that a shell
gives to a program. A share for every Python: `--times 5 --seed K`, K from 0 to 3. Needs no torch.
"""

import argparse
import itertools
import mmap
import os
import platform
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from controller.strategies.random import Random
from scenarios.calibration.instruments import Bench
from scenarios.calibration.run import run
from scenarios.calibration.session import Session
from scenarios.process import run_program
from scenarios.schema import Scenario, load
from twin.arrays import Array
from twin.instrument.audit import AuditLog, read
from twin.instrument.limits import Limits
from twin.instrument.safety import SafeMicroscope
from twin.types import Capabilities, Frame

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GAPS_S = (0.0, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.1)
FSYNC_S = (0.0, 0.02)
EXPOSURE_S, MOVE_S = 0.03, 0.01
PHASE_S = 0.25
"""The first signal comes at a random time up to this one after the third exposure: in every step of a session."""
LONGEST_S = 30.0
SMALL = (
    *("optics.convergence_mrad=14", "optics.sampling_nm=0.05", "optics.grid=256", "optics.camera_pixels=64"),
    *("optics.binning=4", "renderer=fast", "task.observations=1000", "space.input_nm=[60,30,30]"),
)


@dataclass(frozen=True)
class Case:
    """Two signals, the gap between them, and the duration of an fsync."""

    first: signal.Signals
    second: signal.Signals
    gap_s: float
    fsync_s: float


def cases() -> Iterator[Case]:
    """Yield every case once."""
    for first, second, gap_s, fsync_s in itertools.product(SIGNALS, SIGNALS, GAPS_S, FSYNC_S):
        yield Case(first, second, gap_s, fsync_s)


class OnDisc:
    """An instrument in a file: three positions, nm, and the number of exposures."""

    def __init__(self, path: Path, scenario: Scenario) -> None:
        side = scenario.optics.camera_pixels
        self.capabilities = Capabilities("on disc", scenario.optics, scenario.space, (side, side), 60000)
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), 64)
        self._rng, self._side = np.random.default_rng(1), side

    @property
    def exposures(self) -> int:
        """Number of exposures, the present one included."""
        return int.from_bytes(self._map[24:32], "little")

    def reset(self, rng: np.random.Generator) -> None:
        """Begin a session where the corrector stands."""

    def read_back_nm(self) -> Array:
        """Return the position, nm."""
        return np.array(struct.unpack("3d", self._map[:24]))

    def apply(self, delta_nm: Array) -> None:
        """Move, in two halves."""
        for _ in range(2):
            time.sleep(MOVE_S / 2)
            self._map[:24] = struct.pack("3d", *(self.read_back_nm() + np.asarray(delta_nm) / 2))

    def acquire(self) -> Frame:
        """Expose."""
        self._map[24:32] = (self.exposures + 1).to_bytes(8, "little")
        time.sleep(EXPOSURE_S)
        counts = self._rng.poisson(20, (self._side, self._side)).astype(np.uint16)
        return Frame(counts, 1e5, EXPOSURE_S, float(self.exposures))


def interrupted(case: Case, phase_s: float, scenario: Scenario) -> tuple[int, str]:
    """Interrupt one session; return its exit code, and "" if the instrument was brought back, or what happened instead.

    Args:
        case: the two signals.
        phase_s: time from the third exposure to the first signal.
        scenario: of the session, from `small`.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "instrument").write_bytes(bytes(64))
        process = os.fork()
        if process == 0:
            _session(folder, case.fsync_s, scenario)
        instrument = OnDisc(folder / "instrument", scenario)
        deadline = time.monotonic() + LONGEST_S
        while instrument.exposures < 3 and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(phase_s)
        os.kill(process, case.first)
        time.sleep(case.gap_s)
        os.kill(process, case.second)  # not waited for yet: there is somebody to receive it
        code = _exit_code(process, deadline)
        # Two signals that wait at once are delivered by number, not in their order.
        if code not in (128 + case.first, 128 + case.second):
            return code, f"exit code {code}"
        return code, _where(instrument, folder / "audit.jsonl")


def small() -> Scenario:
    """Return a scenario whose session lasts until it is interrupted."""
    return load("day_a", SMALL)


def _session(folder: Path, fsync_s: float, scenario: Scenario) -> None:
    """Calibrate, as the command does, in a forked process that ends here."""
    real = os.fsync

    def slow(file: int) -> None:
        time.sleep(fsync_s)
        real(file)

    os.fsync = slow  # type: ignore[assignment]
    code = 1
    try:
        os.setsid()  # as a shell's job: nothing else of this terminal's signals arrives
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in SIGNALS[1:]:
            signal.signal(number, signal.SIG_DFL)
        guard = SafeMicroscope(
            OnDisc(folder / "instrument", scenario),
            Limits(timeout_s=5.0, retry_wait_s=0.01),
            AuditLog(folder / "audit.jsonl"),
        )
        session = Session(scenario, "random", Bench(guard, None, None, guard), Random(scenario.space))
        run_program(lambda: run(session, 0, folder / "runs", report=False))
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    finally:
        os._exit(code)


def _exit_code(process: int, deadline: float) -> int:
    """Return the exit code of a process, negative for the signal that killed it."""
    while time.monotonic() < deadline:
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _where(instrument: OnDisc, log: Path) -> str:
    """Return "" if the instrument stands where its log has the last good frame, and the log says so."""
    sent = good = np.zeros(3)
    entries = read(log)
    for entry in entries:
        if entry["event"] == "command" and "target_nm" in entry:
            sent = np.array(entry["target_nm"])
        elif entry["event"] == "frame":
            good = sent
    position = instrument.read_back_nm()
    if not np.allclose(position, good, atol=0.5):
        return f"at {position.round(1).tolist()} nm instead of {good.round(1).tolist()} nm"
    return "" if entries[-1]["event"] == "restored" else f"the log ends with {entries[-1]['event']!r}"


def table(found: dict[tuple[str, str], Counter[str]]) -> str:
    """Return sessions, those brought back, and the exit codes, of every pair of signals."""
    rows = [("signals", "sessions", "brought back", "lost", "exit codes")]
    total = sum(found.values(), Counter[str]())
    for name, counts in (*((", ".join(pair), counts) for pair, counts in found.items()), ("all", total)):
        codes = sorted((key, count) for key, count in counts.items() if key.isdigit())
        told = ", ".join(f"{code}: {count}" for code, count in codes)
        rows.append(
            (name, str(counts["sessions"]), str(counts["sessions"] - counts["lost"]), str(counts["lost"]), told)
        )
    widths = [max(len(row[k]) for row in rows) for k in range(4)]
    return "\n".join(
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[4]]) for row in rows
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; return 1 if a session was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.signals", description=__doc__)
    parser.add_argument("--times", type=int, default=1, help="sessions of every case")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the first signals")
    given = parser.parse_args(arguments)
    scenario, rng = small(), np.random.default_rng(given.seed)
    found: dict[tuple[str, str], Counter[str]] = {}
    begun = time.monotonic()
    for case in cases():
        counts = found.setdefault((case.first.name, case.second.name), Counter())
        for _ in range(given.times):
            code, problem = interrupted(case, float(rng.uniform(0.0, PHASE_S)), scenario)
            counts.update(["sessions", str(code), *(["lost"] if problem else [])])
            if problem:
                when = f"after {1e3 * case.gap_s:g} ms, fsync {case.fsync_s:g} s"
                print(f"{case.first.name}, {case.second.name} {when}: {problem}", flush=True)
    print(table(found))
    failures = sum(counts["lost"] for counts in found.values())
    sessions = sum(counts["sessions"] for counts in found.values())
    took_s = time.monotonic() - begun
    print(f"Python {platform.python_version()}: {failures} of {sessions} sessions lost, {took_s:.0f} s")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
