"""The corrector of one session: commands within the limits, verified by read-back, and the way back.

`safety.SafeMicroscope` decides when to move; this class moves, and keeps the position that was commanded.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import numpy as np

from twin.arrays import Array
from twin.instrument.abilities import ReadsBack
from twin.instrument.audit import AuditLog
from twin.instrument.faults import (
    ActuatorBusy,
    DoseExhausted,
    MicroscopeFault,
    NotThere,
    OutOfReach,
    described,
)
from twin.instrument.limits import SLACK_NM, Limits
from twin.instrument.watch import Watch
from twin.interrupt import held
from twin.types import Microscope

Result = TypeVar("Result")


class Guard:
    """Limits, time-outs, retries and audit log of an instrument, for its corrector and its camera."""

    def __init__(self, limits: Limits, audit: AuditLog | None, sleep: Callable[[float], None] = time.sleep) -> None:
        self.limits, self.audit, self.sleep = limits, audit, sleep
        self.watch = Watch(limits.timeout_s)

    def log(self, event: str, **details: Any) -> None:
        """Write an entry.

        Raises:
            OSError: the disc is full; the action that would follow is not taken.
        """
        if self.audit is not None:
            self.audit.write(event, **details)

    def try_log(self, event: str, **details: Any) -> None:
        """Write an entry if possible: a full disc must not keep the corrector from going back."""
        with suppress(OSError):
            self.log(event, **details)

    def retried(self, verb: str, act: Callable[[], Result]) -> Result:
        """Return the result of `act`; repeat it after a fault that may pass and left nothing moved.

        Raises:
            MicroscopeFault: of the last attempt.
        """
        attempt = 1
        while True:
            try:
                return act()
            except (NotThere, OutOfReach, DoseExhausted):
                raise
            except MicroscopeFault as fault:
                self.log("fault", verb=verb, kind=type(fault).__name__, reason=str(fault), attempt=attempt)
                if attempt > self.limits.retries:
                    raise
            attempt += 1
            self.sleep(self.limits.retry_wait_s)


class GuardedCorrector:
    """The corrector of one session.

    Args:
        inner: the instrument; its read-back is used if it is a `ReadsBack`.
        guard: limits, log and retries.

    Attributes:
        sent_nm: cumulative input that was commanded, shape (n,).
    """

    def __init__(self, inner: Microscope, guard: Guard) -> None:
        self._inner, self._guard, self._limits = inner, guard, guard.limits
        self._space = inner.capabilities.space
        self._total_nm = np.minimum(self._limits.of("total_nm", self._space), self._space.input)
        self._step_nm = self._limits.of("step_nm", self._space)
        self.sent_nm: Array = self._space.zero
        self._outcome_unknown = False

    # --- inputs ----------------------------------------------------------------------------------

    def commands(self, delta_nm: Array) -> list[Array]:
        """Return the commands that make up an input.

        Raises:
            ValueError: beyond a limit; the refusal is in the log.
        """
        try:
            self.check_total(self._space.check_input(delta_nm, self.sent_nm))
            if not self._limits.ramp:
                self._check_limit("step_nm", delta_nm, self._step_nm)
        except ValueError as error:
            self._guard.log("refused", delta_nm=delta_nm, reason=str(error))
            raise
        return self._steps(delta_nm)

    def check_total(self, cumulative_nm: Array) -> None:
        """Refuse a cumulative input beyond `total_nm`.

        Raises:
            ValueError: names the coefficient and its limit.
        """
        self._check_limit("total_nm", cumulative_nm, self._total_nm)

    def _check_limit(self, label: str, values_nm: Array, limits_nm: Array) -> None:
        excess = np.abs(values_nm) - limits_nm
        worst = int(np.argmax(excess))
        if excess[worst] > SLACK_NM:
            raise ValueError(
                f"safety.{label}.{self._space.names[worst]} allows +-{limits_nm[worst]:g} nm;"
                f" got {values_nm[worst]:+g} nm"
            )

    def _steps(self, delta_nm: Array) -> list[Array]:
        """Divide an input into equal commands, each within `step_nm`."""
        count = max(1, int(np.ceil(np.max(np.abs(delta_nm) / self._step_nm) - SLACK_NM)))
        return [delta_nm] if count == 1 else [delta_nm / count] * count

    def command(self, delta_nm: Array) -> None:
        """Log one command, send it, let it settle, verify it.

        Raises:
            ValueError, ActuatorBusy, OutOfReach: nothing has moved.
            NotThere: the corrector is elsewhere, or its position is unknown.
        """
        target = self.sent_nm + delta_nm
        self._guard.log("command", delta_nm=delta_nm, target_nm=target)
        self._guard.retried("apply", lambda: self._send(delta_nm, target))
        self.sent_nm, self._outcome_unknown = target, False
        self._guard.log("moved", cumulative_nm=target, read_back_nm=self._settle_and_verify())

    def _send(self, delta_nm: Array, target_nm: Array) -> None:
        """Send once. Without an answer, read the position; a corrector that has no read-back must not be sent again."""
        self._outcome_unknown = True
        try:
            self._guard.watch.call(lambda: self._inner.apply(delta_nm))
        except (ActuatorBusy, OutOfReach, ValueError):
            self._outcome_unknown = False
            raise
        except Exception as error:
            position = self.read_back()
            if position is None:
                raise NotThere(f"{described(error)}; whether it moved is not known") from error
            if self._is_at(position, target_nm):
                outcome = "it had moved nevertheless"
                self._guard.log("fault", kind=type(error).__name__, reason=str(error), outcome=outcome)
            elif self._is_at(position, self.sent_nm):
                self._outcome_unknown = False
                raise ActuatorBusy(f"{described(error)}; nothing has moved") from error
            else:
                raise NotThere(f"{described(error)}; it stands at {_listed(position)} nm") from error

    # --- read-back -------------------------------------------------------------------------------

    def _settle_and_verify(self) -> Array | None:
        """Return the position that is read back; None without read-back.

        Raises:
            NotThere: it is off by more than `read_back_nm`, also after waiting.
        """
        self._guard.sleep(self._limits.settle_s)
        if not isinstance(self._inner, ReadsBack):
            return None
        for attempt in range(self._limits.retries + 1):
            position = self.read_back()
            if position is not None and self._is_at(position, self.sent_nm):
                return position
            if attempt < self._limits.retries:
                self._guard.sleep(self._limits.retry_wait_s)
        if position is None:
            raise NotThere("the corrector does not report its position")
        worst = int(np.argmax(np.abs(position - self.sent_nm)))
        raise NotThere(
            f"{self._space.names[worst]} was sent to {self.sent_nm[worst]:+.3f} nm and reads {position[worst]:+.3f} nm;"
            f" safety.read_back_nm allows {self._limits.read_back_nm:g} nm"
        )

    def read_back(self) -> Array | None:
        """Return the cumulative input that the corrector reports, shape (n,); None without a valid report."""
        inner = self._inner
        if not isinstance(inner, ReadsBack):
            return None
        try:
            position = np.asarray(self._guard.watch.call(inner.read_back_nm), dtype=np.float64)
            if position.shape != (self._space.dimension,) or not np.all(np.isfinite(position)):
                raise NotThere(f"{position.tolist()} is no position of {', '.join(self._space.names)}")
        except Exception as error:
            self._guard.try_log("fault", kind=type(error).__name__, reason=f"read-back: {error}")
            return None
        return position

    def _is_at(self, position_nm: Array, target_nm: Array) -> bool:
        return bool(np.all(np.abs(position_nm - target_nm) <= self._limits.read_back_nm))

    # --- the way back ----------------------------------------------------------------------------

    def restore(self, goal_nm: Array, reason: str) -> str:
        """Return to a good state as far as the instrument allows, and describe the result. Ctrl-C waits for the end."""
        problem = ""
        with held():
            # At least two attempts: the first undoes the commands, the second corrects what the read-back still shows.
            for _ in range(max(self._limits.retries, 1) + 1):
                problem = self._one_step_back(goal_nm)
                if not problem:
                    self._guard.try_log("restored", cumulative_nm=goal_nm, reason=reason)
                    return f"{reason}; restored to {self._space.named(goal_nm)}"
                self._guard.sleep(self._limits.retry_wait_s)
            state = {"goal_nm": goal_nm, "believed_nm": self.sent_nm}
            self._guard.try_log("not restored", **state, reason=reason, problem=problem)
            return f"{reason}; NOT restored to {self._space.named(goal_nm)}: {problem}"

    def _one_step_back(self, goal_nm: Array) -> str:
        """Move towards the goal once; return "" on arrival, otherwise the obstacle.

        First undo the commands that were sent: that works even if the corrector's gain is wrong. Use the read-back only
        if the corrector is still off afterwards. After a command of unknown outcome send zero: a corrector that is set
        to absolute values then returns to where it was.
        """
        position = self.read_back()
        if position is not None and self._is_at(position, goal_nm):
            return ""
        undone = not self._outcome_unknown and np.allclose(self.sent_nm, goal_nm, rtol=0, atol=SLACK_NM)
        delta = goal_nm - (position if position is not None and undone else self.sent_nm)
        self._guard.try_log("restoring", delta_nm=delta, goal_nm=goal_nm, read_back_nm=position)
        try:
            for step in self._steps(delta) if np.any(delta) or self._outcome_unknown else ():
                self._guard.watch.call(partial(self._inner.apply, step))
                self._guard.sleep(self._limits.settle_s)
        except Exception as error:
            self._guard.try_log("fault", verb="restore", kind=type(error).__name__, reason=str(error))
            return described(error)
        self.sent_nm = goal_nm.copy()
        if not isinstance(self._inner, ReadsBack):
            return "whether the last command moved the corrector is not known" if self._outcome_unknown else ""
        self._outcome_unknown, position = False, self.read_back()
        return "" if position is not None and self._is_at(position, goal_nm) else f"reads {_listed(position)} nm"


def _listed(values_nm: Array | None) -> str:
    return "nothing" if values_nm is None else ", ".join(f"{value:+.3f}" for value in values_nm)
