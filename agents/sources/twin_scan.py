"""The twin's own scan as a stream: blocks as the simulated microscope makes them, and what an operator knows of it."""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from agents.base import StreamMeta
from agents.block import Block, FrameBlock
from agents.events.order import FAULTS, EventCounts, EventOrder
from agents.events.scan import EventScan
from agents.source import Health, Source, SourceError
from agents.sources.t3p import FRAME_BYTES
from twin.formats.dataset import Beam, Layout, Metadata
from twin.formats.event_clock import clock_of
from twin.scan.plan import ScanPlan
from twin.types import ScanBlock


class TwinScan(Source):
    """A scan that a microscope of the twin makes, block by block: frames, or events if its camera gives events.

    The first block is computed on opening: it shows what the camera's counts are.

    Args:
        scan: blocks in read-out order, as `Microscope.scan` gives them; used up.
        plan: of the scan.
        optics: of the scan.
        largest_count: of the camera; None for what its counts' type holds.
        provenance: for the metadata, plain JSON.
        window_s: how far out of order of time events may come.
        frames: agents that need frames may have them made of events, at the price of memory and time.

    Attributes:
        counts: where events went; all zero for a camera of frames.

    Raises:
        SourceError: no position, no camera in this scan, or a scan too fast for events.
        ValueError: what the microscope refuses.
    """

    def __init__(
        self,
        scan: Iterator[ScanBlock],
        plan: ScanPlan,
        optics: Beam,
        largest_count: int | None = None,
        provenance: Mapping[str, Any] | None = None,
        window_s: float = 1e-4,
        frames: bool = False,
    ) -> None:
        self.health = Health()
        first = next(scan, None)
        if first is None:
            raise SourceError("this scan has no positions")
        if first.frames is None and first.events is None:
            raise SourceError("this scan has no camera: give it one with scan.camera, or use its detectors' signals")
        self._plan, self._scan = plan, chain([first], scan)
        shape = (plan.count,) if plan.pattern == "list" else plan.shape
        camera, dtype = _camera(first, optics)
        self.meta = StreamMeta(
            Layout(shape, camera, dtype, largest_count),
            Metadata.of_scan(plan, optics, provenance or {}),
            transposed=False,
            has_frames=first.frames is not None or frames,
        )
        self._events = None if first.frames is not None else self._event_scan(camera, window_s, frames)
        self.counts = EventCounts() if self._events is None else self._events.order.counts

    def _event_scan(self, camera: tuple[int, int], window_s: float, frames: bool) -> EventScan:
        pixels = camera[0] * camera[1]
        most = max(1, FRAME_BYTES // (4 * pixels)) if frames else 2**16
        try:
            order = EventOrder(clock_of(self._plan), pixels, window_s=window_s, fine=True, most_positions=most)
        except ValueError as error:
            raise SourceError(f"this scan cannot be one of events: {error}") from error
        return EventScan(self._plan, camera, order)

    def blocks(self) -> Iterator[Block]:
        try:
            for block in self._positions():
                self.health.received += len(block)
                yield block
        finally:
            self.health.missing = self._plan.count - self.health.received
            self._tell()

    def _positions(self) -> Iterator[Block]:
        visited = 0
        for block in self._scan:
            visited += len(block)
            if block.frames is not None:
                yield FrameBlock(block.frames, block.path.pixel)
            elif block.events is not None and self._events is not None:
                yield from self._events.push(block.events)
        if self._events is not None:
            yield from self._events.flush(visited)

    def _tell(self) -> None:
        """Faults of events. Those after the scan are none: the last ones of a position leave the camera late."""
        for name, words in FAULTS.items():
            if getattr(self.counts, name):
                self.health.fault(f"{getattr(self.counts, name)} events {words}")


def _camera(block: ScanBlock, optics: Beam) -> tuple[tuple[int, int], str]:
    """(H, W), and the type of the counts."""
    if block.frames is None:
        return (optics.camera_pixels, optics.camera_pixels), "uint32"
    height, width = block.frames.shape[1:]
    return (height, width), block.frames.dtype.name
