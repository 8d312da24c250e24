"""One scan under way: everything that camera, detectors, coils and clock carry over from one block to the next."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from twin.aberrations import Aberrations
from twin.arrays import Floats
from twin.cameras import counting, integrating
from twin.cameras.event import EventReadout
from twin.cameras.properties import CountingCamera, EventCamera, IntegratingCamera
from twin.cameras.sensor import Sensor
from twin.detectors.scintillator import MODELS, digitise
from twin.scan.acquisition import Acquisition
from twin.scan.errors import ScanEngine
from twin.scan.plan import ScanPath
from twin.scan.response import DetectorResponse
from twin.types import ScanBlock

Frames = NDArray[np.unsignedinteger]
Events = NDArray[np.void]


class RunningScan:
    """The state of one scan; `expose` takes its blocks in read-out order and returns the counts.

    Camera, detectors and digitiser each have a random stream that is consumed position by position, so that the
    counts do not depend on how the scan is cut into blocks.

    Args:
        acquisition: specimen, beam and detectors.
        engine: the session's scan coils; a new scan of theirs begins here.
        begun_s: instrument clock at the start of the scan.
        defects: source of the camera's fixed pattern.
        noise: parent of the three random streams.
        begin_line: called with the number and the starting time of every new line, on the instrument's clock, so
            that the aberrations can drift up to it.
        aberrations: return the aberrations in force; C10 counts from the specimen's mid-plane.

    Attributes:
        begun_s: instrument clock at the start of the scan, delayed by all hold-ups so far.
        actual_nm: actual probe positions in the latest block, (N, 2); empty before the first.
    """

    def __init__(
        self,
        acquisition: Acquisition,
        engine: ScanEngine,
        begun_s: float,
        defects: np.random.Generator,
        noise: np.random.SeedSequence,
        begin_line: Callable[[int, float], None],
        aberrations: Callable[[], Aberrations],
    ) -> None:
        self._acquisition, self._engine, self.begun_s = acquisition, engine, begun_s
        self._begin_line, self._aberrations = begin_line, aberrations
        self._camera_rng, self._detector_rng, self._digitiser_rng = map(np.random.default_rng, noise.spawn(3))
        self._sensor = acquisition.draw_sensor(defects)
        self._responses = [DetectorResponse(acquisition.day.scan) for _ in acquisition.names]
        camera = acquisition.setup.camera
        self._events = (
            EventReadout(camera, self._sensor, self._camera_rng)
            if self._sensor is not None and isinstance(camera, EventCamera)
            else None
        )
        self._line, self._ended_s = -1, 0.0
        self._starts_s: dict[int, float] = {}
        self.actual_nm: Floats = np.empty((0, 2))
        engine.begin(begun_s)

    def resume(self, clock_s: float) -> None:
        """Delay the rest of the scan by the time that commands or exposures took since the latest block."""
        held_s = clock_s - (self.begun_s + self._ended_s)
        if held_s != 0.0:
            self._engine.hold(held_s)
            self.begun_s += held_s

    def expose(self, path: ScanPath) -> ScanBlock:
        """Counts of the next block: camera frames (N, H, W) or events (n,), and every detector's signal (N,).

        A slow detector smears the light of the electrons that arrived; the digitiser's noise is not smeared. The
        block with the scan's last position also returns all events still under way.

        Raises:
            AliasingError: the aberrations have drifted beyond what the window can hold.
        """
        names, actual_nm = self._acquisition.names, self._engine.displace(path)
        # Start of the first position of every line in the block.
        self._starts_s = dict(zip(path.line.tolist()[::-1], path.start_s.tolist()[::-1], strict=True))
        expected = np.empty((len(path), len(names)))
        charge = np.empty_like(expected)
        frames: list[Frames] = []
        events: list[Events] = []
        for i, (image, signals) in enumerate(self._acquisition.expected(path, actual_nm, self._aberrations_of)):
            expected[i], charge[i] = signals, self._collect(signals)
            if image is not None and self._events is not None:
                events.append(self._events.read(image[None], path.start_s[i : i + 1], path.plan.dwell_s))
            elif image is not None and self._sensor is not None:
                camera = self._acquisition.setup.camera
                assert isinstance(camera, CountingCamera | IntegratingCamera)
                frames.append(expose_frame(image, camera, self._sensor, path.plan.dwell_s, self._camera_rng))
        if self._events is not None and path.first + len(path) == path.plan.count:
            events.append(self._events.flush())
        counts = self._read_out(charge, expected, path)
        self.actual_nm, self._ended_s = actual_nm, float(path.end_s[-1])
        return ScanBlock(
            path,
            np.concatenate(frames) if frames else None,
            {name: counts[:, i].copy() for i, name in enumerate(names)},
            self.begun_s + path.end_s,
            np.concatenate(events) if events else None,
        )

    def _aberrations_of(self, line: int) -> Aberrations:
        if line > self._line:
            self._line = line
            self._begin_line(line, self.begun_s + self._starts_s[line])
        return self._aberrations()

    def _collect(self, expected_e: NDArray[np.float32]) -> NDArray[np.int64] | NDArray[np.float64]:
        """Draw the charge of each detector at one position, (D,): beam electrons, or electrons on the anode."""
        chain, electrons = self._acquisition.setup.chain, self._detector_rng.poisson(expected_e)
        return electrons if chain is None else MODELS[chain.model](electrons, chain, self._detector_rng)

    def _read_out(self, charge: Floats, expected_e: Floats, path: ScanPath) -> NDArray[np.generic]:
        """Signals, (N, D): counts of the chain, or electrons without one; those are whole unless the light is slow."""
        chain = self._acquisition.setup.chain
        expected_e *= 1.0 if chain is None else chain.gain
        for column, response in enumerate(self._responses):
            charge[:, column] = response.respond(charge[:, column], path, expected_e[:, column])
        if chain is not None:
            return digitise(charge, chain, self._digitiser_rng)
        return charge.astype(np.int64) if self._acquisition.day.scan.response_s == 0.0 else charge


def expose_frame(
    image: NDArray[np.float32],
    camera: CountingCamera | IntegratingCamera,
    sensor: Sensor,
    dwell_s: float,
    rng: np.random.Generator,
) -> Frames:
    """One frame, (1, H, W), of expected electrons (H, W); those that arrive during the read-out are lost."""
    exposure_s = dwell_s - camera.readout_s
    arriving = image[None] if camera.readout_s == 0.0 else image[None] * np.float32(exposure_s / dwell_s)
    if isinstance(camera, IntegratingCamera):
        return integrating.expose(arriving, camera, sensor, exposure_s, rng)
    return counting.expose(arriving, camera, sensor, exposure_s, rng)
