"""Errors of probe position and signal during a scan."""

from typing import Annotated, Literal

from annotated_types import Gt, Lt

from twin.day.coefficients import Correlation
from twin.options import NonNegative, Positive, validated


@validated
class ScanProperties:
    """Errors of probe position and signal during a scan (docs/scan.md); each off by default.

    Pairs are (x, y). Jitter acts along the scan's fast (x) and slow (y) axis, all else along the specimen's axes.

    Attributes:
        jitter_x_nm, jitter_y_nm: rms innovation of each line's shift; in steps, the sigma of thesis eqs 2.14-2.15.
        jitter_x_correlation, jitter_y_correlation: correlation of the shifts of neighbouring lines, phi there.
        jitter_x_start: first shift along x: drawn from the "stationary" law, or "innovation" alone as in eq 2.14.
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
        response_sampling: the decay integrated over each "dwell", or sampled at whole "pixel"s as in the thesis.
    """

    jitter_x_nm: NonNegative = 0.0
    jitter_y_nm: NonNegative = 0.0
    jitter_x_correlation: Correlation = 0.5
    jitter_y_correlation: Correlation = 0.5
    jitter_x_start: Literal["stationary", "innovation"] = "stationary"
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
    response_sampling: Literal["dwell", "pixel"] = "dwell"
