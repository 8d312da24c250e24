"""A day: one draw of the operating conditions that the controller is not told, as validated plain data."""

import math
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar

import numpy as np
from annotated_types import Gt, Le, Lt
from pydantic import AfterValidator, field_validator, model_validator

from twin.aberrations import NAMES, TERMS, Aberrations, index
from twin.errors import check_known
from twin.options import Fraction, NonNegative, Positive, validated

ORDERS = tuple(sorted({str(term.n) for term in TERMS}))
Value = TypeVar("Value")
ByName = TypeVar("ByName", bound=dict[str, Any])
Correlation = Annotated[float, Gt(-1), Lt(1)]


def _named(by_name: ByName) -> ByName:
    """Refuse keys that are not coefficients."""
    for name in by_name:
        index(name)
    return by_name


def _ordered_or_named(by_key: ByName) -> ByName:
    """Refuse keys that are neither a radial order as text nor a coefficient."""
    for key in by_key:
        check_known(key, (*ORDERS, *NAMES), "a radial order or a coefficient")
    return by_key


PerCoefficient = Annotated[dict[str, Value], AfterValidator(_named)]
PerOrder = Annotated[dict[str, NonNegative], AfterValidator(_ordered_or_named)]


@validated
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


@validated
class CameraProperties:
    """Camera errors, hidden from the controller.

    Attributes:
        rotation_deg: rotation of the detector's axes against the corrector's.
        scale: magnification error; 1.01 images everything 1 % larger.
        shift_px: (x, y) displacement of the disc, camera pixels.
        gain: counts per electron.
        shading: relative gain change from centre to corner.
        mtf_nyquist: modulation transfer at Nyquist (1 is perfect), Gaussian.
        dark_level: offset, counts.
        readout_rms: Gaussian read-out noise, counts.
        hot_fraction, dead_fraction: fractions of pixels stuck at the largest count and of pixels without signal.
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


@validated
class ActuatorProperties:
    """How the corrector follows an input: u_actual = (gain * R(rotation) + coupling) H[u].

    H is the memory of each coefficient's own actuator: hysteresis, then backlash (`dynamics.py`).

    Attributes:
        gain: actual over requested input.
        rotation_deg: rotation of each pair (C_nm a, b) in its own plane.
        coupling: crosstalk, by the coefficient moved and then the one requested: `{"C12a": {"C21a": 0.03}}` moves
            C12a by 3 % of the input to C21a. Pairs that are not both calibrated have no effect.
        backlash_nm: dead band by coefficient: length of input lost when the direction reverses.
        hysteresis_nm: memory by coefficient: length of input after which the last reversal is forgotten.
        hysteresis_share: fraction of the movement that lags behind within that memory.
    """

    gain: Positive = 1.0
    rotation_deg: float = 0.0
    coupling: PerCoefficient[PerCoefficient[Correlation]] | None = None
    backlash_nm: PerCoefficient[NonNegative] | None = None
    hysteresis_nm: PerCoefficient[NonNegative] | None = None
    hysteresis_share: Annotated[float, Gt(0), Le(1)] = 0.2

    @field_validator("coupling")
    @classmethod
    def _no_self_coupling(cls, coupling: dict[str, dict[str, float]] | None) -> dict[str, dict[str, float]] | None:
        for moved, sources in (coupling or {}).items():
            if moved in sources:
                raise ValueError(f"{moved} cannot leak into itself; that is the gain")
        return coupling


@validated
class DriftProperties:
    """Slow change of the aberrations, calibrated and residual alike: random walk, step, wander; each off by default.

    Rates and amplitudes are given by radial order as text ("1" to "5": every coefficient of that order) or by
    coefficient name; a name takes precedence over its order.

    Attributes:
        preset: name in `DRIFT_PRESETS` of the random walk's rates; rate_nm_per_sqrt_s overrides them.
        rate_nm_per_sqrt_s: random walk, nm per root second.
        step_nm: one sudden change, by coefficient name, nm.
        step_at_s: time of the step; exposures that end later show it.
        wander_nm: amplitude of a sinusoid whose phase is drawn per session and coefficient, nm.
        wander_period_s: its period.
    """

    preset: str | None = None
    rate_nm_per_sqrt_s: PerOrder | None = None
    step_nm: PerCoefficient[float] | None = None
    step_at_s: NonNegative = 0.0
    wander_nm: PerOrder | None = None
    wander_period_s: Positive = 600.0

    @field_validator("preset")
    @classmethod
    def _known_preset(cls, preset: str | None) -> str | None:
        if preset is not None:
            check_known(preset, DRIFT_PRESETS, "a drift preset")
        return preset

    @property
    def active(self) -> bool:
        """Whether any drift is on."""
        return bool(self.preset or self.rate_nm_per_sqrt_s or self.step_nm or self.wander_nm)


DRIFT_PRESETS: dict[str, dict[str, float]] = {
    "commercial": {
        "C10": 0.30,
        **dict.fromkeys(("C12a", "C12b"), 0.20),
        **dict.fromkeys(("C21a", "C21b"), 1.8),
        **dict.fromkeys(("C23a", "C23b"), 0.60),
        **dict.fromkeys(("C30", "C32a", "C32b", "C34a", "C34b"), 8.0),
    }
}
"""Random-walk rates by name of the preset and coefficient, nm per root second and component (docs/drift.md).

"commercial": C1 0.30, A1 0.20, B2 0.60 (C21 is 3 B2) and C3 8 of a commercial-style twin; for the others of second and
third order there is no published figure: A2 as B2, S3 and A3 as C3.
"""


@validated
class ScanProperties:
    """Errors of probe position and signal during a scan (docs/scan.md); each off by default.

    Pairs are (x, y). Jitter acts along the scan's fast (x) and slow (y) axis, all else along the specimen's axes.

    Attributes:
        jitter_x_nm, jitter_y_nm: rms innovation of each line's shift; in steps, the sigma of thesis eqs 2.14-2.15.
        jitter_x_correlation, jitter_y_correlation: correlation of the shifts of neighbouring lines, phi there.
        hum_nm: amplitude of the deflection by mains fields.
        hum_hz: mains frequency.
        hum_phase_deg: phase at the start of a scan triggered by the mains; None: random.
        drift_nm_per_s: constant velocity of the specimen.
        drift_walk_nm_per_sqrt_s: its random walk, per axis.
        coil_gain: actual over intended deflection of each coil.
        coil_rotation_deg: rotation of both coils' directions, from +x towards +y.
        coil_skew_deg: additional rotation of the y coil's direction.
        flyback_lag: fraction of the jump to a new line that is still missing on arrival.
        flyback_relaxation_s: time constant of its decay.
        response_shape: decay of the detector's signal (thesis eqs 2.17-2.18).
        response_s: its time constant ("exponential") or half width at half maximum ("half_lorentzian").
    """

    jitter_x_nm: NonNegative = 0.0
    jitter_y_nm: NonNegative = 0.0
    jitter_x_correlation: Correlation = 0.5
    jitter_y_correlation: Correlation = 0.5
    hum_nm: tuple[float, float] = (0.0, 0.0)
    hum_hz: Positive = 50.0
    hum_phase_deg: float | None = None
    drift_nm_per_s: tuple[float, float] = (0.0, 0.0)
    drift_walk_nm_per_sqrt_s: NonNegative = 0.0
    coil_gain: tuple[Positive, Positive] = (1.0, 1.0)
    coil_rotation_deg: float = 0.0
    coil_skew_deg: Annotated[float, Gt(-45), Lt(45)] = 0.0
    flyback_lag: Correlation = 0.0
    flyback_relaxation_s: Positive = 1e-3
    response_shape: Literal["exponential", "half_lorentzian"] = "half_lorentzian"
    response_s: NonNegative = 0.0


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
    same_region: bool = False

    @model_validator(mode="after")
    def _packing(self) -> Self:
        packing = self.film.density_per_nm3 * self.film.hard_core_nm**3 * math.pi / 6
        if packing > 0.3:
            raise ValueError(f"film: packing fraction {packing:.2f} cannot be filled at random; lower hard_core_nm")
        return self

    @property
    def residual(self) -> Aberrations:
        """The residual aberrations, before any drift."""
        return Aberrations.of(self.residual_nm or {})

    @classmethod
    def random(cls, rng: np.random.Generator, severity: float, everything: bool = False) -> Self:
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

        Raises:
            ValueError: `severity` is negative or not finite.
        """
        if not (math.isfinite(severity) and severity >= 0):
            raise ValueError(f"severity must be 0 (the nominal day) or more, and finite; got {severity}")
        drawn = {name: spread.draw(severity, rng) for name, spread in SPREADS.items()}
        instrument = _random_instrument(severity, rng) if everything else {}
        if severity == 0:
            return cls()
        return cls(
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


class Spread(NamedTuple):
    """Distribution of one quantity of `Day.random`: spreads below and above nominal at severity 1, physical limits."""

    nominal: float
    below: float
    above: float
    least: float
    most: float

    def draw(self, severity: float, rng: np.random.Generator) -> float:
        """A two-sided normal truncated at `SPREAD_CUT` spreads, clipped to the physical limits."""
        z = rng.standard_normal()
        while abs(z) > SPREAD_CUT:
            z = rng.standard_normal()
        moved = self.nominal + severity * z * (self.above if z > 0 else self.below)
        return float(min(max(moved, self.least), self.most))


def _random_instrument(severity: float, rng: np.random.Generator) -> dict[str, Any]:
    """Corrector, drift and scan of a random day, as arguments of `Day`; all perfect at severity 0."""
    drawn = {name: spread.draw(severity, rng) for name, spread in INSTRUMENT_SPREADS.items()}
    # Quantities without a sign are half-normal.
    size = {name: abs(value) for name, value in drawn.items()}
    rates = {name: size["drift_share"] * rate for name, rate in DRIFT_PRESETS["commercial"].items()}
    astigmatism, coma = ("C12a", "C12b"), ("C21a", "C21b")
    actuator = ActuatorProperties(
        gain=drawn["actuator_gain"],
        rotation_deg=drawn["actuator_rotation_deg"],
        coupling={moved: {asked: drawn["coupling"]} for moved, asked in zip(astigmatism, coma, strict=True)},
        backlash_nm=dict.fromkeys(("C10", *astigmatism), size["backlash_nm"]),
        hysteresis_nm=dict.fromkeys(("C10", *astigmatism), size["hysteresis_nm"]),
    )
    scan = ScanProperties(
        jitter_x_nm=size["jitter_x_nm"],
        jitter_y_nm=size["jitter_y_nm"],
        hum_nm=(drawn["hum_x_nm"], drawn["hum_y_nm"]),
        drift_nm_per_s=(drawn["drift_x_nm_per_s"], drawn["drift_y_nm_per_s"]),
        drift_walk_nm_per_sqrt_s=size["drift_walk_nm_per_sqrt_s"],
        coil_gain=(drawn["coil_gain_x"], drawn["coil_gain_y"]),
        coil_rotation_deg=drawn["coil_rotation_deg"],
        coil_skew_deg=drawn["coil_skew_deg"],
        flyback_lag=drawn["flyback_lag"],
        response_s=size["response_s"],
    )
    drift = DriftProperties(
        rate_nm_per_sqrt_s=rates,
        step_nm={"C10": drawn["step_c10_nm"]},
        step_at_s=drawn["step_at_s"],
        wander_nm=dict.fromkeys(("C10", *astigmatism), size["wander_nm"]),
    )
    return {"actuator": actuator, "drift": drift, "scan": scan}


SPREAD_CUT = 2.0
"""Truncation of the normal in `Day.random`, in spreads: at severity 1, two spreads are the training range."""

SPREADS = {
    "thickness_nm": Spread(4.0, 0.75, 2.5, 1.0, 30.0),
    **dict.fromkeys(("C21a", "C21b", "C23a", "C23b"), Spread(0.0, 45.0, 45.0, -2e3, 2e3)),
    "C30": Spread(0.0, 1e3, 1e3, -2e4, 2e4),
    "focal_spread_nm": Spread(1.0, 0.25, 0.9, 0.0, 10.0),
    "source_size_nm": Spread(0.03, 0.005, 0.02, 0.0, 0.3),
    "log10_dose_e": Spread(6.0, 0.41, 0.235, 3.0, 8.0),
    "rotation_deg": Spread(0.0, 2.0, 2.0, -45.0, 45.0),
    "scale": Spread(1.0, 0.015, 0.015, 0.7, 1.4),
    **dict.fromkeys(("shift_x_px", "shift_y_px"), Spread(0.0, 1.5, 1.5, -20.0, 20.0)),
    "mtf_nyquist": Spread(1.0, 0.25, 0.0, 0.05, 1.0),
    "shading": Spread(0.0, 0.075, 0.075, -0.9, 0.9),
    "gain": Spread(1.0, 0.1, 0.15, 0.2, 5.0),
}
"""The test distribution by quantity; independent of the training ranges in `controller/dataset.py`."""

INSTRUMENT_SPREADS = {
    "actuator_gain": Spread(1.0, 0.02, 0.02, 0.5, 1.5),
    "actuator_rotation_deg": Spread(0.0, 1.5, 1.5, -20.0, 20.0),
    "coupling": Spread(0.0, 0.015, 0.015, -0.2, 0.2),
    "backlash_nm": Spread(0.0, 0.5, 0.5, -20.0, 20.0),
    "hysteresis_nm": Spread(0.0, 2.0, 2.0, -50.0, 50.0),
    "drift_share": Spread(0.0, 0.5, 0.5, -5.0, 5.0),
    "step_c10_nm": Spread(0.0, 2.0, 2.0, -50.0, 50.0),
    "step_at_s": Spread(600.0, 250.0, 250.0, 0.0, 3600.0),
    "wander_nm": Spread(0.0, 0.5, 0.5, -20.0, 20.0),
    "jitter_x_nm": Spread(0.0, 0.005, 0.005, -0.2, 0.2),
    "jitter_y_nm": Spread(0.0, 0.0025, 0.0025, -0.2, 0.2),
    **dict.fromkeys(("hum_x_nm", "hum_y_nm"), Spread(0.0, 0.005, 0.005, -0.2, 0.2)),
    **dict.fromkeys(("drift_x_nm_per_s", "drift_y_nm_per_s"), Spread(0.0, 0.01, 0.01, -1.0, 1.0)),
    "drift_walk_nm_per_sqrt_s": Spread(0.0, 0.005, 0.005, -0.5, 0.5),
    **dict.fromkeys(("coil_gain_x", "coil_gain_y"), Spread(1.0, 0.005, 0.005, 0.8, 1.2)),
    "coil_rotation_deg": Spread(0.0, 0.5, 0.5, -20.0, 20.0),
    "coil_skew_deg": Spread(0.0, 0.25, 0.25, -10.0, 10.0),
    "flyback_lag": Spread(0.0, 0.01, 0.01, -0.3, 0.3),
    "response_s": Spread(0.0, 5e-7, 5e-7, -2e-5, 2e-5),
}
"""Quantities that `everything` adds to a random day; plausible, not measured on an instrument.

The coupling is from coma to astigmatism, 3 % at two spreads; `drift_share` scales the rates of the commercial preset,
which it reaches at two spreads. The range of the jitter includes the thesis's table 2.2 at a step of 0.02 nm.
"""
