"""One session of the simulated instrument: random streams, clock, hidden aberrations and cost."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum, unique

import numpy as np
from numpy.typing import NDArray

from twin import drift, dynamics
from twin.aberrations import NAMES, Aberrations, index
from twin.arrays import Array
from twin.cameras import ronchigram_camera
from twin.cost import Ledger
from twin.day import Day
from twin.scan.errors import ScanEngine
from twin.state import StateSpace
from twin.types import ScanTruth


@unique
class Stream(IntEnum):
    """Independent streams of random numbers within one session; the values are part of what a seed means."""

    START = 0
    SPECIMEN = 1
    NOISE = 2
    DRIFT = 3
    DEFECTS = 4
    WANDER = 5
    SCAN_POSITIONS = 6
    SCAN_NOISE = 7
    SCAN_DRIFT = 8
    SCAN_DEFECTS = 9
    FILM_HEIGHT = 10
    READ_OUT = 11


@dataclass(frozen=True)
class ColumnState:
    """Aberrations of the column at one time of the session's clock.

    Attributes:
        calibrated_nm: the calibrated coefficients, (n,); their drift is in them.
        drifted_nm: drift of all the others, (25,), zero for the calibrated ones.
        time_s: the time to which both belong; within a scan, the beginning of the line.
    """

    calibrated_nm: Array
    drifted_nm: Array
    time_s: float


class Session:
    """Everything that begins with a reset: hidden state, clock, random streams, cost and the latest scan.

    Args:
        entropy: four 32-bit words.
        space: the calibrated coefficients.
        day: hidden parameters.
        camera_shape: (H, W) of the Ronchigram's camera.
    """

    def __init__(self, entropy: Sequence[int], space: StateSpace, day: Day, camera_shape: tuple[int, int]) -> None:
        self.entropy = [int(word) for word in entropy]
        self.initial_nm = space.draw_start(self.rng(Stream.START))
        self.column = ColumnState(self.initial_nm, np.zeros(len(NAMES)), 0.0)
        self.cumulative_nm = space.zero
        self.actuator = dynamics.at_rest(space)
        self.clock_s = 0.0
        self.exposures = 0
        self.film: int | None = None
        self.scans = 0
        self.scan_truth: ScanTruth | None = None
        self.ledger = Ledger()
        self.beam_s: dict[int, float] = {}  # under the beam so far, by film region
        self.buffered: deque[NDArray[np.uint16]] = deque(maxlen=day.late_frames + 1)
        self.shown: NDArray[np.uint16] | None = None
        self.defects = ronchigram_camera.draw_defects(day.camera, camera_shape, self.rng(Stream.DEFECTS))
        self.scan_engine = ScanEngine(day.scan, self.rng(Stream.SCAN_POSITIONS))
        self._space, self._day = space, day
        self._calibrated = [index(name) for name in space.names]
        self._wander_rad = drift.draw_phases(self.rng(Stream.WANDER))

    def sequence(self, stream: Stream, *which: int) -> np.random.SeedSequence:
        """Seed of a stream, or of its member `which`."""
        return np.random.SeedSequence(self.entropy, spawn_key=(int(stream), *(which or (0,))))

    def rng(self, stream: Stream, *which: int) -> np.random.Generator:
        """Generator of a stream, or of its member `which`."""
        return np.random.default_rng(self.sequence(stream, *which))

    def drifted(self, until_s: float, rng: np.random.Generator) -> ColumnState:
        """The column at a later time; nothing is changed."""
        column = self.column
        seconds = until_s - column.time_s
        if not self._day.drift.active or seconds <= 0.0:
            return replace(column, time_s=max(until_s, column.time_s))
        moved = drift.increment_nm(column.time_s, seconds, self._day.drift, self._wander_rad, rng)
        calibrated_nm = column.calibrated_nm + moved[self._calibrated]
        moved[self._calibrated] = 0.0
        return ColumnState(calibrated_nm, column.drifted_nm + moved, until_s)

    def aberrations(self, column: ColumnState | None = None) -> Aberrations:
        """Every coefficient of a column, by default as it is now."""
        column = column or self.column
        calibrated = self._space.to_aberrations(column.calibrated_nm)
        return calibrated + self._day.residual + Aberrations.from_array(column.drifted_nm)

    def height(self, film: int) -> Aberrations:
        """Defocus by the height of a film region over the mean."""
        rms_nm = self._day.film.height_rms_nm
        if rms_nm == 0.0:
            return Aberrations.of({})
        return Aberrations.of({"C10": float(self.rng(Stream.FILM_HEIGHT, film).normal(0.0, rms_nm))})

    def read_out(self, counts: NDArray[np.uint16], rng: np.random.Generator) -> NDArray[np.uint16]:
        """Return the frame that the camera hands out for this one: an earlier one, or the last again, on a bad day."""
        self.buffered.append(counts)
        if self.shown is None or rng.random() >= self._day.repeated_share:
            self.shown = self.buffered[0]
        return self.shown.copy()

    @property
    def next_film(self) -> int:
        """Number of the film region that the next Ronchigram exposes."""
        if self.film is not None:
            return self.film
        return 0 if self._day.same_region else self.exposures
