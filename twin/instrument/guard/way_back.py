"""The way back of a session that failed: a bounded number of commands, each by the gate, within the limits."""

import numpy as np

from twin.arrays import Array
from twin.instrument.faults import described
from twin.instrument.guard.gate import RESTORING, Gate
from twin.instrument.guard.read_back import ReadBack, listed
from twin.instrument.guard.tools import Tools

ROUNDING_NM = 1e-6
"""Positions that differ by less are equal."""


def _moves(delta_nm: Array) -> bool:
    return bool(np.any(np.abs(delta_nm) > ROUNDING_NM))


class WayBack:
    """The way back to a goal, as far as the limits allow wherever the corrector may stand.

    First by the commands that were answered: to undo them works even if the corrector's gain is wrong. Then, once, by a
    read-back that followed these commands. After a command of unknown outcome one of zero is sent: a corrector that is
    set to absolute values then returns to where it was.

    Args:
        gate, read_back, tools: of the corrector.
        goal_nm: cumulative input, shape (n,).
    """

    def __init__(self, gate: Gate, read_back: ReadBack, tools: Tools, goal_nm: Array) -> None:
        self._gate, self._read_back, self._tools, self._goal = gate, read_back, tools, goal_nm
        self._by_reading = False
        self._before: tuple[Array | None, Array] = (None, gate.commanded_nm)

    def go(self) -> str:
        """Go; return "" on arrival, otherwise the obstacle."""
        self._tools.watch.ending = True
        self._gate.take_late_answer()
        attempts, obstacle, in_doubt = max(self._tools.limits.retries, 1) + 2, "", self._gate.unanswered
        while True:
            # After a command without an answer, first one of zero: see `GuardedCorrector`.
            stays = bool(attempts) and self._gate.unanswered
            position = None if stays else self._read_back.steady(self._goal, twice=in_doubt)
            if self._arrived(position):
                return ""
            delta = np.zeros_like(self._goal) if stays else self._next(position)
            if delta is None or not attempts:
                return obstacle or self._what_is_wrong(position)
            attempts -= 1
            self._before = position, self._gate.commanded_nm
            obstacle = self._send(delta, position)
            if obstacle:
                in_doubt = True
                self._tools.sleep(self._tools.limits.retry_wait_s)

    def _arrived(self, position: Array | None) -> bool:
        """Whether the corrector stands at the goal, wherever it may stand.

        Its read-back, if it has one, has to agree with the goal and with the commands: a corrector that is on its way
        passes the goal's neighbourhood.
        """
        gate = self._gate
        if not self._read_back.exists:
            return gate.interval.lies_at(self._goal, ROUNDING_NM)
        at_goal = self._read_back.agrees(position, self._goal)
        return gate.believe(position, self._goal) and at_goal and gate.lies_at(self._goal)

    def _next(self, position: Array | None) -> Array | None:
        """Return the next way to send, shape (n,); None if nothing is left that could help."""
        by_commands = self._gate.admissible(self._goal - self._gate.commanded_nm)
        if _moves(by_commands):
            return by_commands
        if position is not None and not self._by_reading and self._followed(position):
            self._by_reading = True
            return self._gate.admissible(self._goal - position)
        return None

    def _followed(self, position: Array) -> bool:
        """Whether the read-back is possible and changed by what was sent since the look before."""
        before, commanded = self._before
        sent = self._gate.commanded_nm - commanded
        moved = bool(np.any(np.abs(sent) > self._tools.limits.read_back_nm))
        possible = self._gate.interval.holds(position, self._tools.limits.read_back_nm)
        return moved and possible and before is not None and self._read_back.agrees(position - before, sent)

    def _send(self, delta_nm: Array, position: Array | None) -> str:
        """Send, in pieces; return "" or the obstacle."""
        try:
            for piece in self._gate.pieces(delta_nm):
                sent = self._gate.send(piece, RESTORING, goal_nm=self._goal, read_back_nm=position)
                if sent.error is not None:
                    self._tools.fault(sent.error, verb="restore")
                    return described(sent.error)
                self._tools.sleep(self._tools.limits.settle_s)
                # After a command of zero the place of the last one is not known yet.
                position = self._read_back.settled(self._gate.commanded_nm) if np.any(piece) else None
                self._gate.believe(position)
        except Exception as error:  # nothing may keep the last word from being written
            self._tools.fault(error, verb="restore")
            return described(error)
        return ""

    def _what_is_wrong(self, position: Array | None) -> str:
        if not self._read_back.exists:
            return "whether the last command moved the corrector is not known"
        if position is None:
            return "the corrector does not report its position"
        if self._gate.interval.is_point:
            return f"it reads {listed(position)}"
        return f"it was sent to {listed(self._gate.commanded_nm)} and reads {listed(position)}"
