"""The distribution of random test days, quantity by quantity."""

from typing import Any, NamedTuple

import numpy as np

from twin.day.corrector import DRIFT_PRESETS, ActuatorProperties, DriftProperties
from twin.day.scan import ScanProperties


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


def random_instrument(severity: float, rng: np.random.Generator) -> dict[str, Any]:
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
