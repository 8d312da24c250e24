"""A dataset as a Merlin camera writes it: `name.mib`, frames with a header each, and `name.hdr`, the text header.

Frames lie in read-out order. What the camera's headers have no field for is one more line of the .hdr, plain JSON.
Not read: an acquisition that the camera's software split over several files.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twin.formats import merlin_header as mh
from twin.formats import merlin_pixels
from twin.formats.dataset import (
    LARGEST_SCAN,
    FormatError,
    FrameReader,
    Frames,
    FrameWriter,
    Layout,
    Metadata,
    check_free,
    check_span,
)

METADATA = "Metadata (JSON)"
MOST_HDR = 2**20
"""Bytes of a text header that are read; cameras write some thousands."""


def smallest_depth(max_count: int) -> int:
    """The counter depth, bits, that holds `max_count`.

    Raises:
        FormatError: none does.
    """
    for depth in mh.DEPTHS:
        if max_count < 1 << depth:
            return depth
    raise FormatError(f"a Merlin counts up to {(1 << 24) - 1}; {max_count} is more. Give the layout a max_count")


def frame_header(layout: Layout, depth: int, raw: bool, dwell_s: float) -> mh.MerlinHeader:
    """The header that all frames of a file share but for number and time: four chips for 512 x 512, else one.

    Raises:
        FormatError: raw data of frames that no such camera has.
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
    mh.build_header(header)  # refuses here, before a file exists, what it would refuse later
    return header


class MibWriter(FrameWriter):
    """Writes `path` and its .hdr. Counter depth: the smallest that holds `layout.ceiling`.

    Args:
        path: ends in .mib.
        layout, metadata: of the dataset.
        raw: pack the pixels as the chip sends them (R64).

    Raises:
        FormatError: a file exists, or no Merlin has such frames.
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
    """Reads a .mib file, by its .hdr where there is one.

    Args:
        path: of the .mib file.
        scan: (rows, columns) or (N,), for a file whose .hdr does not tell or tells something else.
        tolerate: end at the first fault, and keep the whole frames before it, instead of refusing.

    Attributes:
        header: of the first frame.

    Raises:
        FormatError: a file without a whole frame, a broken header, or (unless `tolerate`) one that ends
            within a frame; `complete` of the error counts the frames before the fault.
    """

    def __init__(self, path: Path, scan: tuple[int, ...] | None = None, tolerate: bool = False) -> None:
        self._path, self._tolerate = path, tolerate
        size = path.stat().st_size
        self._file = path.open("rb")
        try:
            self.header = _parse(self._file.read(mh.LONGEST_BYTES), path, 0)
            self._stride = self.header.length + self.header.payload_bytes
            self._complete, rest = divmod(size, self._stride)
            self._complete = min(self._complete, LARGEST_SCAN)
            if self._complete == 0 or (rest and not tolerate):
                raise FormatError(
                    f"{path}: frame {self._complete} is cut off after {rest} of {self._stride} bytes; there are"
                    f" {self._complete} whole frames before it" + (" (tolerate reads them)" if self._complete else ""),
                    self._complete,
                )
            self._describe(scan)
        except BaseException:
            self._file.close()
            raise

    def _describe(self, scan: tuple[int, ...] | None) -> None:
        """Layout and metadata, from the first header, the .hdr and the size of the file."""
        hdr = self._path.with_suffix(".hdr")
        told = _acquisition(hdr) if hdr.exists() else None
        shape = scan if scan is not None else scan_shape(told, self._complete)
        height, width = self.header.image_shape
        dtype, depth = merlin_pixels.dtype(self.header), self.header.depth
        # A counter deeper than its pixels: they end first.
        limit = None if depth is None else min((1 << depth) - 1, int(np.iinfo(dtype).max))
        self.layout = Layout(shape, (height, width), str(dtype), limit)
        if self._complete > self.layout.count:
            raise FormatError(f"{self._path}: {self._complete} frames do not fit a scan of {shape}")
        self.acquired = (np.arange(self.layout.count) < self._complete).reshape(shape)
        plain = _json(told.extra.get(METADATA, "{}"), hdr) if told else {}
        if self.header.shutter_s > 0:
            plain.setdefault("dwell_s", self.header.shutter_s)
        self.metadata = Metadata.of(plain, str(hdr))

    def read(self, first: int, count: int) -> Frames:
        check_span(first, count, self)
        missing = first + count - self._complete
        if missing > 0:
            raise FormatError(f"{self._path}: ends after {self._complete} frames, {missing} too early", self._complete)
        self._file.seek(first * self._stride)
        raw = np.fromfile(self._file, np.uint8, count * self._stride).reshape(count, self._stride)
        for k, row in enumerate(raw, start=first):
            header = _parse(row[: self.header.length].tobytes(), self._path, k)
            if header.kind != self.header.kind:
                raise FormatError(f"{self._path}: frame {k} {mh.difference(header, self.header)}", k)
        return merlin_pixels.decode(raw[:, self.header.length :], self.header)

    def blocks(self, frames: int | None = None) -> Iterator[tuple[int, Frames]]:
        """As every reader's; what lies before a broken frame comes first, then the error (or the end)."""
        step = self.layout.block if frames is None else frames
        if step < 1:
            raise ValueError(f"a block holds at least one frame; got {step}")
        for first in range(0, self._complete, step):
            try:
                block = self.read(first, min(step, self._complete - first))
            except FormatError as error:
                if error.complete > first:
                    yield first, self.read(first, error.complete - first)
                if self._tolerate:
                    return
                raise
            yield first, block

    def close(self) -> None:
        self._file.close()


def check_order(layout: Layout, first: int, count: int, pixel: NDArray[np.integer] | None) -> None:
    """A camera's file has no place for an order of its own: refuse any but raster.

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


def scan_shape(told: mh.Acquisition | None, complete: int) -> tuple[int, ...]:
    """(rows, columns) as the text header has it, or (N,) of the frames in the file."""
    if told is None:
        return (complete,)
    if told.scan is not None:
        return told.scan
    columns = told.frames_per_trigger
    if columns > 1 and told.frames >= columns and told.frames % columns == 0:
        return told.frames // columns, columns
    return (max(complete, told.frames),) if told.frames <= LARGEST_SCAN else (complete,)


def _parse(raw: bytes, path: Path, frame: int) -> mh.MerlinHeader:
    try:
        return mh.parse_header(raw)
    except FormatError as error:
        raise FormatError(f"{path}: frame {frame}: {error}", frame) from None


def _acquisition(hdr: Path) -> mh.Acquisition:
    """The text header of a file; no more of it is read than a camera writes.

    Raises:
        FormatError: none; names the file.
    """
    with hdr.open("rb") as file:
        raw = file.read(MOST_HDR)
    try:
        return mh.parse_hdr(raw)
    except FormatError as error:
        raise FormatError(f"{hdr}: {error}") from None


def _json(text: str, path: Path) -> dict[str, Any]:
    try:
        plain = json.loads(text)
    except ValueError:
        plain = None
    if not isinstance(plain, dict):
        raise FormatError(f"{path}: {METADATA} is not a JSON object")
    return plain
