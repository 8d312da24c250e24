"""Blocks of whole positions from the events of a scan."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from agents.events.block import EventBlock
from agents.events.order import EventOrder, EventRun
from twin.scan.plan import ScanPlan, path

Events = NDArray[np.void]

STRETCH = 4096
"""Positions whose pixels are computed at a time; blocks may be much shorter."""


class EventScan:
    """Groups events by position and gives each position its pixel in the image.

    Args:
        plan: plan of the scan.
        camera: (H, W).
        order: new, for the clock of the plan and the pixels of the camera.

    Attributes:
        order: has the counts of events and the number of positions so far.
    """

    def __init__(self, plan: ScanPlan, camera: tuple[int, int], order: EventOrder) -> None:
        self._plan, self._camera, self.order = plan, camera, order
        self._first, self._pixel = 0, np.empty((0, 2), np.int32)

    def push(self, events: Events) -> Iterator[EventBlock]:
        """Take the next events; yield blocks of the positions that are now complete. Iterate to the end."""
        return map(self._block, self.order.push(events))

    def flush(self, until: int = 0) -> Iterator[EventBlock]:
        """Yield the remaining positions, at least up to `until`, with or without events."""
        return map(self._block, self.order.flush(until))

    def _block(self, run: EventRun) -> EventBlock:
        stop = run.first + len(run.indptr) - 1
        if run.first < self._first or stop > self._first + len(self._pixel):
            self._first = run.first
            self._pixel = path(self._plan, run.first, min(max(stop, run.first + STRETCH), self._plan.count)).pixel
        pixel = self._pixel[run.first - self._first : stop - self._first]
        return EventBlock.of_records(run.events, run.indptr, pixel, self._camera)
