"""A day: everything about the instrument that the controller is not told.

Plain data with validated fields; `simulated.py` turns it into a microscope.
"""

from typing import Annotated, Self

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ConfigDict, field_validator, model_validator
from pydantic.dataclasses import dataclass

from twin.aberrations import TERMS, Aberrations, index

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
Positive = Annotated[float, Gt(0)]
NonNegative = Annotated[float, Ge(0)]
Fraction = Annotated[float, Ge(0), Lt(1)]


@dataclass(frozen=True, config=_STRICT, kw_only=True)
class FilmProperties:
    """The amorphous carbon film.

    Attributes:
        thickness_nm: film thickness.
        density_per_nm3: number density of atoms (100 is 2.0 g/cm3).
        hard_core_nm: closest approach of two atoms.
        thermal_rms_nm: rms thermal displacement of an atom along one axis (multislice only).
    """

    thickness_nm: Positive = 4.0
    density_per_nm3: Positive = 100.0
    hard_core_nm: Positive = 0.14
    thermal_rms_nm: NonNegative = 0.007


@dataclass(frozen=True, config=_STRICT, kw_only=True)
class CameraProperties:
    """Camera errors, hidden from the controller.

    Attributes:
        rotation_deg: detector axes against the corrector's.
        scale: magnification error; 1.01 shows everything 1 % larger.
        shift_px: (x, y) displacement of the disc, camera pixels.
        gain: counts per electron.
        shading: relative gain change from centre to corner.
        mtf_nyquist: modulation transfer at Nyquist (1 is perfect), Gaussian.
        dark_level: offset, counts.
        readout_rms: Gaussian read-out noise, counts.
        hot_fraction, dead_fraction: pixels stuck high and pixels that see nothing.
        saturation: largest count.
    """

    rotation_deg: float = 0.0
    scale: Annotated[float, Gt(0.5), Lt(2)] = 1.0
    shift_px: tuple[float, float] = (0.0, 0.0)
    gain: Positive = 1.0
    shading: Annotated[float, Gt(-1), Lt(1)] = 0.0
    mtf_nyquist: Annotated[float, Gt(0), Le(1)] = 1.0
    dark_level: NonNegative = 0.0
    readout_rms: NonNegative = 0.0
    hot_fraction: Fraction = 0.0
    dead_fraction: Fraction = 0.0
    saturation: Annotated[int, Gt(0), Le(65535)] = 65535


@dataclass(frozen=True, config=_STRICT, kw_only=True)
class ActuatorProperties:
    """How the corrector follows an input: u_actual = gain * R(rotation) u.

    Attributes:
        gain: 1 moves exactly as told.
        rotation_deg: turns each pair (C_nm a, b) by this angle in its own plane.
    """

    gain: Positive = 1.0
    rotation_deg: float = 0.0


@dataclass(frozen=True, config=_STRICT, kw_only=True)
class DriftProperties:
    """Random walk of the calibrated coefficients.

    Attributes:
        rate_nm_per_sqrt_s: by radial order n as text ("1", "2", "3"), nm per root second.
    """

    rate_nm_per_sqrt_s: dict[str, NonNegative] | None = None

    @field_validator("rate_nm_per_sqrt_s")
    @classmethod
    def _orders(cls, rates: dict[str, float] | None) -> dict[str, float] | None:
        orders = sorted({str(t.n) for t in TERMS})
        for order in rates or {}:
            if order not in orders:
                raise ValueError(f"{order!r} is not a radial order; known: {', '.join(orders)}")
        return rates


@dataclass(frozen=True, config=_STRICT, kw_only=True)
class Day:
    """Hidden parameters of one operating day.

    Attributes:
        residual_nm: fixed aberrations beside the calibrated state, Krivanek names, nm. C10 counts
            from the film's mid-plane.
        focal_spread_nm: rms defocus spread from chromatic aberration.
        source_size_nm: rms radius, per axis, of the Gaussian effective source at the specimen.
        dose_e: electrons per exposure.
        exposure_s: exposure time.
        overhead_s: settling and read-out time of one observation.
        same_region: stay on one specimen region instead of moving to a fresh one per exposure.
    """

    film: FilmProperties = FilmProperties()
    residual_nm: dict[str, float] | None = None
    focal_spread_nm: NonNegative = 1.0
    source_size_nm: NonNegative = 0.03
    camera: CameraProperties = CameraProperties()
    dose_e: Positive = 1e6
    exposure_s: Positive = 0.5
    overhead_s: NonNegative = 0.5
    actuator: ActuatorProperties = ActuatorProperties()
    drift: DriftProperties = DriftProperties()
    same_region: bool = False

    @field_validator("residual_nm")
    @classmethod
    def _known_coefficients(cls, residual_nm: dict[str, float] | None) -> dict[str, float] | None:
        for name in residual_nm or {}:
            index(name)
        return residual_nm

    @model_validator(mode="after")
    def _packing(self) -> Self:
        packing = self.film.density_per_nm3 * self.film.hard_core_nm**3 * 3.141592653589793 / 6
        if packing > 0.3:
            raise ValueError(f"film: packing fraction {packing:.2f} cannot be filled at random; lower hard_core_nm")
        return self

    @property
    def residual(self) -> Aberrations:
        """The fixed residual aberrations."""
        return Aberrations.of(self.residual_nm or {})
