"""The gate: the one place where a command leaves for the corrector.

It keeps the interval in which the corrector may stand, and admits a command only if the whole interval stays within the
limits afterwards. Where to go is not decided here: see `corrector` and `way_back`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from twin.arrays import Array
from twin.instrument.faults import ActuatorBusy, CommandTimeout, OutOfReach
from twin.instrument.guard.interval import Interval, read_only
from twin.instrument.guard.tools import Tools, check_done
from twin.instrument.limits import SLACK_NM
from twin.instrument.watch import Call
from twin.types import Microscope

RESTORING = "restoring"
"""Event of a command of the way back."""
MOST_COMMANDS = 10_000
"""Largest number of commands that one input is divided into."""


class Claim(Enum):
    """What a driver's answer says about a command."""

    MOVED = "moved"
    """It returned."""
    STILL = "still"
    """It refused: `ActuatorBusy` and `OutOfReach` promise that nothing has moved."""
    UNKNOWN = "unknown"
    """No answer in time, or any other exception, a ValueError too; or it returned False."""


@dataclass(frozen=True, eq=False)
class Sent:
    """A command that left.

    Attributes:
        delta_nm: the command, shape (n,).
        before, after: where the corrector stands by the driver's words, if it was not carried out, and if it was.
        unanswered: of the gate, before it.
        call: the driver's call; it may still be under way.
        error: no answer in time; None if there is one.
    """

    delta_nm: Array
    before: Interval
    after: Interval
    unanswered: bool
    call: Call[None]
    error: BaseException | None = None

    @property
    def claim(self) -> Claim:
        """What the driver says."""
        if self.error is None:
            return Claim.MOVED
        return Claim.STILL if isinstance(self.error, ActuatorBusy | OutOfReach) else Claim.UNKNOWN


class Gate:
    """The gate of one session.

    Args:
        inner: the instrument.
        tools: of the guard.
        start_nm: where the corrector stands, cumulative input, shape (n,).
        confirms: whether the instrument reads back: then a reading has to confirm what its driver says.

    Attributes:
        interval: where the corrector may stand.
        by_driver: where it stands by the driver's words; the same without read-back.
        commanded_nm: where it stands by the commands that were answered, shape (n,), read-only.
        unanswered: the outcome of the latest command is not known, and no command was carried out since.
    """

    def __init__(self, inner: Microscope, tools: Tools, start_nm: Array, confirms: bool) -> None:
        self._inner, self._watch, self._journal, self._confirms = inner, tools.watch, tools.journal, confirms
        self._space, limits = tools.capabilities.space, tools.limits
        self._total_nm = np.minimum(limits.of("total_nm", self._space), self._space.input)
        self._step_nm, self._tolerance_nm = limits.of("step_nm", self._space), limits.read_back_nm
        self.interval = self.by_driver = Interval.at(start_nm)
        self.commanded_nm = read_only(start_nm)
        self.unanswered = False
        self._under_way: Sent | None = None

    # --- limits ----------------------------------------------------------------------------------

    def check_step(self, delta_nm: Array) -> None:
        """Refuse a command beyond `step_nm`.

        Raises:
            ValueError: names the coefficient and its limit.
        """
        self._check("step_nm", delta_nm, self._step_nm)

    def check_total(self, interval: Interval) -> None:
        """Refuse an interval that does not lie within `total_nm`.

        Raises:
            ValueError: names the coefficient and its limit.
        """
        furthest = np.where(-interval.low_nm > interval.high_nm, interval.low_nm, interval.high_nm)
        self._check("total_nm", furthest, self._total_nm, interval)

    def _check(self, label: str, values_nm: Array, limits_nm: Array, interval: Interval | None = None) -> None:
        within = np.abs(values_nm) <= limits_nm + SLACK_NM
        if within.all():
            return
        worst = int(np.argmax(np.where(within, -np.inf, np.abs(values_nm) - limits_nm)))
        wide = interval is not None and not interval.is_point
        raise ValueError(
            f"safety.{label}.{self._space.names[worst]} allows +-{limits_nm[worst]:g} nm;"
            f" got {values_nm[worst]:+g} nm"
            + (f": the corrector may stand at {self.interval.named(self._space.names)}" if wide else "")
        )

    def admissible(self, delta_nm: Array) -> Array:
        """Return the largest part of an input, coefficient by coefficient, that stays within `total_nm` for sure."""
        least, most = -self._total_nm - self.interval.low_nm, self._total_nm - self.interval.high_nm
        return np.clip(delta_nm, np.minimum(least, 0.0), np.maximum(most, 0.0))

    def pieces(self, delta_nm: Array) -> list[Array]:
        """Divide an input into equal commands, each within `step_nm`.

        Raises:
            ValueError: it would take more than `MOST_COMMANDS`.
        """
        count = np.max(np.abs(delta_nm) / self._step_nm, initial=0.0) - SLACK_NM
        if count > MOST_COMMANDS:
            raise ValueError(
                f"safety.step_nm would divide an input into {count:.3g} commands; {MOST_COMMANDS} are allowed"
            )
        pieces = max(1, int(np.ceil(count)))
        return [read_only(delta_nm / pieces)] * pieces

    # --- sending ---------------------------------------------------------------------------------

    def send(self, delta_nm: Array, event: str, **details: object) -> Sent:
        """Check a command, write its line, book it, send it, wait for the answer.

        Args:
            delta_nm: shape (n,).
            event: of the line in the log. Without that line on disc only a command of the way back leaves.
            details: of the line.

        Raises:
            ValueError: wrong shape, not finite, or beyond a limit wherever the corrector stands; nothing was sent.
            OSError: its line is not on disc; nothing was sent.
            StillBusy: an earlier command has not returned; nothing was sent.
        """
        command = read_only(delta_nm)
        if command.shape != (self._space.dimension,) or not np.all(np.isfinite(command)):
            raise ValueError(f"a command has {self._space.dimension} finite values; got {command.tolist()}")
        self._watch.check_idle()
        self.take_late_answer()
        before, after = self.by_driver, self.by_driver.moved(command)
        self.check_step(command)
        self.check_total(self.interval.moved(command))
        write = self._journal.note if event == RESTORING else self._journal.write
        write(event, delta_nm=command, target_nm=self.commanded_nm + command, **details)
        # From here on the corrector may have moved, whatever happens to the driver, to this thread or to the answer.
        was, self.unanswered, self.by_driver = self.unanswered, True, before.hull(after)
        self.interval = self.interval.hull(self.interval.moved(command))
        copy = np.array(command)  # the driver's own: it may keep it and change it
        apply: Callable[[Array], object] = self._inner.apply
        call = self._watch.begin(lambda: check_done("apply", apply(copy)))
        self._under_way = sent = Sent(command, before, after, was, call)
        try:
            self._watch.outcome(call)
        except CommandTimeout as error:
            return replace(sent, error=error)
        self._under_way = None
        return self._book(sent)

    def take_late_answer(self) -> None:
        """Book the answer of a command that timed out, or whose wait was cut short, if it has come since."""
        sent, self._under_way = self._under_way, None
        if sent is not None and sent.call.done.is_set():
            self._book(sent)
        else:
            self._under_way = sent

    def _book(self, sent: Sent) -> Sent:
        """Book an answer. The interval shrinks only if there is no read-back to confirm it (`believe`)."""
        sent = replace(sent, error=sent.call.error)
        if sent.claim is Claim.MOVED:
            self.commanded_nm = read_only(self.commanded_nm + sent.delta_nm)
            self.by_driver, self.unanswered = sent.after, False
        elif sent.claim is Claim.STILL:
            self.by_driver, self.unanswered = sent.before, sent.unanswered
        if not self._confirms:
            self.interval = self.by_driver
        return sent

    # --- read-back -------------------------------------------------------------------------------

    def lies_at(self, position_nm: Array) -> bool:
        """Whether the corrector stands at a position, wherever it may stand, as well as a reading can tell."""
        return self.interval.lies_at(position_nm, self._tolerance_nm + SLACK_NM)

    def believe(self, position_nm: Array | None, likely_nm: Array | None = None) -> bool:
        """Book a position that was read back if it agrees with the driver's words; otherwise the interval stays.

        Once they contradict each other, only a position that agrees with the commands is believed: an encoder that
        jumped and a corrector that did not move look the same.

        Args:
            position_nm: as read, shape (n,); None if nothing was.
            likely_nm: booked instead of a reading that agrees with it; otherwise `commanded_nm` is.

        Returns:
            Whether it was booked.
        """
        if position_nm is None:
            return False
        if not self.by_driver.holds(position_nm, self._tolerance_nm):
            self.by_driver = Interval.at(self.commanded_nm)
            return False
        choices = [self.commanded_nm] if likely_nm is None else [likely_nm, self.commanded_nm]
        agreeing = [each for each in choices if np.all(np.abs(position_nm - each) <= self._tolerance_nm)]
        self.commanded_nm = read_only(self.by_driver.nearest(agreeing[0] if agreeing else position_nm))
        self.interval = self.by_driver = Interval.at(self.commanded_nm)
        return True
