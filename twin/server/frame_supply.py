"""Where a served camera's frames come from: single exposures, scans, or a scan that was computed beforehand.

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
"""Positions that are computed at a time; other clients of the bench wait so long."""
PREPARED_BYTES = 2**32
"""A prepared scan may take so much memory, unless the caller says otherwise."""


class NoFrames(StemtwinError, ValueError):
    """What was asked for gives no frames."""


class Batch(NamedTuple):
    """Consecutive frames: messages, (n, bytes), and the instrument clock when each was there, (n,)."""

    messages: Bytes
    ready_s: Floats


class FrameSupply(Protocol):
    """What a camera sees."""

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of a frame."""
        ...

    @property
    def largest_count(self) -> int:
        """That a frame can have."""
        ...

    @property
    def exposure_s(self) -> float:
        """Of one frame."""
        ...

    @property
    def period_s(self) -> float:
        """From one frame to the next, as a rule."""
        ...

    @property
    def frames(self) -> int:
        """Of a whole acquisition, unless a client wants more or fewer."""
        ...

    @property
    def frames_per_trigger(self) -> int:
        """Unless a client says otherwise: of a row, or one."""
        ...

    def now(self) -> Self:
        """As it is now, for one acquisition: what is changed afterwards counts for the next."""
        ...

    def about(self, frames: int, per_trigger: int, depth: int) -> mh.Acquisition:
        """The text header of an acquisition of so many frames; 0 goes on until stopped."""
        ...

    def batches(self, depth: int, frames: int) -> Iterator[Batch]:
        """Frames 1, 2, ... of an acquisition, computed as they are asked for; 0 is endless.

        Counts beyond the counter's depth stop at its largest, as the chip's do.

        Raises:
            RuntimeError, ValueError: as the bench's.
        """
        ...


class RonchigramSupply:
    """An exposure of the bench for every frame.

    Args:
        bench: that exposes.
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
    """The bench's scan, again and again if more frames are asked for than it has positions.

    Args:
        bench: that scans; its settings may change between two acquisitions.
        settings: of this one; None for those that the bench has when they are asked for.

    Raises:
        NoFrames: no scan in this scenario, or a camera without frames.
    """

    def __init__(self, bench: Bench, settings: ScanSettings | None = None) -> None:
        self._bench, self._settings = bench, settings
        self.settings()

    def now(self) -> Self:
        return type(self)(self._bench, self.settings())

    def settings(self) -> ScanSettings:
        """Of the scan now.

        Raises:
            NoFrames: as on opening.
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
        """Rows and columns are told only where frames come in their order, one whole scan of them."""
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
                wanted = len(counts) if frames == 0 else min(len(counts), frames - number + 1)
                if wanted == 0:
                    return
                now = replace(header, sequence=number)
                begun_s = float(end_s[0]) - exposure_s
                yield Batch(merlin.frame_messages(_clipped(counts[:wanted], depth), now, begun_s, exposure_s), end_s)
                number += wanted


class PreparedScan:
    """A scan that is computed once and then shown as often as wanted, as fast as a line takes it.

    It is a film: what happens to the bench afterwards does not change it, and showing it takes no instrument time.
    Frame numbers count on when it is repeated; times are those of the first showing.

    Args:
        bench: that scans, once, now.
        most_bytes: of memory.
        progress: called with the number of positions that were added.

    Raises:
        NoFrames: no frames, or too many for `most_bytes`.
        RuntimeError, ValueError: as the bench's.
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
        # Instrument time of a repetition: one period after the last frame of the one before.
        seconds = float(self._ready_s[-1] - self._ready_s[0]) + self.period_s
        for repetition in itertools.count():
            first = repetition * self.frames
            wanted = self.frames if frames == 0 else min(self.frames, frames - first)
            if wanted <= 0:
                return
            self._number_from(first + 1)
            yield Batch(self._messages[:wanted], self._ready_s[:wanted] + repetition * seconds)

    def _number_from(self, first: int) -> None:
        """Give the frames their numbers in place; a header's padding takes up longer ones."""
        if first == self._numbered_from:
            return
        for number, row in enumerate(self._messages[:, : self._front], start=first):
            prefix, rest = row[: merlin.PREFIX_BYTES].tobytes(), row[merlin.PREFIX_BYTES :].tobytes().rstrip(b"\0")
            _, _, after = rest.split(b",", 2)
            row[:] = np.frombuffer((prefix + b"MQ1,%06d," % number + after).ljust(self._front, b"\0"), np.uint8)
        self._numbered_from = first


def smallest_depth_of(largest_count: int) -> int:
    """Depth of the smallest counter that holds a count, bits; the largest there is for more."""
    return next((depth for depth in mh.DEPTHS if largest_count < 1 << depth), max(mh.DEPTHS))


def _header(shape: tuple[int, int], depth: int, exposure_s: float) -> mh.MerlinHeader:
    return frame_header(Layout((1,), shape, f"uint{8 * mh.PIXEL_BYTES[mh.DEPTHS[depth]]}"), depth, False, exposure_s)


def _by_line(block: ScanBlock) -> Iterator[tuple[Frames, Floats]]:
    """Frames and clock of a block, cut where a line ends: within a line frames follow each other without a gap."""
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
