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

from twin.errors import StemtwinError
from twin.formats import merlin_header as mh
from twin.formats.dataset import Frames, Layout
from twin.formats.mib import METADATA, frame_header
from twin.server.bench import Bench, ScanSettings, ronchigram_metadata, scan_metadata
from twin.types import ScanBlock
from twin.wire import merlin

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]

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


class FrameSupply(Protocol):
    """A source of frames for the camera."""

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of a frame."""
        ...

    @property
    def largest_count(self) -> int:
        """Largest count of a pixel."""
        ...

    @property
    def exposure_s(self) -> float:
        """Exposure of one frame."""
        ...

    @property
    def period_s(self) -> float:
        """Usual time from one frame to the next."""
        ...

    @property
    def frames(self) -> int:
        """Default number of frames of an acquisition."""
        ...

    @property
    def frames_per_trigger(self) -> int:
        """Default number of frames per trigger: a row, or one."""
        ...

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

    frames = 1
    frames_per_trigger = 1

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.shape, self.largest_count = bench.capabilities.camera_shape, bench.capabilities.max_count
        self.exposure_s = bench.ronchigram.exposure_s
        self.period_s = bench.ronchigram.exposure_s + bench.ronchigram.overhead_s

    def now(self) -> Self:
        return self

    def about(self, frames: int, per_trigger: int, depth: int) -> mh.Acquisition:
        extra = {METADATA: json.dumps(ronchigram_metadata(self._bench).plain())}
        return mh.Acquisition(frames, per_trigger, None, depth, extra)

    def batches(self, depth: int, frames: int) -> Iterator[Batch]:
        header = _header(self.shape, depth, self.exposure_s)
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
    def shape(self) -> tuple[int, int]:
        side = self.settings().optics.camera_pixels
        return side, side

    @property
    def largest_count(self) -> int:
        return self.settings().largest_count or 0

    @property
    def exposure_s(self) -> float:
        return self.settings().plan.dwell_s

    @property
    def period_s(self) -> float:
        return self.settings().plan.dwell_s

    @property
    def frames(self) -> int:
        return self.settings().plan.count

    @property
    def frames_per_trigger(self) -> int:
        plan = self.settings().plan
        return 1 if plan.pattern == "list" else plan.columns

    def about(self, frames: int, per_trigger: int, depth: int) -> mh.Acquisition:
        """Return the text header; with rows and columns only for one complete scan in raster or serpentine order."""
        settings = self.settings()
        plan, extra = settings.plan, {METADATA: json.dumps(scan_metadata(settings).plain())}
        grid = plan.shape if plan.pattern in ("raster", "serpentine") and frames == plan.count else None
        return mh.Acquisition(frames, per_trigger, grid, depth, extra)

    def batches(self, depth: int, frames: int) -> Iterator[Batch]:
        plan, exposure_s = self.settings().plan, self.exposure_s
        header, number = _header(self.shape, depth, exposure_s), 1
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
        self._scan = scan
        self.shape, self.largest_count = scan.shape, scan.largest_count
        self.exposure_s, self.period_s = scan.exposure_s, scan.period_s
        self.frames, self.frames_per_trigger = scan.frames, scan.frames_per_trigger
        self._depth = smallest_depth_of(scan.largest_count)
        header = _header(scan.shape, self._depth, scan.exposure_s)
        self._front = merlin.PREFIX_BYTES + header.length
        needed = scan.frames * (self._front + header.payload_bytes)
        if needed > most_bytes:
            raise NoFrames(f"{scan.frames} frames take {needed} bytes; {most_bytes} are allowed: serve it unprepared")
        self._messages = np.empty((scan.frames, self._front + header.payload_bytes), np.uint8)
        self._ready_s, done = np.empty(scan.frames), 0
        for batch in scan.batches(self._depth, scan.frames):
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
        seconds = float(self._ready_s[-1] - self._ready_s[0]) + self.period_s
        for repetition in itertools.count():
            first = repetition * self.frames
            count = self.frames if frames == 0 else min(self.frames, frames - first)
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
    return next((depth for depth in mh.DEPTHS if largest_count < 1 << depth), max(mh.DEPTHS))


def _header(shape: tuple[int, int], depth: int, exposure_s: float) -> mh.MerlinHeader:
    return frame_header(Layout((1,), shape, f"uint{8 * mh.PIXEL_BYTES[mh.DEPTHS[depth]]}"), depth, False, exposure_s)


def _by_line(block: ScanBlock) -> Iterator[tuple[Frames, Floats]]:
    """Yield frames and clock of a block, line by line: within a line frames follow without a gap."""
    if block.frames is None:
        raise NoFrames("this scan's camera gives no frames")
    cuts = np.flatnonzero(np.diff(block.path.line)) + 1
    for start, stop in itertools.pairwise([0, *cuts.tolist(), len(block)]):
        yield block.frames[start:stop], block.clock_s[start:stop]


def _clipped(counts: Frames, depth: int) -> Frames:
    most = (1 << depth) - 1
    return counts if most >= np.iinfo(counts.dtype).max else np.minimum(counts, counts.dtype.type(most))


def _count(frames: int) -> Iterator[int]:
    return itertools.count(1) if frames == 0 else iter(range(1, frames + 1))
