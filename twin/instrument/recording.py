"""A recorded calibration: every frame, and the input before it, in plain zarr.

    name.zarr/      attributes: format, version, columns, names, space, optics, camera_shape, max_count, instrument,
                    provenance, sessions (one entry per reset)
      counts        (N, H, W) uint16, raw
      table         (N, C) float64, one row per frame; the attribute `columns` names the columns:
                    session, dose_e, exposure_s, clock_s; delta.NAME, cumulative.NAME, state.NAME in nm for each
                    coefficient; setting.NAME for the settings of a frame. NaN where unknown.

`delta` is the input since the frame before, `cumulative` the sum of the session, `state` the known state of the
calibrated coefficients. A row is written after its counts: a frame is complete when it has a clock. Every frame is a
chunk of its own, so that nothing on disc is written twice.
"""

import secrets
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from twin.arrays import Array
from twin.formats import zarr_chunks
from twin.formats.dataset import FormatError, numbers
from twin.formats.zarr_chunks import Chunks
from twin.formats.zarr_store import open_arrays
from twin.optics import Optics
from twin.state import StateSpace
from twin.types import Capabilities, Frame
from twin.wire.control import capabilities_plain

FORMAT = "stemtwin-ronchigrams"
VERSION = 1
SETTING = "setting."
TABLE_CHUNK = 64
"""Columns of the table's chunks, more than the table has at first: later settings add columns."""
SAME_NM = 1e-6
"""Inputs that differ by less are equal; rounding differences of sums are far smaller."""


class RecordingWriter:
    """Appends frames to a recording; each is on disc (fsync) and readable when `append` returns.

    Args:
        path: a new directory, or with `again` a recording of the same instrument to continue.
        capabilities: of the instrument.
        provenance: plain JSON that describes the origin of the recording.
        again: continue an existing recording; a frame that a crash left incomplete is dropped.

    Raises:
        FormatError: `path` exists and `again` is not set, has another format's suffix, or is not a recording of this
            instrument.
    """

    def __init__(
        self, path: Path, capabilities: Capabilities, provenance: Mapping[str, Any] | None = None, again: bool = False
    ) -> None:
        self.path = path
        if again:
            recording = Recording(path)
            recording.check_instrument(capabilities)
            self.count, self._group = recording.count, zarr.open_group(path, mode="r+", zarr_format=3)
            for name in ("counts", "table"):
                array = self._array(name)
                array.resize((self.count, *array.shape[1:]))
            return
        if path.suffix.lower() not in ("", ".zarr"):
            raise FormatError(f"{path}: a recording is in zarr: name it {path.stem}.zarr")
        if path.exists() or path.is_symlink():
            raise FormatError(f"{path} exists; choose another name, or continue it with --resume")
        # Under another name until it is complete: a directory with a recording's name is always a valid recording.
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")  # never somebody else's
        try:
            _create(partial, capabilities, provenance or {})
            partial.rename(path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self.count, self._group = 0, zarr.open_group(path, mode="r+", zarr_format=3)

    @property
    def sessions(self) -> list[dict[str, Any]]:
        """One entry per reset, as on disc."""
        return list(self._group.attrs["sessions"])  # type: ignore[arg-type]

    def begin(self, session: Mapping[str, Any]) -> None:
        """Begin a session; the frames that follow belong to it."""
        self._group.attrs.update({"sessions": [*self.sessions, dict(session)]})

    def append(self, frame: Frame, delta_nm: Array, cumulative_nm: Array, state_nm: Array | None) -> None:
        """Append one frame, and the input before it."""
        state = np.full(np.shape(cumulative_nm), np.nan) if state_nm is None else state_nm
        row = [float(len(self.sessions) - 1), frame.dose_e, frame.exposure_s, frame.clock_s]
        row += [float(value) for part in (delta_nm, cumulative_nm, state) for value in part]
        columns = self._columns_for(frame)
        row += [frame.settings.get(name.removeprefix(SETTING), np.nan) for name in columns[len(row) :]]
        counts, table = self._array("counts"), self._array("table")
        counts.resize((self.count + 1, *counts.shape[1:]))
        counts[self.count] = frame.counts
        _chunks(self.path, "counts", counts).sync((self.count,))
        table.resize((self.count + 1, len(columns)))
        table[self.count] = row
        _chunks(self.path, "table", table).sync((self.count,))
        self.count += 1

    def _columns_for(self, frame: Frame) -> list[str]:
        """Return the columns of the table; add one for each new setting."""
        columns: list[str] = list(self._group.attrs["columns"])  # type: ignore[arg-type]
        new = [SETTING + name for name in frame.settings if SETTING + name not in columns]
        if new:
            columns += new
            self._group.attrs.update({"columns": columns})
        return columns

    def _array(self, name: str) -> Any:
        # Chunks of zeros, too: a lost one could not be told from a dark frame.
        return self._group[name].with_config({"write_empty_chunks": True})  # type: ignore[union-attr]


def _create(path: Path, capabilities: Capabilities, provenance: Mapping[str, Any]) -> None:
    """Create a recording without sessions."""
    camera, columns = capabilities.camera_shape, list(_columns(capabilities.space.names))
    group = zarr.create_group(path, zarr_format=3)
    for name, shape, chunks, dtype, empty in (
        ("counts", (0, *camera), (1, *camera), "uint16", 0),
        ("table", (0, len(columns)), (1, TABLE_CHUNK), "float64", np.nan),
    ):
        group.create_array(
            name, shape=shape, chunks=chunks, dtype=dtype, fill_value=empty, compressors=zarr_chunks.compression()
        )
    group.attrs.update({zarr_chunks.COMPLETE: True, **_attributes(capabilities, provenance), "columns": columns})


def _chunks(path: Path, name: str, array: Any, complete: bool = True) -> Chunks:
    """Return an array of a recording, whose first axis is the frame."""
    expected = zarr_chunks.always if complete else zarr_chunks.never
    return Chunks(path, name, array, expected, lambda region: numbers("frame", region[0].start, region[0].stop - 1))


def _rows(table: Chunks) -> Array:
    """Return the table, NaN in a last row that a crash left out.

    Raises:
        FormatError: another row is damaged or missing; names its chunk.
    """
    last = table.array.shape[0] - 1
    if last > 0:
        table.read((slice(0, last),))
    return replace(table, expected=zarr_chunks.never).read((slice(None),))


def _columns(names: tuple[str, ...]) -> Iterator[str]:
    yield from ("session", "dose_e", "exposure_s", "clock_s")
    for part in ("delta", "cumulative", "state"):
        yield from (f"{part}.{name}" for name in names)


def _attributes(capabilities: Capabilities, provenance: Mapping[str, Any]) -> dict[str, Any]:
    plain = capabilities_plain(capabilities)
    head = {"format": FORMAT, "version": VERSION, "instrument": capabilities.name}
    instrument = {name: plain[name] for name in ("space", "optics", "camera_shape", "max_count")}
    names = list(capabilities.space.names)
    return {**head, "names": names, **instrument, "provenance": dict(provenance), "sessions": []}


@dataclass(frozen=True, eq=False)
class Trace:
    """The frames of one session of a recording, in order.

    Attributes:
        session: the entry among the recording's sessions.
        places: index of each frame in the recording, shape (N,).
        delta_nm, cumulative_nm, state_nm: shape (N, n).
    """

    session: Mapping[str, Any]
    places: NDArray[np.int64]
    delta_nm: Array
    cumulative_nm: Array
    state_nm: Array

    def __len__(self) -> int:
        return len(self.places)


class Recording:
    """A recording opened for reading; the counts stay on disc until `frame` reads them.

    Raises:
        FormatError: not a recording; the message names what is missing.

    Example:
        >>> import tempfile
        >>> from twin.day import Day
        >>> from twin.instrument.recorder import RecordingMicroscope
        >>> from twin.simulated import SimulatedMicroscope
        >>> from twin.state import FIRST_ORDER
        >>> path = Path(tempfile.mkdtemp()) / "run.zarr"
        >>> microscope = RecordingMicroscope(SimulatedMicroscope(Optics(), FIRST_ORDER, Day()), path)
        >>> microscope.reset(np.random.default_rng(0))
        >>> frame = microscope.acquire()
        >>> recording = Recording(path)
        >>> recording.count, recording.frame(0) == frame
        (1, True)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        what = "a recording of Ronchigrams"
        (counts, table), attributes = open_arrays(path, FORMAT, VERSION, ("counts", "table"), what)
        self.attributes: Mapping[str, Any] = attributes
        complete = attributes.get(zarr_chunks.COMPLETE) is True
        self._counts, stored = _chunks(path, "counts", counts, complete), _chunks(path, "table", table, complete)
        self._counts.check_size()
        stored.check_all()
        try:
            # A crash while a setting is added leaves a name without its column.
            rows = _rows(stored)
            columns = attributes["columns"]
            self._table = dict(zip(columns, rows.T, strict=False))
            self.optics = Optics(**attributes["optics"])
            self.space = StateSpace(**{key: tuple(value) for key, value in attributes["space"].items()})
            self.camera_shape: tuple[int, int] = tuple(attributes["camera_shape"])
            self.max_count = int(attributes["max_count"])
            whole = np.isfinite(self._table["clock_s"])[: counts.shape[0]]
            fixed = list(_columns(self.space.names))
            if columns[: len(fixed)] != fixed or not all(
                str(name).startswith(SETTING) for name in columns[len(fixed) :]
            ):
                raise ValueError(f"columns {columns}, not {fixed} and settings")
            sessions = attributes["sessions"]
            told = isinstance(sessions, list) and all(isinstance(session, dict) for session in sessions)
            if counts.shape[1:] != self.camera_shape or not told:
                raise ValueError(f"frames of {counts.shape[1:]}, camera {self.camera_shape}; or no sessions")
        except FormatError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{path}: attributes do not describe an instrument: {error}") from None
        self.count = int(whole.size if whole.all() else np.argmin(whole))

    @property
    def sessions(self) -> list[Mapping[str, Any]]:
        """One entry per reset."""
        return list(self.attributes["sessions"])

    @property
    def state_nm(self) -> Array:
        """State of each frame, shape (N, n); NaN where unknown."""
        return self._of_coefficients("state")

    def trace(self, session: int) -> Trace:
        """Return the frames of one session."""
        places = np.flatnonzero(self._table["session"][: self.count] == session)
        parts = (self._of_coefficients(part)[places] for part in ("delta", "cumulative", "state"))
        return Trace(self.sessions[session], places, *parts)

    def frame(self, place: int) -> Frame:
        """Return frame `place`, equal to the one that was recorded.

        Raises:
            FormatError: its chunk is damaged or missing; names the chunk.
        """
        row = {name: float(column[place]) for name, column in self._table.items()}
        known = {name: value for name, value in row.items() if name.startswith(SETTING) and np.isfinite(value)}
        settings = {name.removeprefix(SETTING): value for name, value in known.items()}
        counts = self._counts.read((place,)).astype(np.uint16, copy=False)
        return Frame(counts, row["dose_e"], row["exposure_s"], row["clock_s"], settings)

    def _of_coefficients(self, part: str) -> Array:
        columns = [self._table[f"{part}.{name}"][: self.count] for name in self.space.names]
        return np.stack(columns, axis=1)

    def check_instrument(self, capabilities: Capabilities) -> None:
        """Refuse another instrument than the recorded one.

        Raises:
            FormatError: names the first difference of optics, space and camera.
        """
        for label in ("optics", "space", "camera_shape"):
            recorded, given = getattr(self, label), getattr(capabilities, label)
            if recorded != given:
                raise FormatError(f"{self.path}: {label} was {recorded} and is {given}")
