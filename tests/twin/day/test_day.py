"""Days: what is refused with the nearest name, and the distribution that test days are drawn from."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import kstest, truncnorm

from twin.aberrations import TERMS
from twin.day import DRIFT_PRESETS, INSTRUMENT_SPREADS, SPREADS, ActuatorProperties, Day, DriftProperties
from twin.drift import rates_nm_per_sqrt_s

FALSE_ALARM = 1e-4


def quantities(day: Day) -> dict[str, float]:
    """What `SPREADS` names, read back from a day."""
    camera = day.camera
    return {
        **{name: day.residual[name] for name in ("C21a", "C21b", "C23a", "C23b", "C30")},
        "thickness_nm": day.film.thickness_nm,
        "focal_spread_nm": day.focal_spread_nm,
        "source_size_nm": day.source_size_nm,
        "log10_dose_e": float(np.log10(day.dose_e)),
        "rotation_deg": camera.rotation_deg,
        "scale": camera.scale,
        "shift_x_px": camera.shift_px[0],
        "shift_y_px": camera.shift_px[1],
        "mtf_nyquist": camera.mtf_nyquist,
        "shading": camera.shading,
        "gain": camera.gain,
    }


def draws(severity: float, count: int = 1500) -> dict[str, np.ndarray]:
    """Quantities of `count` days, each of shape (count,)."""
    rng = np.random.default_rng(20)
    table = [quantities(Day.random(rng, severity)) for _ in range(count)]
    return {name: np.array([row[name] for row in table]) for name in SPREADS}


# --- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("coupling", "expected"),
    [
        ({"C12": {"C10": 0.1}}, r"'C12' is not an aberration coefficient \(did you mean C12[ab]\?\)"),
        ({"C12a": {"C1O": 0.1}}, r"'C1O' is not an aberration coefficient \(did you mean C10\?\)"),
        ({"C10": {"C10": 0.1}}, "C10 cannot leak into itself"),
        ({"C10": {"C12a": 1.5}}, "less than 1"),
    ],
)
def test_coupling_names_and_shares_are_checked(coupling: dict[str, dict[str, float]], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        ActuatorProperties(coupling=coupling)


@pytest.mark.parametrize(
    "drift",
    [lambda by_key: DriftProperties(rate_nm_per_sqrt_s=by_key), lambda by_key: DriftProperties(wander_nm=by_key)],
)
def test_drift_goes_by_order_or_name(drift: Callable[[dict[str, float]], DriftProperties]) -> None:
    assert drift({"1": 0.2, "C30": 8.0}).active
    with pytest.raises(ValidationError, match=r"'C3O' is not a radial order or a coefficient \(did you mean C30"):
        drift({"C3O": 8.0})
    with pytest.raises(ValidationError, match="'6' is not a radial order or a coefficient; known: 1, 2, 3, 4, 5, C10"):
        drift({"6": 8.0})
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        drift({"1": -0.1})


def test_a_step_goes_by_name_alone() -> None:
    with pytest.raises(ValidationError, match="'1' is not an aberration coefficient"):
        DriftProperties(step_nm={"1": 5.0})


@pytest.mark.parametrize("severity", [-0.1, float("nan"), float("inf")])
def test_severity_is_finite_and_not_negative(severity: float) -> None:
    with pytest.raises(ValueError, match=f"severity must be 0 .* or more, and finite; got {severity}"):
        Day.random(np.random.default_rng(0), severity)


# --- random days ------------------------------------------------------------------------------------


@given(st.floats(0.0, 1e6), st.integers(0, 2**32 - 1))
def test_a_random_day_is_valid_and_repeats(severity: float, seed: int) -> None:
    day = Day.random(np.random.default_rng(seed), severity)
    assert day == Day.random(np.random.default_rng(seed), severity)
    assert dataclasses.replace(day) == day  # every validator runs again
    for name, value in quantities(day).items():
        assert SPREADS[name].least <= value * (1 + 1e-12 * np.sign(value)), name
        assert value <= SPREADS[name].most + 1e-9 * abs(value), name


@given(st.integers(0, 2**32 - 1))
def test_severity_zero_is_the_nominal_day(seed: int) -> None:
    assert Day.random(np.random.default_rng(seed), 0.0) == Day()


@given(st.integers(0, 2**32 - 1))
def test_severity_next_to_zero_is_next_to_the_nominal_day(seed: int) -> None:
    near, nominal = quantities(Day.random(np.random.default_rng(seed), 1e-9)), quantities(Day())
    assert near == pytest.approx(nominal, rel=1e-7, abs=1e-5)


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.floats(0.0, 3.0), st.floats(0.0, 3.0))
def test_more_severity_is_the_same_day_further_off(seed: int, one: float, other: float) -> None:
    low, high = sorted((one, other))
    nominal = quantities(Day())
    milder, worse = (quantities(Day.random(np.random.default_rng(seed), severity)) for severity in (low, high))
    for name, value in nominal.items():
        near, far = milder[name] - value, worse[name] - value
        assert near * far >= 0.0
        assert abs(near) <= abs(far) + 1e-9 * abs(value)


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 3.0))
def test_actuator_and_drift_stay_perfect(seed: int, severity: float) -> None:
    day = Day.random(np.random.default_rng(seed), severity)
    assert day.actuator == ActuatorProperties()
    assert not day.drift.active


def imperfections(day: Day) -> dict[str, float]:
    """What `INSTRUMENT_SPREADS` names, read back from a day; magnitudes for what has no sign."""
    actuator, drift, scan = day.actuator, day.drift, day.scan
    assert actuator.coupling is not None
    assert actuator.backlash_nm is not None
    assert actuator.hysteresis_nm is not None
    assert drift.rate_nm_per_sqrt_s is not None
    assert drift.step_nm is not None
    assert drift.wander_nm is not None
    return {
        "actuator_gain": actuator.gain,
        "actuator_rotation_deg": actuator.rotation_deg,
        "coupling": actuator.coupling["C12b"]["C21b"],
        "backlash_nm": actuator.backlash_nm["C12a"],
        "hysteresis_nm": actuator.hysteresis_nm["C10"],
        "drift_share": drift.rate_nm_per_sqrt_s["C23b"] / DRIFT_PRESETS["commercial"]["C23b"],
        "step_c10_nm": drift.step_nm["C10"],
        "step_at_s": drift.step_at_s,
        "wander_nm": drift.wander_nm["C12b"],
        "jitter_x_nm": scan.jitter_x_nm,
        "jitter_y_nm": scan.jitter_y_nm,
        "hum_x_nm": scan.hum_nm[0],
        "hum_y_nm": scan.hum_nm[1],
        "drift_x_nm_per_s": scan.drift_nm_per_s[0],
        "drift_y_nm_per_s": scan.drift_nm_per_s[1],
        "drift_walk_nm_per_sqrt_s": scan.drift_walk_nm_per_sqrt_s,
        "coil_gain_x": scan.coil_gain[0],
        "coil_gain_y": scan.coil_gain[1],
        "coil_rotation_deg": scan.coil_rotation_deg,
        "coil_skew_deg": scan.coil_skew_deg,
        "flyback_lag": scan.flyback_lag,
        "response_s": scan.response_s,
    }


MAGNITUDES = {
    *("backlash_nm", "hysteresis_nm", "drift_share", "wander_nm", "jitter_x_nm", "jitter_y_nm"),
    *("drift_walk_nm_per_sqrt_s", "response_s"),
}


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 1e4))
def test_everything_adds_corrector_drift_and_scan_and_changes_nothing_else(seed: int, severity: float) -> None:
    without, full = (Day.random(np.random.default_rng(seed), severity, everything=e) for e in (False, True))
    assert dataclasses.replace(full, actuator=without.actuator, drift=without.drift, scan=without.scan) == without
    assert dataclasses.replace(full) == full
    if severity == 0:
        assert full == Day()
        return
    for name, value in imperfections(full).items():
        spread = INSTRUMENT_SPREADS[name]
        assert (0.0 if name in MAGNITUDES else spread.least) <= value <= spread.most, name
    assert full.drift.active


def test_imperfections_are_cut_normals_of_their_stated_spread() -> None:
    rng = np.random.default_rng(21)
    rows = [imperfections(Day.random(rng, 1.0, everything=True)) for _ in range(1500)]
    assert set(rows[0]) == set(INSTRUMENT_SPREADS)
    normal = truncnorm(-2.0, 2.0)
    for name, spread in INSTRUMENT_SPREADS.items():
        scaled = (np.array([row[name] for row in rows]) - spread.nominal) / spread.above
        half = truncnorm(0.0, 2.0)
        expected = half if name in MAGNITUDES else normal
        assert kstest(scaled, expected.cdf).pvalue > FALSE_ALARM / len(INSTRUMENT_SPREADS), name


def test_every_coefficient_of_first_to_third_order_drifts_on_a_full_day() -> None:
    rates = rates_nm_per_sqrt_s(Day.random(np.random.default_rng(0), 1.0, everything=True).drift)
    assert [rate > 0 for rate in rates] == [term.n <= 3 for term in TERMS]


@pytest.mark.parametrize("severity", [0.5, 1.0])
def test_quantities_are_cut_normals_of_the_stated_spread(severity: float) -> None:
    for name, values in draws(severity).items():
        spread = SPREADS[name]
        offset = values - spread.nominal
        # Split normal: each side by its own spread is one normal cut at two.
        scaled = offset / (severity * np.where(offset > 0, spread.above, spread.below))
        if spread.above == 0.0:
            scaled = scaled[offset < 0]
            expected = truncnorm(-2.0, 0.0)
            assert 0.4 < len(scaled) / len(values) < 0.6  # half of the days are perfect in this
        else:
            expected = truncnorm(-2.0, 2.0)
        # 16 quantities: each at the 16th part of the stated rate.
        assert kstest(scaled, expected.cdf).pvalue > FALSE_ALARM / 16, name


def test_quantities_are_independent() -> None:
    table = np.array([values - values.mean() for values in draws(1.0).values()])
    correlation = np.corrcoef(table)[np.triu_indices(len(table), 1)]
    assert np.abs(correlation).max() < 5.1 / np.sqrt(table.shape[1])  # 120 pairs: under 1e-4 in all
