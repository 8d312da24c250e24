"""A day: one draw of the operating conditions that are hidden from the controller, as validated plain data."""

import math
from collections.abc import Sequence
from typing import Annotated, Self

import numpy as np
from annotated_types import Ge, Le
from pydantic import model_validator

from twin.aberrations import Aberrations
from twin.day.camera import CameraProperties
from twin.day.coefficients import PerCoefficient
from twin.day.corrector import ActuatorProperties, DriftProperties
from twin.day.film import FilmProperties
from twin.day.illumination import IlluminationProperties
from twin.day.kinds import with_kinds
from twin.day.scan import ScanProperties
from twin.day.spreads import SPREADS, random_instrument
from twin.options import Fraction, NonNegative, Positive, validated


@validated
class Day:
    """Hidden parameters of one operating day.

    Attributes:
        residual_nm: aberrations in addition to the calibrated state, Krivanek names, nm; fixed unless they drift.
            C10 counts from the film's mid-plane.
        focal_spread_nm: rms defocus spread from chromatic aberration.
        source_size_nm: rms radius, per axis, of the Gaussian effective source at the specimen.
        dose_e: electrons per exposure.
        exposure_s: exposure time.
        overhead_s: settling and read-out time of one observation.
        command_latency_s: duration of every input to the corrector.
        illumination: shape of the aperture, and vibration.
        late_frames: number of exposures by which the frames lag behind: a buffered camera.
        repeated_share: share of the frames that are the one before again.
        scan: errors of the scan and of the detectors' response in time.
        same_region: expose one specimen region every time instead of a fresh one per exposure.

    Example:
        >>> day = Day(dose_e=2e5, residual_nm={"C30": 1000.0}, drift=DriftProperties(preset="commercial"))
        >>> day.residual["C30"]
        1000.0
        >>> Day.random(np.random.default_rng(0), severity=0) == Day()
        True
    """

    film: FilmProperties = FilmProperties()
    residual_nm: PerCoefficient[float] | None = None
    focal_spread_nm: NonNegative = 1.0
    source_size_nm: NonNegative = 0.03
    camera: CameraProperties = CameraProperties()
    dose_e: Positive = 1e6
    exposure_s: Positive = 0.5
    overhead_s: NonNegative = 0.5
    command_latency_s: NonNegative = 0.0
    actuator: ActuatorProperties = ActuatorProperties()
    drift: DriftProperties = DriftProperties()
    scan: ScanProperties = ScanProperties()
    illumination: IlluminationProperties = IlluminationProperties()
    late_frames: Annotated[int, Ge(0), Le(10)] = 0
    repeated_share: Fraction = 0.0
    same_region: bool = False

    @model_validator(mode="after")
    def _packing(self) -> Self:
        packing = self.film.atoms_per_nm3 * self.film.closest_nm**3 * math.pi / 6
        if packing > 0.3:
            raise ValueError(f"film: packing fraction {packing:.2f} cannot be filled at random; lower hard_core_nm")
        return self

    @property
    def residual(self) -> Aberrations:
        """The residual aberrations, before any drift."""
        return Aberrations.of(self.residual_nm or {})

    @classmethod
    def random(
        cls, rng: np.random.Generator, severity: float, everything: bool = False, kinds: Sequence[str] = ()
    ) -> Self:
        """Draw a test day: every quantity of `SPREADS` independently normal about its nominal value (docs/days.md).

        The normal is truncated at two spreads; the spread is proportional to `severity`. Severity 0 is `Day()`,
        severity 1 fills the training ranges of the networks (`controller/dataset.py`, which draws uniformly instead),
        severity 2 is twice as wide. Generators in the same state draw the same day, scaled by the severity.

        Corrector, drift and scan are perfect, as on training days, unless `everything` is set; the rest of the day
        is the same either way.

        Args:
            rng: consumed.
            severity: 0 or more.
            everything: also draw `INSTRUMENT_SPREADS`: plausible errors of corrector, drift and scan.
            kinds: names in `KINDS` of further departures, drawn after all else.

        Raises:
            ValueError: `severity` is negative or not finite, or no such kind.
        """
        if not (math.isfinite(severity) and severity >= 0):
            raise ValueError(f"severity must be 0 (the nominal day) or more, and finite; got {severity}")
        drawn = {name: spread.draw(severity, rng) for name, spread in SPREADS.items()}
        instrument = random_instrument(severity, rng) if everything else {}
        if severity == 0:
            return cls()
        drawn_day = cls(
            **instrument,
            film=FilmProperties(thickness_nm=drawn["thickness_nm"]),
            residual_nm={name: drawn[name] for name in ("C21a", "C21b", "C23a", "C23b", "C30")},
            focal_spread_nm=drawn["focal_spread_nm"],
            source_size_nm=drawn["source_size_nm"],
            dose_e=10.0 ** drawn["log10_dose_e"],
            camera=CameraProperties(
                rotation_deg=drawn["rotation_deg"],
                scale=drawn["scale"],
                shift_px=(drawn["shift_x_px"], drawn["shift_y_px"]),
                mtf_nyquist=drawn["mtf_nyquist"],
                shading=drawn["shading"],
                gain=drawn["gain"],
            ),
        )
        return with_kinds(drawn_day, kinds, severity, rng)
