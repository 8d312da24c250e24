"""The instrument that all services of a server share: one call at a time, whichever client makes it."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from twin.errors import StemtwinError
from twin.formats.dataset import Metadata
from twin.optics import AliasingError, Optics
from twin.scan.plan import ScanPlan
from twin.simulated import SimulatedMicroscope
from twin.types import Capabilities, Frame, ScanBlock, Truth

Array = NDArray[np.floating]


@dataclass(frozen=True)
class ScanSettings:
    """What the bench's scans are like.

    Attributes:
        plan: where the beam goes, unless a client says otherwise.
        optics: beam and camera.
        events: the camera sends events and no frames.
        largest_count: of the camera; None for what its counts' type holds.
        delay_s: how long after its dwell an event may still be under way.
        prepared: clients are shown a scan that was computed before; it stays what it is.
    """

    plan: ScanPlan
    optics: Optics
    events: bool = False
    largest_count: int | None = None
    delay_s: float = 0.0
    prepared: bool = False


@dataclass(frozen=True)
class RonchigramSettings:
    """What an operator knows of the bench's single exposures.

    Attributes:
        exposure_s: of the camera.
        overhead_s: from one exposure's end to the next one's beginning.
        dose_e: electrons of the nominal beam during one.
    """

    exposure_s: float = 1.0
    overhead_s: float = 0.0
    dose_e: float = 1e5


class TruthHidden(StemtwinError, PermissionError):
    """The truth was asked for, and this bench does not tell it."""


class ScanFixed(StemtwinError, PermissionError):
    """Another scan was asked for, and this bench shows a prepared one."""


class Bench:
    """A simulated microscope that several clients use, each call excluding all others.

    Args:
        microscope: used by nobody else.
        scan: its scans; None where it has none.
        ronchigram: its single exposures.
        expose_truth: tell clients the hidden state.

    Attributes:
        lock: held during every call; hold it for several calls that belong together.
        scan_settings: of scans that begin from now on.
        stage_nm: (x, y) in the specimen around which scans lie that have no centre of their own; None is its middle.
            As it was at first when a session begins; the scan's plan stays.
        ports: where the services of this bench listen, by module name; for whoever starts them to fill in, so that
            one service can tell clients of the others.
        entropy: what the session was drawn from; empty before the first.
        sessions, inputs, exposures: since the server started, and of the present session, whichever service asked.
        cumulative_nm: sum of the inputs of the session, shape (n,).
        latest: the last frame of the session.
    """

    def __init__(
        self,
        microscope: SimulatedMicroscope,
        scan: ScanSettings | None = None,
        ronchigram: RonchigramSettings | None = None,
        *,
        expose_truth: bool = False,
    ) -> None:
        self.lock = threading.RLock()
        self.microscope = microscope
        self.scan_settings = scan
        self.ronchigram = ronchigram or RonchigramSettings()
        self.expose_truth = expose_truth
        self.ports: dict[str, int] = {}
        self.entropy: tuple[int, ...] = ()
        self.sessions = self.inputs = self.exposures = 0
        self.cumulative_nm: Array = microscope.capabilities.space.zero
        self.latest: Frame | None = None
        self.stage_nm: tuple[float, float] | None = None

    @property
    def capabilities(self) -> Capabilities:
        """Of the microscope."""
        return self.microscope.capabilities

    def reset(self, entropy: Sequence[int]) -> None:
        """A new session from what a session is drawn from (`SimulatedMicroscope.begin`); scans under way are over."""
        with self.lock:
            self.microscope.begin(entropy)
            self.entropy, self.latest, self.stage_nm = tuple(entropy), None, None
            self.sessions, self.inputs, self.exposures = self.sessions + 1, 0, 0
            self.cumulative_nm = self.capabilities.space.zero

    def reset_to(self, seed: int) -> None:
        """The session that a run with this seed has."""
        self.reset(session_entropy(seed))

    def apply(self, delta_nm: Array) -> None:
        """As a microscope's.

        Raises:
            ValueError: as a microscope's; nothing has moved.
        """
        with self.lock:
            self.microscope.apply(delta_nm)
            self.cumulative_nm = self.capabilities.space.check_input(delta_nm, self.cumulative_nm)
            self.inputs += 1

    def acquire(self) -> Frame:
        """As a microscope's."""
        with self.lock:
            self.latest = self.microscope.acquire()
            self.exposures += 1
            return self.latest

    def scan(self, plan: ScanPlan | None = None, *, block: int = 16) -> Iterator[ScanBlock]:
        """As a microscope's, checked at once; other clients have their turn between two blocks.

        Args:
            plan: the bench's own unless given.
            block: positions at a time.

        Raises:
            RuntimeError: no scans here.
            ValueError: as a microscope's.
        """
        with self.lock:
            if self.scan_settings is None:
                raise RuntimeError("this scenario has no scan")
            blocks = self.microscope.scan(_at(plan or self.scan_settings.plan, self.stage_nm), block=block)
        return self._in_turn(blocks)

    def set_plan(self, plan: ScanPlan) -> None:
        """Scans that begin from now on follow this plan; one that has begun goes on with its own.

        Raises:
            NoSession: before `reset`.
            ScanFixed: the scan was prepared.
            ValueError: no scans here, or what specimen and camera refuse of the plan, as a microscope's.
        """
        with self.lock:
            settings = self._changeable()
            self._check_plan(plan, self.stage_nm)
            self.scan_settings = replace(settings, plan=plan)

    def move_stage(self, position_nm: tuple[float, float]) -> None:
        """Scans that begin from now on, and have no centre of their own, lie around this place of the specimen.

        Raises:
            NoSession: before `reset`.
            ScanFixed: the scan was prepared.
            ValueError: no scans here, a place outside the specimen, or one at which the present plan leaves it.
        """
        with self.lock:
            settings, size_nm = self._changeable(), self.microscope.specimen_nm
            for axis, value, most in zip("xy", position_nm, size_nm or (0.0, 0.0), strict=True):
                if not 0.0 <= value <= most:
                    raise ValueError(
                        f"the stage at {axis} = {value:g} nm is off the specimen, which spans 0 to {most:g} nm"
                    )
            self._check_plan(settings.plan, position_nm)
            self.stage_nm = position_nm

    def _changeable(self) -> ScanSettings:
        settings = self.scan_settings
        if settings is None:
            raise ValueError("this scenario has no scan")
        if settings.prepared:
            raise ScanFixed("the scan was computed before (--prepare); serve it without to set another one")
        return settings

    def _check_plan(self, plan: ScanPlan, stage_nm: tuple[float, float] | None) -> None:
        # What the aberrations now would make of it is no matter: a scan may be set up first and corrected for then.
        with suppress(AliasingError):
            self.microscope.scan(_at(plan, stage_nm))

    def _in_turn(self, blocks: Iterator[ScanBlock]) -> Iterator[ScanBlock]:
        while True:
            with self.lock:
                block = next(blocks, None)
            if block is None:
                return
            yield block

    def truth(self) -> Truth:
        """The hidden state.

        Raises:
            TruthHidden: not to be told.
        """
        if not self.expose_truth:
            raise TruthHidden("the truth is hidden; start the server with --expose-truth to tell it")
        with self.lock:
            return self.microscope.truth()


def _at(plan: ScanPlan, stage_nm: tuple[float, float] | None) -> ScanPlan:
    """The plan around where the stage is, unless it says where itself."""
    return plan if stage_nm is None or plan.centre_nm is not None else replace(plan, centre_nm=stage_nm)


def scan_metadata(settings: ScanSettings) -> Metadata:
    """What a stream of the bench's scans tells of them; nothing that is hidden."""
    return Metadata.of_scan(settings.plan, settings.optics, {"pattern": settings.plan.pattern})


def ronchigram_metadata(bench: Bench) -> Metadata:
    """What a stream of Ronchigrams tells of them; nothing that is hidden."""
    optics = bench.capabilities.optics
    return Metadata(
        dwell_s=bench.ronchigram.exposure_s,
        energy_kev=optics.energy_kev,
        convergence_mrad=optics.convergence_mrad,
        pixel_mrad=optics.camera_pixel_mrad,
        dose_e=bench.ronchigram.dose_e,
    )


def session_entropy(seed: int) -> list[int]:
    """What a run or an acquisition with this seed draws its session from: the same bytes come of it."""
    of_microscope, _ = np.random.SeedSequence(seed).spawn(2)
    return entropy_of(np.random.default_rng(int(of_microscope.generate_state(1, np.uint64)[0])))


def entropy_of(rng: np.random.Generator) -> list[int]:
    """What `SimulatedMicroscope.reset(rng)` draws a session from; for clients that send it over a wire."""
    return [int(word) for word in rng.integers(2**32, size=4)]
