"""The simulated microscope: a day's hidden parameters behind the same protocol as an instrument."""

import importlib
import itertools
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum, unique
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from twin import drift, dynamics
from twin.aberrations import NAMES, Aberrations, index
from twin.cameras import ronchigram_camera as detector
from twin.cost import Cost, Ledger
from twin.day import Day
from twin.errors import NoSession
from twin.optics import Optics, check_window
from twin.scan.errors import ScanEngine
from twin.scan.plan import ScanPath, ScanPlan, paths
from twin.state import StateSpace
from twin.suggest import check_known
from twin.types import Capabilities, Frame, ScanBlock, ScanTruth, Truth

if TYPE_CHECKING:
    from twin.ronchigram.phase_screens import Renderer
    from twin.scan.acquisition import Acquisition
    from twin.scan.setup import ScanSetup

Array = NDArray[np.floating]

RENDERERS = {
    "fast": ("twin.ronchigram.phase_screens", "FastRenderer"),
    "multislice": ("twin.ronchigram.multislice", "MultisliceRenderer"),
}
"""Module and class by name; imported when chosen, for they bring torch and abTEM."""


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


def make_renderer(name: str, optics: Optics, day: Day) -> "Renderer":
    """A renderer by name.

    Raises:
        ValueError: no such renderer; names the nearest.
    """
    check_known(name, RENDERERS, "a renderer")
    if multiprocessing.parent_process() is not None:
        import torch

        # A worker: parallel over seeds, never inside one. A forked worker with two threads would also wait
        # forever for the thread pool it did not inherit.
        torch.set_num_threads(1)
    module, kind = RENDERERS[name]
    make = cast("Callable[[Optics, Day], Renderer]", getattr(importlib.import_module(module), kind))
    return make(optics, day)


def check_reach(optics: Optics, space: StateSpace, day: Day) -> None:
    """Refuse a day on which some state within reach would alias; drift, if any, comes on top.

    Raises:
        AliasingError: with the window needed.
    """
    reach = dynamics.reach_nm(space, day.actuator)
    for corner in itertools.product((-1.0, 1.0), repeat=space.dimension):
        check_window(optics, space.to_aberrations(np.asarray(corner) * reach) + day.residual)


class SimulatedMicroscope:
    """A virtual STEM on one day: `Microscope` and `HasTruth`, and with a scan's setup `CanScan` and `HasScanTruth`.

    A session's random numbers come in streams of their own (see `Stream`), and the
    specimen and the noise of exposure k depend on the seed and k alone: two controllers compared on one
    seed meet the same film region and the same noise stream at their k-th exposure, whatever they did before.

    The clock advances by overhead and exposure per frame and by the command latency per input; `cost` says what the
    time went to, and the electrons. Drift runs with the clock and moves calibrated and residual
    coefficients alike; a frame shows the aberrations at the end of its exposure, and `truth` then tells their
    calibrated part. Drift has no bounds: an exposure that it has brought out of the window raises AliasingError.

    During a scan the clock runs on through dwells, flybacks and settling, the aberrations drift from line to line, and
    an input counts from the next block on.

    Args:
        optics: beam, grid and camera; known to the controller.
        space: the calibrated coefficients and their ranges; known to the controller.
        day: hidden parameters.
        renderer: "fast" (phase screens), "multislice" (atoms), or any object that obeys `phase_screens.Renderer`.
        scan: specimen, beam and detectors of scans; without it there are none.

    Raises:
        AliasingError: some state within reach needs a wider computing window.
        ValueError: unknown renderer, or an actuator that turns a pair of which only half is calibrated; or a scan's
            setup that does not fit together.
    """

    def __init__(
        self,
        optics: Optics,
        space: StateSpace,
        day: Day,
        renderer: "str | Renderer" = "fast",
        scan: "ScanSetup | None" = None,
    ) -> None:
        check_reach(optics, space, day)
        self._optics, self._space, self._day = optics, space, day
        self._renderer = make_renderer(renderer, optics, day) if isinstance(renderer, str) else renderer
        self._entropy: list[int] | None = None
        self._calibrated = [index(name) for name in space.names]
        side = optics.camera_pixels
        self._acquisition = _make_acquisition(scan, day, optics)
        self._capabilities = Capabilities(
            "simulated", optics, space, (side, side), day.camera.saturation, can_scan=scan is not None
        )

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def reset(self, rng: np.random.Generator) -> None:
        """A new session. The generator is read once; generators in the same state give the same bytes."""
        self.begin(rng.integers(2**32, size=4).tolist())

    def begin(self, entropy: Sequence[int]) -> None:
        """A new session from the four 32-bit words that `reset` reads from its generator."""
        self._entropy = [int(word) for word in entropy]
        self._initial_nm = self._space.draw_start(self._stream(Stream.START))
        self._state_nm = self._initial_nm
        self._cumulative_nm = self._space.zero
        # Of the coefficients that are not calibrated; what drift does to the others is in the state.
        self._residual_drift_nm: Array = np.zeros(len(NAMES))
        self._wander_rad = drift.draw_phases(self._stream(Stream.WANDER))
        shape = self._capabilities.camera_shape
        self._defects = detector.draw_defects(self._day.camera, shape, self._stream(Stream.DEFECTS))
        self._exposures = 0
        self._film: int | None = None
        self._scans = 0
        self._clock_s = 0.0
        # The time that state and residual drift belong to: within a scan, the beginning of the line.
        self._drifted_to_s = 0.0
        self._actuator = dynamics.at_rest(self._space)
        self._ledger = Ledger()
        self._scan_engine = ScanEngine(self._day.scan, self._stream(Stream.SCAN_POSITIONS))
        self._scan_truth: ScanTruth | None = None

    def apply(self, delta_nm: Array) -> None:
        self._check_session("apply")
        # Refused inputs raise here, before anything has moved.
        cumulative = self._space.check_input(delta_nm, self._cumulative_nm)
        delta = np.array(delta_nm, dtype=np.float64)
        moved, self._actuator = dynamics.follow(self._actuator, delta, self._space, self._day.actuator)
        self._state_nm = self._state_nm + moved
        self._cumulative_nm = cumulative
        self._clock_s += self._day.command_latency_s
        self._ledger.command(self._day.command_latency_s)

    @property
    def cost(self) -> Cost:
        """Seconds and electrons of this session so far.

        Raises:
            NoSession: before `reset`.
        """
        self._check_session("cost")
        return self._ledger.cost

    @property
    def clock_s(self) -> float:
        """The instrument's clock.

        Raises:
            NoSession: before `reset`.
        """
        self._check_session("clock_s")
        return self._clock_s

    @property
    def next_exposure(self) -> tuple[str, float]:
        """What the next Ronchigram will expose, a specimen region by name, and with how many electrons.

        Raises:
            NoSession: before `reset`.
        """
        self._check_session("next_exposure")
        return f"film {self._next_film}", self._day.dose_e

    def stay_on_film(self, film: int | None) -> None:
        """Take this session's further Ronchigrams on one region of the film; None: as the day has it.

        Exposure k is on region k, or on region 0 of a day with `same_region`; noise goes by the exposure all the same.

        Raises:
            NoSession: before `reset`.
            ValueError: not a number of a region, 0 or more.
        """
        self._check_session("stay_on_film")
        if film is not None and film < 0:
            raise ValueError(f"regions of the film are numbered from 0; got {film}")
        self._film = film

    @property
    def specimen_nm(self) -> tuple[float, float] | None:
        """Width (x) and height (y) of what scans scan; None without a setup for scans."""
        if self._acquisition is None:
            return None
        return self._acquisition.structure.width_nm, self._acquisition.structure.height_nm

    def aberrations(self) -> Aberrations:
        """Every coefficient now, calibrated or not; for the scorer, and for a tool that measures with an error.

        Raises:
            NoSession: before `reset`.
        """
        self._check_session("aberrations")
        return self._aberrations(self._state_nm, self._residual_drift_nm)

    def acquire(self) -> Frame:
        """One exposure: drift, a specimen region, the camera; the clock advances by exposure and overhead."""
        self._check_session("acquire")
        day, k = self._day, self._exposures
        seconds = day.overhead_s + day.exposure_s
        until_s = self._clock_s + seconds
        state, residual_drift = self._drifted(until_s, self._stream(Stream.DRIFT, k))
        film = self._next_film
        region = int(self._sequence(Stream.SPECIMEN, film).generate_state(1)[0])
        aberrations = self._aberrations(state, residual_drift)
        probability = self._renderer.probability([aberrations], [region])[0]
        counts = detector.expose(probability, day.dose_e, day.camera, self._defects, self._stream(Stream.NOISE, k))
        # Only now, with the frame made: an exposure that failed leaves state and clock as they were.
        self._state_nm, self._residual_drift_nm = state, residual_drift
        self._exposures, self._clock_s, self._drifted_to_s = k + 1, until_s, until_s
        self._ledger.expose(f"film {film}", day.dose_e, self._optics.window_nm**2, day.exposure_s, day.overhead_s)
        return Frame(counts, day.dose_e, day.exposure_s, self._clock_s, {"dark_level": day.camera.dark_level})

    def scan(self, plan: ScanPlan, *, block: int = 64) -> Iterator[ScanBlock]:
        """Scan the specimen of the setup; see `CanScan`. A plan without a centre lies in the specimen's middle.

        The plan is checked at once, the scan begins with the first block that is asked for. The same seed gives the
        same counts however the scan is cut into blocks.

        Raises:
            AliasingError: the window of the scan's optics cannot hold the probe; also later, if it drifts that far.
            NoSession: before `reset`, no setup for scans, or another scan has begun meanwhile.
            ValueError: the scan leaves the specimen, its dwell is shorter than the camera's read-out, or `block` is
                not positive.
        """
        self._check_session("scan")
        if self._acquisition is None:
            raise RuntimeError("this microscope has no setup for scans: SimulatedMicroscope(..., scan=ScanSetup(...))")
        plan = self._acquisition.placed(plan)
        self._acquisition.check(plan, self._aberrations(self._state_nm, self._residual_drift_nm))
        return self._scanned(self._acquisition, plan, paths(plan, block))

    def _scanned(self, acquisition: "Acquisition", plan: ScanPlan, blocks: Iterator[ScanPath]) -> Iterator[ScanBlock]:
        from twin.scan.acquisition import Noise

        k, begun_s, entropy = self._scans, self._clock_s, self._entropy
        self._scans = k + 1
        self._scan_engine.begin(begun_s)
        noise = Noise(self._sequence(Stream.SCAN_NOISE, k))
        sensor, responses = acquisition.draw_sensor(self._stream(Stream.SCAN_DEFECTS)), acquisition.responses()
        readout = acquisition.readout(sensor, noise)

        last_line, before = -1, None
        x_nm, y_nm = plan.origin_nm

        def aberrations_of(line: int) -> Aberrations:
            nonlocal last_line
            if line > last_line:
                last_line, until_s = line, begun_s + starts_s[line]
                self._state_nm, self._residual_drift_nm = self._drifted(
                    until_s, self._stream(Stream.SCAN_DRIFT, k, line)
                )
                self._drifted_to_s = max(until_s, self._drifted_to_s)
            return self._aberrations(self._state_nm, self._residual_drift_nm)

        for path in blocks:
            if (self._scans, self._entropy) != (k + 1, entropy):
                raise RuntimeError("another scan or session has begun meanwhile: this one is over")
            ended_s = 0.0 if before is None else float(before.end_s[-1])
            if self._clock_s != begun_s + ended_s:
                # A command or an exposure since the last block has held the scan up.
                held_s = self._clock_s - (begun_s + ended_s)
                self._scan_engine.hold(held_s)
                begun_s += held_s
            starts_s = dict(zip(path.line.tolist()[::-1], path.start_s.tolist()[::-1], strict=True))
            actual_nm = self._scan_engine.displace(path)
            exposed = acquisition.expose(path, actual_nm, aberrations_of, sensor, responses, noise, readout)
            self._clock_s = begun_s + float(path.end_s[-1])
            self._scan_truth = ScanTruth(actual_nm)
            self._ledger.scan(f"specimen at {x_nm:.1f}, {y_nm:.1f} nm", path, before)
            before = path
            yield ScanBlock(path, exposed.frames, exposed.signals, begun_s + path.end_s, exposed.events)

    def scan_truth(self) -> ScanTruth:
        """Where the beam really was in the latest block; only the scorer may ask.

        Raises:
            RuntimeError: nothing has been scanned yet.
        """
        self._check_session("scan_truth")
        if self._scan_truth is None:
            raise RuntimeError("scan_truth() before the first block of a scan")
        return self._scan_truth

    def truth(self) -> Truth:
        """The hidden state now, as copies; only the scorer may ask.

        Raises:
            NoSession: before `reset`.
        """
        self._check_session("truth")
        return Truth(self._state_nm.copy(), self._initial_nm.copy())

    def _aberrations(self, state_nm: Array, residual_drift_nm: Array) -> Aberrations:
        return self._space.to_aberrations(state_nm) + self._day.residual + Aberrations.from_array(residual_drift_nm)

    def _drifted(self, until_s: float, rng: np.random.Generator) -> tuple[Array, Array]:
        """State, shape (n,), and drift of the residual, shape (25,), both nm, at a later time."""
        seconds = until_s - self._drifted_to_s
        if not self._day.drift.active or seconds <= 0.0:
            return self._state_nm, self._residual_drift_nm
        moved = drift.increment_nm(self._drifted_to_s, seconds, self._day.drift, self._wander_rad, rng)
        state = self._state_nm + moved[self._calibrated]
        moved[self._calibrated] = 0.0
        return state, self._residual_drift_nm + moved

    @property
    def _next_film(self) -> int:
        if self._film is not None:
            return self._film
        return 0 if self._day.same_region else self._exposures

    def _check_session(self, verb: str) -> None:
        if self._entropy is None:
            raise NoSession(verb)

    def _sequence(self, stream: Stream, *which: int) -> np.random.SeedSequence:
        return np.random.SeedSequence(self._entropy, spawn_key=(int(stream), *(which or (0,))))

    def _stream(self, stream: Stream, *which: int) -> np.random.Generator:
        return np.random.default_rng(self._sequence(stream, *which))


def _make_acquisition(setup: "ScanSetup | None", day: Day, optics: Optics) -> "Acquisition | None":
    """Imported when there is something to scan, for it brings compiled detectors and specimens.

    Raises:
        ValueError: the scan has another beam energy than the Ronchigrams of the same instrument.
    """
    if setup is None:
        return None
    if setup.optics.energy_kev != optics.energy_kev:
        raise ValueError(
            f"scan.optics.energy_kev is {setup.optics.energy_kev:g}; the instrument runs at {optics.energy_kev:g}"
            " (optics.energy_kev)"
        )
    from twin.scan.acquisition import Acquisition

    return Acquisition(setup, day)
