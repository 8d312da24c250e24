"""A simulated scan as a stream: blocks of the simulated microscope, and the metadata that an operator knows."""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from agents.base import StreamMeta
from agents.block import Block, FrameBlock
from agents.events.order import FAULTS, EventCounts, EventOrder
from agents.events.scan import EventScan
from agents.source import Health, Source, SourceError
from agents.sources.event_file import FRAME_BYTES
from twin.formats.dataset import Beam, Layout, Metadata
from twin.formats.event_clock import clock_of
from twin.scan.plan import ScanPlan
from twin.types import ScanBlock


class TwinScan(Source):
    """A scan of the simulated microscope, block by block: frames, or events of an event camera.

    Opening computes the first block, because it has the type of the counts.

    Args:
        scan: blocks in read-out order from `Microscope.scan`; consumed.
        plan: plan of the scan.
        optics: optics of the scan.
        largest_count: largest count of the camera; None for that of its data type.
        provenance: plain JSON for the metadata.
        window_s: largest delay of an event.
        frames: provide frames of an event camera to agents that need them, at the cost of memory and time.

    Attributes:
        counts: numbers of events by their use; all zero for a camera of frames.

    Raises:
        SourceError: no position, no camera in this scan, or a scan too fast for events.
        ValueError: the microscope refuses the scan.
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
            raise SourceError("this scan has no camera: add one with scan.camera, or use the signals of its detectors")
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
            self._note_faults()

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

    def _note_faults(self) -> None:
        """Note faults of events. Events after the scan are no fault: the camera sends the last ones with a delay."""
        for name, description in FAULTS.items():
            if getattr(self.counts, name):
                self.health.fault(f"{getattr(self.counts, name)} events {description}")


def _camera(block: ScanBlock, optics: Beam) -> tuple[tuple[int, int], str]:
    """Shape, (H, W), and data type of the camera."""
    if block.frames is None:
        return (optics.camera_pixels, optics.camera_pixels), "uint32"
    height, width = block.frames.shape[1:]
    return (height, width), block.frames.dtype.name
