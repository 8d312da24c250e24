"""The `scan` part of a scenario: what lies under the beam, what detects it, and where the beam goes.

Imported when a scenario has such a part, for the detectors behind it bring compiled code.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import ConfigDict, Field, field_validator
from pydantic.dataclasses import dataclass

from twin.acquisition import SCAN_OPTICS, ScanSetup
from twin.cameras.properties import CountingCamera, IntegratingCamera
from twin.scan_plan import ScanPlan
from twin.suggest import nearest

CAMERAS = {"counting": CountingCamera, "integrating": IntegratingCamera}
"""What `camera.kind` can be."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False), kw_only=True)
class ScanSection(ScanSetup):
    """A scan as YAML has it: the fields of `ScanSetup`, with shorthands, and the plan.

    Shorthands: `detectors` may be a list of names, a detector of one ring may be that ring; what `optics` leaves out
    is as in `SCAN_OPTICS`; a `camera` without `kind` counts.

    Attributes:
        plan: where the beam goes.
        corrected: begin with the calibrated aberrations undone, as far as the corrector follows; the day's residual
            ones stay. Otherwise the scan is made in the state that the session starts from.
    """

    camera: Annotated[CountingCamera | IntegratingCamera, Field(discriminator="kind")] | None = CountingCamera()
    plan: ScanPlan = ScanPlan()
    corrected: bool = True

    @field_validator("detectors", mode="before")
    @classmethod
    def _shorthands(cls, detectors: Any) -> Any:
        if isinstance(detectors, list):
            return dict.fromkeys(detectors)
        if isinstance(detectors, Mapping):
            return {name: [rings] if isinstance(rings, Mapping) else rings for name, rings in detectors.items()}
        return detectors

    @field_validator("optics", mode="before")
    @classmethod
    def _rest_of_optics(cls, optics: Any) -> Any:
        return {**asdict(SCAN_OPTICS), **optics} if isinstance(optics, Mapping) else optics

    @field_validator("camera", mode="before")
    @classmethod
    def _kind(cls, camera: Any) -> Any:
        if not isinstance(camera, Mapping):
            return camera
        kind = camera.get("kind", "counting")
        if kind not in CAMERAS:
            raise ValueError(
                f"{kind!r} is not a kind of camera{nearest(str(kind), CAMERAS)}; known: {', '.join(CAMERAS)}"
            )
        return {**camera, "kind": kind}
