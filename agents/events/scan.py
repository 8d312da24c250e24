"""Events of one scan as they come, turned into blocks of whole positions: what every source of records does."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from agents.events.block import EventBlock
from agents.events.order import EventOrder, Run
from twin.scan.plan import ScanPlan, path

Events = NDArray[np.void]

STRETCH = 4096
"""Positions whose pixels are computed at a time: blocks may be much shorter."""


class EventScan:
    """Puts each position where the plan visits it.

    Args:
        plan: of the scan.
        camera: (H, W).
        order: fresh, for the plan's clock and the camera's pixels.

    Attributes:
        order: has the counts, and the positions that are done.
    """

    def __init__(self, plan: ScanPlan, camera: tuple[int, int], order: EventOrder) -> None:
        self._plan, self._camera, self.order = plan, camera, order
        self._first, self._pixel = 0, np.empty((0, 2), np.int32)

    def push(self, events: Events) -> Iterator[EventBlock]:
        """The next events; blocks of the positions that are complete with them. To be iterated to its end."""
        return map(self._block, self.order.push(events))

    def flush(self, until: int = 0) -> Iterator[EventBlock]:
        """What is still waiting; positions before `until` are known to be complete, with events or without."""
        return map(self._block, self.order.flush(until))

    def _block(self, run: Run) -> EventBlock:
        stop = run.first + len(run.indptr) - 1
        if run.first < self._first or stop > self._first + len(self._pixel):
            self._first = run.first
            self._pixel = path(self._plan, run.first, min(max(stop, run.first + STRETCH), self._plan.count)).pixel
        pixel = self._pixel[run.first - self._first : stop - self._first]
        return EventBlock.of_records(run.events, run.indptr, pixel, self._camera)
