"""One random session of the guard, judged by where the corrector truly stood."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.guard.drivers import Driver, reading
from benchmarks.guard.kinds import KINDS
from twin.arrays import Array
from twin.instrument.audit import AuditLog
from twin.instrument.faults import CommandTimeout
from twin.instrument.limits import Limits
from twin.instrument.safety import SafeMicroscope
from twin.state import StateSpace

LAST_WORDS = ("end", "restored", "not restored")
VIOLATIONS = ("beyond total", "beyond step", "restored elsewhere", "no last word", "no line before it")
NAMES = StateSpace().names


class MemoryLog(AuditLog):
    """A log in memory, on a disc that may be full.

    Attributes:
        lines: (event, details), written or refused.
    """

    def __init__(self, refuses: Callable[[], bool]) -> None:
        self.path, self._refuses = Path("memory"), refuses
        self.lines: list[tuple[str, dict[str, Any], bool]] = []

    def begin(self) -> None:
        """Take the log."""

    def end(self) -> None:
        """Give it back."""

    def write(self, event: str, **details: Any) -> None:
        """Keep a line, or refuse it."""
        full = event not in ("reset", *LAST_WORDS) and self._refuses()
        self.lines.append((event, details, not full))
        if full:
            raise OSError(28, "No space left on device")


@dataclass
class Judge:
    """What a session did, by the driver's true position.

    Attributes:
        total_nm, step_nm: the limits, shape (n,).
        slack_nm: what a position is good for: `read_back_nm` with read-back.
        log: of the session.
        violations: of each kind.
        commands, extreme_nm: how many arrived, and the largest |position| over its limit.
    """

    total_nm: Array
    step_nm: Array
    slack_nm: float
    log: MemoryLog
    violations: Counter[str] = field(default_factory=Counter)
    commands: int = 0

    def see(self, what: str, here: Array, there: Array) -> None:
        """Judge a command that arrives (`there` is the command), or a movement."""
        if what == "command":
            self.commands += 1
            # Not the last line of all: on a busy machine a command may arrive after its time-out is in the log.
            sent = [line for line in self.log.lines if line[0] in ("command", "restoring")]
            event, details, written = sent[-1] if sent else ("", {}, False)
            line = "delta_nm" in details and np.array_equal(details["delta_nm"], there)
            self.violations["no line before it"] += not (line and (written or event == "restoring"))
            return
        self.violations["beyond total"] += bool(np.any(np.abs(there) > self.total_nm + self.slack_nm))
        self.violations["beyond step"] += bool(np.any(np.abs(there - here) > self.step_nm + self.slack_nm))


class Session:
    """A random session.

    Args:
        kind: of the driver.
        seed: of everything.
    """

    def __init__(self, kind: str, seed: int) -> None:
        self.rng = rng = np.random.default_rng([seed, sorted(KINDS).index(kind)])
        made, _ = KINDS[kind]
        self.reads_back = made.with_read_back and (not made.without_read_back or bool(rng.random() < 0.6))
        self.limits = self._limits(made.timeout_s)
        self.log = MemoryLog(lambda: kind == "disc full" and bool(rng.random() < 0.15))
        space = StateSpace()
        total = np.minimum(self.limits.of("total_nm", space), space.input)
        slack = self.limits.read_back_nm if self.reads_back else 1e-6
        self.judge = Judge(total, self.limits.of("step_nm", space), slack, self.log)
        self.driver: Driver = (reading(made) if self.reads_back else made)(rng, self.judge.see)
        self.judge.slack_nm += self.driver.strays_nm
        self._fails = kind == "program errors"
        self.guard = SafeMicroscope(self.driver, self.limits, self.log, self._sleep)
        if kind == "changes its limits":  # and so does the program that made them
            self.limits.total_nm.update(dict.fromkeys(NAMES, 1e6))  # type: ignore[attr-defined]
            self.limits.step_nm.clear()  # type: ignore[attr-defined]
        self.driver.guard = self.guard
        self.good = self.driver.at

    def _limits(self, timeout_s: float | None) -> Limits:
        rng = self.rng
        some = [name for name in NAMES if rng.random() < 0.7]
        return Limits(
            total_nm={name: float(rng.uniform(5, 60)) for name in some},
            step_nm={name: float(rng.uniform(3, 40)) for name in NAMES if rng.random() < 0.7},
            ramp=bool(rng.random() < 0.8),
            read_back_nm=float(rng.choice([0.1, 0.5, 2.0])),
            retries=int(rng.integers(0, 4)),
            retry_wait_s=0.01,
            settle_s=0.01,
            timeout_s=timeout_s,
            rollback="last_good" if rng.random() < 0.6 else "start",
        )

    def _sleep(self, seconds: float) -> None:
        if self._fails and self.rng.random() < 0.05:
            raise (RuntimeError, KeyboardInterrupt, MemoryError)[self.rng.integers(3)]("in the middle")

    def run(self) -> Judge:
        """Run it to its last word, and judge that."""
        try:
            self.guard.reset(self.rng)
        except CommandTimeout:  # the short time-out of a kind that hangs, on a busy machine
            self.judge.violations["no last word"] += self.log.lines[-1][0] != "fault"
            return self.judge
        with suppress(BaseException):
            for _ in range(int(self.rng.integers(2, 9))):
                self._step()
        self._fails = self._fails and bool(self.rng.random() < 0.5)
        with suppress(BaseException):
            if self.rng.random() < 0.7:
                self.guard.abort("the end")
            else:
                self.guard.end()
        self._judge_the_last_word()
        self.driver.guard = None
        return self.judge

    def _step(self) -> None:
        """An input, and a frame perhaps; an input that is refused is followed by another."""
        rng = self.rng
        target = rng.uniform(-1.3, 1.3, 3) * self.judge.total_nm
        delta: Any = target - self.good if rng.random() < 0.9 else rng.uniform(-20, 20, 3)
        if rng.random() < 0.03:
            delta = [np.full(3, np.nan), delta[:2], np.full(3, 1e308), "far"][rng.integers(4)]
        try:
            self.guard.apply(delta)
        except ValueError:
            return
        if rng.random() < 0.8:
            try:
                self.guard.acquire()
            finally:
                # A frame was taken, whether or not an interrupt followed.
                if self.log.lines[-1][0] == "frame":
                    self.good = self.driver.at.copy()

    def _judge_the_last_word(self) -> None:
        begun = time.monotonic()
        while self.log.lines[-1][0] not in LAST_WORDS and time.monotonic() - begun < 10.0:
            time.sleep(0.01)  # the machine is busy: the log has a thread of its own
        event, details, _ = self.log.lines[-1]
        self.judge.violations["no last word"] += event not in LAST_WORDS
        if event == "restored":
            # What was a good frame's position is known as well as a reading, and so is the present one.
            goal = self.good if self.limits.rollback == "last_good" else np.zeros(3)
            off = max(
                np.max(np.abs(self.driver.at - goal)) / 2, np.max(np.abs(self.driver.at - details["cumulative_nm"]))
            )
            self.judge.violations["restored elsewhere"] += bool(off > self.judge.slack_nm + 1e-6)
