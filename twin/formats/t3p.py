"""Timepix3 events as records of 16 bytes, `name.t3p`, with a JSON file beside them.

A record, packed and little-endian: pixel index (y * W + x), time of arrival in ticks of 25 ns, overflow, fine time of
arrival, time over threshold. The position in a scan is floor(arrival / dwell). Fine time counts steps of 1.5625 ns back
from the tick: the arrival is `toa * 25 ns - ftoa * 1.5625 ns`; frames use the coarse time, as in other readers.

A record with a true overflow is no hit: pixel 0x74 says that data were lost from its time on, 0x75 that they go on,
after a gap as long as its time. Cameras of several chips write the number of the chip there instead, and the pixel
within it (ADVACAM's public wiki, File types).
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twin.formats import file_checks
from twin.formats.closing import Closing
from twin.formats.dataset import FormatError, Frames, Layout, Metadata, check_free, json_object
from twin.text.aside import written_aside

RECORD = np.dtype([("pixel", "<u4"), ("toa", "<u8"), ("overflow", "u1"), ("ftoa", "u1"), ("tot", "<u2")])
LOST, GOES_ON = 0x74, 0x75
MOST_SIDECAR = 2**20
"""Largest description that is read, bytes; the twin's has some hundreds."""
TICK_S = 25e-9
_TICK_PS = 25_000
BLOCK_RECORDS = 2**20

Events = NDArray[np.void]


def split_marks(events: Events) -> tuple[Events, Events]:
    """Return hits, and records that are none, both in order.

    A record whose overflow is the upper half of its pixel is a hit of a numbered chip.
    """
    marks = are_marks(events)
    return (events[~marks], events[marks]) if marks.any() else (events, events[:0])


def are_marks(events: Events) -> NDArray[np.bool_]:
    """Return whether each record is no hit, (n,)."""
    return (events["overflow"] != 0) & (events["pixel"] >> 16 != events["overflow"])


def chip_numbers(events: Events) -> bool:
    """Return whether hits have the number of their chip, so that their pixel counts within the chip."""
    return bool(np.any((events["overflow"] != 0) & (events["pixel"] >> 16 == events["overflow"])))


def count_hits(events: Events, position: NDArray[np.int64], count: int, camera: tuple[int, int]) -> Frames:
    """Return events per pixel at `count` positions, uint32, (count, H, W); skip events of other positions.

    Args:
        events: (n,).
        position: of each event, (n,).
        count: number of positions, from zero.
        camera: (H, W).

    Raises:
        FormatError: an event outside the camera.
    """
    height, width = camera
    beyond = events["pixel"] >= height * width
    if beyond.any():
        worst = int(np.argmax(beyond))
        raise FormatError(f"event {worst} hits pixel {events['pixel'][worst]} of a camera of {height} x {width}")
    inside = (position >= 0) & (position < count)
    index = position[inside] * (height * width) + events["pixel"][inside].astype(np.int64)
    return np.bincount(index, minlength=count * height * width).astype(np.uint32).reshape(count, height, width)


def from_frames(frames: Frames, first: int, dwell_s: float) -> Events:
    """Return events for frames (n, H, W), sorted by time: one per count, evenly over the dwell.

    For writing a dataset of frames as events; `twin.cameras` simulates a camera.
    """
    dwell_ps = round(dwell_s * 1e12)
    counts = frames.reshape(len(frames), frames.shape[1] * frames.shape[2])
    parts = []
    for k, row in enumerate(counts, start=first):
        pixel = np.repeat(np.arange(len(row), dtype=np.uint32), row)
        begin, end = -(-k * dwell_ps // _TICK_PS), -(-(k + 1) * dwell_ps // _TICK_PS)
        if end <= begin:
            raise FormatError(f"a dwell of {dwell_s} s is shorter than a tick of {TICK_S} s")
        part = np.zeros(len(pixel), RECORD)
        part["pixel"] = pixel
        part["toa"] = begin + np.arange(len(pixel), dtype=np.uint64) * (end - begin) // max(1, len(pixel))
        part["tot"] = 1
        parts.append(part)
    return np.concatenate(parts) if parts else np.zeros(0, RECORD)


def sidecar(path: Path) -> Path:
    """Return `name.t3p.json` (or `name.tpx3.json`), the file with layout and metadata."""
    return path.with_name(path.name + ".json")


class T3pWriter(Closing):
    """Writes events; they are on disc when `append` returns.

    Args:
        path: of the .t3p file.
        layout: of the frames of these events.
        metadata: with `dwell_s`, which assigns events to positions.

    Raises:
        FormatError: a file exists, or no dwell.
    """

    def __init__(self, path: Path, layout: Layout, metadata: Metadata) -> None:
        for taken in (path, sidecar(path)):
            check_free(taken)
        if metadata.dwell_s is None:
            raise FormatError("events belong to scan positions by their time: metadata needs dwell_s")
        self.layout, self.metadata, self.count = layout, metadata, 0
        self._sidecar = sidecar(path)
        self._describe(0)
        self._file = path.open("xb")

    def append(self, events: Events, frames: int | None = None) -> None:
        """Append events.

        Args:
            events: records, (n,).
            frames: number of complete positions, which the events alone do not show; None if unknown.

        Raises:
            FormatError: not of `RECORD`, or a hit outside the camera; nothing was written.
        """
        if events.dtype != RECORD or events.ndim != 1:
            raise FormatError(f"events are records of {RECORD.names}, shape (n,); got {events.dtype}, {events.shape}")
        pixels = self.layout.camera[0] * self.layout.camera[1]
        if len(events) and int(events["pixel"].max()) >= pixels:
            raise FormatError(f"an event hits pixel {events['pixel'].max()}; the camera has {pixels}")
        self._file.write(events.tobytes())
        self._file.flush()
        self.count += len(events)
        if frames is not None:
            self._describe(frames)

    def _describe(self, frames: int) -> None:
        about = {
            "scan": self.layout.scan,
            "camera": self.layout.camera,
            "frames": frames,
            "records": self.count,
            "metadata": self.metadata.plain(),
        }
        with written_aside(self._sidecar) as partial, partial.open("x", encoding="utf-8") as file:
            file.write(json.dumps(about, indent=1) + "\n")

    def close(self) -> None:
        self._file.close()


class T3pReader(Closing):
    """Reads events in bounded blocks, in the order of the file.

    Args:
        path: of the .t3p file; the JSON file beside it may be missing.
        tolerate: keep the complete records of a truncated file.

    Attributes:
        count: complete records.
        layout, metadata: as written; None and empty without the JSON file.
        frames: number of complete positions, from the JSON file.
        records: least number of records, from the JSON file; None if unknown. A file with fewer is truncated.

    Raises:
        FormatError: the length is not a multiple of 16 bytes (unless `tolerate`), or the JSON file is invalid.
    """

    def __init__(self, path: Path, tolerate: bool = False) -> None:
        file_checks.check_file(path)
        self.count, rest = divmod(path.stat().st_size, RECORD.itemsize)
        if rest and not tolerate:
            raise FormatError(
                f"{path}: record {self.count} is cut off after {rest} of {RECORD.itemsize} bytes;"
                f" {self.count} whole records before it (tolerate reads them)",
                self.count,
            )
        self.layout, self.metadata, self.frames, self.records = description(sidecar(path))
        self._file = path.open("rb")

    def read(self, first: int, count: int) -> Events:
        """Return records `first` to `first + count`, shape (count,), a copy.

        Raises:
            FormatError: outside the file.
        """
        if first < 0 or count < 0 or first + count > self.count:
            raise FormatError(f"records {first} to {first + count} of a file of {self.count}", self.count)
        self._file.seek(first * RECORD.itemsize)
        return np.fromfile(self._file, RECORD, count)

    def blocks(self, records: int = BLOCK_RECORDS) -> Iterator[tuple[int, Events]]:
        """Yield (index of the first record, records)."""
        if records < 1:
            raise ValueError(f"a block holds at least one record; got {records}")
        for first in range(0, self.count, records):
            yield first, self.read(first, min(records, self.count - first))

    def close(self) -> None:
        self._file.close()


def description(path: Path) -> tuple[Layout | None, Metadata, int, int | None]:
    """Return layout, metadata, complete positions and records from the JSON file of an event file, if present.

    Raises:
        FormatError: not a description, or one too large.
    """
    if not path.exists():
        return None, Metadata(), 0, None
    file_checks.check_file(path)
    if path.stat().st_size > MOST_SIDECAR:
        raise FormatError(f"{path}: a description has at most {MOST_SIDECAR} bytes, not {path.stat().st_size}")
    try:
        text = path.read_text(encoding="utf-8")
        about = json_object(text, f"{path}: not a description of events: it")
        scan, camera = tuple(map(_whole, about["scan"])), tuple(map(_whole, about["camera"]))
        plain, frames = dict(about["metadata"]), _whole(about.get("frames", 0))
        records = _whole(about["records"]) if "records" in about else None
    except FormatError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(f"{path}: not a description of events: {error or type(error).__name__}") from None
    if len(camera) != 2:
        raise FormatError(f"{path}: camera is (H, W), got {camera}")
    return Layout(scan, (camera[0], camera[1]), "uint32"), Metadata.of(plain, str(path)), frames, records


def _whole(value: Any) -> int:
    """Return a whole number as such.

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 2**63 or value != int(value):
        raise ValueError(f"a whole number is expected, got {str(value)[:40]}")
    return int(value)
