"""How the corrector follows an input, and how the aberrations drift."""

from typing import Annotated

from annotated_types import Gt, Le
from pydantic import field_validator

from twin.aberrations import index
from twin.day.coefficients import Correlation, PerCoefficient, PerOrder
from twin.errors import check_known
from twin.options import NonNegative, Positive, validated


@validated
class ActuatorProperties:
    """How the corrector follows an input: u_actual = (gain * R(rotation) + coupling) H[u].

    H is the memory of each coefficient's own actuator: hysteresis, then backlash (`dynamics.py`).

    Attributes:
        gain: actual over requested input.
        reversed: coefficients that move against the request.
        rotation_deg: rotation of each pair (C_nm a, b) in its own plane.
        coupling: crosstalk, by the coefficient moved and then the one requested: `{"C12a": {"C21a": 0.03}}` moves
            C12a by 3 % of the input to C21a. Pairs that are not both calibrated have no effect.
        backlash_nm: dead band by coefficient: length of input lost when the direction reverses.
        hysteresis_nm: memory by coefficient: length of input after which the last reversal is forgotten.
        hysteresis_share: fraction of the movement that lags behind within that memory.
    """

    gain: Positive = 1.0
    reversed: tuple[str, ...] = ()
    rotation_deg: float = 0.0
    coupling: PerCoefficient[PerCoefficient[Correlation]] | None = None
    backlash_nm: PerCoefficient[NonNegative] | None = None
    hysteresis_nm: PerCoefficient[NonNegative] | None = None
    hysteresis_share: Annotated[float, Gt(0), Le(1)] = 0.2

    @field_validator("reversed")
    @classmethod
    def _coefficients(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            index(name)
        return names

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
