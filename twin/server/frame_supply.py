"""Sources of frames for a served camera: single exposures, scans, or a scan that was computed in advance.

Frames leave as messages of `twin.wire.merlin`, ready to send. No sockets.
"""

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from twin.arrays import Floats
from twin.errors import StemtwinError
from twin.formats import merlin_header as mh
from twin.formats.dataset import Frames, Layout
from twin.formats.mib import METADATA, frame_header, smallest_depth
from twin.server.bench import Bench, ScanSettings, ronchigram_metadata, scan_metadata
from twin.types import ScanBlock
from twin.wire import merlin

Bytes = NDArray[np.uint8]

SCAN_BLOCK = 16
"""Positions that are computed at a time; meanwhile other clients of the bench wait."""
PREPARED_BYTES = 2**32
"""Default limit of the memory of a prepared scan."""


class NoFrames(StemtwinError, ValueError):
    """No frames from this source."""


class Batch(NamedTuple):
    """Consecutive frames: messages, (n, bytes), and the instrument clock when each was complete, (n,)."""

    messages: Bytes
    ready_s: Floats


class FrameFormat(NamedTuple):
    """The frames of a source.

    Attributes:
        shape: (H, W).
        largest_count: of a pixel.
        exposure_s: of one frame.
        period_s: usual time from one frame to the next.
        frames: default number of an acquisition.
        frames_per_trigger: default number: those of a row, or one.
        depths: of the counter that it can have, bits.
    """

    shape: tuple[int, int]
    largest_count: int
    exposure_s: float
    period_s: float
    frames: int = 1
    frames_per_trigger: int = 1
    depths: tuple[int, ...] = tuple(mh.DEPTHS)


class FrameSupply(Protocol):
    """A source of frames for the camera."""

    @property
    def format(self) -> FrameFormat: ...

    def now(self) -> Self:
        """Return the source with its present settings, for one acquisition; later changes apply to the next."""
        ...

    def about(self, frames: int, per_trigger: int, depth: int) -> mh.Acquisition:
        """Return the text header of an acquisition; 0 frames: until stopped."""
        ...

    def batches(self, depth: int, frames: int) -> Iterator[Batch]:
        """Yield frames 1, 2, ... of an acquisition, computed on demand; 0 frames: without end.

        Counts beyond the counter's depth saturate, as in the chip.

        Raises:
            RuntimeError, ValueError: as `Bench.scan`.
        """
        ...


class RonchigramSupply:
    """One exposure of the bench per frame.

    Args:
        bench: source of the exposures.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        capabilities, exposure_s = bench.capabilities, bench.ronchigram.exposure_s
        period_s = exposure_s + bench.ronchigram.overhead_s
        self.format = FrameFormat(capabilities.camera_shape, capabilities.max_count, exposure_s, period_s)

    def now(self) -> Self:
        return self

    def about(self, frames: int, per_trigger: int, depth: int) -> mh.Acquisition:
        extra = {METADATA: json.dumps(ronchigram_metadata(self._bench).plain())}
        return mh.Acquisition(frames, per_trigger, None, depth, extra)

    def batches(self, depth: int, frames: int) -> Iterator[Batch]:
        header = _header(self.format, depth)
        for number in _count(frames):
            frame = self._bench.acquire()
            begun_s = frame.clock_s - frame.exposure_s
            now = replace(header, sequence=number, shutter_s=frame.exposure_s)
            messages = merlin.frame_messages(_clipped(frame.counts[None], depth), now, begun_s)
            yield Batch(messages, np.array([frame.clock_s]))


class ScanSupply:
    """The scan of the bench, repeated if an acquisition has more frames than the scan has positions.

    Args:
        bench: source of the scans; its settings may change between two acquisitions.
        settings: of this scan; None: the present ones of the bench.

    Raises:
        NoFrames: no scan in this scenario, or a camera without frames.
    """

    def __init__(self, bench: Bench, settings: ScanSettings | None = None) -> None:
        self._bench, self._settings = bench, settings
        self.settings()

    def now(self) -> Self:
        return type(self)(self._bench, self.settings())

    def settings(self) -> ScanSettings:
        """Return the present settings of the scan.

        Raises:
            NoFrames: as `ScanSupply`.
        """
        settings = self._settings or self._bench.scan_settings
        if settings is None:
            raise NoFrames("this scenario has no scan")
        if settings.largest_count is None:
            raise NoFrames("this scan's camera gives no frames")
        return settings

    @property
    def format(self) -> FrameFormat:
        settings = self.settings()
        plan, side = settings.plan, settings.optics.camera_pixels
        per_trigger = 1 if plan.pattern == "list" else plan.columns
        largest = settings.largest_count or 0
        return FrameFormat((side, side), largest, plan.dwell_s, plan.dwell_s, plan.count, per_trigger)

    def about(self, frames: int, per_trigger: int, depth: int) -> mh.Acquisition:
        """Return the text header; with rows and columns only for one complete scan in raster or serpentine order."""
        settings = self.settings()
        plan, extra = settings.plan, {METADATA: json.dumps(scan_metadata(settings, self._bench.session).plain())}
        grid = plan.shape if plan.pattern in ("raster", "serpentine") and frames == plan.count else None
        return mh.Acquisition(frames, per_trigger, grid, depth, extra)

    def batches(self, depth: int, frames: int) -> Iterator[Batch]:
        plan, exposure_s = self.settings().plan, self.format.exposure_s
        header, number = _header(self.format, depth), 1
        while frames == 0 or number <= frames:
            blocks = self._bench.scan(plan, block=SCAN_BLOCK)
            for counts, end_s in itertools.chain.from_iterable(map(_by_line, blocks)):
                taken = len(counts) if frames == 0 else min(len(counts), frames - number + 1)
                if taken == 0:
                    return
                now = replace(header, sequence=number)
                begun_s = float(end_s[0]) - exposure_s
                yield Batch(merlin.frame_messages(_clipped(counts[:taken], depth), now, begun_s, exposure_s), end_s)
                number += taken


class PreparedScan:
    """A scan that is computed once and then sent any number of times, as fast as the connection allows.

    Later changes of the bench do not affect it, and sending it takes no instrument time. Frame numbers continue over
    repetitions; times are those of the first one.

    Args:
        bench: source of the scan, which is taken now.
        most_bytes: largest memory.
        progress: called with the number of positions that were added.

    Raises:
        NoFrames: no frames, or too many for `most_bytes`.
        RuntimeError, ValueError: as `Bench.scan`.
    """

    def __init__(
        self, bench: Bench, most_bytes: int = PREPARED_BYTES, progress: Callable[[int], None] | None = None
    ) -> None:
        scan = ScanSupply(bench).now()
        self._scan, self.format = scan, scan.format
        frames = self.format.frames
        self._depth = smallest_depth_of(self.format.largest_count)
        self.format = self.format._replace(depths=(self._depth,))
        header = _header(self.format, self._depth)
        self._front = merlin.PREFIX_BYTES + header.length
        needed = frames * (self._front + header.payload_bytes)
        if needed > most_bytes:
            raise NoFrames(f"{frames} frames take {needed} bytes; {most_bytes} are allowed: serve it unprepared")
        self._messages = np.empty((frames, self._front + header.payload_bytes), np.uint8)
        self._ready_s, done = np.empty(frames), 0
        for batch in scan.batches(self._depth, frames):
            stop = done + len(batch.messages)
            self._messages[done:stop], self._ready_s[done:stop] = batch
            if progress is not None:
                progress(stop - done)
            done = stop
        self._numbered_from = 1
        bench.scan_settings = replace(scan.settings(), prepared=True)

    def now(self) -> Self:
        return self

    def about(self, frames: int, per_trigger: int, depth: int) -> mh.Acquisition:
        return self._scan.about(frames, per_trigger, depth)

    def batches(self, depth: int, frames: int) -> Iterator[Batch]:
        if depth != self._depth:
            raise NoFrames(f"this scan was prepared for a counter of {self._depth} bits, not {depth}")
        # Instrument time of a repetition: one period after the last frame of the previous one.
        seconds, whole = float(self._ready_s[-1] - self._ready_s[0]) + self.format.period_s, self.format.frames
        for repetition in itertools.count():
            first = repetition * whole
            count = whole if frames == 0 else min(whole, frames - first)
            if count <= 0:
                return
            self._number_from(first + 1)
            yield Batch(self._messages[:count], self._ready_s[:count] + repetition * seconds)

    def _number_from(self, first: int) -> None:
        """Number the frames in place; the padding of a header absorbs longer numbers."""
        if first == self._numbered_from:
            return
        for number, row in enumerate(self._messages[:, : self._front], start=first):
            prefix, rest = row[: merlin.PREFIX_BYTES].tobytes(), row[merlin.PREFIX_BYTES :].tobytes().rstrip(b"\0")
            _, _, after = rest.split(b",", 2)
            row[:] = np.frombuffer((prefix + b"MQ1,%06d," % number + after).ljust(self._front, b"\0"), np.uint8)
        self._numbered_from = first


def smallest_depth_of(largest_count: int) -> int:
    """Return the depth of the smallest counter that holds a count, bits; at most the largest there is."""
    return smallest_depth(min(largest_count, (1 << max(mh.DEPTHS)) - 1))


def _header(format: FrameFormat, depth: int) -> mh.MerlinHeader:
    layout = Layout((1,), format.shape, f"uint{8 * mh.PIXEL_BYTES[mh.DEPTHS[depth]]}")
    return frame_header(layout, depth, False, format.exposure_s)


def _by_line(block: ScanBlock) -> Iterator[tuple[Frames, Floats]]:
    """Yield frames and clock of a block, line by line: within a line frames follow without a gap."""
    if block.frames is None:
        raise NoFrames("this scan's camera gives no frames")
    cuts = np.flatnonzero(np.diff(block.path.line)) + 1
    for start, stop in itertools.pairwise([0, *cuts.tolist(), len(block)]):
        yield block.frames[start:stop], block.clock_s[start:stop]


def _clipped(counts: Frames, depth: int) -> Frames:
    maximum = (1 << depth) - 1
    return counts if maximum >= np.iinfo(counts.dtype).max else np.minimum(counts, counts.dtype.type(maximum))


def _count(frames: int) -> Iterator[int]:
    return itertools.count(1) if frames == 0 else iter(range(1, frames + 1))
