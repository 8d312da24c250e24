"""Scan plans: order, places and times of the positions, against closed forms and whatever the blocks."""

import math
import pickle
import tracemalloc
from dataclasses import fields, replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy.stats import chi2

from twin.scan.plan import ScanPath, ScanPlan, check_dwell, check_extent, duration_s, extent_nm, path, paths, placed

FALSE_ALARM = 1e-4


@st.composite
def plans(draw: st.DrawFn) -> ScanPlan:
    pattern = draw(st.sampled_from(["raster", "serpentine", "subsampled", "list"]))
    options: dict[str, Any] = {
        "pattern": pattern,
        "rows": draw(st.integers(1, 12)),
        "columns": draw(st.integers(1, 12)),
        "step_nm": draw(st.floats(1e-3, 10.0)),
        "dwell_s": draw(st.floats(1e-7, 1.0)),
        "flyback_s": draw(st.floats(0.0, 1.0)),
        "settle_s": draw(st.floats(0.0, 1.0)),
        "rotation_deg": draw(st.floats(-360.0, 360.0)),
        "centre_nm": draw(st.none() | st.tuples(st.floats(-100.0, 100.0), st.floats(-100.0, 100.0))),
    }
    if pattern == "list":
        x_and_y = st.tuples(st.floats(-50.0, 50.0), st.floats(-50.0, 50.0))
        options["positions_nm"] = tuple(draw(st.lists(x_and_y, min_size=1, max_size=40)))
    if pattern == "subsampled":
        options["subsample"] = draw(st.sampled_from(["pixels", "lines"]))
        options["pattern_seed"] = draw(st.integers(0, 1000))
        # At least one line.
        options["fraction"] = draw(st.floats(min(1.0, 0.51 / options["rows"]), 1.0))
        if options["subsample"] == "pixels":
            options["fraction"] = max(options["fraction"], 0.51 / options["rows"] / options["columns"])
    return ScanPlan(**options)


def whole(plan: ScanPlan) -> ScanPath:
    return path(plan, 0, plan.count)


ARRAYS = ("intended_nm", "pixel", "line", "start_s", "end_s")


# --- blocks and order -------------------------------------------------------------------------------


@given(plans(), st.integers(1, 200))
def test_blocks_joined_are_the_whole_scan_to_the_bit(plan: ScanPlan, block: int) -> None:
    parts = list(paths(plan, block))
    assert all(len(part) == block for part in parts[:-1])
    assert len(parts[-1]) <= block
    assert [part.first for part in parts] == list(range(0, plan.count, block))
    expected = whole(plan)
    assert len(expected) == plan.count
    for name in ARRAYS:
        assert np.array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(expected, name)), name


@given(plans())
def test_each_pixel_is_visited_once_and_lines_count_up(plan: ScanPlan) -> None:
    scan = whole(plan)
    rows, columns = plan.shape
    flat = scan.pixel[:, 0] * columns + scan.pixel[:, 1]
    assert len(np.unique(flat)) == plan.count
    assert flat.min() >= 0
    assert flat.max() < rows * columns
    if plan.pattern in ("raster", "serpentine", "list"):
        assert plan.count == rows * columns
    if plan.pattern == "subsampled":
        assert np.all(np.diff(flat) > 0)  # read out in raster order
    assert scan.line[0] == 0
    assert set(np.diff(scan.line)) <= {0, 1}
    same_row = np.diff(scan.pixel[:, 0]) == 0
    assert np.array_equal(np.diff(scan.line) == 0, same_row & (plan.pattern != "list"))


def test_raster_and_serpentine_differ_in_odd_lines_alone() -> None:
    raster = whole(ScanPlan(rows=3, columns=4)).pixel.reshape(3, 4, 2)
    serpentine = whole(ScanPlan(pattern="serpentine", rows=3, columns=4)).pixel.reshape(3, 4, 2)
    assert raster[1].tolist() == [[1, 0], [1, 1], [1, 2], [1, 3]]
    assert serpentine[1].tolist() == [[1, 3], [1, 2], [1, 1], [1, 0]]
    assert np.array_equal(raster[::2], serpentine[::2])


@pytest.mark.parametrize("rows", [7, 40])
@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.77, 1.0])
def test_a_random_mask_visits_its_fraction_evenly_over_the_rows(rows: int, fraction: float) -> None:
    plan = ScanPlan(pattern="subsampled", rows=rows, columns=50, fraction=fraction, pattern_seed=3)
    assert plan.count == round(fraction * rows * 50)
    per_row = np.bincount(whole(plan).pixel[:, 0], minlength=rows)
    assert np.ptp(per_row) <= 1


def test_a_random_mask_has_no_favourite_columns_and_rows_of_their_own() -> None:
    plan = ScanPlan(pattern="subsampled", rows=2000, columns=20, fraction=0.25, pattern_seed=1)
    scan = whole(plan)
    mask = np.zeros(plan.shape, dtype=bool)
    mask[scan.pixel[:, 0], scan.pixel[:, 1]] = True
    visits = mask.sum(axis=0)
    # 5 of 20 without replacement: variance per row 0.25 * 0.75, covariance -1/19 of it, so that the sum of squares
    # over 19/20 of that variance is chi-squared with 19 degrees of freedom.
    statistic = float(np.sum((visits - 500.0) ** 2) / (2000 * 0.25 * 0.75 * 20 / 19))
    low, high = chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], 19)
    assert low < statistic < high
    assert len(np.unique(mask, axis=0)) > 1500  # of 15504 choices
    other = whole(replace(plan, pattern_seed=2)).pixel
    assert not np.array_equal(other, scan.pixel)


def test_sub_sampling_by_lines_visits_whole_lines() -> None:
    plan = ScanPlan(pattern="subsampled", subsample="lines", rows=40, columns=3, fraction=0.25, pattern_seed=4)
    pixel = whole(plan).pixel.reshape(10, 3, 2)
    assert np.all(pixel[..., 1] == [0, 1, 2])
    rows = pixel[:, 0, 0]
    assert np.all(pixel[..., 0] == rows[:, None])
    assert np.all(np.diff(rows) > 0)
    assert set(np.diff(rows)) != {4}  # at random
    assert whole(plan).line.tolist() == np.repeat(np.arange(10), 3).tolist()


# --- places -----------------------------------------------------------------------------------------


def test_columns_go_along_x_rows_along_y_around_the_centre() -> None:
    plan = ScanPlan(rows=2, columns=3, step_nm=0.5, centre_nm=(10.0, 20.0))
    expected = [(9.5, 19.75), (10.0, 19.75), (10.5, 19.75), (9.5, 20.25), (10.0, 20.25), (10.5, 20.25)]
    assert whole(plan).intended_nm.tolist() == pytest.approx(np.array(expected))


def test_a_quarter_turn_brings_the_fast_axis_from_x_to_y() -> None:
    plan = ScanPlan(rows=2, columns=3, step_nm=0.5, centre_nm=(10.0, 20.0), rotation_deg=90.0)
    expected = [(10.25, 19.5), (10.25, 20.0), (10.25, 20.5), (9.75, 19.5), (9.75, 20.0), (9.75, 20.5)]
    assert whole(plan).intended_nm == pytest.approx(np.array(expected))


@given(plans())
def test_rotation_is_a_rotation_about_the_centre(plan: ScanPlan) -> None:
    turned, straight = (
        (whole(p).intended_nm - p.origin_nm) @ (1.0, 1j) for p in (plan, replace(plan, rotation_deg=0.0))
    )
    assert turned == pytest.approx(straight * np.exp(1j * np.deg2rad(plan.rotation_deg)), abs=1e-9)


def test_a_list_goes_where_it_says_in_the_order_it_says() -> None:
    positions = ((1.0, 2.0), (-3.0, 0.5), (1.0, 2.0))
    plan = ScanPlan(pattern="list", positions_nm=positions, centre_nm=(100.0, 200.0))
    assert plan.shape == (1, 3)
    assert whole(plan).intended_nm.tolist() == [[101.0, 202.0], [97.0, 200.5], [101.0, 202.0]]
    assert whole(plan).pixel.tolist() == [[0, 0], [0, 1], [0, 2]]


@given(plans())
def test_the_extent_holds_every_position_and_no_more(plan: ScanPlan) -> None:
    full = plan if plan.pattern == "list" else replace(plan, pattern="raster", fraction=1.0)
    positions = whole(full).intended_nm
    (left, top), (right, bottom) = positions.min(axis=0), positions.max(axis=0)
    assert tuple(extent_nm(plan)) == pytest.approx((left, right, top, bottom), abs=1e-9)


# --- times ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("raster", [1, 3, 5, 13, 15, 17]),  # settle, three dwells, fly back, settle, three dwells
        ("serpentine", [1, 3, 5, 8, 10, 12]),  # no flyback
        ("list", [1, 4, 7, 10, 13, 16]),  # settle before each
    ],
)
def test_times_are_settling_dwells_and_flyback_in_turn(pattern: str, expected: list[float]) -> None:
    grid: dict[str, Any] = {"positions_nm": ((0.0, 0.0),) * 6} if pattern == "list" else {"rows": 2, "columns": 3}
    plan = ScanPlan(pattern=pattern, dwell_s=2.0, flyback_s=5.0, settle_s=1.0, **grid)
    assert whole(plan).start_s.tolist() == expected
    assert whole(plan).end_s.tolist() == [start + 2.0 for start in expected]
    assert duration_s(plan) == expected[-1] + 2.0


@given(plans())
def test_nothing_happens_between_dwells_but_flyback_and_settling(plan: ScanPlan) -> None:
    scan = whole(plan)
    assert scan.start_s[0] == plan.settle_s
    assert scan.end_s - scan.start_s == pytest.approx(np.full(plan.count, plan.dwell_s), rel=1e-6)
    between = plan.settle_s + (plan.flyback_s if plan.pattern in ("raster", "subsampled") else 0.0)
    gaps = scan.start_s[1:] - scan.end_s[:-1]
    assert gaps == pytest.approx(between * np.diff(scan.line), abs=1e-9)
    assert duration_s(plan) == scan.end_s[-1]


# --- memory -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["raster", "serpentine", "subsampled"])
def test_memory_goes_with_the_block_and_not_with_the_scan(pattern: str) -> None:
    plan = ScanPlan(pattern=pattern, rows=2**17, columns=2**13, fraction=0.5 if pattern == "subsampled" else 1.0)
    tracemalloc.start()
    assert duration_s(plan) > 1e5
    for part in islice(paths(plan, 4096), 80):
        assert len(part) == 4096
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # 4096 positions are 0.23 MB; a scan of a thousand million would be 56 GB. The masks of a few lines are kept.
    assert peak < 3e6


# --- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"pattern": "serpent"}, r"'serpent' is not a scan pattern \(did you mean serpentine\?\)"),
        ({"pattern": 3}, "3 is not a scan pattern; known: raster, serpentine, subsampled, list"),
        ({"pattern": "list"}, "needs positions_nm"),
        ({"positions_nm": ((0.0, 0.0),)}, "belongs to pattern list; this one is raster"),
        ({"fraction": 0.5}, "fraction 0.5 belongs to pattern subsampled; this one is raster"),
        ({"pattern": "subsampled", "rows": 4, "subsample": "lines", "fraction": 0.1}, "0.1 of 4 x 64 by lines visits"),
        (
            {"pattern": "subsampled", "rows": 4, "columns": 4, "fraction": 0.01},
            "0.01 of 4 x 4 by pixels visits nothing",
        ),
        ({"rows": 0}, "greater than 0"),
        ({"step_nm": float("nan")}, "finite"),
        ({"dwell_s": 0.0}, "greater than 0"),
        ({"dwell_s": 1e-13}, "below 1e-12 s, the shortest"),
        ({"flyback_s": -1.0}, "greater than or equal to 0"),
        *(({name: 1e308}, "a number up to 1e.15 in size") for name in ("dwell_s", "flyback_s", "settle_s")),
        ({"dwell_s": 1e9}, "less than or equal to 100000"),
        ({"rows": 2**20, "columns": 2**20, "dwell_s": 0.1}, "would take 1.1e.11 s; 1e.10 s is the limit"),
        ({"rows": 2**20, "columns": 1, "flyback_s": 9e4}, "a shorter dwell_s, settle_s or flyback_s"),
        ({"step_nm": 1e308}, "a number up to 1e.15 in size"),
        ({"step_nm": 1e-300}, "greater than or equal to 0.000001"),
        ({"rotation_deg": 1e308}, "a number up to 1e.15 in size"),
        ({"centre_nm": (0.0, -1e300)}, "a number up to 1e.15 in size"),
        ({"pattern": "list", "positions_nm": ((1e308, 0.0),)}, "a number up to 1e.15 in size"),
        ({"pattern": "subsampled", "pattern_seed": 2**64}, "a number up to 1e.15 in size"),
        ({"dwel_s": 1.0}, "Unexpected keyword"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        ScanPlan(**options)


LARGEST = {
    "rows": 1,
    "columns": 1,
    "dwell_s": 1e5,
    "settle_s": 1e5,
    "flyback_s": 1e5,
    "step_nm": 1e6,
    "rotation_deg": 45.0,
}


@pytest.mark.parametrize(
    "options",
    [
        {**LARGEST, "rows": 100, "columns": 2**9},
        {**LARGEST, "rows": 2**14, "columns": 3, "centre_nm": (1e9, -1e9)},
        {**LARGEST, "pattern": "list", "positions_nm": ((1e9, 1e9), (-1e9, 1e9)), "centre_nm": (-1e9, -1e9)},
        {"rows": 2**20, "columns": 2**20, "dwell_s": 1e-12, "step_nm": 1e-6},
    ],
)
def test_everything_computed_from_the_largest_plans_is_finite(options: dict[str, Any]) -> None:
    plan = ScanPlan(**options)
    assert 0.0 < duration_s(plan) < math.inf
    assert np.isfinite(extent_nm(plan)).all()
    last = path(plan, plan.count - 1, plan.count)
    assert all(np.isfinite(getattr(last, name)).all() for name in ARRAYS)


def test_plain_data_makes_a_plan_and_back() -> None:
    adapter = TypeAdapter(ScanPlan)
    plan = adapter.validate_python({"pattern": "list", "positions_nm": [[1, 2], [3, 4]], "centre_nm": [5, 6]})
    assert plan == ScanPlan(pattern="list", positions_nm=((1.0, 2.0), (3.0, 4.0)), centre_nm=(5.0, 6.0))
    assert adapter.validate_python(adapter.dump_python(plan, mode="json")) == plan


def test_blocks_and_ranges_are_checked_before_anything_is_made() -> None:
    with pytest.raises(ValueError, match="block must be at least 1 position, got 0"):
        paths(ScanPlan(), 0)
    with pytest.raises(ValueError, match="positions 5 to 9 are not within the scan's 0 to 8"):
        path(ScanPlan(rows=2, columns=4), 5, 9)


def test_a_dwell_shorter_than_the_readout_is_refused() -> None:
    plan = ScanPlan(dwell_s=1e-4)
    check_dwell(plan, 0.0)
    check_dwell(plan, 0.99e-4)
    with pytest.raises(ValueError, match=r"dwell_s 0\.0001 s is all taken up by the camera's read-out of 0\.0001 s"):
        check_dwell(plan, 1e-4)
    with pytest.raises(ValueError, match=r"dwell_s 0\.0001 s is shorter than the camera's read-out of 0\.0002 s"):
        check_dwell(plan, 2e-4)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_scan_outside_the_specimen_is_refused(axis: int) -> None:
    size = (6.3, 3.2) if axis == 0 else (3.2, 6.3)
    shape = {"columns": 64, "rows": 32} if axis == 0 else {"columns": 32, "rows": 64}
    plan = ScanPlan(step_nm=0.1, **shape)  # 6.3 x 3.1 nm
    check_extent(placed(plan, *size), *size)
    name = "xy"[axis]
    with pytest.raises(ValueError, match=rf"from -3\.15 to 3\.15 nm along {name}; the specimen spans 0 to 6\.3 nm"):
        check_extent(replace(plan, centre_nm=tuple(np.where(np.arange(2) == axis, 0.0, 1.6))), *size)
    with pytest.raises(ValueError, match=rf"along {name}; .* to 6\.2 nm; it is 6\.3 nm wide: fewer positions"):
        check_extent(placed(plan, *np.minimum(size, 6.2)), *np.minimum(size, 6.2))
    with pytest.raises(ValueError, match=r"centre_nm \(5, 5\) is the middle"):
        check_extent(plan, 10.0, 10.0)
    assert placed(replace(plan, centre_nm=(1.0, 2.0)), *size).centre_nm == (1.0, 2.0)


def test_paths_are_read_only_also_from_another_process() -> None:
    scan = pickle.loads(pickle.dumps(whole(ScanPlan())))
    assert {field.name for field in fields(scan)} == {*ARRAYS, "first", "plan"}
    for name in ARRAYS:
        with pytest.raises(ValueError, match="read-only"):
            getattr(scan, name)[0] = 0


@settings(max_examples=20)
@given(st.integers(1, 2**20), st.integers(1, 2**20), st.floats(1e-3, 1.0), st.integers(0, 2**63))
def test_masks_of_any_size_reach_from_the_first_row_to_the_last(
    rows: int, columns: int, fraction: float, at: int
) -> None:
    fraction = max(fraction, 0.51 / rows / columns)
    plan = ScanPlan(pattern="subsampled", rows=rows, columns=columns, fraction=fraction)
    count = plan.count
    first, middle, last = (path(plan, i, i + 1).pixel[0, 0] for i in (0, at % count, count - 1))
    assert 0 <= first <= middle <= last < rows
    assert last >= rows - 1 - rows // count
