"""A scenario's microscope behind network ports: its services, start and stop.

The services themselves are in `twin/server`. Nothing here reads or writes files.
"""

import importlib
import importlib.util
import logging
import math
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Self, get_args

from scenarios.folders import sentence
from scenarios.scan_section import ScanSection
from scenarios.schema import Scenario, ScenarioError
from twin.cameras.properties import CountingCamera, EventCamera
from twin.errors import reason
from twin.optics import AliasingError
from twin.server import event_stream, merlin_camera
from twin.server.access import LOOPBACK, Access
from twin.server.bench import Bench, RonchigramSettings, ScanSettings, session_entropy
from twin.server.event_stream import EventStream, NoEvents
from twin.server.frame_supply import FrameSupply, NoFrames, PreparedScan, RonchigramSupply, ScanSupply
from twin.server.listener import STOP_S, Listener, Listeners, Running
from twin.server.merlin_camera import MerlinCamera, MerlinControl, MerlinData
from twin.server.merlin_settings import Mode
from twin.server.service import Service
from twin.simulated import SimulatedMicroscope

log = logging.getLogger("twin.server")

Name = Literal["merlin_control", "merlin_data", "events", "corrector", "control"]
NAMES: tuple[Name, ...] = get_args(Name)
FROM_BASE: tuple[Name, ...] = ("control", "merlin_control", "merlin_data", "corrector", "events")
"""Services in the order of their ports from a base port; the first one announces the others."""
BY_MODULE: tuple[Name, ...] = ("corrector", "control")
"""Services with a module `twin.server.<name>` that has `PORT` and `make(bench)`; left out without such a module."""

MOST_HITS = 1e7
"""Electrons or events of one position that a client may ask for where each is followed: about a second."""


@dataclass(frozen=True)
class Serving:
    """Settings of a server.

    Attributes:
        ports: by service; the others have their usual port, or one from `base_port`, or a free one with `free_ports`.
        free_ports: take free ports.
        base_port: port of the control channel; those of the other services follow in the order of `FROM_BASE`.
        paced: frames and events leave no sooner than on the instrument.
        prepare: compute the whole scan in advance and replay it.
        mode: what the Merlin camera records first; None is the scan if there is one.
        event_metadata: send step and angles in the event stream; LiberTEM's client cannot read them.
        arm_events: whoever connects to the event stream and says nothing gets a scan.
        expose_truth: offer the hidden state on the control channel.
        host: address to listen on.
        token: clients have to send it first; needed for any host but loopback.
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
    base_port: int | None = None
    arm_events: bool = False

    def port(self, name: Name, usual: int) -> int:
        """Return the port of a service; 0: a free one.

        Raises:
            ValueError: a base port from which not all services have a port, or with `free_ports`.
        """
        if self.base_port is not None and self.free_ports:
            raise ValueError(f"a base port of {self.base_port} and free ports: one of them")
        highest = 65536 - len(FROM_BASE)
        if self.base_port is not None and not 1 <= self.base_port <= highest:
            raise ValueError(
                f"the base port lies in 1 to {highest}, for {len(FROM_BASE)} services; got {self.base_port}"
            )
        if name in self.ports:
            return self.ports[name]
        if self.base_port is not None:
            return self.base_port + FROM_BASE.index(name)
        return 0 if self.free_ports else usual


class TwinServer(Running):
    """A scenario's microscope on the network, for the duration of a `with`.

    It begins a session with the seed, the same as that of a calibration or, if the scenario's scan is a corrected one,
    of an acquisition: the first scan gives the frames that `stemtwin acquire` stores.

    Args:
        scenario: its microscope is served.
        seed: of the session.
        serving: settings.
        progress: of preparing a scan, see `PreparedScan`.

    Attributes:
        bench: the instrument behind all services.
        ports: by service.
        left_out: reason for a missing service, by name.

    Raises:
        ScenarioError: the microscope, the access or a service is refused, or a port is taken.
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
            check_host(self.serving.host)  # before the specimen is computed, as all of these
            for name in NAMES:
                self.serving.port(name, 0)
            if scenario.scan is None and (self.serving.prepare or self.serving.mode == "scan"):
                raise ValueError("this scenario has no scan")
            self.bench = build_bench(scenario.for_seed(seed), seed, self.serving.expose_truth)
            services = self._services(progress)
            self.ports: dict[Name, int] = {
                name: self._listener(name, service, usual).port for name, (service, usual) in services.items()
            }
        except (ValueError, OSError, RuntimeError) as error:
            self.stop()
            why = sentence(error) if isinstance(error, OSError) else str(error)
            raise ScenarioError(f"{scenario.name}: {why}") from error
        for name, port in self.ports.items():
            self.bench.ports[name] = port

    def start(self) -> Self:
        self._listeners.start()
        return self

    def stop(self, timeout_s: float = STOP_S) -> bool:
        return self._listeners.stop(timeout_s)

    def _services(self, progress: Callable[[int], None] | None) -> dict[Name, tuple[Service, int]]:
        """Return every service with its usual port."""
        camera = MerlinCamera(self._supplies(progress))
        found: dict[Name, tuple[Service, int]] = {
            "merlin_control": (MerlinControl(camera), merlin_camera.PORT),
            "merlin_data": (MerlinData(camera, self.serving.paced), merlin_camera.DATA_PORT),
        }
        try:
            found["events"] = (
                EventStream(self.bench, self.serving.paced, self.serving.event_metadata, self.serving.arm_events),
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
        """Return the camera's sources of frames, the one it starts with first."""
        supplies: dict[Mode, FrameSupply] = {"RONCHIGRAM": RonchigramSupply(self.bench)}
        mode = self.serving.mode
        try:
            prepare = self.serving.prepare
            supplies["SCAN"] = PreparedScan(self.bench, progress=progress) if prepare else ScanSupply(self.bench)
        except NoFrames:
            if mode == "scan" or self.serving.prepare:
                raise
        if mode == "ronchigram" or "SCAN" not in supplies:
            return supplies
        return dict(reversed(supplies.items()))

    def _listener(self, name: Name, service: Service, usual: int) -> Listener:
        port = self.serving.port(name, usual)
        try:
            return self._listeners.add(Listener(service, port, self._access))
        except (OSError, OverflowError) as error:
            option = name.replace("_", "-")
            raise ValueError(
                f"{name} on {self._access.host}, port {port}: {reason(error)} (--{option} 0 is a free one)"
            ) from None


def check_host(host: str) -> None:
    """Refuse a name that nobody knows.

    Raises:
        ValueError: naming the option.
    """
    try:
        socket.getaddrinfo(host, None)
    except (socket.gaierror, UnicodeError) as error:
        raise ValueError(f"--host {host}: {getattr(error, 'strerror', None) or 'no name of a computer'}") from None


def build_bench(scenario: Scenario, seed: int, expose_truth: bool = False) -> Bench:
    """Build the scenario's microscope and begin a session, ready for its first frame.

    Raises:
        ValueError: microscope, specimen, detectors or the scan's plan are refused.
    """
    section = scenario.scan
    microscope = SimulatedMicroscope(scenario.optics, scenario.space, scenario.day, scenario.renderer, section)
    day = scenario.day
    ronchigram = RonchigramSettings(day.exposure_s, day.overhead_s, day.dose_e)
    # One session to warm up, then the clients' own: their bytes are those of a first session.
    microscope.begin(session_entropy(seed))
    if section is not None and section.corrected:
        microscope.apply(-microscope.truth().state_nm)
    _warm_up(microscope, section)
    bench = Bench(microscope, scan_settings(scenario), ronchigram, expose_truth=expose_truth)
    bench.reset_to(seed)
    if section is not None and section.corrected:
        bench.apply(-microscope.truth().state_nm)
    return bench


def _warm_up(microscope: SimulatedMicroscope, section: ScanSection | None) -> None:
    """Compile and prepare everything for the first frame: seconds, or half a minute, which no client waits for.

    Raises:
        ValueError: plan, specimen or detectors are refused.
    """
    microscope.acquire()
    if section is None:
        return
    try:
        next(microscope.scan(section.plan, block=1))  # propagated as the plan is, plane waves included
    except AliasingError as error:
        # A client can calibrate before it scans.
        log.warning("scans are refused in the state in which the session begins: %s", error)


def scan_settings(scenario: Scenario) -> ScanSettings | None:
    """Return the settings of the scenario's scans as an operator knows them."""
    section = scenario.scan
    if section is None:
        return None
    camera = section.camera
    if isinstance(camera, EventCamera):
        # Delay of an event behind its stamp: time walk, jitter and one tick, plus reordering.
        stamp_ns = camera.timewalk_ns_kev / camera.threshold_kev + 8.0 * camera.toa_rms_ns + 25.0
        delay_s = camera.reorder_s + stamp_ns * 1e-9
        hot_per_s = camera.hot_fraction * section.optics.camera_pixels**2 * camera.hot_rate_per_s
        longest_s = MOST_HITS / hot_per_s if hot_per_s > 0.0 else math.inf
        return ScanSettings(
            section.plan, section.optics, True, delay_s=delay_s, most_dose_e=MOST_HITS, longest_dwell_s=longest_s
        )
    one_by_one = isinstance(camera, CountingCamera) and (camera.charge_spread_px > 0.0 or camera.dead_time_s > 0.0)
    largest = None if camera is None else camera.largest_count
    most_e = MOST_HITS if one_by_one else math.inf
    return ScanSettings(section.plan, section.optics, largest_count=largest, most_dose_e=most_e)


def described(server: TwinServer) -> Iterator[tuple[str, str]]:
    """Yield every service with its port, or the reason why it has none."""
    for name in NAMES:
        label = name.replace("_", " ")
        if name in server.ports:
            closed = name == "events" and not server.serving.arm_events
            yield label, f"{server.ports[name]}{', no scans without --arm-events' if closed else ''}"
        elif name in server.left_out:
            yield label, f"not served: {server.left_out[name]}"
