"""When the view by hand is drawn: drafts while a knob moves, a full frame once it rests, then one now and then."""

from typing import Literal

SETTLE_S = 0.15
"""Time without a turn of a knob after which a full frame replaces the draft."""
IDLE_S = 0.5
"""Interval of exposures while nothing moves."""

Quality = Literal["draft", "full"]


class Pace:
    """Decides from the times of turns and exposures, seconds of any clock.

    Example:
        >>> pace = Pace()
        >>> pace.turned(10.0)
        >>> pace.next(10.01, live=False), pace.next(10.2, live=False)
        ('draft', 'full')
        >>> pace.exposed("full", 10.2)
        >>> pace.next(10.3, live=False), pace.next(10.8, live=True)
        (None, 'full')
    """

    def __init__(self) -> None:
        self._turned_s = self._exposed_s = -1e9
        self._new, self._rough = True, True

    def turned(self, now_s: float) -> None:
        """A knob was turned."""
        self._turned_s, self._new, self._rough = now_s, True, True

    def anew(self) -> None:
        """Something else has changed: a full frame is due at once."""
        self._turned_s, self._new, self._rough = -1e9, True, True

    def exposed(self, quality: Quality, now_s: float) -> None:
        """A frame was drawn."""
        self._exposed_s, self._new = now_s, False
        self._rough = self._rough and quality == "draft"

    def next(self, now_s: float, live: bool) -> Quality | None:
        """Return what is due now; `live` exposes also while nothing changes."""
        if self._rough and now_s - self._turned_s < SETTLE_S:
            return "draft" if self._new else None
        if self._rough or (live and now_s - self._exposed_s >= IDLE_S):
            return "full"
        return None

    def wait_s(self, now_s: float) -> float:
        """Return the longest time until something may be due."""
        due_s = self._turned_s + SETTLE_S if self._rough else self._exposed_s + IDLE_S
        return min(IDLE_S, max(0.002, due_s - now_s))
