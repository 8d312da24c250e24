"""The operator's say in a calibration: every input waits here until it may be sent.

The run itself is that of the command line; it meets the gate as its microscope, outside the guard and the recording.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from scenarios.live.plain import changes_in_words, dose_in_words
from twin.arrays import Array
from twin.errors import check_known
from twin.instrument.faults import Stopped
from twin.types import Capabilities, Frame, Microscope

Verb = Literal["run", "pause", "step", "stop", "back", "keep"]
VERBS: tuple[Verb, ...] = ("run", "pause", "step", "stop", "back", "keep")

LOOK_S = 0.3
"""How long an input is shown before it is sent, so that it can be stopped."""
MOST_LINES = 200
"""Events that are kept for the page."""

STOPPED = "stopped from the page"
TAKEN_BACK = "taken back from the page: every input of the run was undone"


@dataclass(frozen=True)
class Question:
    """What waits for the operator.

    Attributes:
        kind: an "input" of the controller, the "correction" at the end, or whether to "keep" it.
        input_nm: the input, (n,); the whole cumulative input for "keep".
    """

    kind: Literal["input", "correction", "keep"]
    input_nm: Array


class Gate:
    """What the page and a run's thread share; all methods may be called from any thread.

    Args:
        changed: called after every change, from any thread.
        paused: begin with a pause before the first input.
        look_s: see `LOOK_S`.

    Attributes:
        question: what waits for the operator; None while nothing does.
        last: the last observation has been made: the next input is the correction.
        finishing: the operator has had the last word.
        exposing: a frame is being taken.
    """

    def __init__(self, changed: Callable[[], None], paused: bool = False, look_s: float = LOOK_S) -> None:
        self._changed, self._look_s = changed, look_s
        self._condition = threading.Condition()
        self._paused, self._go, self._end = paused, False, ""
        self._lines: deque[dict[str, Any]] = deque(maxlen=MOST_LINES)
        self._count = 0
        self.question: Question | None = None
        self.last = self.finishing = self.exposing = False

    @property
    def paused(self) -> bool:
        """Whether the next input waits for `step` or `run`."""
        return self._paused

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The latest events: number, time, text."""
        with self._condition:
            return list(self._lines)

    def note(self, text: str) -> None:
        """Keep an event for the page."""
        with self._condition:
            self._count += 1
            self._lines.append({"n": self._count, "time": time.strftime("%H:%M:%S"), "text": text})
        self._changed()

    def note_exposing(self, exposing: bool) -> None:
        """Note that an exposure begins or has ended."""
        self.exposing = exposing
        self._changed()

    def say(self, verb: str) -> None:
        """Take the operator's word: run on, pause, let one input through, stop, go back, or keep the correction.

        Raises:
            ValueError: no such word.
        """
        check_known(verb, VERBS, "a word for a run")
        with self._condition:
            if verb in ("stop", "back"):
                self._end = self._end or verb
            elif verb == "pause":
                self._paused = True
            else:
                self._paused = self._paused and verb != "run"
                self._go = True
            self._condition.notify_all()
        self._changed()

    def ask(self, question: Question) -> bool:
        """Wait until an input may be sent; from the thread of the run.

        Returns:
            Whether to go on; False: every input is to be undone.

        Raises:
            Stopped: the operator stopped the run.
        """
        with self._condition:
            self.question, self._go = question, False
        self._changed()
        shown_until = time.monotonic() + self._look_s
        with self._condition:
            while not self._end and not self._go:
                left = shown_until - time.monotonic()
                waits = self._paused or question.kind == "keep"
                if not waits and left <= 0:
                    break
                self._condition.wait(None if waits else left)
            self.question = None
            end = self._end
            self.finishing = bool(end) or question.kind == "keep"
        self._changed()
        if end == "stop":
            raise Stopped(STOPPED)
        return end != "back"


class GatedMicroscope:
    """A microscope whose inputs pass a gate.

    After the correction's frame the operator keeps it, or goes back to where the run began; until then the session of
    an instrument stays open, so that its guard carries out the way back.

    Args:
        inner: the microscope of a run, guard and recording included.
        gate: of the run.
        show: receives every frame.
    """

    def __init__(self, inner: Microscope, gate: Gate, show: Callable[[Frame], None]) -> None:
        self._inner, self._gate, self._show = inner, gate, show
        self.cumulative_nm: Array = inner.capabilities.space.zero
        self._corrected = False

    @property
    def capabilities(self) -> Capabilities:
        return self._inner.capabilities

    def reset(self, rng: np.random.Generator) -> None:
        self._inner.reset(rng)
        self.cumulative_nm, self._corrected = self.capabilities.space.zero, False
        self._gate.note("session begins")

    def apply(self, delta_nm: Array) -> None:
        """Send an input once the gate lets it through.

        Raises:
            Stopped: the operator ended the run; if the run was taken back, the microscope is where it began.
        """
        kind: Literal["input", "correction"] = "correction" if self._gate.last else "input"
        self._ask(Question(kind, np.array(delta_nm, dtype=np.float64)))
        self._send(np.asarray(delta_nm, dtype=np.float64), kind)
        self._corrected = self._gate.last

    def acquire(self) -> Frame:
        """Take a frame; after the correction, ask whether to keep it.

        Raises:
            Stopped: as `apply`.
        """
        frame = self._expose("check of the correction: frame" if self._corrected else "frame")
        if self._corrected:
            self._corrected = False
            self._ask(Question("keep", self.cumulative_nm.copy()))
            self._gate.note("correction kept")
        return frame

    def _ask(self, question: Question) -> None:
        if not self._gate.ask(question):
            if self.cumulative_nm.any():
                self._send(-self.cumulative_nm, "way back")
                self._expose("after the way back: frame")
            raise Stopped(TAKEN_BACK)

    def _send(self, delta_nm: Array, what: str) -> None:
        self._gate.note(f"{what}: {changes_in_words(self.capabilities.space, delta_nm)}")
        self._inner.apply(delta_nm)
        self.cumulative_nm = self.cumulative_nm + delta_nm

    def _expose(self, what: str) -> Frame:
        self._gate.note_exposing(True)
        try:
            frame = self._inner.acquire()
        finally:
            self._gate.note_exposing(False)
        self._show(frame)
        self._gate.note(f"{what} at {frame.clock_s:.1f} s, {dose_in_words(frame.dose_e)}")
        return frame
