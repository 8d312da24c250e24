"""Specimen, beam, detectors and camera of a scan: from probe positions to expected electrons.

Counts, and all that changes during a scan, are in `running.py`.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from twin import specimens
from twin.aberrations import Aberrations
from twin.arrays import Floats
from twin.cameras.properties import EventCamera, FrameCamera
from twin.cameras.sensor import Sensor, draw_sensor
from twin.day import Day
from twin.detectors.geometry import DiffractionGrid, weights
from twin.detectors.layouts import AngleError, Detector, labels
from twin.detectors.scintillator import check_charge
from twin.matter.structure import Structure
from twin.optics import Optics
from twin.scan.diffraction import (
    ScanRenderer,
    Waves,
    band_limit,
    camera_mask,
    check_optics,
    kept_pixels,
    largest_angle_mrad,
    rays,
    to_camera,
)
from twin.scan.plan import ScanPath, ScanPlan, check_dwell, check_extent, placed
from twin.scan.prism import Choice, PlaneWaves, choose, lines_are_level, mismatch, work
from twin.scan.setup import ScanSetup

_log = logging.getLogger(__name__)


def check_angles(regions: Mapping[str, Detector], optics: Optics) -> None:
    """Refuse detectors that reach beyond the band limit of the grid.

    Raises:
        AngleError: naming the detector, its angle, the limit and a remedy.
    """
    limit = largest_angle_mrad(optics)
    for name, rings in regions.items():
        reach = max(ring.outer_mrad + math.hypot(*ring.centre_mrad) for ring in rings)
        if reach > limit * (1 + 1e-9):
            raise AngleError(
                f"detector {name!r} reaches {reach:.1f} mrad; the sampled angles end at {limit:.1f} mrad."
                f" Lower outer_mrad or use optics.sampling_nm <= {optics.sampling_nm * limit / reach:.4f}"
            )


class Acquisition:
    """One specimen under one beam with its detectors; the transmission functions are built on first use (seconds).

    Args:
        setup: specimen, beam, detectors and camera.
        day: focal spread, source size and the detectors' response; the rest is not used here.

    Raises:
        AliasingError: the aperture exceeds what the grid holds.
        AngleError: a detector reaches beyond the sampled angles.
        ValueError: an unknown specimen or option, neither detector nor camera, an event camera for other electrons
            than the beam's, or propagation "prism" where it is impossible.
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
            self.choice(ScanPlan())  # raises if no plan can make it possible

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
        """PRISM renderer, for scans where it is faster; its plane waves are propagated on first use."""
        return PlaneWaves(self.renderer, self._used)

    def choice(self, plan: ScanPlan) -> Choice:
        """Choose how to propagate the plan; the choice depends only on setup, day and plan.

        Raises:
            ValueError: `propagation` is "prism" and impossible.
        """
        from twin.scan.transmission import layout, slice_count, snapshot_count

        setup, day, thickness_nm = self.setup, self.day, self.structure.thickness_nm
        shape, _, cyclic = layout(self.structure, setup.optics)
        slices = 1 if setup.slice_nm is None else slice_count(thickness_nm, setup.slice_nm)
        snapshots = snapshot_count(self.structure, setup.snapshots)
        mixture = rays(day.focal_spread_nm, day.source_size_nm, snapshots)
        workload = work(plan, day.scan, setup.optics, mixture, slices, int(np.count_nonzero(self._used)))
        return choose(setup.propagation, workload, mismatch(setup.optics, shape, cyclic))

    @cached_property
    def _used(self) -> NDArray[np.bool_]:
        """Computed pixels of a pattern that any detector or the camera covers, (size, size)."""
        size = kept_pixels(self.setup.optics.grid)
        frequency = (np.arange(size) - size // 2) / self.setup.optics.grid
        used: NDArray[np.bool_] = np.any(self._weights > 0, axis=0).reshape(size, size)
        if self.setup.camera is not None:
            used = used | camera_mask(self.setup.optics)
        return used & (band_limit(frequency, frequency) > 0)

    @cached_property
    def _weights(self) -> NDArray[np.float32]:
        """Fraction of every computed pixel that each signal collects, (D, size * size)."""
        size = kept_pixels(self.setup.optics.grid)
        grid = DiffractionGrid(shape=(size, size), pixel_mrad=self.setup.optics.pixel_mrad)
        return weights(self.setup.regions, grid).reshape(len(self.names), size * size).astype(np.float32)

    def placed(self, plan: ScanPlan) -> ScanPlan:
        """Return the plan, centred in the specimen unless it has a centre."""
        return placed(plan, self.structure.width_nm, self.structure.height_nm)

    def check(self, plan: ScanPlan, aberrations: Aberrations) -> None:
        """Refuse a scan before anything is computed.

        Raises:
            AliasingError: the window cannot hold the probe.
            ValueError: the scan leaves the specimen, its dwell is shorter than the camera's read-out, or its dose
                exceeds the limit of the detectors' chain.
        """
        check_extent(plan, self.structure.width_nm, self.structure.height_nm)
        if isinstance(self.setup.camera, FrameCamera):
            check_dwell(plan, self.setup.camera.readout_s)
        if self.setup.chain is not None and self.setup.chain.model == "cascade":
            check_charge(plan.dose_e, self.setup.chain)
        # At the entrance face, for every focus of the focal spread.
        entrance_nm = 0.0 if self.setup.slice_nm is None else -self.structure.thickness_nm / 2
        for ray in rays(self.day.focal_spread_nm, 0.0, 1):
            check_optics(self.setup.optics, aberrations + Aberrations.of({"C10": entrance_nm + ray.defocus_nm}))

    def draw_sensor(self, rng: np.random.Generator) -> Sensor | None:
        """The camera's fixed pattern."""
        side = self.setup.optics.camera_pixels
        return None if self.setup.camera is None else draw_sensor(self.setup.camera, (side, side), rng)

    def expected(
        self, path: ScanPath, actual_nm: Floats, aberrations_of: Callable[[int], Aberrations]
    ) -> Iterator[tuple[NDArray[np.float32] | None, NDArray[np.float32]]]:
        """Expected electrons of each position: camera, (H, W) or None, and signals, (D,).

        Args:
            path: intended positions; its plan has the dose.
            actual_nm: actual probe positions, (N, 2).
            aberrations_of: aberrations during a line, by its number; C10 counts from the specimen's mid-plane.
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
        current: int | None = None
        waves: Waves = {}
        for line, position in zip(path.line.tolist(), actual_nm, strict=True):
            if line != current:
                current, waves = line, waves_of(aberrations_of(line) + entrance)
            yield waves, position
