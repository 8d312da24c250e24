"""A recording instead of an instrument: the same session again, or the nearest recorded Ronchigram of known state.

`exact` gives the recorded frames to the recorded inputs and nothing else. `nearest` takes a recording of known states
as a map: a session starts at one of them and every exposure is the recorded frame whose state is nearest (van Hulst et
al. 2026, section V: how their experimental data were used).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from twin.errors import NoSession
from twin.instrument.faults import Departure
from twin.instrument.recorder import fingerprint
from twin.instrument.recording import SAME_NM, Recording, Trace
from twin.optics import Optics
from twin.options import NonNegative, OptionError, checked_options, validated
from twin.state import StateSpace
from twin.types import Capabilities, Frame, Microscope, Truth

Array = NDArray[np.floating]

ADDRESS = "path"
INSTRUMENT = False
SAME_DISTANCE = 1e-9
"""Recorded states whose distances differ by less are the same state, recorded more than once."""


@validated
class Options:
    """Of a replay.

    Attributes:
        path: the recording.
        mode: "exact" or "nearest".
        tolerance_nm: exact: how far a cumulative input may be from the recorded one.
        reach: nearest: how far a state may be from a recorded one, in units of `space.tolerance_nm`.
        start_nm: nearest: where a session starts, a recorded state or within reach of one; None: drawn from them.
        overhead_s: nearest: clock time per frame beyond its exposure.
    """

    path: str
    mode: Literal["exact", "nearest"] = "exact"
    tolerance_nm: NonNegative = SAME_NM
    reach: NonNegative = 1.0
    start_nm: tuple[float, ...] | None = None
    overhead_s: NonNegative = 0.0


def make(options: Mapping[str, Any], optics: Optics, space: StateSpace) -> Microscope:
    """The replay of a recording of this optics and space.

    Raises:
        OptionError: as `checked_options`.
        FormatError: no recording there.
        ValueError: it was taken with other optics or another space, or holds no known states for `nearest`.
    """
    chosen = checked_options(Options, options)
    recording = Recording(Path(chosen.path))
    recording.check_instrument(Capabilities("", optics, space, recording.camera_shape, recording.max_count))
    if chosen.mode == "nearest":
        return NearestMicroscope(recording, chosen.reach, chosen.start_nm, chosen.overhead_s)
    knows = bool(np.isfinite(recording.state_nm).all()) and all("initial_nm" in one for one in recording.sessions)
    kind = ScoredReplayMicroscope if knows else ReplayMicroscope
    return kind(recording, chosen.tolerance_nm)


class ReplayMicroscope:
    """The recorded frames, to whoever gives the recorded inputs from the recorded seed.

    Of several sessions of one seed it follows those whose inputs agree so far.

    Args:
        recording: any; not changed.
        tolerance_nm: how far a component of the cumulative input may be from the recorded one.
    """

    def __init__(self, recording: Recording, tolerance_nm: float = SAME_NM) -> None:
        self._recording, self._tolerance_nm = recording, tolerance_nm
        self._space = recording.space
        self._traces = [recording.trace(k) for k in range(len(recording.sessions))]
        self._alive: list[Trace] = []
        self._seen = 0
        self._capabilities = _capabilities(recording)

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def reset(self, rng: np.random.Generator) -> None:
        """The recorded sessions of this generator, from the beginning.

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
        self._alive, self._seen = alive, 0
        self._cumulative_nm: Array = self._space.zero

    def apply(self, delta_nm: Array) -> None:
        _check_session(bool(self._alive), "apply")
        self._cumulative_nm = self._space.check_input(delta_nm, self._cumulative_nm)

    def acquire(self) -> Frame:
        """The next recorded frame.

        Raises:
            Departure: the inputs left the recorded ones, or the recording is at its end; nothing else has changed.
        """
        _check_session(bool(self._alive), "acquire")
        k = self._seen
        longer = [trace for trace in self._alive if len(trace) > k]
        if not longer:
            raise Departure(f"{self._recording.path} ends after {k} frames; frame {k} was asked for")
        off = [np.abs(trace.cumulative_nm[k] - self._cumulative_nm) for trace in longer]
        nearest = int(np.argmin([part.max() for part in off]))
        if off[nearest].max() > self._tolerance_nm:
            raise Departure(self._departed(longer[nearest], off[nearest]))
        self._alive = [trace for trace, part in zip(longer, off, strict=True) if part.max() <= self._tolerance_nm]
        frame = self._recording.frame(int(self._alive[0].places[k]))
        self._seen = k + 1
        return frame

    def _departed(self, trace: Trace, off_nm: Array) -> str:
        k, i = self._seen, int(np.argmax(off_nm))
        return (
            f"{self._recording.path}: the inputs left the recorded ones at frame {k}: cumulative {self._space.names[i]}"
            f" is {self._cumulative_nm[i]:+.6g} nm, recorded {trace.cumulative_nm[k, i]:+.6g} nm,"
            f" tolerance {self._tolerance_nm:g} nm"
        )


class ScoredReplayMicroscope(ReplayMicroscope):
    """A replay of a recording that knows the states: `HasTruth`, for the scorer."""

    def reset(self, rng: np.random.Generator) -> None:
        super().reset(rng)
        self._initial_nm = np.asarray(self._alive[0].session["initial_nm"], dtype=np.float64)
        self._state_nm: Array = self._initial_nm

    def apply(self, delta_nm: Array) -> None:
        super().apply(delta_nm)
        self._state_nm = self._state_nm + np.asarray(delta_nm, dtype=np.float64)

    def acquire(self) -> Frame:
        """The next recorded frame."""
        frame = super().acquire()
        self._state_nm = self._alive[0].state_nm[self._seen - 1]
        return frame

    def truth(self) -> Truth:
        """The recorded state of the latest frame, and the inputs since; only the scorer may ask."""
        _check_session(bool(self._alive), "truth")
        return Truth(self._state_nm.copy(), self._initial_nm.copy())


class NearestMicroscope:
    """Known states as a map of an instrument: every exposure is the frame recorded nearest to where the inputs led.

    Distances are Euclidean, in units of `space.tolerance_nm`. What was recorded several times at one state is given in
    turn. `truth` is where the inputs led, from a recorded start; the frame shows a state within `reach` of it.

    Args:
        recording: frames with known states.
        reach: how far the nearest recorded state may be; nothing is extrapolated.
        start_nm: where sessions start; None: at a recorded state within the start range, drawn.
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
        """Back to a start; the generator is asked once."""
        drawn = self._starts_nm[int(rng.integers(len(self._starts_nm)))]
        self._initial_nm = drawn if self._chosen_nm is None else self._chosen_nm
        self._state_nm, self._cumulative_nm = self._initial_nm.copy(), self._space.zero
        self._exposures, self._clock_s = 0, 0.0

    def apply(self, delta_nm: Array) -> None:
        state = self._check_session("apply")
        self._cumulative_nm = self._space.check_input(delta_nm, self._cumulative_nm)
        self._state_nm = state + np.asarray(delta_nm, dtype=np.float64)

    def acquire(self) -> Frame:
        """The nearest recorded frame.

        Raises:
            Departure: the nearest recorded state is out of reach; nothing was exposed.
        """
        place = self._nearest(self._check_session("acquire"), self._exposures)
        recorded = self._recording.frame(place)
        self._exposures += 1
        self._clock_s += self._overhead_s + recorded.exposure_s
        return Frame(recorded.counts, recorded.dose_e, recorded.exposure_s, self._clock_s, recorded.settings)

    def truth(self) -> Truth:
        """Where the inputs led; only the scorer may ask."""
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
        _check_session(self._state_nm is not None, verb)
        return np.asarray(self._state_nm)


def _capabilities(recording: Recording) -> Capabilities:
    name = f"replay of {recording.attributes.get('instrument', 'an instrument')}"
    return Capabilities(name, recording.optics, recording.space, recording.camera_shape, recording.max_count)


def _check_session(there: bool, verb: str) -> None:
    if not there:
        raise NoSession(verb)
