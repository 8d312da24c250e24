"""Timepix3 events as frames: reader and writer of .t3p files for `create` and `open_frames`.

Reading needs events sorted by time. Those of a real camera are sorted only approximately: use `agents.sources.t3p`.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twin.formats import event_clock, file_checks, t3p
from twin.formats.closing import released_on_error
from twin.formats.dataset import FormatError, FrameReader, Frames, FrameWriter, Layout, Metadata
from twin.formats.event_clock import FINE_TIME, SCAN_PLAN, EventClock, clock_of, event_time, plan_of
from twin.formats.mib import check_order


class EventFrameWriter(FrameWriter):
    """Writes frames as events, one per count, evenly over the dwell (`t3p.from_frames`).

    Raises:
        FormatError: as `t3p.T3pWriter`, or a dwell below one tick.
    """

    def __init__(self, path: Path, layout: Layout, metadata: Metadata) -> None:
        dwell_s = metadata.dwell_s
        if dwell_s is not None and dwell_s < t3p.TICK_S:
            raise FormatError(f"a dwell of {dwell_s} s is shorter than a tick of {t3p.TICK_S} s")
        self._events = t3p.T3pWriter(path, layout, metadata)
        self._dwell_s = dwell_s or 0.0
        self.layout, self.count = layout, 0

    def _write(self, frames: Frames, pixel: NDArray[np.integer] | None) -> None:
        check_order(self.layout, self.count, len(frames), pixel)
        events = t3p.from_frames(frames, self.count, self._dwell_s)
        self._events.append(events, self.count + len(frames))

    def close(self) -> None:
        self._events.close()


class EventFrameReader(FrameReader):
    """Frames, uint32, counted from events. Opening reads the file once, to check that the events are sorted by time.

    Raises:
        FormatError: as `t3p.T3pReader`, no description beside the file, events that are not sorted by time, or a scan
            that is not in raster order.
    """

    def __init__(self, path: Path, tolerate: bool = False) -> None:
        self._reader = t3p.T3pReader(path, tolerate)
        with released_on_error(self._reader.close):
            layout, metadata = self._reader.layout, self._reader.metadata
            if layout is None or metadata.dwell_s is None:
                raise FormatError(
                    f"{path}: frames need {t3p.sidecar(path).name} with scan, camera and dwell_s;"
                    " t3p.T3pReader reads the events alone"
                )
            _check_sizes(path, layout, self._reader.count)
            self.layout, self.metadata = layout, metadata
            self._clock = _clock(path, layout, metadata)
            self._fine = bool(metadata.provenance.get(FINE_TIME))
            complete = max(self._reader.frames, self._last_position(path) + 1)
        self.acquired = np.zeros(layout.scan, bool)
        self.acquired.ravel()[:complete] = True

    def _last_position(self, path: Path) -> int:
        """Return the scan position of the last event; -1 without events."""
        latest, position = 0, -1
        for first, events in self._reader.blocks():
            _check_plain(path, events)
            toa = events["toa"]
            late = np.flatnonzero(np.diff(toa.astype(np.int64), prepend=latest) < 0)
            if late.size:
                raise FormatError(f"{path}: event {first + late[0]} came before the previous one; sort by toa")
            latest = int(toa[-1])
            if latest >= event_clock.LAST_TICK:
                raise FormatError(f"{path}: a time of arrival of {latest} ticks is more than 26 days")
            position = max(position, int(self._clock.position(event_time(events[-1:], self._fine))[0]))
        return position

    def _read(self, first: int, count: int) -> Frames:
        frames = np.zeros((count, *self.layout.camera), dtype=np.uint32)
        if count == 0:
            return frames
        # Fine time counts back from the tick by less than one tick.
        start, stop = self._search(self._tick(first)), self._search(self._tick(first + count - 1, end=True) + 2)
        for begin in range(start, stop, t3p.BLOCK_RECORDS):
            events = self._reader.read(begin, min(t3p.BLOCK_RECORDS, stop - begin))
            position = self._clock.position(event_time(events, self._fine)) - first
            frames += t3p.count_hits(events, position, count, self.layout.camera)
        return frames

    def _tick(self, position: int, end: bool = False) -> int:
        """Return the tick in which the dwell of a position begins or ends."""
        return self._clock.begins(position, end) // event_clock.PER_TICK

    def _search(self, tick: int) -> int:
        """Return the first record at or after a tick, by bisection of the file."""
        low, high = 0, self._reader.count
        while low < high:
            middle = (low + high) // 2
            if int(self._reader.read(middle, 1)["toa"][0]) < tick:
                low = middle + 1
            else:
                high = middle
        return low

    def close(self) -> None:
        self._reader.close()


def _check_sizes(path: Path, layout: Layout, records: int) -> None:
    """Hold the scan and the camera that the description announces against the file and the free memory.

    Raises:
        FormatError: far more positions than records, or frames that do not fit into memory.
    """
    file_checks.check_positions(layout.count, records, str(path), "events")
    file_checks.check_event_camera(layout.camera, records, str(path))
    file_checks.check_frame_memory(layout.frame_bytes, str(path))


def _check_plain(path: Path, events: t3p.Events) -> None:
    """Refuse records that are no plain hits.

    Raises:
        FormatError: marks of lost data, or chip numbers.
    """
    if len(t3p.split_marks(events)[1]):
        raise FormatError(f"{path}: records tell of lost data, or are no hits; agents.sources.t3p heeds them")
    if t3p.chip_numbers(events):
        raise FormatError(f"{path}: hits have chip numbers; use agents.sources.t3p, with the places of the chips")


def _clock(path: Path, layout: Layout, metadata: Metadata) -> EventClock:
    """Return the clock of the file's scan plan, or of a scan without pauses.

    Raises:
        FormatError: an invalid plan, or one whose positions are not in raster order.
    """
    if SCAN_PLAN not in metadata.provenance:
        return EventClock(metadata.dwell_s or 0.0, layout.count)
    plan = plan_of(layout, metadata)
    if plan.pattern in ("serpentine", "subsampled"):
        raise FormatError(
            f"{path}: frames are in raster order, these events are of a {plan.pattern} scan; use agents.sources.t3p"
        )
    return clock_of(plan)
