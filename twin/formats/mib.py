"""A dataset in the format of a Merlin camera: `name.mib`, frames with headers, and `name.hdr`, the text header.

Frames are in read-out order. Metadata without a field in the camera's headers are a JSON line of the .hdr.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from twin.formats import dataset, file_checks, merlin_pixels
from twin.formats import merlin_header as mh
from twin.formats.dataset import FormatError, FrameReader, Frames, FrameWriter, Layout, Metadata, check_free
from twin.formats.mib_files import StoredFrames, parse, read_hdr

METADATA = "Metadata (JSON)"
CounterChoice = int | Literal["all"] | None
"""0 or 1, all frames, or the counter of the first frame."""


def smallest_depth(max_count: int) -> int:
    """Return the smallest counter depth that holds `max_count`, bits.

    Raises:
        FormatError: none does.
    """
    for depth in mh.DEPTHS:
        if max_count < 1 << depth:
            return depth
    raise FormatError(f"a Merlin counts up to {(1 << 24) - 1}; {max_count} is more. Give the layout a max_count")


def frame_header(layout: Layout, depth: int, raw: bool, dwell_s: float) -> mh.MerlinHeader:
    """Return the header that all frames of a file share, except number and time: four chips for 512 x 512, else one.

    Raises:
        FormatError: raw data of a shape that no such camera has.
    """
    height, width = layout.camera
    chips = 4 if layout.camera == (512, 512) else 1
    if raw and chips == 4:
        height, width = height // 2, width * 2
    elif raw and depth == 24:
        width *= 2
    header = mh.MerlinHeader(
        sequence=1,
        length=mh.QUAD_BYTES if chips == 4 else mh.SINGLE_BYTES,
        chips=chips,
        width=width,
        height=height,
        pixel=mh.RAW if raw else mh.DEPTHS[depth],
        assembly="2x2" if chips == 4 else "1x1",
        time=mh.stamp(0.0),
        shutter_s=dwell_s,
        depth=depth,
    )
    mh.build_header(header)  # raises before a file exists
    return header


class MibWriter(FrameWriter):
    """Writes `path` and its .hdr, with the smallest counter depth that holds `layout.ceiling`.

    Args:
        path: ends in .mib.
        layout, metadata: of the dataset.
        raw: pack the pixels as the chip sends them (R64).

    Raises:
        FormatError: a file exists, or a Merlin cannot have such frames.
    """

    def __init__(self, path: Path, layout: Layout, metadata: Metadata, raw: bool = False) -> None:
        for taken in (path, path.with_suffix(".hdr")):
            check_free(taken)
        depth = smallest_depth(layout.ceiling)
        self.layout, self.count = layout, 0
        self._dwell_s = metadata.dwell_s or 0.0
        self._header = frame_header(layout, depth, raw, self._dwell_s)
        acquisition = mh.Acquisition(
            frames=layout.count,
            frames_per_trigger=layout.scan[1] if len(layout.scan) == 2 else 1,
            scan=(layout.scan[0], layout.scan[1]) if len(layout.scan) == 2 else None,
            depth=depth,
            extra={METADATA: json.dumps(metadata.plain())},
        )
        path.with_suffix(".hdr").write_bytes(mh.build_hdr(acquisition, self._header.assembly))
        self._file = path.open("xb")

    def _write(self, frames: Frames, pixel: NDArray[np.integer] | None) -> None:
        check_order(self.layout, self.count, len(frames), pixel)
        payload = merlin_pixels.encode(frames, self._header)
        for k, row in enumerate(payload, start=self.count):
            time = mh.stamp(k * self._dwell_s)
            self._file.write(mh.build_header(replace(self._header, sequence=k + 1, time=time)))
            self._file.write(row.tobytes())
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class MibReader(FrameReader):
    """Reads a .mib file, or all parts of a split acquisition, by the .hdr where there is one.

    Args:
        path: of the .mib file.
        scan: (rows, columns) or (N,), if the .hdr has none or another one.
        tolerate: end at the first fault and keep the complete frames before it, instead of raising.
        counter: of the chip, where both are on; None is that of the first frame, "all" reads every frame as a position.
        parts: read the other parts of a split acquisition, too.
        surplus: leave out frames after the last position of the scan, instead of raising.

    Attributes:
        header: of the first frame.
        stored: the frames of both counters, as they lie in the files.
        every, offset: frame k is the stored frame `k * every + offset`.
        complete: number of frames of the counter.
        announced: the text header; None without one.
        notes: what was taken for granted, sentences.

    Raises:
        FormatError: no complete frame, an invalid header, a counter that is not there, more frames than positions, or
            (unless `tolerate`) a truncated frame; `complete` of the error counts the frames before the fault.
    """

    def __init__(
        self,
        path: Path,
        scan: tuple[int, ...] | None = None,
        tolerate: bool = False,
        counter: CounterChoice = None,
        parts: bool = True,
        surplus: bool = False,
    ) -> None:
        self._path, self._tolerate = path, tolerate
        self.stored = StoredFrames(path, parts)
        try:
            if self.stored.cut_off is not None and not tolerate:
                raise FormatError(*self.stored.cut_off)
            self.header, self.notes = self.stored.header, tuple(self.stored.notes)
            self.announced = None if self.stored.hdr is None else read_hdr(self.stored.hdr)
            self._choose_counter(counter)
            self._describe(scan, surplus)
        except BaseException:
            self.close()
            raise

    def _choose_counter(self, counter: CounterChoice) -> None:
        """Find out whether frames come in pairs, one of each counter, and which of them to read."""
        stored = self.stored
        first = [self.header.counter, *stored.counter_of(1)]
        self.every, self.offset, self.counter = 1, 0, None
        if counter == "all" or not self._in_pairs(first, counter):
            if isinstance(counter, int) and counter != first[0]:
                raise FormatError(
                    f"{self._path}: every frame is an exposure of its own, the first by counter {first[0]}: counter is"
                    f" {first[0]} or all, not {counter}"
                )
            self.complete = stored.complete
            return
        chosen = first[0] if counter is None else counter
        if chosen not in first:
            raise FormatError(
                f"{self._path}: no frames of counter {chosen}; there are those of {' and '.join(map(str, first))}"
            )
        self.every, self.offset, self.counter = 2, first.index(chosen), chosen
        self.complete = -(-(stored.complete - self.offset) // 2)
        if counter is None:
            threshold = dict(enumerate(self.header.thresholds_kev)).get(chosen, math.nan)
            at = f", threshold {threshold:g} keV" if math.isfinite(threshold) else ""
            self.notes += (
                f"both counters were on: these are the frames of counter {chosen}{at};"
                f" counter={first[1 - self.offset]} gives the others",
            )

    def _in_pairs(self, first: list[int], counter: CounterChoice) -> bool:
        """Return whether both counters give a frame of each exposure, by the text header, else by the times.

        Raises:
            FormatError: the headers leave it open.
        """
        said = None if self.announced is None else self.announced.both_counters
        if said is False or len(first) < 2 or (said is None and first[0] == first[1]):
            return False
        if first[0] == first[1]:
            raise FormatError(
                f"{self._path}: both counters were on, and the frames do not say which they are of; counter=all reads"
                " every frame as a position of its own"
            )
        if said or isinstance(counter, int):
            return True
        times = [self.stored.head_of(k).time for k in range(min(4, self.stored.complete))]
        if len(set(times)) == len(times):
            return False  # every frame is an exposure of its own: the counters take turns
        if times[0] == times[1] and len(set(times[1:3])) == len(times[1:3]):
            return True
        raise FormatError(
            f"{self._path}: frames of two counters alternate, and nothing says whether they share an exposure; give"
            f" counter={first[0]} or counter={first[1]} for pairs, counter=all if every frame is a position"
        )

    def _describe(self, scan: tuple[int, ...] | None, surplus: bool) -> None:
        """Layout and metadata, from the first header, the .hdr and the size of the file."""
        hdr, complete = self.stored.hdr, self.complete
        if self.announced is not None:
            self._note_fewer(self.announced)
            self.announced = self._of_one_counter(self.announced)
        shape = scan if scan is not None else scan_shape(self.announced, complete)
        file_checks.check_positions(math.prod(shape), self.stored.complete, str(self._path), given=scan is not None)
        height, width = self.header.image_shape
        dtype, depth = merlin_pixels.dtype(self.header), self.header.depth
        # The limit of the pixels, if the counter is deeper.
        limit = None if depth is None else min((1 << depth) - 1, int(np.iinfo(dtype).max))
        self.layout = Layout(shape, (height, width), str(dtype), limit)
        if complete > self.layout.count and not surplus:
            raise FormatError(f"{self._path}: {complete} frames do not fit a scan of {shape}")
        self.acquired = np.zeros(shape, bool)
        self.acquired.ravel()[:complete] = True
        extra = self.announced.extra if self.announced else {}
        plain = dataset.json_object(extra.get(METADATA, "{}"), f"{hdr}: {METADATA}")
        if self.header.shutter_s > 0:
            plain.setdefault("dwell_s", self.header.shutter_s)
        self.metadata = Metadata.of(plain, str(hdr))

    def _note_fewer(self, acquisition: mh.Acquisition) -> None:
        """Note a last part that may be missing."""
        last, hdr = self.stored.paths[-1], self.stored.hdr
        if hdr is not None and acquisition.frames > self.stored.complete and last.stem[-1].isdigit():
            self.notes += (
                f"{hdr.name} announces {acquisition.frames} frames, and there are {self.stored.complete}: the"
                f" acquisition was stopped, or a part is missing, as one after {last.name}",
            )

    def _of_one_counter(self, acquisition: mh.Acquisition) -> mh.Acquisition:
        """Return the text header for the frames of one counter; it may count those of both."""
        positions = acquisition.scan is not None and math.prod(acquisition.scan) == acquisition.frames
        if self.every == 1 or positions or acquisition.frames < self.stored.complete:
            return acquisition
        halves = (acquisition.frames // self.every, acquisition.frames_per_trigger // self.every)
        return replace(acquisition, frames=halves[0], frames_per_trigger=halves[1])

    def _read(self, first: int, count: int) -> Frames:
        missing = first + count - self.complete
        if missing > 0:
            raise FormatError(f"{self._path}: ends after {self.complete} frames, {missing} too early", self.complete)
        begin = first * self.every + self.offset
        raw = self.stored.read(begin, (count - 1) * self.every + 1)[:: self.every] if count else self.stored.read(0, 0)
        if len(raw) < count:
            raise FormatError(f"{self._path}: has become shorter, {first + len(raw)} frames", first + len(raw))
        for k, row in enumerate(raw, start=first):
            self._check(row[: self.header.length].tobytes(), k)
        return merlin_pixels.decode(np.ascontiguousarray(raw[:, self.header.length :]), self.header)

    def _check(self, raw: bytes, frame: int) -> None:
        """Refuse a header of another kind than the first.

        Raises:
            FormatError: names the difference.
        """
        header = parse(raw, self._path, frame)
        if header.kind != self.header.kind:
            raise FormatError(f"{self._path}: frame {frame} {mh.difference(header, self.header)}", frame)
        if self.counter is not None and header.counter != self.counter:
            raise FormatError(
                f"{self._path}: frame {frame} is of counter {header.counter}, where one of {self.counter} is due", frame
            )

    def blocks(self, frames: int | None = None) -> Iterator[tuple[int, Frames]]:
        """As `FrameReader.blocks`; yield the frames before a damaged one, then raise (or end)."""
        step = self.layout.block if frames is None else frames
        if step < 1:
            raise ValueError(f"a block holds at least one frame; got {step}")
        for first in range(0, self.extent, step):
            try:
                block = self.read(first, min(step, self.extent - first))
            except FormatError as error:
                if error.complete > first:
                    yield first, self.read(first, error.complete - first)
                if self._tolerate:
                    return
                raise
            yield first, block

    def close(self) -> None:
        self.stored.close()


def check_order(layout: Layout, first: int, count: int, pixel: NDArray[np.integer] | None) -> None:
    """Refuse any order but raster: a camera's file has no field for another.

    Raises:
        FormatError: another order.
    """
    if pixel is None:
        return
    raster = np.stack(np.divmod(np.arange(first, first + count), layout.scan[-1]), axis=1)
    if len(layout.scan) != 2 or not np.array_equal(pixel, raster):
        raise FormatError(
            "a camera's file holds frames in read-out order, and this is not raster order: write zarr or hspy,"
            " or a list of positions, scan=(N,) and pixel=None"
        )


def scan_shape(acquisition: mh.Acquisition | None, complete: int) -> tuple[int, ...]:
    """Return (rows, columns) of the text header, or (N,), the frames of the file."""
    if acquisition is None:
        return (complete,)
    if acquisition.scan is not None:
        return acquisition.scan
    frames, columns = acquisition.frames, acquisition.frames_per_trigger
    if columns > 1 and frames >= columns and frames % columns == 0:
        return frames // columns, columns
    return (max(complete, frames),) if frames <= dataset.LARGEST_SCAN else (complete,)
