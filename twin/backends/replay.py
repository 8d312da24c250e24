"""A recording instead of an instrument: the same session again, or the nearest recorded Ronchigram of known state.

`exact` returns the recorded frames for the recorded inputs and nothing else. `nearest` uses a recording of known states
as a map: a session starts at one of them, and every exposure is the recorded frame of the nearest state (as the
experimental data in van Hulst et al. 2026, section V).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from twin.arrays import Array
from twin.errors import NoSession
from twin.instrument.faults import Departure
from twin.instrument.recorder import fingerprint
from twin.instrument.recording import SAME_NM, Recording, Trace
from twin.optics import Optics
from twin.options import NonNegative, OptionError, checked_options, validated
from twin.state import StateSpace
from twin.types import Capabilities, Frame, Microscope, Truth

ADDRESS = "path"
INSTRUMENT = False
SAME_DISTANCE = 1e-9
"""Recorded states whose distances differ by less are equal, recorded more than once."""


@validated
class Options:
    """Options of a replay.

    Attributes:
        path: the recording.
        mode: "exact" or "nearest".
        tolerance_nm: exact: largest difference of a cumulative input from the recorded one.
        reach: nearest: largest distance of a state from a recorded one, in units of `space.tolerance_nm`.
        start_nm: nearest: start of a session, within reach of a recorded state; None: a recorded state, drawn.
        overhead_s: nearest: clock time per frame beyond its exposure.
    """

    path: str
    mode: Literal["exact", "nearest"] = "exact"
    tolerance_nm: NonNegative = SAME_NM
    reach: NonNegative = 1.0
    start_nm: tuple[float, ...] | None = None
    overhead_s: NonNegative = 0.0


def make(options: Mapping[str, Any], optics: Optics, space: StateSpace) -> Microscope:
    """Open a recording of this optics and space for replay.

    Raises:
        OptionError: as `checked_options`.
        FormatError: not a recording.
        ValueError: it has other optics or another space, or no known states for `nearest`.
    """
    chosen = checked_options(Options, {"path": "", **options})
    if not chosen.path:
        raise OptionError("replay needs the recording: replay:FILE.zarr, or the option path")
    recording = Recording(Path(chosen.path))
    recording.check_instrument(Capabilities("", optics, space, recording.camera_shape, recording.max_count))
    if chosen.mode == "nearest":
        return NearestMicroscope(recording, chosen.reach, chosen.start_nm, chosen.overhead_s)
    states_known = bool(np.isfinite(recording.state_nm).all())
    starts_known = all("initial_nm" in session for session in recording.sessions)
    kind = ScoredReplayMicroscope if states_known and starts_known else ReplayMicroscope
    return kind(recording, chosen.tolerance_nm)


class ReplayMicroscope:
    """The recorded frames, for the recorded inputs from the recorded seed.

    Of several sessions with one seed it follows those whose inputs agree so far.

    Args:
        recording: not changed.
        tolerance_nm: largest difference of a component of the cumulative input from the recorded one.
    """

    def __init__(self, recording: Recording, tolerance_nm: float = SAME_NM) -> None:
        self._recording, self._tolerance_nm = recording, tolerance_nm
        self._space = recording.space
        self._traces = [recording.trace(k) for k in range(len(recording.sessions))]
        self._alive: list[Trace] = []
        self._count = 0
        self._capabilities = _capabilities(recording)

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def reset(self, rng: np.random.Generator) -> None:
        """Begin the recorded sessions of this generator.

        Raises:
            Departure: there is none.
        """
        mark = fingerprint(rng)
        alive = [trace for trace in self._traces if trace.session.get("fingerprint") == mark]
        if not alive:
            raise Departure(
                f"{self._recording.path}: none of its {len(self._traces)} sessions had this seed;"
                " give the --seed of the recorded run"
            )
        self._alive, self._count = alive, 0
        self._cumulative_nm: Array = self._space.zero

    def apply(self, delta_nm: Array) -> None:
        self._check_session("apply")
        self._cumulative_nm = self._space.check_input(delta_nm, self._cumulative_nm)

    def acquire(self) -> Frame:
        """Return the next recorded frame.

        Raises:
            Departure: the inputs differ from the recorded ones, or the recording has ended; nothing changes.
        """
        self._check_session("acquire")
        k = self._count
        longer = [trace for trace in self._alive if len(trace) > k]
        if not longer:
            raise Departure(f"{self._recording.path} ends after {k} frames; no frame {k}")
        off = [np.abs(trace.cumulative_nm[k] - self._cumulative_nm) for trace in longer]
        nearest = int(np.argmin([part.max() for part in off]))
        if off[nearest].max() > self._tolerance_nm:
            raise Departure(self._departed(longer[nearest], off[nearest]))
        self._alive = [trace for trace, part in zip(longer, off, strict=True) if part.max() <= self._tolerance_nm]
        frame = self._recording.frame(int(self._alive[0].places[k]))
        self._count = k + 1
        return frame

    def _check_session(self, verb: str) -> None:
        if not self._alive:
            raise NoSession(verb)

    def _departed(self, trace: Trace, off_nm: Array) -> str:
        k, i = self._count, int(np.argmax(off_nm))
        return (
            f"{self._recording.path}: the inputs left the recorded ones at frame {k}: cumulative {self._space.names[i]}"
            f" is {self._cumulative_nm[i]:+.6g} nm, recorded {trace.cumulative_nm[k, i]:+.6g} nm,"
            f" tolerance {self._tolerance_nm:g} nm"
        )


class ScoredReplayMicroscope(ReplayMicroscope):
    """A replay of a recording of known states: `HasTruth`, for the scorer."""

    def reset(self, rng: np.random.Generator) -> None:
        super().reset(rng)
        self._initial_nm = np.asarray(self._alive[0].session["initial_nm"], dtype=np.float64)
        self._state_nm: Array = self._initial_nm

    def apply(self, delta_nm: Array) -> None:
        super().apply(delta_nm)
        self._state_nm = self._state_nm + np.asarray(delta_nm, dtype=np.float64)

    def acquire(self) -> Frame:
        """Return the next recorded frame."""
        frame = super().acquire()
        self._state_nm = self._alive[0].state_nm[self._count - 1]
        return frame

    def truth(self) -> Truth:
        """Return the recorded state of the latest frame plus the inputs since; only for the scorer."""
        self._check_session("truth")
        return Truth(self._state_nm.copy(), self._initial_nm.copy())


class NearestMicroscope:
    """Recorded states as a map of an instrument: every exposure is the recorded frame nearest to the present state.

    Distances are Euclidean, in units of `space.tolerance_nm`. Frames of equal states are returned in turn. `truth` is a
    recorded start plus the inputs; the frame shows a state within `reach` of it.

    Args:
        recording: frames of known states.
        reach: largest distance of the nearest recorded state; nothing is extrapolated.
        start_nm: start of every session; None: a recorded state within the start range, drawn.
        overhead_s: clock time per frame beyond its exposure.

    Raises:
        ValueError: no frame with a known state, or none within the start range.
    """

    def __init__(self, recording: Recording, reach: float = 1.0, start_nm: Any = None, overhead_s: float = 0.0) -> None:
        self._recording, self._space, self._reach, self._overhead_s = recording, recording.space, reach, overhead_s
        self._places = np.flatnonzero(np.isfinite(recording.state_nm).all(axis=1))
        self._states_nm = recording.state_nm[self._places]
        within = np.all(np.abs(self._states_nm) <= self._space.start, axis=1)
        if not within.any():
            raise ValueError(
                f"{recording.path}: {len(self._places)} of {recording.count} frames have a known state, none of them"
                f" within the start range +-{self._space.start_nm} nm"
            )
        self._starts_nm = np.unique(self._states_nm[within], axis=0)
        self._chosen_nm = None if start_nm is None else self._checked_start(start_nm)
        self._state_nm: Array | None = None
        self._capabilities = _capabilities(recording)

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def reset(self, rng: np.random.Generator) -> None:
        """Begin at a start; draw one number from the generator."""
        drawn = self._starts_nm[int(rng.integers(len(self._starts_nm)))]
        self._initial_nm = drawn if self._chosen_nm is None else self._chosen_nm
        self._state_nm, self._cumulative_nm = self._initial_nm.copy(), self._space.zero
        self._exposures, self._clock_s = 0, 0.0

    def apply(self, delta_nm: Array) -> None:
        state = self._check_session("apply")
        self._cumulative_nm = self._space.check_input(delta_nm, self._cumulative_nm)
        self._state_nm = state + np.asarray(delta_nm, dtype=np.float64)

    def acquire(self) -> Frame:
        """Return the nearest recorded frame.

        Raises:
            Departure: the nearest recorded state is out of reach; nothing changes.
        """
        place = self._nearest(self._check_session("acquire"), self._exposures)
        recorded = self._recording.frame(place)
        self._exposures += 1
        self._clock_s += self._overhead_s + recorded.exposure_s
        return Frame(recorded.counts, recorded.dose_e, recorded.exposure_s, self._clock_s, recorded.settings)

    def truth(self) -> Truth:
        """Return the start plus the inputs; only for the scorer."""
        return Truth(self._check_session("truth").copy(), self._initial_nm.copy())

    def _nearest(self, state_nm: Array, turn: int) -> int:
        distances = np.linalg.norm((self._states_nm - state_nm) / self._space.tolerance, axis=1)
        best = int(np.argmin(distances))
        if distances[best] > self._reach:
            raise Departure(
                f"{self._recording.path}: no recorded state near {self._space.named(state_nm)}: the nearest,"
                f" {self._space.named(self._states_nm[best])}, is {distances[best]:.3g} tolerances away;"
                f" the limit is {self._reach:g}"
            )
        same = np.flatnonzero(distances <= distances[best] + SAME_DISTANCE)
        return int(self._places[same[turn % len(same)]])

    def _checked_start(self, start_nm: Any) -> Array:
        start = np.asarray(start_nm, dtype=np.float64)
        if start.shape != (self._space.dimension,) or np.any(np.abs(start) > self._space.start):
            raise OptionError(
                f"start_nm has one entry for each of {', '.join(self._space.names)} within"
                f" +-{self._space.start_nm}; got {start.tolist()}"
            )
        self._nearest(start, 0)
        return start

    def _check_session(self, verb: str) -> Array:
        if self._state_nm is None:
            raise NoSession(verb)
        return self._state_nm


def _capabilities(recording: Recording) -> Capabilities:
    name = f"replay of {recording.attributes.get('instrument', 'an instrument')}"
    return Capabilities(name, recording.optics, recording.space, recording.camera_shape, recording.max_count)
