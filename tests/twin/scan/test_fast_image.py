"""The fast path against the physical one: a band-limited image evaluated exactly where the beam went."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import j1

from twin.day import ScanProperties
from twin.scan.errors import ScanEngine
from twin.scan.fast_image import distorted_image, grid_coordinates
from twin.scan.plan import ScanPlan, path, scan_axes
from twin.scan.response import DetectorResponse

MARGIN = 8
PLAN = ScanPlan(
    rows=80, columns=96, step_nm=0.02, dwell_s=1e-5, flyback_s=2e-4, centre_nm=(3.0, 4.0), rotation_deg=15.0
)
ERRORS: dict[str, Any] = {
    "jitter_x_nm": 0.01,  # the thesis's table 2.2, half and a quarter of a step
    "jitter_y_nm": 0.005,
    "hum_nm": (0.01, 0.006),
    "drift_nm_per_s": (0.3, -0.2),
    "coil_gain": (1.02, 0.99),
    "coil_rotation_deg": 0.5,
    "flyback_lag": 0.02,
}


def band_limited(cycles_per_step: float, seed: int = 0) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A function of (row, column) whose waves fill a disc of spatial frequencies."""
    rng = np.random.default_rng(seed)
    waves = rng.uniform(-cycles_per_step, cycles_per_step, (400, 2))
    waves = waves[np.hypot(*waves.T) < cycles_per_step][:150]
    phases = rng.uniform(0, 2 * np.pi, len(waves))

    def image(row: np.ndarray, column: np.ndarray) -> np.ndarray:
        turns = np.multiply.outer(row, waves[:, 0]) + np.multiply.outer(column, waves[:, 1])
        return np.cos(2 * np.pi * turns + phases).sum(axis=-1)

    return image


def ideal(function: Callable[[np.ndarray, np.ndarray], np.ndarray], plan: ScanPlan, margin: int) -> np.ndarray:
    """The image of the perfect scan, with a margin."""
    return function(*np.mgrid[-margin : plan.rows + margin, -margin : plan.columns + margin].astype(float))


def physical(
    function: Callable[[np.ndarray, np.ndarray], np.ndarray], plan: ScanPlan, errors: dict[str, Any], seed: int
) -> np.ndarray:
    """The image as the physical path makes it: the signal itself at every actual position."""
    scan = path(plan, 0, plan.count)
    properties = ScanProperties(**errors)
    actual_nm = ScanEngine(properties, np.random.default_rng(seed)).displace(scan)
    # Steps from the grid's middle along the scan's axes, by a matrix of their own.
    column, row = np.linalg.solve(scan_axes(plan).T, (actual_nm - plan.origin_nm).T) / plan.step_nm
    values = function(row + (plan.rows - 1) / 2, column + (plan.columns - 1) / 2)
    image = np.full(plan.shape, np.nan)
    image[scan.pixel[:, 0], scan.pixel[:, 1]] = DetectorResponse(properties).respond(values, scan)
    return image


def difference(order: int, plan: ScanPlan, errors: dict[str, Any], cycles: float = 0.25, margin: int = MARGIN) -> float:
    """RMS difference of the two paths over the rms contrast."""
    function = band_limited(cycles)
    properties = ScanProperties(**errors)
    rng = np.random.default_rng(5)
    fast = distorted_image(ideal(function, plan, margin), plan, properties, rng, order=order, margin=margin)
    slow = physical(function, plan, errors, 5)
    return float(np.nanstd(fast - slow) / np.nanstd(slow))


@pytest.mark.parametrize("pattern", ["raster", "serpentine", "subsampled"])
@pytest.mark.parametrize("response_s", [0.0, 8e-6])
def test_fast_and_physical_path_agree_to_the_stated_tolerance(pattern: str, response_s: float) -> None:
    plan = replace(PLAN, pattern=pattern, fraction=0.4 if pattern == "subsampled" else 1.0)
    errors = {**ERRORS, "response_s": response_s}
    moved = ScanEngine(ScanProperties(**errors), np.random.default_rng(5)).displace(path(plan, 0, plan.count))
    steps = (moved - path(plan, 0, plan.count).intended_nm) / plan.step_nm
    assert 0.4 < np.sqrt(np.mean(steps**2)) < 3.0  # fractions of a step and more, so that there is much to get wrong
    assert difference(3, plan, errors) < 0.01
    assert difference(5, plan, errors) < 0.001
    # Linear interpolation, as in the thesis: the docstring's figure.
    assert 0.06 < difference(1, plan, errors) < 0.14


def test_smoother_images_agree_better() -> None:
    assert difference(3, PLAN, ERRORS, cycles=0.125) < 5e-4


@pytest.mark.parametrize(("step_nm", "least", "most"), [(0.01, 0.0, 0.002), (0.02, 0.02, 0.05)])
def test_atomic_columns_under_a_25_mrad_probe_agree_as_documented(step_nm: float, least: float, most: float) -> None:
    plan = ScanPlan(rows=50, columns=60, step_nm=step_nm, dwell_s=1e-5)
    columns_nm = np.stack(np.meshgrid(*2 * [np.arange(-4, 5) * 0.2]), axis=-1).reshape(-1, 2)

    def image(row: np.ndarray, column: np.ndarray) -> np.ndarray:
        x, y = (column - 29.5) * step_nm, (row - 24.5) * step_nm
        distance = np.hypot(np.subtract.outer(x, columns_nm[:, 0]), np.subtract.outer(y, columns_nm[:, 1]))
        argument = 2 * np.pi * 25e-3 / 1.9687e-3 * np.maximum(distance, 1e-9)  # Airy disc at 300 keV
        return ((2 * j1(argument) / argument) ** 2).sum(axis=-1)

    errors = {"jitter_x_nm": 0.01, "jitter_y_nm": 0.005}
    rng = np.random.default_rng(5)
    fast = distorted_image(ideal(image, plan, MARGIN), plan, ScanProperties(**errors), rng, margin=MARGIN)
    slow = physical(image, plan, errors, 5)
    assert least < (fast - slow).std() / slow.std() < most


def test_without_a_margin_all_but_the_edges_agree() -> None:
    function = band_limited(0.25)
    errors = {"jitter_x_nm": 0.01, "jitter_y_nm": 0.005}
    fast = distorted_image(ideal(function, PLAN, 0), PLAN, ScanProperties(**errors), np.random.default_rng(5))
    slow = physical(function, PLAN, errors, 5)
    inside = (fast - slow)[5:-5, 5:-5]
    assert inside.std() / slow.std() < 0.01
    assert np.all(np.isfinite(fast))


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize("margin", [0, 3])
def test_a_perfect_scan_records_the_image_itself(order: int, margin: int) -> None:
    image = np.random.default_rng(0).random((PLAN.rows + 2 * margin, PLAN.columns + 2 * margin))
    rng = np.random.default_rng(1)
    got = distorted_image(image, PLAN, ScanProperties(), rng, order=order, margin=margin)
    assert got == pytest.approx(image[margin : margin + PLAN.rows, margin : margin + PLAN.columns], abs=1e-9)


def test_a_coil_that_deflects_half_as_far_magnifies_along_its_axis() -> None:
    plan = ScanPlan(rows=6, columns=20, dwell_s=1e-6)
    image = np.zeros(plan.shape)
    image[:, 10] = 1.0
    got = distorted_image(image, plan, ScanProperties(coil_gain=(0.5, 1.0)), np.random.default_rng(0), order=1)
    # What was half a step right of the middle is a whole step right of it, and twice as wide.
    assert got[3, 8:13].tolist() == pytest.approx([0.0, 0.25, 0.75, 0.75, 0.25])


def test_image_features_follow_the_drift_of_the_specimen() -> None:
    plan = ScanPlan(rows=40, columns=50, step_nm=0.1, dwell_s=1e-3)
    image = np.zeros(plan.shape)
    image[:, 20] = 1.0
    drift = ScanProperties(drift_nm_per_s=(0.4, 0.0))  # 0.02 nm per line: 8 steps over the scan
    got = distorted_image(image, plan, drift, np.random.default_rng(0), order=1)
    centre = (got * np.arange(50)).sum(axis=1) / got.sum(axis=1)
    assert centre[-1] - centre[0] == pytest.approx(7.8, abs=0.1)


def test_what_a_sub_sampled_scan_does_not_visit_is_not_a_number() -> None:
    plan = replace(PLAN, pattern="subsampled", fraction=0.3)
    got = distorted_image(np.ones(plan.shape), plan, ScanProperties(), np.random.default_rng(0))
    assert np.count_nonzero(np.isfinite(got)) == plan.count
    scan = path(plan, 0, plan.count)
    assert np.all(np.isfinite(got[scan.pixel[:, 0], scan.pixel[:, 1]]))


def test_grid_coordinates_undo_the_plan() -> None:
    scan = path(PLAN, 0, PLAN.count)
    assert grid_coordinates(PLAN, scan.intended_nm) == pytest.approx(scan.pixel.T, abs=1e-9)


def test_lists_and_images_of_another_size_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"shape \(80, 90\); 80 x 96 with margin 2 needs \(84, 100\)"):
        distorted_image(np.zeros((80, 90)), PLAN, ScanProperties(), rng, margin=2)
    with pytest.raises(ValueError, match="a list scan has no grid"):
        distorted_image(np.zeros((64, 64)), ScanPlan(pattern="list", positions_nm=((0.0, 0.0),)), ScanProperties(), rng)
