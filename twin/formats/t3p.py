"""Timepix3 events as records of 16 bytes, `name.t3p`, with a JSON file of the same name beside them.

A record, packed and little-endian: pixel index (y * W + x), time of arrival in ticks of 25 ns, overflow, fine time of
arrival, time over threshold. Probe number = floor(arrival / dwell). Fine time counts steps of 1.5625 ns back from the
tick: the arrival is `toa * 25 ns - ftoa * 1.5625 ns`; frames go by the coarse time alone, as other readers do.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from twin.formats.dataset import FormatError, Frames, Layout, Metadata, check_free

RECORD = np.dtype([("pixel", "<u4"), ("toa", "<u8"), ("overflow", "u1"), ("ftoa", "u1"), ("tot", "<u2")])
TICK_S = 25e-9
FINE_PER_TICK = 16
"""Steps of the fine time, 1.5625 ns, per tick."""
_TICK_PS = 25_000
BLOCK_RECORDS = 2**20

Events = NDArray[np.void]


def arrival_fine(events: Events) -> NDArray[np.int64]:
    """Arrival in steps of 1.5625 ns, (n,), exact."""
    return events["toa"].astype(np.int64) * FINE_PER_TICK - events["ftoa"]


def probe_number(events: Events, dwell_s: float) -> NDArray[np.int64]:
    """Scan position during which each event arrived, (n,), counted from time zero; exact for dwells of whole ps.

    Raises:
        FormatError: a dwell below one tick.
    """
    dwell_ps = round(dwell_s * 1e12)
    if dwell_ps < _TICK_PS:
        raise FormatError(f"a dwell of {dwell_s} s is shorter than a tick of {TICK_S} s")
    if len(events) and int(events["toa"].max()) >= 2**63 // _TICK_PS:
        raise FormatError(f"a time of arrival of {events['toa'].max()} ticks is more than 100 days")
    return (events["toa"] * np.uint64(_TICK_PS) // np.uint64(dwell_ps)).astype(np.int64)


def to_frames(events: Events, first: int, count: int, dwell_s: float, camera: tuple[int, int]) -> Frames:
    """Events per pixel for the positions `first` to `first + count`, uint32, (count, H, W); others are left out.

    Raises:
        FormatError: an event outside the camera.
    """
    return count_hits(events, probe_number(events, dwell_s) - first, count, camera)


def count_hits(events: Events, position: NDArray[np.int64], count: int, camera: tuple[int, int]) -> Frames:
    """Events per pixel for `count` positions, uint32, (count, H, W); those of other positions are left out.

    Args:
        events: (n,).
        position: of each, (n,).
        count: positions, from zero.
        camera: (H, W).

    Raises:
        FormatError: an event outside the camera.
    """
    height, width = camera
    beyond = events["pixel"] >= height * width
    if beyond.any():
        worst = int(np.argmax(beyond))
        raise FormatError(f"event {worst} hits pixel {events['pixel'][worst]} of a camera of {height} x {width}")
    there = (position >= 0) & (position < count)
    index = position[there] * (height * width) + events["pixel"][there].astype(np.int64)
    return np.bincount(index, minlength=count * height * width).astype(np.uint32).reshape(count, height, width)


def from_frames(frames: Frames, first: int, dwell_s: float) -> Events:
    """Events, sorted by time, whose `to_frames` are the frames again, (n, H, W): one per count, evenly over the dwell.

    A stand-in where a dataset of frames has to be written as events; `cameras` has the camera that makes real ones.
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
    """`name.t3p.json`: layout of the scan and metadata."""
    return path.with_name(path.name + ".json")


class T3pWriter:
    """Writes events as they come, on disc when `append` returns.

    Args:
        path: of the .t3p file.
        layout: of the frames that the events belong to.
        metadata: `dwell_s` is what events are assigned to positions by.

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
        """The next events.

        Args:
            events: records, (n,).
            frames: how many positions are complete with these, from the first; positions without any event leave
                no other trace. None when the writer does not know.

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
        # By renaming, so that a crash never leaves half a description.
        partial = self._sidecar.with_name(self._sidecar.name + ".partial")
        partial.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        partial.replace(self._sidecar)

    def close(self) -> None:
        """No more events."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class T3pReader:
    """Reads events in bounded blocks, in the order of the file.

    Args:
        path: of the .t3p file; the JSON file beside it may be missing.
        tolerate: keep the whole records of a file that ends within one.

    Attributes:
        count: whole records.
        layout, metadata: as written; None and empty without the JSON file.
        frames: positions that were said to be complete.
        records: that the file had then at least; None where nobody says. With fewer it was cut off.

    Raises:
        FormatError: the length is no multiple of 16 bytes (unless `tolerate`), or the JSON file is broken.
    """

    def __init__(self, path: Path, tolerate: bool = False) -> None:
        self.count, rest = divmod(path.stat().st_size, RECORD.itemsize)
        if rest and not tolerate:
            raise FormatError(
                f"{path}: record {self.count} is cut off after {rest} of {RECORD.itemsize} bytes;"
                f" {self.count} whole records before it (tolerate reads them)",
                self.count,
            )
        self.layout, self.metadata, self.frames, self.records = _about(sidecar(path))
        self._file = path.open("rb")

    def read(self, first: int, count: int) -> Events:
        """Records `first` to `first + count`, shape (count,), a copy.

        Raises:
            FormatError: outside the file.
        """
        if first < 0 or count < 0 or first + count > self.count:
            raise FormatError(f"records {first} to {first + count} of a file of {self.count}", self.count)
        self._file.seek(first * RECORD.itemsize)
        return np.fromfile(self._file, RECORD, count)

    def blocks(self, records: int = BLOCK_RECORDS) -> Iterator[tuple[int, Events]]:
        """(index of the first record, records)."""
        if records < 1:
            raise ValueError(f"a block holds at least one record; got {records}")
        for first in range(0, self.count, records):
            yield first, self.read(first, min(records, self.count - first))

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _about(path: Path) -> tuple[Layout | None, Metadata, int, int | None]:
    """Layout, metadata, complete positions and records from the JSON file, if there is one."""
    if not path.exists():
        return None, Metadata(), 0, None
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        scan, camera = tuple(map(int, about["scan"])), tuple(map(int, about["camera"]))
        plain, frames = dict(about["metadata"]), int(about.get("frames", 0))
        records = int(about["records"]) if "records" in about else None
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path}: not a description of events: {error}") from None
    if len(camera) != 2:
        raise FormatError(f"{path}: camera is (H, W), got {camera}")
    return Layout(scan, (camera[0], camera[1]), "uint32"), Metadata.of(plain, str(path)), frames, records
