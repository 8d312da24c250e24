"""A calibration on disc as it happens: every frame, and the input before it, in zarr that needs no package of ours.

    name.zarr/      attributes: format, version, columns, names, space, optics, camera_shape, max_count, instrument,
                    provenance, sessions (one entry per reset)
      counts        (N, H, W) uint16, raw
      table         (N, C) float64, one row per frame; what is in a column the attribute `columns` says:
                    session, dose_e, exposure_s, clock_s; delta.NAME, cumulative.NAME, state.NAME in nm for each
                    coefficient; setting.NAME for what else the operator knew. NaN where nobody knows.

`delta` is the input since the frame before, `cumulative` the sum of the session, `state` the known state of the
calibrated coefficients. A row is written after its counts: the frames that count are those with a clock. Every frame is
a chunk of its own, so that nothing that is on disc is written again.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import zarr
from numpy.typing import NDArray

from twin.errors import NoSession
from twin.formats.dataset import FormatError
from twin.instrument.faults import Departure
from twin.optics import Optics
from twin.state import StateSpace
from twin.types import Capabilities, Frame, HasTruth, Microscope

Array = NDArray[np.floating]

FORMAT = "stemtwin-ronchigrams"
VERSION = 1
SETTING = "setting."
TABLE_CHUNK = 64
"""Columns of the table's chunks: room for settings that turn up later."""
SAME_NM = 1e-6
"""Inputs that differ by less are the same: sums of the same numbers in another order differ by far less."""


@runtime_checkable
class Resumable(Protocol):
    """An instrument that outlives the program that drives it."""

    def session(self) -> dict[str, Any]:
        """What it takes to go on with this session, as plain JSON: the settings that the inputs are counted from."""
        ...

    def resume(self, session: Mapping[str, Any], cumulative_nm: Array, clock_s: float) -> None:
        """Take up a session instead of `reset`: bring the instrument to this cumulative input; the clock goes on."""
        ...


@runtime_checkable
class RepeatsSessions(Protocol):
    """An instrument whose sessions a generator may decide, as a simulator's, wherever it runs."""

    @property
    def repeats_sessions(self) -> bool:
        """The same generator and inputs give the same frames: a session is taken up by driving it along again."""
        ...


def repeats_sessions(microscope: Microscope) -> bool:
    """Whether the same generator and inputs give the same frames."""
    if isinstance(microscope, RepeatsSessions):
        return microscope.repeats_sessions
    return isinstance(microscope, HasTruth) and not isinstance(microscope, Resumable)


def fingerprint(rng: np.random.Generator) -> str:
    """Of the generator's state: equal for generators that will give the same numbers. Draws nothing."""
    state = json.dumps(rng.bit_generator.state, sort_keys=True, default=lambda value: np.asarray(value).tolist())
    return hashlib.sha256(state.encode()).hexdigest()[:16]


class RecordingWriter:
    """Appends frames to a recording; each is readable by others when `append` returns, also after a kill.

    Args:
        path: a directory that does not exist, or with `again` a recording of the same instrument to continue.
        capabilities: of the instrument.
        provenance: plain JSON: what made the recording.
        again: continue what is there; what a crash left half-written is dropped.

    Raises:
        FormatError: `path` exists and `again` is not set, or it is not a recording of this instrument.
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
        if path.exists():
            raise FormatError(f"{path} exists; choose another name, or go on with it by --resume")
        # Under another name until it is whole: whatever has a recording's name is one.
        partial = path.with_name(path.name + ".partial")
        if partial.exists():
            shutil.rmtree(partial)
        _create(partial, capabilities, provenance or {})
        partial.rename(path)
        self.count, self._group = 0, zarr.open_group(path, mode="r+", zarr_format=3)

    @property
    def sessions(self) -> list[dict[str, Any]]:
        """One entry per reset, as on disc."""
        return list(self._group.attrs["sessions"])  # type: ignore[arg-type]

    def begin(self, session: Mapping[str, Any]) -> None:
        """A new session; the frames that follow belong to it."""
        self._group.attrs.update({"sessions": [*self.sessions, dict(session)]})

    def append(self, frame: Frame, delta_nm: Array, cumulative_nm: Array, state_nm: Array | None) -> None:
        """One frame, and the input that came before it."""
        state = np.full(np.shape(cumulative_nm), np.nan) if state_nm is None else state_nm
        row = [float(len(self.sessions) - 1), frame.dose_e, frame.exposure_s, frame.clock_s]
        row += [float(value) for part in (delta_nm, cumulative_nm, state) for value in part]
        columns = self._columns_for(frame)
        row += [frame.settings.get(name.removeprefix(SETTING), np.nan) for name in columns[len(row) :]]
        counts, table = self._array("counts"), self._array("table")
        counts.resize((self.count + 1, *counts.shape[1:]))
        counts[self.count] = frame.counts
        table.resize((self.count + 1, len(columns)))
        table[self.count] = row
        self.count += 1

    def _columns_for(self, frame: Frame) -> list[str]:
        """The columns of the table; settings that were not told before get one."""
        columns: list[str] = list(self._group.attrs["columns"])  # type: ignore[arg-type]
        new = [SETTING + name for name in frame.settings if SETTING + name not in columns]
        if new:
            columns += new
            self._group.attrs.update({"columns": columns})
        return columns

    def _array(self, name: str) -> Any:
        return self._group[name]


def _create(path: Path, capabilities: Capabilities, provenance: Mapping[str, Any]) -> None:
    """A recording without sessions."""
    camera, columns = capabilities.camera_shape, list(_columns(capabilities.space.names))
    group = zarr.create_group(path, zarr_format=3)
    group.create_array("counts", shape=(0, *camera), chunks=(1, *camera), dtype="uint16")
    group.create_array("table", shape=(0, len(columns)), chunks=(1, TABLE_CHUNK), dtype="float64", fill_value=np.nan)
    group.attrs.update({**_attributes(capabilities, provenance), "columns": columns})


def _columns(names: tuple[str, ...]) -> Iterator[str]:
    yield from ("session", "dose_e", "exposure_s", "clock_s")
    for part in ("delta", "cumulative", "state"):
        yield from (f"{part}.{name}" for name in names)


def _attributes(capabilities: Capabilities, provenance: Mapping[str, Any]) -> dict[str, Any]:
    space = capabilities.space
    return {
        "format": FORMAT,
        "version": VERSION,
        "instrument": capabilities.name,
        "names": list(space.names),
        "space": {f.name: list(getattr(space, f.name)) for f in fields(space) if f.init},
        "optics": asdict(capabilities.optics),
        "camera_shape": list(capabilities.camera_shape),
        "max_count": capabilities.max_count,
        "provenance": dict(provenance),
        "sessions": [],
    }


@dataclass(frozen=True, eq=False)
class Trace:
    """The frames of one session of a recording, in order.

    Attributes:
        session: its entry among the recording's sessions.
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
    """A recording opened for reading; the counts stay on disc until asked for.

    Raises:
        FormatError: no recording; the message says what is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Never version 2: among its codecs is one that unpickles.
            group: Any = zarr.open_group(path, mode="r", zarr_format=3)
            self._counts = group["counts"]
            attributes: dict[str, Any] = dict(group.attrs)
            table, columns = np.asarray(group["table"][...]), list(attributes["columns"])
        except (KeyError, ValueError, TypeError, OSError) as error:
            raise FormatError(f"{path}: not a recording of Ronchigrams: {error}") from None
        if attributes.get("format") != FORMAT or attributes.get("version") != VERSION:
            raise FormatError(f"{path}: not {FORMAT}, version {VERSION}: {attributes.get('format')!r}")
        self.attributes: Mapping[str, Any] = attributes
        # A crash between the two resizes of a new setting leaves a name without its column.
        self._table = dict(zip(columns, table.T, strict=False))
        try:
            self.optics = Optics(**attributes["optics"])
            self.space = StateSpace(**{key: tuple(value) for key, value in attributes["space"].items()})
            self.camera_shape: tuple[int, int] = tuple(attributes["camera_shape"])
            self.max_count = int(attributes["max_count"])
            whole = np.isfinite(self._table["clock_s"])[: self._counts.shape[0]]
            if self._counts.shape[1:] != self.camera_shape or not isinstance(attributes["sessions"], list):
                raise ValueError(f"frames of {self._counts.shape[1:]}, camera {self.camera_shape}; or no sessions")
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{path}: attributes do not describe an instrument: {error}") from None
        self.count = int(whole.size if whole.all() else np.argmin(whole))

    @property
    def sessions(self) -> list[Mapping[str, Any]]:
        """One entry per reset."""
        return list(self.attributes["sessions"])

    @property
    def state_nm(self) -> Array:
        """Known state of each frame, shape (N, n); NaN where nobody knows."""
        return self._of_coefficients("state")

    def trace(self, session: int) -> Trace:
        """The frames of one session."""
        places = np.flatnonzero(self._table["session"][: self.count] == session)
        parts = (self._of_coefficients(part)[places] for part in ("delta", "cumulative", "state"))
        return Trace(self.sessions[session], places, *parts)

    def frame(self, place: int) -> Frame:
        """Frame `place`, equal to the one that was recorded."""
        row = {name: float(column[place]) for name, column in self._table.items()}
        settings = {name: value for name, value in row.items() if name.startswith(SETTING) and np.isfinite(value)}
        told = {name.removeprefix(SETTING): value for name, value in settings.items()}
        counts = np.asarray(self._counts[place], dtype=np.uint16)
        return Frame(counts, row["dose_e"], row["exposure_s"], row["clock_s"], told)

    def _of_coefficients(self, part: str) -> Array:
        columns = [self._table[f"{part}.{name}"][: self.count] for name in self.space.names]
        return np.stack(columns, axis=1)

    def check_instrument(self, capabilities: Capabilities) -> None:
        """Refuse to mix instruments.

        Raises:
            FormatError: optics, space or camera differ; names the first difference.
        """
        here = (self.optics, self.space, self.camera_shape)
        given = (capabilities.optics, capabilities.space, capabilities.camera_shape)
        for label, recorded, wanted in zip(("optics", "space", "camera_shape"), here, given, strict=True):
            if recorded != wanted:
                raise FormatError(f"{self.path}: {label} was {recorded} and is {wanted}")


class RecordingMicroscope:
    """Any microscope, with everything it gives on disc as well.

    Args:
        inner: the instrument; inputs and frames pass through unchanged.
        path: the recording to make.
        provenance: plain JSON that goes into the recording.
        truth: knows the state, if it is not `inner` itself that does.

    Raises:
        FormatError: `path` exists.
    """

    def __init__(
        self,
        inner: Microscope,
        path: Path,
        provenance: Mapping[str, Any] | None = None,
        truth: HasTruth | None = None,
    ) -> None:
        self._inner = inner
        self._truth = inner if truth is None and isinstance(inner, HasTruth) else truth
        self._writer = RecordingWriter(path, inner.capabilities, provenance)
        self._space = inner.capabilities.space
        self._delta_nm: Array = self._space.zero
        self._cumulative_nm: Array = self._space.zero

    @property
    def capabilities(self) -> Capabilities:
        return self._inner.capabilities

    def reset(self, rng: np.random.Generator) -> None:
        """A new session of the instrument, and in the recording."""
        mark = fingerprint(rng)
        self._inner.reset(rng)
        self._delta_nm, self._cumulative_nm = self._space.zero, self._space.zero
        self._writer.begin(_session(mark, self._inner, self._truth))

    def apply(self, delta_nm: Array) -> None:
        self._inner.apply(delta_nm)
        self._cumulative_nm = self._space.check_input(delta_nm, self._cumulative_nm)
        self._delta_nm = self._delta_nm + np.asarray(delta_nm, dtype=np.float64)

    def acquire(self) -> Frame:
        """One exposure, on disc when this returns."""
        frame = self._inner.acquire()
        state = None if self._truth is None else self._truth.truth().state_nm
        self._writer.append(frame, self._delta_nm, self._cumulative_nm, state)
        self._delta_nm = self._space.zero
        return frame


def _session(mark: str, inner: Microscope, truth: HasTruth | None) -> dict[str, Any]:
    entry: dict[str, Any] = {"fingerprint": mark, "began": datetime.now(UTC).isoformat(timespec="seconds")}
    if isinstance(inner, Resumable):
        entry["instrument"] = inner.session()
    if truth is not None:
        entry["initial_nm"] = truth.truth().initial_nm.tolist()
    return entry


class ResumedMicroscope(RecordingMicroscope):
    """A recorded session to its last frame, then the instrument itself; goes on recording.

    As long as there are recorded frames the same inputs get the same frames. A simulator is driven along, for its state
    ended with the program, here or on a server, and must give the recorded bytes. An instrument is left alone until the
    recording ends; then it is brought to where it stood at the last frame. A recording whose session had not begun yet
    gets a new one.

    Args:
        inner: a simulator, or an instrument that is `Resumable`.
        path: the recording to continue.
        truth: as in `RecordingMicroscope`.

    Raises:
        FormatError: no recording of this instrument.
        ValueError: `inner` is neither.
    """

    def __init__(self, inner: Microscope, path: Path, truth: HasTruth | None = None) -> None:
        self._inner = inner
        self._truth = inner if truth is None and isinstance(inner, HasTruth) else truth
        repeats = repeats_sessions(inner)
        self._outlives = inner if isinstance(inner, Resumable) and not repeats else None
        if self._outlives is None and not repeats:
            raise ValueError(f"{inner.capabilities.name} cannot take up a session: it has no resume()")
        self._recording = Recording(path)
        self._writer = RecordingWriter(path, inner.capabilities, again=True)
        self._space = inner.capabilities.space
        self._seen = -1
        self._live = False

    @property
    def recorded(self) -> int:
        """Frames that come from the recording."""
        return len(self._latest()) if self._recording.sessions else 0

    def reset(self, rng: np.random.Generator) -> None:
        """The recorded session again.

        Raises:
            Departure: the generator is not the recorded session's, or this session was taken up before.
        """
        if self._seen >= 0:
            raise Departure(f"{self._recording.path}: a session can be taken up once")
        if not self._recording.sessions:
            super().reset(rng)
            self._seen, self._live = 0, True
            return
        self._trace = self._latest()
        if fingerprint(rng) != self._trace.session.get("fingerprint"):
            raise Departure(f"{self._recording.path}: the recorded session has another seed")
        self._seen, self._delta_nm, self._cumulative_nm = 0, self._space.zero, self._space.zero
        if self._outlives is None:
            self._inner.reset(rng)
        self._go_live_if_due()

    def apply(self, delta_nm: Array) -> None:
        self._check_session("apply")
        cumulative = self._space.check_input(delta_nm, self._cumulative_nm)
        if self._live or self._outlives is None:
            self._inner.apply(delta_nm)
        self._cumulative_nm = cumulative
        self._delta_nm = self._delta_nm + np.asarray(delta_nm, dtype=np.float64)

    def acquire(self) -> Frame:
        """The next recorded frame, or one more exposure.

        Raises:
            Departure: the inputs are not the recorded ones, or the simulator does not give the recorded frame.
        """
        self._check_session("acquire")
        if self._live:
            return super().acquire()
        k = self._seen
        off = self._cumulative_nm - self._trace.cumulative_nm[k]
        if np.max(np.abs(off)) > SAME_NM:
            raise Departure(f"frame {k} of {self._recording.path} was taken {off.tolist()} nm away from these inputs")
        frame = self._recording.frame(int(self._trace.places[k]))
        if self._outlives is None and self._inner.acquire() != frame:
            raise Departure(f"frame {k} of {self._recording.path} is not what this simulator gives: other settings")
        self._seen, self._delta_nm = k + 1, self._space.zero
        self._go_live_if_due()
        return frame

    def _latest(self) -> Trace:
        return self._recording.trace(len(self._recording.sessions) - 1)

    def _go_live_if_due(self) -> None:
        if self._seen < len(self._trace):
            return
        if self._outlives is not None:
            clock = self._recording.frame(int(self._trace.places[-1])).clock_s if len(self._trace) else 0.0
            self._outlives.resume(dict(self._trace.session.get("instrument", {})), self._cumulative_nm, clock)
        self._live = True

    def _check_session(self, verb: str) -> None:
        if self._seen < 0:
            raise NoSession(verb)
