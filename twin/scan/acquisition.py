"""A scan from plan to counts: probe positions, diffraction, detectors and camera, block by block.

What it costs in time and how the instrument drifts meanwhile is the microscope's business (`simulated.py`).
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from twin import specimens
from twin.aberrations import Aberrations
from twin.cameras import counting, integrating
from twin.cameras.event import EventReadout
from twin.cameras.properties import CountingCamera, EventCamera, FrameCamera, IntegratingCamera
from twin.cameras.sensor import Sensor, draw_sensor
from twin.day import Day
from twin.detectors.geometry import DiffractionGrid, weights
from twin.detectors.layouts import AngleError, Detector, labels
from twin.detectors.scintillator import MODELS, check_charge, digitise
from twin.matter.structure import Structure
from twin.optics import Optics
from twin.scan.diffraction import (
    ScanRenderer,
    Waves,
    band_limit,
    check_optics,
    kept_pixels,
    largest_angle_mrad,
    rays,
    seen_by_camera,
    to_camera,
)
from twin.scan.plan import ScanPath, ScanPlan, check_dwell, check_extent, placed
from twin.scan.prism import Choice, PlaneWaves, choose, lines_are_level, mismatch, work
from twin.scan.response import DetectorResponse
from twin.scan.setup import ScanSetup

Floats = NDArray[np.float64]
Frames = NDArray[np.unsignedinteger]
Events = NDArray[np.void]

_log = logging.getLogger(__name__)


def check_angles(regions: Mapping[str, Detector], optics: Optics) -> None:
    """Refuse detectors that reach beyond what the grid computes in full.

    Raises:
        AngleError: naming the detector, its angle, the limit and what would do.
    """
    limit = largest_angle_mrad(optics)
    for name, rings in regions.items():
        reach = max(ring.outer_mrad + math.hypot(*ring.centre_mrad) for ring in rings)
        if reach > limit * (1 + 1e-9):
            raise AngleError(
                f"detector {name!r} reaches {reach:.1f} mrad; the sampled angles end at {limit:.1f} mrad."
                f" Lower outer_mrad or use optics.sampling_nm <= {optics.sampling_nm * limit / reach:.4f}"
            )


class Exposed(NamedTuple):
    """What camera and detectors gave during N dwells; see `types.ScanBlock`."""

    frames: Frames | None
    events: Events | None
    signals: dict[str, NDArray[np.generic]]


class Noise:
    """Random streams of one scan: each is consumed position by position, so that blocks may be cut anywhere."""

    def __init__(self, sequence: np.random.SeedSequence) -> None:
        self.camera, self.detectors, self.digitiser = (np.random.default_rng(child) for child in sequence.spawn(3))


class Acquisition:
    """One specimen under one beam with its detectors; the transmission functions are built on first use (seconds).

    Args:
        setup: what an operator knows.
        day: focal spread, source size and the detectors' response; the rest of it is not used here.

    Raises:
        AliasingError: the aperture exceeds what the grid holds.
        AngleError: a detector reaches beyond the sampled angles.
        ValueError: an unknown specimen or option, neither detector nor camera, an event camera for other electrons
            than the beam's, or plane waves that are asked for where they cannot be.
    """

    def __init__(self, setup: ScanSetup, day: Day) -> None:
        if not setup.detectors and setup.camera is None:
            raise ValueError("a scan needs a camera or at least one detector")
        energy_kev = setup.optics.energy_kev
        if isinstance(setup.camera, EventCamera) and setup.camera.energy_kev != energy_kev:
            raise ValueError(
                f"camera.energy_kev is {setup.camera.energy_kev:g}; the beam has {energy_kev:g} (optics.energy_kev)"
            )
        check_optics(setup.optics, Aberrations())
        check_angles(setup.regions, setup.optics)
        self.setup, self.day = setup, day
        self.structure: Structure = specimens.build(setup.specimen, setup.specimen_options)
        self.names = labels(setup.regions)
        if setup.propagation == "prism":
            self.choice(ScanPlan())  # refuses what no plan can mend

    @cached_property
    def renderer(self) -> ScanRenderer:
        """Transmission functions and propagator."""
        from twin.scan.transmission import transmission_field

        setup = self.setup
        slice_nm = self.structure.thickness_nm if setup.slice_nm is None else setup.slice_nm
        field = transmission_field(
            self.structure,
            setup.optics,
            slice_nm=slice_nm,
            snapshots=setup.snapshots,
            seed=setup.specimen_seed,
            projection=setup.projection,
        )
        mixture = rays(self.day.focal_spread_nm, self.day.source_size_nm, field.snapshots)
        return ScanRenderer(setup.optics, field, mixture)

    @cached_property
    def plane_waves(self) -> PlaneWaves:
        """What stands in for the renderer where that is cheaper; its plane waves are propagated on first use."""
        return PlaneWaves(self.renderer, self._seen)

    def choice(self, plan: ScanPlan) -> Choice:
        """How the plan is propagated, and why; nothing but the setup, the day and the plan decide.

        Raises:
            ValueError: `propagation` is "prism" and cannot be.
        """
        from twin.scan.transmission import layout, slice_count, snapshot_count

        setup, day, thickness_nm = self.setup, self.day, self.structure.thickness_nm
        shape, _, cyclic = layout(self.structure, setup.optics)
        slices = 1 if setup.slice_nm is None else slice_count(thickness_nm, setup.slice_nm)
        snapshots = snapshot_count(self.structure, setup.snapshots)
        mixture = rays(day.focal_spread_nm, day.source_size_nm, snapshots)
        asked = work(plan, day.scan, setup.optics, mixture, slices, int(np.count_nonzero(self._seen)))
        return choose(setup.propagation, asked, mismatch(setup.optics, shape, cyclic))

    @cached_property
    def _seen(self) -> NDArray[np.bool_]:
        """Pixels of a pattern that any detector or the camera looks at and that are computed, (size, size)."""
        size = kept_pixels(self.setup.optics.grid)
        frequency = (np.arange(size) - size // 2) / self.setup.optics.grid
        seen: NDArray[np.bool_] = np.any(self._weights > 0, axis=0).reshape(size, size)
        if self.setup.camera is not None:
            seen = seen | seen_by_camera(self.setup.optics)
        return seen & (band_limit(frequency, frequency) > 0)

    @cached_property
    def _weights(self) -> NDArray[np.float32]:
        """Share of every computed pixel that each signal collects, (D, size * size)."""
        size = kept_pixels(self.setup.optics.grid)
        grid = DiffractionGrid(shape=(size, size), pixel_mrad=self.setup.optics.pixel_mrad)
        return weights(self.setup.regions, grid).reshape(len(self.names), size * size).astype(np.float32)

    def placed(self, plan: ScanPlan) -> ScanPlan:
        """The plan, around the middle of the specimen unless it says where."""
        return placed(plan, self.structure.width_nm, self.structure.height_nm)

    def check(self, plan: ScanPlan, aberrations: Aberrations) -> None:
        """Refuse a scan before anything is computed.

        Raises:
            AliasingError: the window cannot hold the probe.
            ValueError: the scan leaves the specimen, its dwell is shorter than the camera's read-out, or its dose more
                than the detectors' chain can draw.
        """
        check_extent(plan, self.structure.width_nm, self.structure.height_nm)
        if isinstance(self.setup.camera, FrameCamera):
            check_dwell(plan, self.setup.camera.readout_s)
        if self.setup.chain is not None and self.setup.chain.model == "cascade":
            check_charge(plan.dose_e, self.setup.chain)
        # At the entrance face, in the worst of the foci that are averaged over.
        entrance_nm = 0.0 if self.setup.slice_nm is None else -self.structure.thickness_nm / 2
        for ray in rays(self.day.focal_spread_nm, 0.0, 1):
            check_optics(self.setup.optics, aberrations + Aberrations.of({"C10": entrance_nm + ray.defocus_nm}))

    def draw_sensor(self, rng: np.random.Generator) -> Sensor | None:
        """The camera's fixed pattern."""
        side = self.setup.optics.camera_pixels
        return None if self.setup.camera is None else draw_sensor(self.setup.camera, (side, side), rng)

    def readout(self, sensor: Sensor | None, noise: Noise) -> EventReadout | None:
        """A running event camera for one scan, on the scan's clock; None for a camera of frames."""
        if sensor is None or not isinstance(self.setup.camera, EventCamera):
            return None
        return EventReadout(self.setup.camera, sensor, noise.camera)

    def responses(self) -> list[DetectorResponse]:
        """Fresh memories of the detectors, one per signal, for one scan."""
        return [DetectorResponse(self.day.scan) for _ in self.names]

    def expected(
        self, path: ScanPath, actual_nm: Floats, aberrations_of: Callable[[int], Aberrations]
    ) -> Iterator[tuple[NDArray[np.float32] | None, NDArray[np.float32]]]:
        """Expected electrons of each position: camera, (H, W) or None, and signals, (D,).

        Args:
            path: intended positions; its plan has the dose.
            actual_nm: where the probe really is, (N, 2).
            aberrations_of: the state during a line, by the line's number; C10 counts from the specimen's mid-plane.
        """
        dose_e = np.float32(path.plan.dose_e)
        for pattern in self._patterns(path, actual_nm, aberrations_of):
            signals = dose_e * (self._weights @ pattern.ravel())
            yield (None if self.setup.camera is None else dose_e * to_camera(pattern, self.setup.optics)), signals

    def _patterns(
        self, path: ScanPath, actual_nm: Floats, aberrations_of: Callable[[int], Aberrations]
    ) -> Iterator[NDArray[np.float32]]:
        choice, plan = self.choice(path.plan), path.plan
        if path.first == 0:
            level = logging.WARNING if choice.short_of_memory else logging.INFO
            _log.log(level, "%s: %s", choice.propagation, choice.reason)
        if choice.propagation == "prism":
            steps = self._steps(path, actual_nm, aberrations_of, self.plane_waves.waves)
            return self.plane_waves.patterns(steps, lines_are_level(plan, self.day.scan), path.first)
        return self.renderer.patterns(self._steps(path, actual_nm, aberrations_of, self.renderer.waves))

    def _steps(
        self,
        path: ScanPath,
        actual_nm: Floats,
        aberrations_of: Callable[[int], Aberrations],
        waves_of: Callable[[Aberrations], Waves],
    ) -> Iterator[tuple[Waves, Floats]]:
        """Waves at the first slice and position of every pattern."""
        field = self.renderer.field
        # Free space of length z adds z to C10: the first slice lies before the mid-plane.
        entrance = Aberrations.of({"C10": -(field.slices - 1) * field.step_nm / 2})
        line: int | None = None
        waves: Waves = {}
        for this, position in zip(path.line.tolist(), actual_nm, strict=True):
            if this != line:
                line, waves = this, waves_of(aberrations_of(this) + entrance)
            yield waves, position

    def expose(
        self,
        path: ScanPath,
        actual_nm: Floats,
        aberrations_of: Callable[[int], Aberrations],
        sensor: Sensor | None,
        responses: list[DetectorResponse],
        noise: Noise,
        readout: EventReadout | None = None,
    ) -> Exposed:
        """Counts of the camera, (N, H, W), or its events, (n,), and counts of every signal, (N,); see `expected`.

        A slow detector spreads the light of the electrons that came, and the digitiser's noise is not spread. With the
        scan's last position come all events that are still under way.

        Args:
            path, actual_nm, aberrations_of: see `expected`.
            sensor: from `draw_sensor`.
            responses: from `responses`, as the positions before left them; likewise `noise` and `readout`.
            noise: of the scan.
            readout: from `readout`, for an event camera.
        """
        expected = np.empty((len(path), len(self.names)))
        charge = np.empty_like(expected)
        frames: list[Frames] = []
        events: list[Events] = []
        for i, (image, signals) in enumerate(self.expected(path, actual_nm, aberrations_of)):
            expected[i], charge[i] = signals, self._collect(signals, noise.detectors)
            if image is not None and readout is not None:
                events.append(readout.read(image[None], path.start_s[i : i + 1], path.plan.dwell_s))
            elif image is not None and sensor is not None:
                frames.append(self._count(image, sensor, path.plan.dwell_s, noise.camera))
        if readout is not None and path.first + len(path) == path.plan.count:
            events.append(readout.flush())
        expected *= self._charge_per_electron
        for column, response in enumerate(responses):
            charge[:, column] = response.respond(charge[:, column], path, expected[:, column])
        counts = self._digitised(charge, noise.digitiser)
        signals_by_name = {name: counts[:, i].copy() for i, name in enumerate(self.names)}
        return Exposed(
            np.concatenate(frames) if frames else None, np.concatenate(events) if events else None, signals_by_name
        )

    def _count(self, image: NDArray[np.float32], sensor: Sensor, dwell_s: float, rng: np.random.Generator) -> Frames:
        """One frame, (1, H, W): what arrives while the camera is read out, at the end of the dwell, is lost."""
        camera = self.setup.camera
        assert isinstance(camera, FrameCamera)
        exposure_s = dwell_s - camera.readout_s
        seen = image[None] if camera.readout_s == 0.0 else image[None] * np.float32(exposure_s / dwell_s)
        if isinstance(camera, IntegratingCamera):
            return integrating.expose(seen, camera, sensor, exposure_s, rng)
        assert isinstance(camera, CountingCamera)
        return counting.expose(seen, camera, sensor, exposure_s, rng)

    @property
    def _charge_per_electron(self) -> float:
        return 1.0 if self.setup.chain is None else self.setup.chain.gain

    def _collect(
        self, expected_e: NDArray[np.float32], rng: np.random.Generator
    ) -> NDArray[np.int64] | NDArray[np.float64]:
        """What one position's electrons leave on each detector, (D,): electrons, or electrons on its anode."""
        chain, electrons = self.setup.chain, rng.poisson(expected_e)
        return electrons if chain is None else MODELS[chain.model](electrons, chain, rng)

    def _digitised(self, charge: Floats, rng: np.random.Generator) -> NDArray[np.generic]:
        """Signals, (N, D): counts of the chain; without one, electrons, whole as long as their light is not slow."""
        if self.setup.chain is not None:
            return digitise(charge, self.setup.chain, rng)
        return charge.astype(np.int64) if self.day.scan.response_s == 0.0 else charge
