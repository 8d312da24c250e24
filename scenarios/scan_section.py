"""The `scan` part of a scenario: specimen, detectors, camera and scan plan."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

from twin.cameras.properties import CountingCamera, EventCamera, IntegratingCamera
from twin.detectors.layouts import Region
from twin.errors import check_known, printable
from twin.options import validated
from twin.scan.plan import ScanPlan
from twin.scan.setup import SCAN_OPTICS, ScanSetup

CAMERAS = {"counting": CountingCamera, "integrating": IntegratingCamera, "event": EventCamera}
"""Values of `camera.kind`."""


@validated
class ScanSection(ScanSetup):
    """A scan as YAML has it: the fields of `ScanSetup`, with shorthands, and the plan.

    Shorthands: `detectors` may be a list of names; a detector of one ring may be that ring; missing keys of `optics`
    are as in `SCAN_OPTICS`; a `camera` without `kind` counts electrons; an event camera has the beam's energy, and its
    most probable deposit is two thirds of that.

    Attributes:
        plan: where the beam goes.
        corrected: begin with the calibrated aberrations corrected, as far as the corrector follows; the day's residual
            ones stay. Otherwise the scan is in the state that the session starts from.
    """

    camera: Annotated[CountingCamera | IntegratingCamera | EventCamera, Field(discriminator="kind")] | None = (
        CountingCamera()
    )
    plan: ScanPlan = ScanPlan()
    corrected: bool = True

    @field_validator("detectors", mode="before")
    @classmethod
    def _shorthands(cls, detectors: Any) -> Any:
        if isinstance(detectors, list):
            for name in detectors:
                if not isinstance(name, str):
                    raise ValueError(f"a list of detectors holds names, got {printable(repr(name), 60)}")
            return dict.fromkeys(detectors)
        if isinstance(detectors, str):
            name = printable(detectors, 60)
            raise ValueError(f"names in a list, [{name}], or names with rings are expected, got {name!r}")
        if not isinstance(detectors, Mapping):
            return detectors
        listed = {name: [rings] if isinstance(rings, Mapping) else rings for name, rings in detectors.items()}
        known = [each.name for each in fields(Region)]
        for name, rings in listed.items():
            for ring in rings if isinstance(rings, list) else ():
                for key in ring if isinstance(ring, Mapping) else ():
                    check_known(key, known, f"a key of a ring of detector {name!r}")
        return listed

    @field_validator("optics", mode="before")
    @classmethod
    def _rest_of_optics(cls, optics: Any) -> Any:
        return {**asdict(SCAN_OPTICS), **optics} if isinstance(optics, Mapping) else optics

    @field_validator("camera", mode="before")
    @classmethod
    def _kind(cls, camera: Any, info: ValidationInfo) -> Any:
        if not isinstance(camera, Mapping):
            return camera
        kind = camera.get("kind", "counting")
        check_known(kind, CAMERAS, "a kind of camera")
        if kind == "event" and "optics" in info.data:
            energy_kev = camera.get("energy_kev", info.data["optics"].energy_kev)
            deposit = {"deposit_kev": energy_kev * 2 / 3} if isinstance(energy_kev, int | float) else {}
            camera = {"energy_kev": energy_kev, **deposit, **camera}
        return {**camera, "kind": kind}
