"""A dataset in the format of a Merlin camera: `name.mib`, frames with headers, and `name.hdr`, the text header.

Frames are in read-out order. Metadata without a field in the camera's headers are a JSON line of the .hdr. An
acquisition that the camera's software split over several files is not supported.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twin.formats import dataset, merlin_pixels
from twin.formats import merlin_header as mh
from twin.formats.dataset import FormatError, FrameReader, Frames, FrameWriter, Layout, Metadata, check_free

METADATA = "Metadata (JSON)"
MOST_HDR = 2**20
"""Largest text header that is read, bytes; cameras write some thousands."""


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
    """Reads a .mib file, by its .hdr where there is one.

    Args:
        path: of the .mib file.
        scan: (rows, columns) or (N,), if the .hdr has none or another one.
        tolerate: end at the first fault and keep the complete frames before it, instead of raising.

    Attributes:
        header: of the first frame.

    Raises:
        FormatError: no complete frame, an invalid header, or (unless `tolerate`) a truncated frame; `complete` of the
            error counts the frames before the fault.
    """

    def __init__(self, path: Path, scan: tuple[int, ...] | None = None, tolerate: bool = False) -> None:
        self._path, self._tolerate = path, tolerate
        size = path.stat().st_size
        self._file = path.open("rb")
        try:
            self.header = _parse(self._file.read(mh.LONGEST_BYTES), path, 0)
            self._stride = self.header.length + self.header.payload_bytes
            self._complete, rest = divmod(size, self._stride)
            self._complete = min(self._complete, dataset.LARGEST_SCAN)
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
        acquisition = _acquisition(hdr) if hdr.exists() else None
        shape = scan if scan is not None else scan_shape(acquisition, self._complete)
        height, width = self.header.image_shape
        dtype, depth = merlin_pixels.dtype(self.header), self.header.depth
        # The limit of the pixels, if the counter is deeper.
        limit = None if depth is None else min((1 << depth) - 1, int(np.iinfo(dtype).max))
        self.layout = Layout(shape, (height, width), str(dtype), limit)
        if self._complete > self.layout.count:
            raise FormatError(f"{self._path}: {self._complete} frames do not fit a scan of {shape}")
        self.acquired = (np.arange(self.layout.count) < self._complete).reshape(shape)
        extra = acquisition.extra if acquisition else {}
        plain = dataset.json_object(extra.get(METADATA, "{}"), f"{hdr}: {METADATA}")
        if self.header.shutter_s > 0:
            plain.setdefault("dwell_s", self.header.shutter_s)
        self.metadata = Metadata.of(plain, str(hdr))

    def _read(self, first: int, count: int) -> Frames:
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
        """As `FrameReader.blocks`; yield the frames before a damaged one, then raise (or end)."""
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


def _parse(raw: bytes, path: Path, frame: int) -> mh.MerlinHeader:
    try:
        return mh.parse_header(raw)
    except FormatError as error:
        raise FormatError(f"{path}: frame {frame}: {error}", frame) from None


def _acquisition(hdr: Path) -> mh.Acquisition:
    """Read the text header of a file, at most `MOST_HDR` bytes.

    Raises:
        FormatError: not a text header; names the file.
    """
    with hdr.open("rb") as file:
        raw = file.read(MOST_HDR)
    try:
        return mh.parse_hdr(raw)
    except FormatError as error:
        raise FormatError(f"{hdr}: {error}") from None
