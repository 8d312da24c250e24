"""A scenario's microscope behind network ports: what it consists of, and how it is started and stopped.

The services themselves are in `twin/server`. Nothing here reads or writes files.
"""

import importlib
import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, get_args

from scenarios.schema import Scenario, ScenarioError
from twin.optics import AliasingError
from twin.server import event_stream, merlin_camera
from twin.server.bench import Bench, RonchigramSettings, ScanSettings, session_entropy
from twin.server.event_stream import EventStream, NoEvents
from twin.server.frame_supply import FrameSupply, NoFrames, PreparedScan, RonchigramSupply, ScanSupply
from twin.server.listener import LOOPBACK, STOP_S, Access, Listener, Listeners, Running, Service
from twin.server.merlin_camera import MerlinCamera, MerlinControl, MerlinData
from twin.server.merlin_settings import Mode
from twin.simulated import SimulatedMicroscope

log = logging.getLogger("twin.server")

Name = Literal["merlin_control", "merlin_data", "events", "corrector", "control"]
NAMES: tuple[Name, ...] = get_args(Name)
BY_MODULE: tuple[Name, ...] = ("corrector", "control")
"""Services of which `twin.server.<name>` has `PORT` and `make(bench)`; left out where there is no such module."""


@dataclass(frozen=True)
class Serving:
    """How to serve.

    Attributes:
        ports: by service; what is not named has its usual port, or a free one with `free_ports`.
        free_ports: take free ports.
        paced: frames and events leave no sooner than on the instrument.
        prepare: compute the whole scan before, and show it as a film.
        mode: what the Merlin camera sees at first; None is the scan where there is one.
        event_metadata: tell step and angles in the event stream; LiberTEM's client cannot take that.
        expose_truth: tell the hidden state over the control channel.
        host: address to listen on.
        token: what clients have to say first; needed for any host but loopback.
    """

    ports: Mapping[Name, int] = field(default_factory=dict)
    free_ports: bool = False
    paced: bool = True
    prepare: bool = False
    mode: Literal["ronchigram", "scan"] | None = None
    event_metadata: bool = False
    expose_truth: bool = False
    host: str = LOOPBACK
    token: str | None = None


class TwinServer(Running):
    """A scenario's microscope on the network, from the beginning of a `with` to its end.

    A session with the seed has begun when it is ready, the same as that of a calibration or, where the scenario's scan
    is a corrected one, of an acquisition: the first scan gives the frames that `stemtwin acquire` stores.

    Args:
        scenario: what to serve.
        seed: of the session.
        serving: how.
        progress: of preparing a scan, see `PreparedScan`.

    Attributes:
        bench: behind all services.
        ports: by service, once it is ready.
        left_out: why a service is not there, by name.

    Raises:
        ScenarioError: what the microscope, the access or a service refuses, or a port that is taken.
    """

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        serving: Serving | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.serving = serving or Serving()
        self.left_out: dict[Name, str] = {}
        self._listeners = Listeners()
        try:
            self._access = Access(self.serving.host, self.serving.token)
            self.bench = build_bench(scenario.for_seed(seed), seed, self.serving.expose_truth)
            services = self._services(progress)
            self.ports: dict[Name, int] = {
                name: self._listener(name, service, usual).port for name, (service, usual) in services.items()
            }
        except (ValueError, OSError, RuntimeError) as error:
            self.stop()
            raise ScenarioError(f"{scenario.name}: {error}") from error
        for name, port in self.ports.items():
            self.bench.ports[name] = port

    def start(self) -> Self:
        self._listeners.start()
        return self

    def stop(self, timeout_s: float = STOP_S) -> bool:
        return self._listeners.stop(timeout_s)

    def _services(self, progress: Callable[[int], None] | None) -> dict[Name, tuple[Service, int]]:
        """Every service with its usual port."""
        camera = MerlinCamera(self._supplies(progress))
        found: dict[Name, tuple[Service, int]] = {
            "merlin_control": (MerlinControl(camera), merlin_camera.PORT),
            "merlin_data": (MerlinData(camera, self.serving.paced), merlin_camera.DATA_PORT),
        }
        try:
            found["events"] = (
                EventStream(self.bench, self.serving.paced, self.serving.event_metadata),
                event_stream.PORT,
            )
        except NoEvents as error:
            self._leave_out("events", str(error))
        for name in BY_MODULE:
            if importlib.util.find_spec(f"twin.server.{name}") is None:
                self._leave_out(name, "not part of this version")
                continue
            module = importlib.import_module(f"twin.server.{name}")
            found[name] = (module.make(self.bench), module.PORT)
        return found

    def _leave_out(self, name: Name, why: str) -> None:
        if name in self.serving.ports:
            raise ValueError(f"no service for {name}: {why}")
        self.left_out[name] = why

    def _supplies(self, progress: Callable[[int], None] | None) -> dict[Mode, FrameSupply]:
        """What the camera can see; the first is what it sees at first."""
        supplies: dict[Mode, FrameSupply] = {"RONCHIGRAM": RonchigramSupply(self.bench)}
        wanted = self.serving.mode
        try:
            prepare = self.serving.prepare
            supplies["SCAN"] = PreparedScan(self.bench, progress=progress) if prepare else ScanSupply(self.bench)
        except NoFrames:
            if wanted == "scan" or self.serving.prepare:
                raise
        if wanted == "ronchigram" or "SCAN" not in supplies:
            return supplies
        return dict(reversed(supplies.items()))

    def _listener(self, name: Name, service: Service, usual: int) -> Listener:
        port = self.serving.ports.get(name, 0 if self.serving.free_ports else usual)
        try:
            return self._listeners.add(Listener(service, port, self._access))
        except (OSError, OverflowError) as error:
            option = name.replace("_", "-")
            raise ValueError(
                f"{name} on {self._access.host}, port {port}: {error} (--{option} 0 is a free one)"
            ) from None


def build_bench(scenario: Scenario, seed: int, expose_truth: bool = False) -> Bench:
    """The scenario's microscope with a session, ready for its first frame.

    Raises:
        ValueError: what microscope, specimen, detectors or the scan's plan refuse.
    """
    section = scenario.scan
    microscope = SimulatedMicroscope(scenario.optics, scenario.space, scenario.day, scenario.renderer, section)
    day = scenario.day
    ronchigram = RonchigramSettings(day.exposure_s, day.overhead_s, day.dose_e)
    # Once to warm up, and then for the clients: the bytes are those of a first session.
    microscope.begin(session_entropy(seed))
    if section is not None and section.corrected:
        microscope.apply(-microscope.truth().state_nm)
    _warm_up(microscope, section)
    bench = Bench(microscope, scan_settings(scenario), ronchigram, expose_truth=expose_truth)
    bench.reset_to(seed)
    if section is not None and section.corrected:
        bench.apply(-microscope.truth().state_nm)
    return bench


def _warm_up(microscope: SimulatedMicroscope, section: Any) -> None:
    """Compile and prepare what a first frame needs: it takes seconds, and the first client would wait for it.

    Raises:
        ValueError: the plan, or what specimen and detectors refuse.
    """
    microscope.acquire()
    if section is None:
        return
    middle = replace(section.plan, pattern="list", positions_nm=((0.0, 0.0),), fraction=1.0)
    try:
        microscope.scan(section.plan)  # checked, not begun
        next(microscope.scan(middle))
    except AliasingError as error:
        # It can be calibrated before it scans.
        log.warning("scans are refused in the state in which the session begins: %s", error)


def scan_settings(scenario: Scenario) -> ScanSettings | None:
    """What an operator knows of the scenario's scans."""
    section = scenario.scan
    if section is None:
        return None
    # Imported with a scan only, for it brings compiled detectors.
    from twin.cameras.properties import EventCamera

    camera = section.camera
    if isinstance(camera, EventCamera):
        # How late an event leaves, and how much earlier than it happened its stamp may be: jitter, and a tick.
        stamp_ns = camera.timewalk_ns_kev / camera.threshold_kev + 8.0 * camera.toa_rms_ns + 25.0
        delay_s = camera.reorder_s + stamp_ns * 1e-9
        return ScanSettings(section.plan, section.optics, events=True, delay_s=delay_s)
    return ScanSettings(section.plan, section.optics, largest_count=None if camera is None else camera.largest_count)


def described(server: TwinServer) -> Iterator[tuple[str, str]]:
    """Lines for an operator: every service, and its port or why it has none."""
    for name in NAMES:
        label = name.replace("_", " ")
        if name in server.ports:
            yield label, str(server.ports[name])
        elif name in server.left_out:
            yield label, f"not served: {server.left_out[name]}"
