"""The twin's scan as the sparse event stream of a Timepix3 camera (`twin.wire.csr`): every client gets its own scan.

A client of this protocol says nothing first: a stranger that connects and stays silent looks the same. So the port
sends scans only if the operator has armed it (docs/decisions, 16).

An event of an event camera belongs to the position during whose dwell it came; a frame of another camera is sent as its
non-zero pixels. The pixels of a position are sorted, each with its count. Clients are served one after the other.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from twin.errors import StemtwinError
from twin.formats.dataset import FormatError
from twin.formats.event_clock import clock_of, event_time
from twin.server.bench import Bench, ScanSettings, scan_metadata
from twin.server.bounded_log import BoundedLog
from twin.server.connection import TICK_S, Connection, Pace, Patience
from twin.types import ScanBlock
from twin.wire import csr
from twin.wire.csr import AcquisitionEnd, AcquisitionStart, Chunk, ScanEnd, ScanStart
from twin.wire.rpc import REFUSAL

log = logging.getLogger("twin.server")

PORT = csr.PORT
BLOCK = 16
"""Positions that are computed at a time."""
NOT_ARMED = (REFUSAL + b"needs --arm-events").ljust(csr.HEADER)
"""What a client of a port that is not armed gets: as long as a message's header, so that our own client reads it."""

Keys = NDArray[np.int64]


class NoEvents(StemtwinError, ValueError):
    """A scan that this stream cannot represent."""


def make(bench: Bench) -> "EventStream":
    """Build the service.

    Raises:
        NoEvents: as `EventStream`.
    """
    return EventStream(bench)


class EventStream:
    """The event port.

    Args:
        bench: source of the scan.
        paced: send chunks at the time of the instrument's clock, not as soon as they are computed.
        metadata: send step, angles etc. as JSON with the scan. LiberTEM's client rejects a stream with JSON.
        armed: whoever connects and says nothing gets a scan; otherwise a refusal, and nothing happens.

    Raises:
        NoEvents: no scan, no camera, or positions that are not in raster order, for which this stream has no numbers.
    """

    name = "events"
    silent = latest_first = True
    patience = Patience(send_s=60.0, turn_s=600.0, linger_s=60.0)

    def __init__(self, bench: Bench, paced: bool = True, metadata: bool = False, armed: bool = False) -> None:
        check(bench.scan_settings)
        self._bench, self._paced, self._metadata, self._armed = bench, paced, metadata, armed
        self._scans, self._warnings = 0, BoundedLog(log, self.name)

    def serve(self, connection: Connection) -> bool:
        """Send one scan; then the client disconnects, because some clients reconnect at once."""
        if connection.gone:
            return False
        if not self._armed:
            self._warnings.warning("%s got no scan: the server was started without --arm-events", connection.peer)
            connection.send(NOT_ARMED)
            return False
        settings = check(self._bench.scan_settings)
        blocks = self._bench.scan(settings.plan, block=BLOCK)
        self._scans += 1
        side = settings.optics.camera_pixels
        connection.send(csr.encode(AcquisitionStart(settings.plan.shape, (side, side), self._scans)))
        connection.send(
            csr.encode(
                ScanStart(self._scans, scan_metadata(settings, self._bench.session).plain() if self._metadata else {})
            )
        )
        try:
            if not self._send(self._chunks(blocks, settings), connection):
                return False
        except RuntimeError as error:
            self._warnings.warning("%s: the scan failed: %s", connection.peer, error)
            return False
        connection.send(csr.encode(ScanEnd(self._scans)) + csr.encode(AcquisitionEnd(self._scans)))
        return True

    def _send(self, chunks: Iterator[tuple[Chunk, float]], connection: Connection) -> bool:
        """Send each chunk when it is due; return False when the client is gone."""
        pace = Pace()
        for chunk, ready_s in chunks:
            if connection.gone:
                return False
            while self._paced and (remaining_s := pace.when(ready_s) - monotonic()) > 0:
                connection.pause(min(remaining_s, TICK_S))
                if connection.gone:
                    return False
            connection.send(csr.encode(chunk))
        return True

    def refuse(self, connection: Connection) -> None:
        """Send an empty acquisition to a client that waited too long."""
        settings = check(self._bench.scan_settings)
        side = settings.optics.camera_pixels
        connection.send(csr.encode(AcquisitionStart(settings.plan.shape, (side, side), 0)))
        connection.send(csr.encode(AcquisitionEnd(0)))

    def turned_away(self, words: str) -> bytes:
        return b""

    def give_way(self) -> bool:
        return False

    def _chunks(self, blocks: Iterator[ScanBlock], settings: ScanSettings) -> Iterator[tuple[Chunk, float]]:
        """Yield chunks, and the instrument clock when each is complete."""
        positions = Positions(settings)
        for block in blocks:
            for chunk in positions.add(block):
                yield chunk, float(block.clock_s[-1])
        if positions.lost:
            self._warnings.warning("%d events belong to no position or came too late", positions.lost)


@dataclass
class Positions:
    """Sorts the output of a camera, block by block, into chunks of complete positions.

    Args:
        settings: of the scan.

    Attributes:
        lost: events between two lines, outside the scan, or of a position that was already complete.
    """

    settings: ScanSettings
    lost: int = 0
    _next: int = 0
    _waiting: Keys = field(default_factory=lambda: np.empty(0, np.int64))

    def __post_init__(self) -> None:
        self._pixels = self.settings.optics.camera_pixels**2
        self._clock = clock_of(self.settings.plan) if self.settings.events else None

    def add(self, block: ScanBlock) -> Iterator[Chunk]:
        """Yield the positions that this block completes, as one chunk or none."""
        stop = block.path.first + len(block)
        if block.frames is not None:
            yield of_frames(block.frames)
            self._next = stop
        elif block.events is not None:
            self._sort_in(block.events)
            complete = self._complete(block)
            if complete > self._next:
                yield self._take(complete)

    def _sort_in(self, events: NDArray[np.void]) -> None:
        assert self._clock is not None
        position = self._clock.position(event_time(events, fine=True))
        valid = position >= self._next
        self.lost += int(len(events) - np.count_nonzero(valid))
        keys = position[valid] * self._pixels + events["pixel"][valid].astype(np.int64)
        self._waiting = np.concatenate([self._waiting, keys])

    def _complete(self, block: ScanBlock) -> int:
        """Return the number of positions without events still under way."""
        path, stop = block.path, block.path.first + len(block)
        if stop == path.plan.count:
            return stop
        done = int(np.searchsorted(path.end_s, path.end_s[-1] - self.settings.delay_s, side="right"))
        # None of this block: a later block shows how many of the earlier positions are complete.
        return path.first + done if done else self._next

    def _take(self, stop: int) -> Chunk:
        """Return the positions from the next one to `stop`."""
        first, self._next = self._next, stop
        ready = self._waiting < stop * self._pixels
        keys, self._waiting = self._waiting[ready], self._waiting[~ready]
        return of_keys(keys - first * self._pixels, stop - first, self._pixels)


def check(settings: ScanSettings | None) -> ScanSettings:
    """Return the settings, if their scan can be a stream of events.

    Raises:
        NoEvents: as `EventStream`.
    """
    if settings is None:
        raise NoEvents("this scenario has no scan")
    if not settings.events and settings.largest_count is None:
        raise NoEvents("this scan has no camera")
    if settings.plan.pattern not in ("raster", "list"):
        raise NoEvents(
            f"the event stream counts positions in raster order; this scan is {settings.plan.pattern}:"
            " scan.plan.pattern raster or list would do"
        )
    if max(settings.plan.shape) > 2**16 - 1:
        raise NoEvents(f"the event stream's scans have sides up to 65535; got {settings.plan.shape}")
    if settings.events:
        try:
            clock_of(settings.plan)
        except FormatError as error:
            raise NoEvents(f"no event has a position in this scan: {error}") from None
    return settings


def of_frames(frames: NDArray[np.unsignedinteger]) -> Chunk:
    """Return the non-zero pixels of frames (n, H, W)."""
    flat = frames.reshape(len(frames), frames.shape[1] * frames.shape[2])
    position, index = np.nonzero(flat)
    return _chunk(position, index, flat[position, index].astype(np.int64), len(frames))


def of_keys(keys: Keys, positions: int, pixels: int) -> Chunk:
    """Return events as counts.

    Args:
        keys: position * pixels + pixel of each event, in any order, (n,).
        positions: of the chunk.
        pixels: of the camera.
    """
    where, counts = np.unique(keys, return_counts=True)
    position, index = np.divmod(where, pixels)
    return _chunk(position, index, counts, positions)


def _chunk(position: Keys, index: Keys, counts: Keys, positions: int) -> Chunk:
    """Return a chunk; `position` is sorted."""
    indptr = np.zeros(positions + 1, np.uint32)
    np.cumsum(np.bincount(position, minlength=positions), out=indptr[1:])
    value = np.uint16 if int(counts.max(initial=0)) < 2**16 else np.uint32
    return Chunk(indptr, index.astype(np.uint32), counts.astype(value))
