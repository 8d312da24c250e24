"""Microscopes that record every frame as it is taken, and continue recorded sessions."""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from twin.arrays import Array
from twin.errors import NoSession
from twin.instrument.abilities import RepeatsSessions, Resumable
from twin.instrument.faults import Departure
from twin.instrument.recording import SAME_NM, Recording, RecordingWriter, Trace
from twin.types import Capabilities, Frame, HasTruth, Microscope


def repeats_sessions(microscope: Microscope) -> bool:
    """Return whether the same generator and inputs give the same frames."""
    if isinstance(microscope, RepeatsSessions):
        return microscope.repeats_sessions
    return isinstance(microscope, HasTruth) and not isinstance(microscope, Resumable)


def fingerprint(rng: np.random.Generator) -> str:
    """Return a digest of the generator's state, equal for generators that will draw the same numbers. Draws nothing."""
    state = json.dumps(rng.bit_generator.state, sort_keys=True, default=lambda value: np.asarray(value).tolist())
    return hashlib.sha256(state.encode()).hexdigest()[:16]


class RecordingMicroscope:
    """Any microscope, whose inputs and frames are also written to a recording.

    Args:
        inner: the instrument; inputs and frames pass through unchanged.
        path: of the new recording.
        provenance: plain JSON for the recording.
        truth: source of the true state, if it is not `inner` itself.

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
        """Begin a session of the instrument and in the recording."""
        mark = fingerprint(rng)
        self._inner.reset(rng)
        self._delta_nm, self._cumulative_nm = self._space.zero, self._space.zero
        self._writer.begin(_session(mark, self._inner, self._truth))

    def apply(self, delta_nm: Array) -> None:
        delta = np.array(delta_nm, dtype=np.float64)  # as it is now, whatever others do to theirs
        self._inner.apply(delta.copy())
        self._cumulative_nm = self._space.check_input(delta, self._cumulative_nm)
        self._delta_nm = self._delta_nm + delta

    def acquire(self) -> Frame:
        """Take one frame; it is on disc when this returns."""
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
    """A recorded session up to its last frame, then the instrument itself; the recording goes on.

    The same inputs get the recorded frames. A simulator, local or served, lost its state with the program: it repeats
    the session and must give the recorded bytes. A real instrument is left alone until the recording ends, and then
    driven to its position at the last frame. A recording without a session gets a new one.

    Args:
        inner: a simulator, or an instrument that is `Resumable`.
        path: the recording to continue.
        truth: as in `RecordingMicroscope`.

    Raises:
        FormatError: not a recording of this instrument.
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
        self._replayed = -1
        self._live = False

    @property
    def recorded(self) -> int:
        """Number of frames that come from the recording."""
        return len(self._latest()) if self._recording.sessions else 0

    def reset(self, rng: np.random.Generator) -> None:
        """Begin the recorded session again.

        Raises:
            Departure: the generator is not that of the recorded session, or this object was reset before.
        """
        if self._replayed >= 0:
            raise Departure(f"{self._recording.path}: a session can be taken up once")
        if not self._recording.sessions:
            super().reset(rng)
            self._replayed, self._live = 0, True
            return
        self._trace = self._latest()
        if fingerprint(rng) != self._trace.session.get("fingerprint"):
            raise Departure(f"{self._recording.path}: the recorded session has another seed")
        self._replayed, self._delta_nm, self._cumulative_nm = 0, self._space.zero, self._space.zero
        if self._outlives is None:
            self._inner.reset(rng)
        self._go_live_if_due()

    def apply(self, delta_nm: Array) -> None:
        self._check_session("apply")
        delta = np.array(delta_nm, dtype=np.float64)
        cumulative = self._space.check_input(delta, self._cumulative_nm)
        if self._live or self._outlives is None:
            self._inner.apply(delta.copy())
        self._cumulative_nm = cumulative
        self._delta_nm = self._delta_nm + delta

    def acquire(self) -> Frame:
        """Return the next recorded frame, or expose once.

        Raises:
            Departure: the inputs differ from the recorded ones, or the simulator gives another frame.
        """
        self._check_session("acquire")
        if self._live:
            return super().acquire()
        k = self._replayed
        off = self._cumulative_nm - self._trace.cumulative_nm[k]
        if np.max(np.abs(off)) > SAME_NM:
            raise Departure(f"frame {k} of {self._recording.path} was taken {off.tolist()} nm away from these inputs")
        frame = self._recording.frame(int(self._trace.places[k]))
        if self._outlives is None and self._inner.acquire() != frame:
            raise Departure(f"frame {k} of {self._recording.path} is not what this simulator gives: other settings")
        self._replayed, self._delta_nm = k + 1, self._space.zero
        self._go_live_if_due()
        return frame

    def _latest(self) -> Trace:
        return self._recording.trace(len(self._recording.sessions) - 1)

    def _go_live_if_due(self) -> None:
        if self._replayed < len(self._trace):
            return
        if self._outlives is not None:
            clock = self._recording.frame(int(self._trace.places[-1])).clock_s if len(self._trace) else 0.0
            self._outlives.resume(dict(self._trace.session.get("instrument", {})), self._cumulative_nm.copy(), clock)
        self._live = True

    def _check_session(self, verb: str) -> None:
        if self._replayed < 0:
            raise NoSession(verb)
