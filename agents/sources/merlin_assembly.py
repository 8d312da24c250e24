"""Assignment of numbered frames to scan positions: runs of frames, and missing, repeated and surplus ones.

Without sockets and threads: messages of `twin.wire.merlin_decoder` in, runs of frames adjacent in memory out.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.block import FrameBlock, Frames
from agents.source import Health
from twin.formats import merlin_header as mh
from twin.formats import merlin_pixels
from twin.wire.merlin_decoder import FrameMessage

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class FrameOrder:
    """Assignment of frame numbers to positions.

    Attributes:
        scan: (rows, columns), or (N,) for a list of positions.
        first: number of the first frame.
        skip_frames: frames at the beginning without a position.
        flyback_frames: frames at the end of each row without a position.
        serpentine: odd rows run backwards.
    """

    scan: tuple[int, ...]
    first: int = 1
    skip_frames: int = 0
    flyback_frames: int = 0
    serpentine: bool = False

    @property
    def rows(self) -> int:
        """Number of rows; a list of positions is one row."""
        return self.scan[0] if len(self.scan) == 2 else 1

    @property
    def frames(self) -> int:
        """Number of frames of one scan, those without a position included."""
        return self.skip_frames + self.rows * (self.scan[-1] + self.flyback_frames)

    def place(self, number: int) -> tuple[int, int] | None:
        """(row, column) of a frame; None for a frame without a position."""
        index = number - self.first - self.skip_frames
        if index < 0:
            return None
        row, column = divmod(index, self.scan[-1] + self.flyback_frames)
        if row >= self.rows or column >= self.scan[-1]:
            return None
        return row, self.scan[-1] - 1 - column if self.serpentine and row % 2 else column

    def places(self, index: NDArray[np.integer]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """(row, column) of frames counted from the first, (n, 2), and whether each has a position: `place` for many."""
        since = index - self.skip_frames
        row, column = np.divmod(since, self.scan[-1] + self.flyback_frames)
        there = (since >= 0) & (row < self.rows) & (column < self.scan[-1])
        if self.serpentine:
            column = np.where(row % 2 == 1, self.scan[-1] - 1 - column, column)
        return np.stack([row, column], axis=1).astype(np.int32), there

    def is_beyond(self, number: int) -> bool:
        """True for a number outside this scan."""
        return not 0 <= number - self.first < self.frames


class FrameRun(NamedTuple):
    """Frames in rows `start` to `stop` of a slab of memory, and (row, column) of each, (n, 2)."""

    slab: Bytes
    start: int
    stop: int
    pixel: NDArray[np.int32]

    @property
    def bytes(self) -> int:
        """Memory of the pixels."""
        return (self.stop - self.start) * self.slab.shape[1]

    def block(self, header: mh.MerlinHeader) -> FrameBlock:
        """Block of these frames: big-endian views of processed pixels, decoded copies of raw ones."""
        return FrameBlock(frames_of(self.slab[self.start : self.stop], header), self.pixel)


def frames_of(payload: Bytes, header: mh.MerlinHeader) -> Frames:
    """Decode frames, (n, H, W), from their bytes, (n, payload); a view unless the pixels are raw."""
    if header.pixel not in mh.PIXEL_BYTES:
        return merlin_pixels.decode(payload, header)
    words = payload.view(np.dtype(f">u{mh.PIXEL_BYTES[header.pixel]}"))
    return words.reshape(len(payload), *header.image_shape)


class Assembly:
    """Assigns the frames of one scan to positions and counts faults, over any number of connections.

    Args:
        order: order of the frames.
        health: receives missing and repeated positions and faults.
        run_frames: largest number of frames in a run.
        counter: take the frames of this counter of the chip only, where both give one of each exposure; None takes all.
        mixed: it is known that frames of both counters are taken; otherwise a fault tells of it.
    """

    def __init__(
        self, order: FrameOrder, health: Health, run_frames: int, counter: int | None = None, mixed: bool = False
    ) -> None:
        self.order, self.health = order, health
        self._counter, self._rise = counter, 2
        self._before: FrameMessage | None = None
        self._first_counter: int | None = None
        self._mixed = mixed
        self.received = 0
        self._run_frames = run_frames
        self._received = np.zeros((order.rows, order.scan[-1]), bool)
        self._next, self._latest = order.first, order.first - 1
        self._beyond = 0
        self._slab: Bytes | None = None
        self._start = 0
        self._pixel: list[tuple[int, int]] = []

    @property
    def complete(self) -> bool:
        """Every position has its frame."""
        return self.received == self._received.size

    @property
    def at_end(self) -> bool:
        """The latest frame is the last of the scan, even if earlier ones are missing."""
        return self._latest >= self.order.first + self.order.frames - 1

    @property
    def waiting(self) -> int:
        """Number of frames in the open run."""
        return len(self._pixel)

    def is_news(self, frame: FrameMessage) -> bool:
        """True for a frame of this scan that `add` has not had: a later number, or a position without its frame."""
        if self.order.is_beyond(frame.number):
            return False
        place = self.order.place(frame.number)
        return frame.number >= self._next if place is None else not self._received[place]

    def add(self, frame: FrameMessage) -> list[FrameRun]:
        """Add a frame; return the runs that it completes."""
        if self._counter is not None:
            told = frame.number
            # The two frames of an exposure have two numbers, unless two have been seen with one.
            if self._before is not None and (frame.counter, told) == (1 - self._before.counter, self._before.number):
                self._rise = 1
            # Nor are there pairs if one counter's frames follow each other.
            if self._before is not None and (frame.counter, told) == (self._before.counter, self._before.number + 1):
                self._rise = 1
            self._before = frame
            if frame.counter != self._counter:
                return []
            frame = frame._replace(number=self.order.first + (told - self.order.first) // self._rise)
        elif self._first_counter is None:
            self._first_counter = frame.counter
        elif frame.counter != self._first_counter and not self._mixed:
            self._mixed = True
            self.health.fault(
                f"frame {frame.number} is of counter {frame.counter}, those before it of {self._first_counter}: each is"
                f" taken as a position of its own; counter={self._first_counter} takes one frame of each pair"
            )
        self._latest = frame.number
        if self.order.is_beyond(frame.number):
            self._beyond += 1
            if self._beyond == 1:
                self.health.fault(
                    f"frame {frame.number} does not belong to a scan of {self.order.scan}, which has"
                    f" {self.order.frames} frames from {self.order.first}; it and others like it are left out"
                )
            return []
        if frame.number > self._next:
            last = frame.number - 1
            which = f"frame {last} is" if last == self._next else f"frames {self._next} to {last} are"
            self.health.fault(f"{which} missing")
        self._next = max(self._next, frame.number + 1)
        place = self.order.place(frame.number)
        if place is None:
            return []
        if self._received[place]:
            self.health.duplicates += 1
            return []
        self._received[place] = True
        self.received += 1
        return self._append(frame, place)

    def _append(self, frame: FrameMessage, place: tuple[int, int]) -> list[FrameRun]:
        closed: list[FrameRun] = []
        if self._slab is not frame.slab or frame.slot != self._start + len(self._pixel):
            closed = self.take()
            self._slab, self._start = frame.slab, frame.slot
        self._pixel.append(place)
        return closed + (self.take() if len(self._pixel) >= self._run_frames else [])

    def take(self) -> list[FrameRun]:
        """Close the open run; return it, or nothing."""
        self.count_missing(self._next)
        if not self._pixel or self._slab is None:
            return []
        run = FrameRun(self._slab, self._start, self._start + len(self._pixel), np.array(self._pixel, np.int32))
        self._start, self._pixel = run.stop, []
        return [run]

    def count_missing(self, stop: int) -> None:
        """Set `health.missing` to the number of positions before frame `stop` without a frame."""
        done = stop - self.order.first - self.order.skip_frames
        row, column = divmod(max(done, 0), self.order.scan[-1] + self.order.flyback_frames)
        due = min(row * self.order.scan[-1] + min(column, self.order.scan[-1]), self._received.size)
        self.health.missing = max(due - self.received, 0)

    def end(self) -> None:
        """End the stream: all positions without a frame are missing."""
        self.health.missing = self._received.size - self.received
        if self._beyond > 1:
            self.health.fault(f"{self._beyond} frames in all did not belong to the scan")
