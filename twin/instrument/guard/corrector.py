"""The corrector of one session: an input becomes commands, one after the other, each settled before the next.

`safety.SafeMicroscope` decides when to move. Every command leaves by the `gate`. The page: docs/hardware.md.
"""

import numpy as np

from twin.arrays import Array
from twin.errors import printable
from twin.instrument.faults import ActuatorBusy, NotThere, OutOfReach, StillBusy, described, words_of
from twin.instrument.guard.gate import Claim, Gate, Sent
from twin.instrument.guard.interval import Interval, read_only
from twin.instrument.guard.read_back import ReadBack, listed
from twin.instrument.guard.tools import Tools
from twin.instrument.guard.way_back import WayBack
from twin.interrupt import check
from twin.types import Microscope


class GuardedCorrector:
    """The corrector of one session.

    Args:
        inner: the instrument; its read-back is used if it is a `ReadsBack`.
        tools: of the guard.
        start_nm: cumulative input at which the session begins, shape (n,).
    """

    def __init__(self, inner: Microscope, tools: Tools, start_nm: Array) -> None:
        self._tools, self._limits, self._space = tools, tools.limits, tools.capabilities.space
        self.read_back = ReadBack(inner, tools)
        self._gate = Gate(inner, tools, start_nm, confirms=self.read_back.exists)

    @property
    def commanded_nm(self) -> Array:
        """Cumulative input by the commands that were answered, shape (n,), read-only."""
        return self._gate.commanded_nm

    @property
    def interval(self) -> Interval:
        """Where the corrector may stand."""
        return self._gate.interval

    def check_total(self, cumulative_nm: Array) -> None:
        """Refuse a cumulative input beyond `total_nm`.

        Raises:
            ValueError: names the coefficient and its limit.
        """
        self._gate.check_total(Interval.at(cumulative_nm))

    def go_back(self, goal_nm: Array) -> str:
        """Return to a good state as far as limits and instrument allow; return "" on arrival, or the obstacle."""
        return WayBack(self._gate, self.read_back, self._tools, goal_nm).go()

    def apply(self, delta_nm: Array) -> None:
        """Carry out an input, as several commands if it is larger than the limit of one.

        Raises:
            ValueError: refused, by a limit or by the instrument; nothing has moved.
            MicroscopeFault: the session has to end.
            OSError: the log cannot be written; the command was not sent.
            KeyboardInterrupt: a signal asked for the end; no command is under way.
        """
        done = 0
        try:
            self._check_known()
            for command in self._commands(delta_nm):
                check()
                self._retried(command)
                done += 1
        except ValueError as error:
            self._tools.journal.note("refused", delta_nm=printable(delta_nm), reason=words_of(error))
            if done:
                raise OutOfReach(f"refused in the middle of a ramp: {words_of(error)}") from error
            raise

    def _check_known(self) -> None:
        """Refuse to go forward from a position that is not known: something cut short the command before.

        Raises:
            NotThere: nor does the read-back settle it.
        """
        gate = self._gate
        if gate.unanswered or not (gate.interval.is_point or gate.believe(self.read_back.read())):
            raise NotThere(f"the corrector may stand at {gate.interval.named(self._space.names)}")

    def _commands(self, delta_nm: Array) -> list[Array]:
        """Divide an input into commands.

        Raises:
            ValueError: wrong shape, not finite, or beyond a limit.
        """
        if np.asarray(delta_nm).dtype.kind not in "fiu":
            raise ValueError(f"an input has real numbers, nm; got {printable(delta_nm)}")
        delta = read_only(delta_nm)  # the caller may change its own
        self.check_total(self._space.check_input(delta, self.commanded_nm))
        if not self._limits.ramp:
            self._gate.check_step(delta)
        return self._gate.pieces(delta)

    def _retried(self, command_nm: Array) -> None:
        # With read-back, a command that moved nothing has been followed by two readings, `retry_wait_s` apart.
        self._tools.retried("apply", lambda: self._command(command_nm), waits=self.read_back.exists)

    def _command(self, delta_nm: Array) -> None:
        """Send one command, and settle what became of it.

        Raises:
            ActuatorBusy: nothing has moved; it can be sent again.
            ValueError, OutOfReach: the instrument refused it.
            NotThere: where the corrector stands is not known, or not where it should be.
        """
        sent = self._gate.send(delta_nm, "command")
        if sent.error is None:
            self._tools.sleep(self._limits.settle_s)
            position = self._confirm_move() if self.read_back.exists else None
            self._tools.journal.note("moved", cumulative_nm=self.commanded_nm, read_back_nm=position)
        elif sent.claim is Claim.STILL:
            self._confirm_still(sent.error)
            raise sent.error
        elif isinstance(sent.error, NotThere):
            raise sent.error
        elif self.read_back.exists:
            self._ask_what_became_of(sent, sent.error)
        else:
            raise NotThere(f"{described(sent.error)}; whether it moved is not known") from sent.error

    def _confirm_move(self) -> Array:
        """Return the position that is read back, if it is where the command led.

        Raises:
            NotThere: it is not, or there is none; which of the two is wrong, driver or read-back, is not known.
        """
        goal = self.commanded_nm
        position = self.read_back.settled(goal)
        if position is None:
            raise NotThere("the corrector does not report its position")
        if self._gate.believe(position):
            return position
        worst = int(np.argmax(np.abs(position - goal)))
        raise NotThere(
            f"{self._space.names[worst]} was sent to {goal[worst]:+.3f} nm and reads {position[worst]:+.3f} nm;"
            f" safety.read_back_nm allows {self._limits.read_back_nm:g} nm"
        )

    def _confirm_still(self, refusal: BaseException) -> None:
        """Check that a refused command moved nothing: two readings, `retry_wait_s` apart, since a move may show late.

        Raises:
            NotThere: after "busy" the read-back says that it did.
        """
        position = self.read_back.read()
        if self.read_back.agrees(position, self.commanded_nm):
            self._tools.sleep(self._limits.retry_wait_s)
            position = self.read_back.read()
        if self.read_back.exists and not self._gate.believe(position) and isinstance(refusal, ActuatorBusy):
            raise NotThere(f"{described(refusal)}; it reads {listed(position)}") from refusal

    def _ask_what_became_of(self, sent: Sent, error: BaseException) -> None:
        """Settle a command without an answer by the read-back; return if it was carried out.

        First the corrector is told to stay: one that is set to absolute values may count from another place than it
        stands at, and moves now, between the two, rather than with the next command.

        Raises:
            ActuatorBusy, ValueError: nothing has moved.
            NotThere: the read-back does not settle it, or the corrector stopped on its way.
        """
        here, goal = self.commanded_nm, self.commanded_nm + sent.delta_nm
        unknown = NotThere(f"{described(error)}; whether it moved is not known")
        try:
            stay = self._gate.send(np.zeros_like(here), "command")
        except StillBusy:
            raise unknown from error
        position = self.read_back.steady(goal)
        if stay.error is not None or position is None:
            raise unknown from error
        believed = self._gate.believe(position, goal)
        if believed and self.read_back.agrees(position, goal):
            self._tools.fault(error, outcome="it had moved nevertheless")
            return
        if not (believed and self.read_back.agrees(position, here)):
            raise NotThere(f"{described(error)}; it stands at {listed(position)}") from error
        if isinstance(error, ValueError):
            raise error
        raise ActuatorBusy(f"{described(error)}; nothing has moved") from error
