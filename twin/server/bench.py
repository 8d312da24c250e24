"""The instrument that all services of a server share; it executes one call at a time."""

import math
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from twin.arrays import Array
from twin.errors import StemtwinError
from twin.formats.dataset import LARGEST_SCAN, Metadata
from twin.optics import AliasingError, Optics
from twin.scan.plan import ScanPlan, duration_s
from twin.simulated import SimulatedMicroscope
from twin.types import Capabilities, Frame, ScanBlock, Truth
from twin.wire.control import draw_entropy, plan_digest
from twin.wire.schema import LONGEST_CLOCK_S

LAST_S = LONGEST_CLOCK_S - 1e6
"""Reading of the instrument's clock after which a session takes no more commands: answers and time stamps hold it."""


@dataclass(frozen=True)
class ScanSettings:
    """Settings of the bench's scans.

    Attributes:
        plan: path of the beam; a client may change it.
        optics: beam and camera.
        events: the camera sends events instead of frames.
        largest_count: of the camera; None: without a camera that counts.
        delay_s: longest delay of an event after its dwell.
        prepared: clients get a scan that was computed in advance and cannot change.
        most_dose_e: electrons per position up to which the camera computes a position in about a second.
        longest_dwell_s: dwell up to which the same holds for what the camera counts without electrons.
    """

    plan: ScanPlan
    optics: Optics
    events: bool = False
    largest_count: int | None = None
    delay_s: float = 0.0
    prepared: bool = False
    most_dose_e: float = math.inf
    longest_dwell_s: float = math.inf


@dataclass(frozen=True)
class RonchigramSettings:
    """Settings of the bench's single exposures.

    Attributes:
        exposure_s: of the camera.
        overhead_s: from the end of one exposure to the start of the next.
        dose_e: electrons of the nominal beam per exposure.
    """

    exposure_s: float = 1.0
    overhead_s: float = 0.0
    dose_e: float = 1e5


class TruthHidden(StemtwinError, PermissionError):
    """The truth was requested, and this bench does not expose it."""


class ScanFixed(StemtwinError, PermissionError):
    """Another scan was requested, and this bench serves a prepared one."""


class Bench:
    """A simulated microscope shared by several clients; every call excludes all others.

    Args:
        microscope: used by this bench alone.
        scan: settings of its scans; None without scans.
        ronchigram: settings of its single exposures.
        expose_truth: give clients the hidden state.

    Attributes:
        lock: held during every call; hold it for several calls that belong together.
        scan_settings: of scans that begin from now on.
        stage_nm: (x, y) in the specimen, the centre of scans whose plan has none; None: the centre of the specimen.
            A new session begins with None and keeps the plan of the scan.
        ports: of the services of this bench by module name; the caller fills it in, so that one service can report the
            others.
        entropy: random words of the session; empty before the first.
        sessions, inputs, exposures: number of sessions since the start, and of inputs and exposures of the session.
        cumulative_nm: sum of the inputs of the session, shape (n,).
        latest: the last frame of the session.
        exposed_after: inputs of the session before `latest`, and their sum, nm.
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
        self._identity = uuid.uuid4().hex[:12]
        self.ports: dict[str, int] = {}
        self.entropy: tuple[int, ...] = ()
        self.sessions = self.inputs = self.exposures = 0
        self.cumulative_nm: Array = microscope.capabilities.space.zero
        self.latest: Frame | None = None
        self.exposed_after: tuple[int, Array] = (0, self.cumulative_nm)
        self.stage_nm: tuple[float, float] | None = None

    @property
    def capabilities(self) -> Capabilities:
        """Capabilities of the microscope."""
        return self.microscope.capabilities

    @property
    def session(self) -> str:
        """Name of the session, unique among those of all servers; empty before the first."""
        return f"{self._identity}-{self.sessions}" if self.sessions else ""

    def reset(self, entropy: Sequence[int]) -> None:
        """Begin a session from random words (`SimulatedMicroscope.begin`); running scans end."""
        with self.lock:
            self.microscope.begin(entropy)
            self.entropy, self.latest, self.stage_nm = tuple(entropy), None, None
            self.sessions, self.inputs, self.exposures = self.sessions + 1, 0, 0
            self.cumulative_nm = self.capabilities.space.zero

    def reset_to(self, seed: int) -> None:
        """Begin the session of a run with this seed."""
        self.reset(session_entropy(seed))

    def apply(self, delta_nm: Array) -> None:
        """As `Microscope.apply`.

        Raises:
            ValueError: nothing has moved.
        """
        with self.lock:
            self._check_clock()
            self.microscope.apply(delta_nm)
            self.cumulative_nm = self.capabilities.space.check_input(delta_nm, self.cumulative_nm)
            self.inputs += 1

    def acquire(self) -> Frame:
        """As `Microscope.acquire`.

        Raises:
            ValueError: the session has lasted too long.
        """
        with self.lock:
            self._check_clock(self.ronchigram.exposure_s + self.ronchigram.overhead_s)
            self.latest = self.microscope.acquire()
            self.exposures += 1
            self.exposed_after = self.inputs, self.cumulative_nm
            return self.latest

    def scan(self, plan: ScanPlan | None = None, *, block: int = 16) -> Iterator[ScanBlock]:
        """As `CanScan.scan`, checked at once; other clients are served between two blocks.

        Args:
            plan: by default that of the bench.
            block: positions at a time.

        Raises:
            RuntimeError: no scan.
            ValueError: as `CanScan.scan`.
        """
        with self.lock:
            if self.scan_settings is None:
                raise RuntimeError("this scenario has no scan")
            chosen = plan or self.scan_settings.plan
            self._check_clock(duration_s(chosen))
            blocks = self.microscope.scan(_at(chosen, self.stage_nm), block=block)
        return self._in_turn(blocks)

    def set_plan(self, plan: ScanPlan) -> None:
        """Set the plan of scans that begin from now on; a running scan keeps its own.

        Raises:
            NoSession: before `reset`.
            ScanFixed: the scan was prepared.
            ValueError: no scan, or a plan that does not suit specimen or camera, or takes too long.
        """
        with self.lock:
            settings = self.check_plan(plan)
            self.scan_settings = replace(settings, plan=plan)

    def check_plan(self, plan: ScanPlan) -> ScanSettings:
        """Return the settings, if their plan can be replaced by this one.

        Raises:
            NoSession, ScanFixed, ValueError: as `set_plan`.
        """
        with self.lock:
            settings = self._changeable()
            self._check_effort(plan, settings)
            self._check_plan(plan, self.stage_nm)
            return settings

    def move_stage(self, position_nm: tuple[float, float]) -> None:
        """Centre scans that begin from now on at this position in the specimen, unless their plan has a centre.

        Raises:
            NoSession: before `reset`.
            ScanFixed: the scan was prepared.
            ValueError: no scan, or the position or the scan is outside the specimen.
        """
        with self.lock:
            settings, size_nm = self._changeable(), self.microscope.specimen_nm
            for axis, value, side in zip("xy", position_nm, size_nm or (0.0, 0.0), strict=True):
                if not 0.0 <= value <= side:
                    raise ValueError(
                        f"the stage at {axis} = {value:g} nm is off the specimen, which spans 0 to {side:g} nm"
                    )
            self._check_plan(settings.plan, position_nm)
            self.stage_nm = position_nm

    def _changeable(self) -> ScanSettings:
        settings = self.scan_settings
        if settings is None:
            raise ValueError("this scenario has no scan")
        if settings.prepared:
            raise ScanFixed("the scan was computed in advance (--prepare); serve without --prepare to change it")
        return settings

    def _check_clock(self, more_s: float = 0.0) -> None:
        """Refuse what would end later than a session can last."""
        now_s = self.microscope.clock_s
        if now_s + more_s > LAST_S:
            raise ValueError(
                f"the session's clock stands at {now_s:.6g} s; {more_s:.6g} s more are beyond the {LAST_S:g} s that a"
                " session can last: reset begins another one"
            )

    def _check_effort(self, plan: ScanPlan, settings: ScanSettings) -> None:
        """Refuse a plan that the camera could not carry out in any useful time, or that its client cannot number."""
        if plan.count > LARGEST_SCAN:
            raise ValueError(f"{plan.count} positions; a stream numbers up to {LARGEST_SCAN}")
        if plan.dose_e > max(settings.most_dose_e, settings.plan.dose_e):
            raise ValueError(
                f"dose_e {plan.dose_e:g}: this camera follows electrons one by one, up to {settings.most_dose_e:g} per"
                " position"
            )
        if plan.dwell_s > max(settings.longest_dwell_s, settings.plan.dwell_s):
            raise ValueError(
                f"dwell_s {plan.dwell_s:g}: the hot pixels of this camera allow {settings.longest_dwell_s:.3g} s"
            )
        self._check_clock(duration_s(plan))

    def _check_plan(self, plan: ScanPlan, stage_nm: tuple[float, float] | None) -> None:
        # Aliasing at the present aberrations does not matter: a scan may be set up before the correction.
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
        """Return the hidden state.

        Raises:
            TruthHidden: this bench does not expose it.
        """
        if not self.expose_truth:
            raise TruthHidden("the truth is hidden; start the server with --expose-truth")
        with self.lock:
            return self.microscope.truth()


def _at(plan: ScanPlan, stage_nm: tuple[float, float] | None) -> ScanPlan:
    """Return the plan centred at the stage position, unless it has a centre."""
    return plan if stage_nm is None or plan.centre_nm is not None else replace(plan, centre_nm=stage_nm)


def scan_metadata(settings: ScanSettings, session: str = "") -> Metadata:
    """Return the metadata of the bench's scans; nothing hidden.

    Args:
        settings: of the scan.
        session: in which it takes place; empty: unknown.
    """
    plan = settings.plan
    origin = {"pattern": plan.pattern, "plan_sha256": plan_digest(plan)}
    return Metadata.of_scan(plan, settings.optics, {**origin, "session": session} if session else origin)


def ronchigram_metadata(bench: Bench) -> Metadata:
    """Return the metadata of the bench's Ronchigrams; nothing hidden."""
    optics = bench.capabilities.optics
    return Metadata(
        dwell_s=bench.ronchigram.exposure_s,
        energy_kev=optics.energy_kev,
        convergence_mrad=optics.convergence_mrad,
        pixel_mrad=optics.camera_pixel_mrad,
        dose_e=bench.ronchigram.dose_e,
    )


def session_entropy(seed: int) -> list[int]:
    """Return the random words of the session of a run or an acquisition with this seed; it gives the same bytes."""
    of_microscope, _ = np.random.SeedSequence(seed).spawn(2)
    return draw_entropy(np.random.default_rng(int(of_microscope.generate_state(1, np.uint64)[0])))
