"""Reads frames of one signal: array, axes, beam, and this package's own metadata where it wrote the file."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from twin.formats import file_checks, placement
from twin.formats.dataset import (
    BLOCK_BYTES,
    FormatError,
    FrameReader,
    Frames,
    Layout,
    Metadata,
    first_line,
    numbers,
)
from twin.formats.signals.axes import Axis, calibration, split
from twin.formats.signals.frame_array import FrameArray
from twin.formats.signals.own import Own, still_true


@dataclass(frozen=True, eq=False)
class Signal:
    """Data of another program.

    Attributes:
        title: of the signal, for messages.
        data: array that reads slices: numpy, h5py, zarr or dask.
        axes: one per dimension of the array.
        instrument: HyperSpy's `metadata.Acquisition_instrument`, nested mappings.
        own: what this package wrote beside them.
        analogue: values are a voltage and not counts: they are rounded.
        stored_bytes: of the counts, where they lie in other files than the one that is opened.
    """

    title: str
    data: Any
    axes: Sequence[Axis]
    instrument: Mapping[str, Any] = field(default_factory=dict)
    own: Own | None = None
    analogue: bool = False
    stored_bytes: int | None = None


class SignalReader(FrameReader):
    """Reads a signal in blocks.

    Args:
        path: of the file, for messages.
        signal: to be read.
        release: closes the file.

    Attributes:
        notes: one sentence for each statement of the file that cannot be used.

    Raises:
        FormatError: no frames on a scan, no counts, or axes that do not fit.
    """

    def __init__(self, path: Path, signal: Signal, release: Callable[[], None]) -> None:
        self._path, self._release = path, release
        numbers, pair = split(signal.axes)
        scan = [signal.axes[number].forwards for number in numbers]
        camera = [signal.axes[number].forwards for number in pair]
        backwards = [number for number in (*numbers, *pair) if signal.axes[number].runs_backwards]
        self._frames = FrameArray(signal.data, numbers, pair, backwards, signal.analogue)
        positions = math.prod(self._frames.scan)
        if positions > file_checks.SMALL_SCAN:
            stored = file_checks.stored_bytes(path) if signal.stored_bytes is None else signal.stored_bytes
            file_checks.check_positions(positions, stored, str(path), "bytes", given=True)
        stated = beam(signal.instrument)
        written = Metadata() if signal.own is None else signal.own.metadata
        found = calibration(scan, camera, stated.get("energy_kev", written.energy_kev))
        notes, limit = list(found.notes), None
        self.acquired = np.ones(self._frames.scan, dtype=bool)
        if signal.own is not None:
            kept = still_true(signal.own, scan, camera)
            written, self.acquired = kept.metadata, kept.acquired.reshape(self._frames.scan)
            notes += kept.notes
            if written.dwell_s is None:
                stated.pop("dwell_s", None)  # as old as the one that was dropped
            limit = kept.max_count if kept.max_count and kept.max_count <= np.iinfo(self._frames.dtype).max else None
        self.layout = Layout(self._frames.scan, self._frames.camera, self._frames.dtype, limit)
        self.metadata = Metadata.of({**written.plain(), **stated, **found.known}, str(path))
        if np.dtype(signal.data.dtype).kind not in "ub":
            self.read(0, 1)  # no counts at all are refused now
        if signal.analogue:
            notes.append("values are analogue: they are rounded to whole numbers, negative ones to 0")
        self.notes = tuple(f"{path.name}: {note}" for note in notes)

    def _read(self, first: int, count: int) -> Frames:
        try:
            return placement.read(self._frames, self.layout, first, count)
        except FormatError as error:
            raise FormatError(f"{self._path}: {error}", error.complete) from None
        except Exception as error:
            why = first_line(error)
        broken, after = self._broken(first, first + count)
        raise FormatError(
            f"{self._path}: {numbers('frame', broken, after - 1)} cannot be read: {why}", broken, after - broken
        )

    def _broken(self, first: int, last: int) -> tuple[int, int]:
        """Return the first frame that cannot be read, and the next one that can, frame by frame."""
        whole = []
        for frame in range(first, last):
            try:
                placement.read(self._frames, self.layout, frame, 1)
            except Exception:
                whole.append(False)
            else:
                whole.append(True)
        broken = first + whole.index(False) if False in whole else first
        after = next((frame for frame in range(broken, last) if whole[frame - first]), last)
        return broken, max(after, broken + 1)

    def close(self) -> None:
        self._release()


def beam(instrument: Mapping[str, Any]) -> dict[str, float]:
    """Return energy_kev, convergence_mrad and dwell_s from HyperSpy's `Acquisition_instrument`, where it states them.

    Its units are keV, mrad and s (HyperSpy's user guide, "Metadata structure").

    Example:
        >>> beam({"TEM": {"beam_energy": 200.0, "convergence_angle": 21}})
        {'energy_kev': 200.0, 'convergence_mrad': 21.0}
    """
    places = [instrument.get(name) for name in ("TEM", "SEM")] + [instrument]
    found: dict[str, float] = {}
    for key, name in (
        ("energy_kev", "beam_energy"),
        ("convergence_mrad", "convergence_angle"),
        ("dwell_s", "dwell_time"),
    ):
        for place in places:
            value = place.get(name) if isinstance(place, Mapping) else None
            if isinstance(value, int | float | np.number) and 0 < value <= LARGEST[key]:
                found.setdefault(key, float(value))
    return found


LARGEST = {"energy_kev": 5000.0, "convergence_mrad": 500.0, "dwell_s": 1e6}
"""What a file may state: more is a number in another unit, as an energy in V."""


def choose(path: Path, signals: Sequence[Signal]) -> Signal:
    """Return the first signal with the most scan axes among those that are frames.

    Raises:
        FormatError: none is; names what there is.
    """
    best, why = None, []
    for signal in signals:
        try:
            scan, _ = split(signal.axes)
            FrameArray(signal.data, *split(signal.axes))
        except FormatError as error:
            why.append(f"{signal.title or 'untitled'}: {error}")
            continue
        if best is None or len(scan) > best[0]:
            best = (len(scan), signal)
    if best is None:
        raise FormatError(f"{path}: {'; '.join(why) or 'no data'}")
    return best[1]


def check_chunks(path: Path, data: Any) -> None:
    """Refuse chunks that do not fit into memory; HDF5 and zarr unpack whole ones.

    Raises:
        FormatError: larger than 16 blocks.
    """
    chunks = data.chunks
    if chunks and np.prod(chunks, dtype=float) * data.dtype.itemsize > 16 * BLOCK_BYTES:
        raise FormatError(f"{path}: chunks of {chunks} do not fit into memory")
