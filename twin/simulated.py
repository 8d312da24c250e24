"""The simulated microscope: a day's hidden parameters behind the same protocol as an instrument."""

import importlib
import itertools
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

import numpy as np

from twin import dynamics
from twin.aberrations import Aberrations
from twin.arrays import Array
from twin.cameras.ronchigram_camera import expose
from twin.cost import Cost
from twin.day import Day
from twin.errors import NoSession, check_known
from twin.optics import Optics, check_window
from twin.scan.plan import ScanPath, ScanPlan, paths
from twin.session import Session, Stream
from twin.state import StateSpace
from twin.types import Capabilities, Frame, ScanBlock, ScanTruth, Truth

if TYPE_CHECKING:
    from twin.ronchigram.renderer import Renderer
    from twin.scan.acquisition import Acquisition
    from twin.scan.setup import ScanSetup


RENDERERS = {
    "fast": ("twin.ronchigram.phase_screens", "FastRenderer"),
    "multislice": ("twin.ronchigram.multislice", "MultisliceRenderer"),
}
"""Module and class by name; imported when chosen, for they bring torch and abTEM."""


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

    Every source of randomness has its own stream (see `session.Stream`); specimen and noise of exposure k depend on
    the seed and k alone. Two controllers compared on one seed therefore meet the same film region and the same
    noise stream at their k-th exposure, whatever inputs came before.

    The clock advances by overhead and exposure time per frame and by the command latency per input; `cost` accounts
    for time and electrons. Drift follows the clock and moves calibrated and residual coefficients alike; a frame shows
    the aberrations at the end of its exposure, and `truth` then returns their calibrated part. Drift has no bounds: an
    exposure whose probe has left the computing window raises AliasingError.

    During a scan the clock advances through dwells, flybacks and settling, the aberrations drift from line to line,
    and an input takes effect with the next block.

    Every method but `begin` and `reset` raises NoSession before the first session.

    Args:
        optics: beam, grid and camera; known to the controller.
        space: the calibrated coefficients and their ranges; known to the controller.
        day: hidden parameters.
        renderer: "fast" (phase screens), "multislice" (atoms), or what obeys `ronchigram.renderer.Renderer`.
        scan: specimen, beam and detectors of scans; None: the microscope cannot scan.

    Raises:
        AliasingError: some state within reach needs a wider computing window.
        ValueError: unknown renderer, an actuator that rotates a pair of which only one component is calibrated, or an
            inconsistent scan setup.

    Example:
        >>> from twin.state import FIRST_ORDER
        >>> microscope = SimulatedMicroscope(Optics(camera_pixels=32, binning=12), FIRST_ORDER, Day(dose_e=1e5))
        >>> microscope.reset(np.random.default_rng(0))
        >>> microscope.apply(np.array([5.0, 0.0, 0.0]))  # 5 nm of defocus
        >>> frame = microscope.acquire()
        >>> frame.counts.shape, frame.clock_s
        ((32, 32), 1.0)
        >>> microscope.cost.electrons_e
        100000.0
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
        self._acquisition = _make_acquisition(scan, day, optics)
        side = optics.camera_pixels
        self._capabilities = Capabilities(
            "simulated", optics, space, (side, side), day.camera.saturation, can_scan=scan is not None
        )
        self._session: Session | None = None

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def reset(self, rng: np.random.Generator) -> None:
        """Begin a new session. The generator is read once; generators in the same state give the same bytes."""
        self.begin(rng.integers(2**32, size=4).tolist())

    def begin(self, entropy: Sequence[int]) -> None:
        """Begin a new session from the four 32-bit words that `reset` reads from its generator."""
        self._session = Session(entropy, self._space, self._day, self._capabilities.camera_shape)

    def apply(self, delta_nm: Array) -> None:
        session = self._begun("apply")
        # Refused inputs raise here, before anything has moved.
        cumulative = self._space.check_input(delta_nm, session.cumulative_nm)
        delta = np.array(delta_nm, dtype=np.float64)
        moved, session.actuator = dynamics.follow(session.actuator, delta, self._space, self._day.actuator)
        session.column = replace(session.column, calibrated_nm=session.column.calibrated_nm + moved)
        session.cumulative_nm = cumulative
        session.clock_s += self._day.command_latency_s
        session.ledger.command(self._day.command_latency_s)

    @property
    def cost(self) -> Cost:
        """Seconds and electrons of this session so far."""
        return self._begun("cost").ledger.cost

    @property
    def clock_s(self) -> float:
        """The instrument's clock."""
        return self._begun("clock_s").clock_s

    @property
    def next_exposure(self) -> tuple[str, float]:
        """Name of the specimen region that the next Ronchigram exposes, and its dose in electrons."""
        return f"film {self._begun('next_exposure').next_film}", self._day.dose_e

    def set_exposure(self, dose_e: float, exposure_s: float) -> None:
        """Take further Ronchigrams with another dose and exposure time; clock, drift and costs go on.

        Raises:
            ValueError: a dose or a time that a day cannot have.
        """
        self._day = replace(self._day, dose_e=dose_e, exposure_s=exposure_s)

    def stay_on_film(self, film: int | None) -> None:
        """Take this session's further Ronchigrams on one region of the film; None: as the day prescribes.

        By default exposure k is on region k, or on region 0 on a day with `same_region`. The noise always depends on
        the number of the exposure.

        Raises:
            ValueError: a negative number.
        """
        session = self._begun("stay_on_film")
        if film is not None and film < 0:
            raise ValueError(f"regions of the film are numbered from 0; got {film}")
        session.film = film

    def prepare(self) -> None:
        """Make now what the first exposure would otherwise wait for, a film of atoms say; no frame changes by it."""
        prepare: Callable[[], None] | None = getattr(self._renderer, "prepare", None)
        if prepare is not None:
            prepare()

    @property
    def specimen_nm(self) -> tuple[float, float] | None:
        """Width (x) and height (y) of the scanned specimen; None without a setup for scans."""
        if self._acquisition is None:
            return None
        return self._acquisition.structure.width_nm, self._acquisition.structure.height_nm

    def aberrations(self) -> Aberrations:
        """Every coefficient now, calibrated or not; for the scorer, and for a tool that measures with an error."""
        return self._begun("aberrations").aberrations()

    def acquire(self) -> Frame:
        """Take one Ronchigram; the clock advances by exposure time and overhead."""
        session, day = self._begun("acquire"), self._day
        k, film = session.exposures, session.next_film
        until_s = session.clock_s + (day.overhead_s + day.exposure_s)
        column = session.drifted(until_s, session.rng(Stream.DRIFT, k))
        region = int(session.sequence(Stream.SPECIMEN, film).generate_state(1)[0])
        state = session.aberrations(column) + session.height(film)
        grown_nm = day.film.contamination_nm_per_s * session.beam_s.get(film, 0.0)
        grown = {"grown_nm": [grown_nm]} if grown_nm else {}
        probability = self._renderer.probability([state], [region], **grown)[0]
        counts = expose(probability, day.dose_e, day.camera, session.defects, session.rng(Stream.NOISE, k))
        counts = session.read_out(counts, session.rng(Stream.READ_OUT, k))
        # Only now, with the frame made: an exposure that failed leaves state and clock as they were.
        session.column, session.exposures, session.clock_s = column, k + 1, until_s
        session.beam_s[film] = session.beam_s.get(film, 0.0) + day.exposure_s
        session.ledger.expose(f"film {film}", day.dose_e, self._optics.window_nm**2, day.exposure_s, day.overhead_s)
        # A video signal has its own zero.
        dark_level = {"dark_level": day.camera.told_dark_level}
        return Frame(counts, day.dose_e, day.exposure_s, session.clock_s, dark_level)

    def scan(self, plan: ScanPlan, *, block: int = 64) -> Iterator[ScanBlock]:
        """Scan the specimen of the setup; see `CanScan`. A plan without a centre is put in the specimen's middle.

        The plan is checked at once; the scan begins when its first block is asked for. The same seed gives the same
        counts however the scan is cut into blocks.

        Raises:
            AliasingError: the window of the scan's optics cannot hold the probe; also later, if it drifts that far.
            RuntimeError: no setup for scans, or another scan or session has begun meanwhile.
            ValueError: the scan leaves the specimen, its dwell is shorter than the camera's read-out, or `block` is
                not positive.
        """
        session = self._begun("scan")
        if self._acquisition is None:
            raise RuntimeError("this microscope has no setup for scans: SimulatedMicroscope(..., scan=ScanSetup(...))")
        plan = self._acquisition.placed(plan)
        self._acquisition.check(plan, session.aberrations())
        return self._scanned(self._acquisition, plan, paths(plan, block))

    def _scanned(self, acquisition: "Acquisition", plan: ScanPlan, blocks: Iterator[ScanPath]) -> Iterator[ScanBlock]:
        from twin.scan.running import RunningScan

        session, before = self._begun("scan"), None
        k, session.scans = session.scans, session.scans + 1

        def begin_line(line: int, clock_s: float) -> None:
            session.column = session.drifted(clock_s, session.rng(Stream.SCAN_DRIFT, k, line))

        running = RunningScan(
            acquisition,
            session.scan_engine,
            session.clock_s,
            session.rng(Stream.SCAN_DEFECTS),
            session.sequence(Stream.SCAN_NOISE, k),
            begin_line,
            session.aberrations,
        )
        x_nm, y_nm = plan.origin_nm
        for path in blocks:
            if session is not self._session or session.scans != k + 1:
                raise RuntimeError("another scan or session has begun meanwhile: this one is over")
            running.resume(session.clock_s)
            exposed = running.expose(path)
            session.clock_s = running.begun_s + float(path.end_s[-1])
            session.scan_truth = ScanTruth(running.actual_nm)
            session.ledger.scan(f"specimen at {x_nm:.1f}, {y_nm:.1f} nm", path, before)
            before = path
            yield exposed

    def scan_truth(self) -> ScanTruth:
        """Actual probe positions in the latest block; for the scorer.

        Raises:
            RuntimeError: nothing has been scanned yet.
        """
        session = self._begun("scan_truth")
        if session.scan_truth is None:
            raise RuntimeError("scan_truth() before the first block of a scan")
        return session.scan_truth

    def truth(self) -> Truth:
        """The hidden state now, as copies; for the scorer."""
        session = self._begun("truth")
        return Truth(session.column.calibrated_nm.copy(), session.initial_nm.copy())

    def _begun(self, verb: str) -> Session:
        if self._session is None:
            raise NoSession(verb)
        return self._session


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
