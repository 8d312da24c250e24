"""Scan errors against closed forms, brute-force averages over the dwell, and statistics of stated false-alarm rates."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2, kstest, norm

from twin.day import ScanProperties
from twin.scan.errors import ScanEngine, ar1, ar1_spectrum, coil_axes
from twin.scan.plan import ScanPath, ScanPlan, path, paths, scan_axes

FALSE_ALARM = 1e-4
Z = float(norm.isf(FALSE_ALARM / 2))
LINES = 100_000
EVERYTHING: dict[str, Any] = {
    "jitter_x_nm": 0.01,
    "jitter_y_nm": 0.005,
    "jitter_y_correlation": 0.8,
    "hum_nm": (0.02, -0.01),
    "drift_nm_per_s": (0.3, -0.1),
    "drift_walk_nm_per_sqrt_s": 0.05,
    "coil_gain": (1.02, 0.99),
    "coil_rotation_deg": 1.0,
    "coil_skew_deg": 0.5,
    "flyback_lag": 0.05,
    "flyback_relaxation_s": 3e-3,
}
ERRORS = [
    {"jitter_x_nm": 0.01},
    {"jitter_y_nm": 0.01},
    {"hum_nm": (0.02, 0.01)},
    {"drift_nm_per_s": (0.3, -0.1)},
    {"drift_walk_nm_per_sqrt_s": 0.05},
    {"coil_gain": (1.02, 0.99)},
    {"coil_rotation_deg": 1.0},
    {"coil_skew_deg": 1.0},
    {"flyback_lag": 0.05},
]


def whole(plan: ScanPlan) -> ScanPath:
    return path(plan, 0, plan.count)


def displacement_nm(errors: dict[str, Any], plan: ScanPlan, seed: int = 0) -> np.ndarray:
    """Actual minus intended, (N, 2)."""
    engine = ScanEngine(ScanProperties(**errors), np.random.default_rng(seed))
    return engine.displace(whole(plan)) - whole(plan).intended_nm


def dwell_average(function: Any, scan: ScanPath) -> np.ndarray:
    """Mean of a function of time over each dwell by Gauss-Legendre, which is another way than the code's."""
    nodes, weights = np.polynomial.legendre.leggauss(12)
    times = 0.5 * (scan.start_s + scan.end_s)[:, None] + 0.5 * (scan.end_s - scan.start_s)[:, None] * nodes
    return function(times) @ (weights / 2)


# --- the engine as a whole --------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.sampled_from(["raster", "serpentine", "subsampled"]), st.floats(-180.0, 180.0))
def test_everything_is_off_by_default(seed: int, pattern: str, rotation_deg: float) -> None:
    plan = ScanPlan(pattern=pattern, rows=5, columns=7, rotation_deg=rotation_deg, centre_nm=(3.0, 4.0))
    actual = ScanEngine(ScanProperties(), np.random.default_rng(seed)).displace(whole(plan))
    assert np.array_equal(actual, whole(plan).intended_nm)


@pytest.mark.parametrize("errors", ERRORS, ids=lambda errors: next(iter(errors)))
def test_each_error_alone_moves_the_beam(errors: dict[str, Any]) -> None:
    plan = ScanPlan(rows=5, columns=7, dwell_s=1e-3)
    moved = displacement_nm(errors, plan)
    assert np.all(np.isfinite(moved))
    assert np.abs(moved).max() > 1e-4


@given(
    st.sets(st.sampled_from(sorted(EVERYTHING)), min_size=1),
    st.sampled_from(["raster", "serpentine", "subsampled", "list"]),
    st.integers(1, 90),
    st.integers(0, 2**32 - 1),
)
def test_positions_do_not_depend_on_how_a_scan_is_cut_to_the_bit(
    on: set[str], pattern: str, block: int, seed: int
) -> None:
    properties = ScanProperties(**{name: EVERYTHING[name] for name in on})
    rng = np.random.default_rng(seed)
    grid: dict[str, Any] = {"rows": 9, "columns": 8, "fraction": 0.6 if pattern == "subsampled" else 1.0}
    if pattern == "list":
        grid = {"positions_nm": tuple(map(tuple, rng.normal(size=(70, 2)).tolist()))}
    plan = ScanPlan(pattern=pattern, dwell_s=1e-3, flyback_s=2e-3, settle_s=1e-3, rotation_deg=20.0, **grid)
    engine = ScanEngine(properties, np.random.default_rng(seed))
    in_parts = np.concatenate([engine.displace(part) for part in paths(plan, block)])
    assert np.array_equal(in_parts, ScanEngine(properties, np.random.default_rng(seed)).displace(whole(plan)))


def test_the_seed_decides_and_only_the_seed() -> None:
    plan = ScanPlan(rows=5, columns=7, dwell_s=1e-3)
    for name in ("jitter_x_nm", "drift_walk_nm_per_sqrt_s", "hum_nm"):
        errors = {name: EVERYTHING[name]}
        assert np.array_equal(displacement_nm(errors, plan, 1), displacement_nm(errors, plan, 1))
        assert not np.allclose(displacement_nm(errors, plan, 1), displacement_nm(errors, plan, 2))


def test_errors_add_up_and_leave_each_other_s_random_numbers_alone() -> None:
    plan = ScanPlan(rows=5, columns=7, dwell_s=1e-3)
    independent = [errors for errors in ERRORS if not next(iter(errors)).startswith(("coil", "flyback"))]
    together = {name: value for errors in independent for name, value in errors.items()}
    apart = sum(displacement_nm(errors, plan) for errors in independent)
    assert displacement_nm(together, plan) == pytest.approx(apart, abs=1e-12)


def test_blocks_out_of_order_are_refused() -> None:
    plan = ScanPlan(rows=3, columns=5)
    engine = ScanEngine(ScanProperties(), np.random.default_rng(0))
    engine.displace(path(plan, 0, 6))
    with pytest.raises(ValueError, match=r"starts at position 7, position 6 is next; begin\(clock_s\) starts another"):
        engine.displace(path(plan, 7, 9))
    with pytest.raises(ValueError, match="starts at position 0, position 6 is next"):
        engine.displace(path(plan, 0, 6))


# --- jitter -----------------------------------------------------------------------------------------


def test_a_line_moves_as_a_whole_along_the_scan_s_own_axes() -> None:
    plan = ScanPlan(rows=30, columns=5, rotation_deg=35.0)
    fast, slow = scan_axes(plan)
    for errors, along, across in (({"jitter_x_nm": 0.1}, fast, slow), ({"jitter_y_nm": 0.1}, slow, fast)):
        moved = displacement_nm(errors, plan).reshape(30, 5, 2)
        assert np.ptp(moved, axis=1).max() < 1e-12
        assert np.abs(moved @ across).max() < 1e-12
        assert (moved[:, 0] @ along).std() == pytest.approx(0.115, rel=0.5)


def test_ar1_is_the_recursion_of_the_thesis() -> None:
    innovations = np.random.default_rng(0).standard_normal(50)
    expected = [innovations[0] / math.sqrt(1 - 0.49)]
    for innovation in innovations[1:]:
        expected.append(0.7 * expected[-1] + innovation)
    assert ar1(innovations, 0.7, None) == pytest.approx(np.array(expected), rel=1e-12)
    assert ar1(innovations[20:], 0.7, expected[19]) == pytest.approx(np.array(expected[20:]), rel=1e-12)


def test_jitter_along_x_can_start_as_eq_2_14_does() -> None:
    innovations = np.random.default_rng(6).standard_normal(5)
    assert ar1(innovations, 0.8, None, stationary=False)[0] == innovations[0]
    assert ar1(innovations, 0.8, None)[0] == pytest.approx(innovations[0] / 0.6)
    usual = ScanProperties(jitter_x_nm=0.1, jitter_y_nm=0.1, jitter_x_correlation=0.8, jitter_y_correlation=0.8)
    plan = ScanPlan(rows=6, columns=2, step_nm=0.1)

    def shift(properties: ScanProperties) -> np.ndarray:
        whole = path(plan, 0, plan.count)
        return ScanEngine(properties, np.random.default_rng(7)).displace(whole) - whole.intended_nm

    stationary, printed = shift(usual), shift(replace(usual, jitter_x_start="innovation"))
    assert printed[0, 0] == pytest.approx(0.6 * stationary[0, 0])
    np.testing.assert_allclose(printed[:, 1], stationary[:, 1])


@pytest.fixture(scope="module")
def shifts_nm() -> np.ndarray:
    """Shift of every line of a tall scan along the fast and the slow axis, (LINES, 2)."""
    errors = {"jitter_x_nm": 0.5, "jitter_x_correlation": 0.5, "jitter_y_nm": 0.25, "jitter_y_correlation": -0.3}
    return displacement_nm(errors, ScanPlan(rows=LINES, columns=1), seed=11)


@pytest.mark.parametrize(("axis", "sigma_nm", "correlation"), [(0, 0.5, 0.5), (1, 0.25, -0.3)])
def test_coefficient_and_stationary_variance_come_back_from_1e5_lines(
    shifts_nm: np.ndarray, axis: int, sigma_nm: float, correlation: float
) -> None:
    series = shifts_nm[:, axis]
    variance = sigma_nm**2 / (1 - correlation**2)
    # Least squares of each line on the one before: variance (1 - phi^2) / n (Box & Jenkins 1976, section 7.2).
    fitted = series[1:] @ series[:-1] / (series[:-1] @ series[:-1])
    assert abs(fitted - correlation) < Z * math.sqrt((1 - correlation**2) / LINES)  # resolves 0.012
    # Variance of a Gaussian series' mean square: 2 g0^2 / n times the sum of phi^(2 |k|).
    spread = variance * math.sqrt(2 / LINES * (1 + correlation**2) / (1 - correlation**2))
    assert abs(np.mean(series**2) - variance) < Z * spread  # resolves 2.3 %
    innovations = (series[1:] - correlation * series[:-1]) / sigma_nm
    low, high = chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], LINES - 1)
    assert low < innovations @ innovations < high
    assert kstest(innovations, "norm").pvalue > FALSE_ALARM


def test_the_two_axes_jitter_independently(shifts_nm: np.ndarray) -> None:
    # Product of the two memories, -0.15, in the variance of a cross-correlation (Bartlett).
    spread = math.sqrt((1 - 0.15) / (1 + 0.15) / LINES)
    assert abs(np.corrcoef(shifts_nm.T)[0, 1]) < Z * spread


@pytest.mark.parametrize(("axis", "name"), [(0, "x"), (1, "y")])
def test_the_first_line_jitters_as_much_as_any_other(axis: int, name: str) -> None:
    errors = {f"jitter_{name}_nm": 0.5, f"jitter_{name}_correlation": 0.8}
    plan = ScanPlan(rows=4, columns=1)
    runs = np.array([displacement_nm(errors, plan, seed)[:, axis] for seed in range(1500)])
    low, high = chi2.ppf([FALSE_ALARM / 4, 1 - FALSE_ALARM / 4], len(runs))
    for line in (0, 3):  # with the start of eq 2.14, line 0 has 0.36 of this variance
        assert low < np.sum(runs[:, line] ** 2) / (0.25 / (1 - 0.64)) < high


@given(st.floats(0.01, 10.0), st.floats(-0.95, 0.95))
def test_the_spectrum_integrates_to_the_stationary_variance(sigma_nm: float, correlation: float) -> None:
    cycles = (np.arange(4096) + 0.5) / 4096 - 0.5  # a periodic function: the midpoint rule is exact to rounding
    density = ar1_spectrum(cycles, sigma_nm, correlation)
    assert density.mean() == pytest.approx(sigma_nm**2 / (1 - correlation**2), rel=1e-9)
    assert ar1_spectrum(np.zeros(1), sigma_nm, correlation)[0] == pytest.approx(sigma_nm**2 / (1 - correlation) ** 2)


@pytest.mark.parametrize(("axis", "sigma_nm", "correlation"), [(0, 0.5, 0.5), (1, 0.25, -0.3)])
def test_the_periodogram_follows_the_spectrum(
    shifts_nm: np.ndarray, axis: int, sigma_nm: float, correlation: float
) -> None:
    power = np.abs(np.fft.rfft(shifts_nm[:, axis])[1:-1]) ** 2 / LINES
    cycles = np.arange(1, LINES // 2) / LINES

    def worst_pvalue(phi: float) -> float:
        # Over the true spectrum a periodogram's values are independent and exponential of mean 1: twice the sum over
        # a band of 1000 is chi-squared with 2000 degrees of freedom. Each band resolves 16 %.
        bands = np.array_split(power / ar1_spectrum(cycles, sigma_nm, phi), 50)
        sums = np.array([2 * band.sum() for band in bands])
        freedom = np.array([2 * len(band) for band in bands])
        return float(2 * np.minimum(chi2.sf(sums, freedom), chi2.cdf(sums, freedom)).min())

    assert worst_pvalue(correlation) > FALSE_ALARM / 50
    assert worst_pvalue(0.8 * correlation) < FALSE_ALARM / 50


# --- hum --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dwell_s", [1e-5, 4e-3, 13e-3])
@pytest.mark.parametrize("pattern", ["raster", "serpentine"])
def test_hum_is_a_sinusoid_of_real_time_averaged_over_the_dwell(pattern: str, dwell_s: float) -> None:
    errors = {"hum_nm": (0.3, -0.1), "hum_hz": 60.0, "hum_phase_deg": 25.0}
    plan = ScanPlan(pattern=pattern, rows=6, columns=5, dwell_s=dwell_s, flyback_s=1.7e-3, settle_s=3e-4)

    def wave(time_s: np.ndarray) -> np.ndarray:
        return np.sin(2 * np.pi * 60.0 * time_s + np.deg2rad(25.0))

    expected = dwell_average(wave, whole(plan))[:, None] * (0.3, -0.1)
    assert displacement_nm(errors, plan) == pytest.approx(expected, abs=1e-10)


def test_hum_that_is_not_locked_starts_anywhere() -> None:
    plan = ScanPlan(rows=1, columns=40, dwell_s=1e-3)
    phases = []
    for seed in range(300):
        moved = displacement_nm({"hum_nm": (1.0, 0.0)}, plan, seed)[:, 0] / np.sinc(0.05)
        phases.append(np.angle(2j * np.mean(moved * np.exp(-2j * np.pi * 50.0 * (np.arange(40) + 0.5) * 1e-3))))
        assert np.sqrt(2 * np.mean(moved**2)) == pytest.approx(1.0)  # two whole periods
    assert kstest((np.array(phases) + np.pi) / (2 * np.pi), "uniform").pvalue > FALSE_ALARM


def test_locked_hum_repeats_from_scan_to_scan_and_free_hum_runs_on() -> None:
    plan = ScanPlan(rows=2, columns=3, dwell_s=1e-4)
    for locked in (None, 0.0):
        engine = ScanEngine(ScanProperties(hum_nm=(0.1, 0.1), hum_phase_deg=locked), np.random.default_rng(0))
        scans = []
        for clock_s in (0.0, 0.005, 0.04):  # a quarter of a period later, and two periods
            engine.begin(clock_s)
            scans.append(engine.displace(whole(plan)))
        assert scans[2] == pytest.approx(scans[0], abs=1e-12)
        assert (scans[1] == pytest.approx(scans[0], abs=1e-12)) == (locked is not None)


# --- drift ------------------------------------------------------------------------------------------


def test_the_beam_falls_behind_a_specimen_that_drifts_ahead() -> None:
    plan = ScanPlan(rows=2, columns=3, dwell_s=2.0, flyback_s=1.0, settle_s=0.5, rotation_deg=70.0)
    middle_s = np.array([1.5, 3.5, 5.5, 9.0, 11.0, 13.0])
    moved = displacement_nm({"drift_nm_per_s": (0.3, -0.1)}, plan)
    assert moved == pytest.approx(-middle_s[:, None] * (0.3, -0.1), abs=1e-12)


@pytest.mark.parametrize("plan", [ScanPlan(rows=2, columns=8, dwell_s=0.5), ScanPlan(rows=8, columns=2, dwell_s=0.5)])
def test_variance_of_the_walk_grows_linearly_in_time(plan: ScanPlan) -> None:
    plan = replace(plan, flyback_s=3.0, settle_s=1.0)
    scan = whole(plan)
    runs = np.array([displacement_nm({"drift_walk_nm_per_sqrt_s": 0.2}, plan, seed) for seed in range(600)])
    middle_s = 0.5 * (scan.start_s + scan.end_s)
    steps = np.diff(runs, axis=1, prepend=0.0) / np.sqrt(np.diff(middle_s, prepend=0.0))[:, None] / 0.2
    low, high = chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], steps.size)  # resolves 4 %
    assert low < np.sum(steps**2) < high
    assert kstest(steps.ravel(), "norm").pvalue > FALSE_ALARM
    at_end = runs[:, -1] / (0.2 * math.sqrt(middle_s[-1]))
    low, high = chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], at_end.size)
    assert low < np.sum(at_end**2) < high
    assert abs(np.corrcoef(at_end.T)[0, 1]) < Z / math.sqrt(len(at_end))


def test_drift_goes_on_between_scans_and_counts_from_the_first_one() -> None:
    plan = ScanPlan(rows=1, columns=4, dwell_s=0.01)
    properties = ScanProperties(drift_nm_per_s=(0.5, 0.0), drift_walk_nm_per_sqrt_s=0.1)
    still = ScanProperties(drift_nm_per_s=(0.5, 0.0))
    runs = []
    for seed in range(400):
        engine, steady = (ScanEngine(p, np.random.default_rng(seed)) for p in (properties, still))
        walks = []
        for clock_s in (1000.0, 1009.0):
            engine.begin(clock_s)
            steady.begin(clock_s)
            moved = steady.displace(whole(plan)) - whole(plan).intended_nm
            expected = -0.5 * (clock_s - 1000.0 + np.array([0.005, 0.015, 0.025, 0.035]))
            assert moved[:, 0] == pytest.approx(expected, abs=1e-9)
            walks.append(engine.displace(whole(plan)) - whole(plan).intended_nm - moved)
        runs.append(walks[1][0] - walks[0][-1])  # 8.97 s of walk
    low, high = chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], 800)
    assert low < np.sum(np.square(runs)) / (0.01 * 8.97) < high
    with pytest.raises(ValueError, match=r"cannot begin at 5 s: the last one was at 1009\.0"):
        engine.begin(5.0)


# --- coils ------------------------------------------------------------------------------------------


def test_coils_stretch_turn_and_skew_the_deflection_about_the_scan_s_centre() -> None:
    plan = ScanPlan(pattern="list", positions_nm=((2.0, 0.0), (0.0, 2.0), (0.0, 0.0)), centre_nm=(50.0, 60.0))

    def actual(**errors: Any) -> np.ndarray:
        return displacement_nm(errors, plan) + plan.positions_nm

    assert actual(coil_gain=(1.5, 0.5)) == pytest.approx(np.array([(3.0, 0.0), (0.0, 1.0), (0.0, 0.0)]))
    assert actual(coil_rotation_deg=90.0) == pytest.approx(np.array([(0.0, 2.0), (-2.0, 0.0), (0.0, 0.0)]), abs=1e-12)
    half = math.sqrt(3.0)
    assert actual(coil_skew_deg=30.0) == pytest.approx(np.array([(2.0, 0.0), (-1.0, half), (0.0, 0.0)]), abs=1e-12)


@given(st.floats(0.5, 2.0), st.floats(0.5, 2.0), st.floats(-180, 180), st.floats(-44, 44))
def test_coil_axes_have_the_gains_as_lengths_and_the_skew_between_them(
    x_gain: float, y_gain: float, rotation_deg: float, skew_deg: float
) -> None:
    errors = ScanProperties(coil_gain=(x_gain, y_gain), coil_rotation_deg=rotation_deg, coil_skew_deg=skew_deg)
    x, y = coil_axes(errors)
    assert np.hypot(*x) == pytest.approx(x_gain)
    assert np.hypot(*y) == pytest.approx(y_gain)
    assert x[0] * y[1] - x[1] * y[0] == pytest.approx(x_gain * y_gain * math.cos(math.radians(skew_deg)))
    assert x @ y == pytest.approx(-x_gain * y_gain * math.sin(math.radians(skew_deg)), abs=1e-9)


def test_a_turned_scan_goes_through_the_coils_along_the_specimen_s_axes() -> None:
    plan = ScanPlan(rows=2, columns=2, step_nm=1.0, rotation_deg=90.0)
    moved = displacement_nm({"coil_gain": (1.1, 1.0)}, plan)
    assert moved[:, 0] == pytest.approx(0.1 * whole(plan).intended_nm[:, 0])
    assert np.abs(moved[:, 1]).max() < 1e-12


def test_coils_act_on_what_the_lag_leaves_of_the_deflection() -> None:
    plan = ScanPlan(rows=3, columns=8, dwell_s=1e-3)
    lag = {"flyback_lag": 0.1, "flyback_relaxation_s": 2e-3}
    reached = whole(plan).intended_nm + displacement_nm(lag, plan)  # from the centre, which is the origin
    both = whole(plan).intended_nm + displacement_nm({**lag, "coil_gain": (1.5, 0.5)}, plan)
    assert both == pytest.approx(reached * (1.5, 0.5), abs=1e-12)


# --- flyback ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["raster", "serpentine", "subsampled", "list"])
@pytest.mark.parametrize("relaxation_s", [1e-4, 3e-3, 1.0])
def test_lag_is_the_sum_of_what_is_missing_of_every_jump(pattern: str, relaxation_s: float) -> None:
    grid: dict[str, Any] = {"rows": 5, "columns": 6, "fraction": 0.5 if pattern == "subsampled" else 1.0}
    if pattern == "list":
        grid = {"positions_nm": ((0.0, 0.0), (3.0, 1.0), (-2.0, 0.5), (0.0, 4.0))}
    plan = ScanPlan(pattern=pattern, dwell_s=1e-3, flyback_s=2e-3, settle_s=5e-4, rotation_deg=30.0, **grid)
    scan = whole(plan)
    expected = np.zeros((len(scan), 2))
    for i in np.flatnonzero(np.diff(scan.line)) + 1:
        jump = scan.intended_nm[i] - scan.intended_nm[i - 1]
        arrival_s = scan.start_s[i] - 5e-4
        missing = dwell_average(lambda t, a=arrival_s: np.where(t > a, np.exp(-(t - a) / relaxation_s), 0.0), scan)
        expected -= 0.1 * missing[:, None] * jump
    moved = displacement_nm({"flyback_lag": 0.1, "flyback_relaxation_s": relaxation_s}, plan)
    assert moved == pytest.approx(expected, abs=2e-5)  # quadrature over ten time constants within one dwell
    assert np.all(moved[scan.line == 0] == 0.0)


def test_after_a_flyback_lines_start_late_and_settling_helps() -> None:
    plan = ScanPlan(rows=3, columns=64, step_nm=0.1, dwell_s=1e-5)
    errors = {"flyback_lag": 0.02, "flyback_relaxation_s": 2e-4}
    at_once, settled = (displacement_nm(errors, p).reshape(3, 64, 2)[1] for p in (plan, replace(plan, settle_s=4e-4)))
    assert at_once[0, 0] == pytest.approx(0.02 * 6.3, rel=0.03)  # still on the side of the last line's end
    assert at_once[20, 0] / at_once[0, 0] == pytest.approx(math.exp(-1.0))
    assert settled[0, 0] / at_once[0, 0] == pytest.approx(math.exp(-2.0))
    turning_back = displacement_nm(errors, replace(plan, pattern="serpentine")).reshape(3, 64, 2)
    assert np.abs(turning_back[1]).max() < 0.02 * 0.1 * 1.001


HELD_S = 0.0123


def test_a_scan_that_is_held_up_meets_what_has_gone_on_meanwhile() -> None:
    """Drift, hum (locked to the scan's begin or not) and relaxation run on; jitter belongs to the lines."""
    plan = ScanPlan(rows=4, columns=6, dwell_s=1e-4, flyback_s=1e-3, settle_s=5e-4)
    first, rest = path(plan, 0, 9), path(plan, 9, 24)
    for errors in (
        {"drift_nm_per_s": (2.0, -3.0)},
        {"hum_nm": (0.02, 0.01)},
        {"hum_nm": (0.02, 0), "hum_phase_deg": 9},
    ):
        held = ScanEngine(ScanProperties(**errors), np.random.default_rng(4))
        held.displace(first)
        held.hold(HELD_S)
        late = replace(rest, start_s=rest.start_s + HELD_S, end_s=rest.end_s + HELD_S)
        straight = ScanEngine(ScanProperties(**errors), np.random.default_rng(4))
        straight.displace(first)
        assert held.displace(rest) == pytest.approx(straight.displace(late), abs=1e-12), errors


def test_lag_relaxes_and_the_walk_goes_on_while_a_scan_is_held_up() -> None:
    plan = ScanPlan(rows=2, columns=8, step_nm=0.1, dwell_s=1e-4)
    lag = ScanProperties(flyback_lag=0.1, flyback_relaxation_s=2e-3)
    parts = path(plan, 0, 10), path(plan, 10, 16)
    engines = [ScanEngine(lag, np.random.default_rng(0)) for _ in range(2)]
    for engine in engines:
        engine.displace(parts[0])
    engines[1].hold(HELD_S)
    without, with_hold = (engine.displace(parts[1]) - parts[1].intended_nm for engine in engines)
    assert np.abs(without[:, 0]).min() > 1e-3
    assert with_hold[:, 0] == pytest.approx(without[:, 0] * math.exp(-HELD_S / 2e-3), rel=1e-9)
    # Two normals per position whether held or not: the step across the hold is as wide as the time is long.
    walk = ScanProperties(drift_walk_nm_per_sqrt_s=0.5)
    steps = []
    for seed in range(2000):
        engine = ScanEngine(walk, np.random.default_rng(seed))
        before = (engine.displace(parts[0]) - parts[0].intended_nm)[-1]
        engine.hold(HELD_S)
        steps.append((engine.displace(parts[1]) - parts[1].intended_nm)[0] - before)
    variance = 0.5**2 * (HELD_S + plan.dwell_s)
    low, high = chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], 4000)
    assert low < np.sum(np.square(steps)) / variance < high


def test_a_scan_cannot_be_held_up_for_less_than_nothing() -> None:
    with pytest.raises(ValueError, match="held up for -1 s"):
        ScanEngine(ScanProperties(), np.random.default_rng(0)).hold(-1.0)
