"""Settings of a scan: specimen, beam, detectors and camera, as plain data. Nothing is computed here."""

from dataclasses import field
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge
from pydantic import field_validator

from twin.cameras.properties import CountingCamera, EventCamera, IntegratingCamera
from twin.detectors.layouts import LAYOUTS, Detector, standard
from twin.detectors.scintillator import ScintillatorChain
from twin.errors import check_known, nearest
from twin.optics import Optics
from twin.options import Count, Positive, validated

Propagation = Literal["auto", "multislice", "prism"]

SCAN_OPTICS = Optics(energy_kev=300.0, convergence_mrad=20.0, grid=256, sampling_nm=0.01, camera_pixels=64, binning=2)
"""Beam of the thesis' figure 1.3. A focused probe needs a smaller window and finer pixels than a Ronchigram: the
window is 2.56 nm wide, angles are sampled to 63 mrad, and the camera reaches 49 mrad, 2.5 times the aperture."""


@validated
class ScanSetup:
    """Specimen, beam, detectors and camera of a scan: everything that an operator knows.

    Attributes:
        specimen: one of `specimens.names()`.
        specimen_options: its options.
        optics: beam, computing grid and camera of the scan; may differ from the Ronchigram's.
        slice_nm: thickest slice; None takes the whole specimen as one thin slice.
        snapshots: number of thermal configurations to average over; one is a frozen specimen.
        specimen_seed: seed of the thermal configurations.
        projection: projection of the atoms' potentials, see `scan.transmission.transmission_field`.
        propagation: "multislice" propagates the probe of every position; "prism" propagates the plane waves of the
            aperture once and sums them for every position; "auto" is the faster of the two. The patterns are equal to
            rounding (docs/decisions/0009).
        detectors: names of `detectors.layouts.LAYOUTS`, scaled to the aperture, or own names with their rings.
        chain: scintillator and photomultiplier of every detector; None counts electrons.
        camera: None for neither frames nor events.

    Example:
        >>> setup = ScanSetup(specimen="mgo_001", detectors={"adf": None, "quadrants": None})
        >>> [ring.segments for ring in setup.regions["quadrants"]]
        [4]
        >>> ScanSetup(detectors={"haddf": None})  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        pydantic_core._pydantic_core.ValidationError: 'haddf' is not a detector (did you mean haadf?)
    """

    specimen: str = "sto_001"
    specimen_options: dict[str, Any] = field(default_factory=dict)
    optics: Optics = SCAN_OPTICS
    slice_nm: Positive | None = None
    snapshots: Count = 1
    specimen_seed: Annotated[int, Ge(0)] = 0
    projection: Literal["exact", "abtem"] = "exact"
    propagation: Propagation = "auto"
    detectors: dict[str, Detector | None] = field(default_factory=lambda: {"bf": None, "abf": None})
    chain: ScintillatorChain | None = None
    camera: CountingCamera | IntegratingCamera | EventCamera | None = CountingCamera()

    @field_validator("propagation", mode="before")
    @classmethod
    def _known_propagation(cls, propagation: Any) -> Any:
        check_known(propagation, get_args(Propagation), "a propagation")
        return propagation

    @field_validator("detectors")
    @classmethod
    def _known(cls, detectors: dict[str, Detector | None]) -> dict[str, Detector | None]:
        for name, rings in detectors.items():
            if rings == ():
                raise ValueError(f"detector {name!r} has no rings")
            if rings is None and name not in LAYOUTS:
                known = ", ".join(LAYOUTS)
                raise ValueError(
                    f"{name!r} is not a detector{nearest(name, LAYOUTS)}; known: {known}, or give its rings"
                )
        return detectors

    @property
    def regions(self) -> dict[str, Detector]:
        """Rings of every detector, mrad."""
        alpha = self.optics.convergence_mrad
        return {name: standard(name, alpha) if rings is None else rings for name, rings in self.detectors.items()}
