"""Detector regions against areas of circles, sub-sampled pixels, and the partition of the disc."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from twin.detectors.geometry import (
    DiffractionGrid,
    check_sampled,
    region_weights,
    weights,
)
from twin.detectors.layouts import LAYOUTS, AngleError, Region, labels, standard
from twin.optics import Optics

GRID = DiffractionGrid(shape=(64, 80), pixel_mrad=1.0)


def sampled(region: Region, grid: DiffractionGrid, fine: int = 40) -> np.ndarray:
    """The same by counting points, `fine` x `fine` per pixel: (segments, H, W)."""
    row, column = grid.origin_px
    offsets = (np.arange(fine) + 0.5) / fine - 0.5
    y = (np.arange(grid.shape[0])[:, None] + offsets).ravel() - row
    x = (np.arange(grid.shape[1])[:, None] + offsets).ravel() - column
    y, x = y * grid.pixel_mrad - region.centre_mrad[1], x * grid.pixel_mrad - region.centre_mrad[0]
    radius = np.hypot(x, y[:, None])
    angle = np.degrees(np.arctan2(y[:, None], x)) - region.rotation_deg
    segment = np.floor(np.mod(angle, 360.0) / (360.0 / region.segments)).astype(int)
    inside = (radius >= region.inner_mrad) & (radius < region.outer_mrad)
    shape = (grid.shape[0], fine, grid.shape[1], fine)
    return np.stack([(inside & (segment == k)).reshape(shape).mean((1, 3)) for k in range(region.segments)])


regions = st.builds(
    Region,
    inner_mrad=st.floats(0.0, 9.0),
    outer_mrad=st.floats(9.5, 20.0),
    segments=st.integers(1, 16),
    rotation_deg=st.floats(-400.0, 400.0),
    centre_mrad=st.tuples(st.floats(-5.0, 5.0), st.floats(-5.0, 5.0)),
)


@given(regions)
@settings(max_examples=40, deadline=None)  # the first call compiles
def test_segments_add_up_to_the_ring_and_the_ring_to_its_area(region: Region) -> None:
    parts = region_weights(region, GRID)
    whole = region_weights(
        Region(inner_mrad=region.inner_mrad, outer_mrad=region.outer_mrad, centre_mrad=region.centre_mrad), GRID
    )
    assert parts.shape == (region.segments, *GRID.shape)
    assert parts.min() > -1e-12
    assert parts.max() < 1 + 1e-12
    assert np.abs(parts.sum(0) - whole[0]).max() < 1e-11
    area = math.pi * (region.outer_mrad**2 - region.inner_mrad**2)
    assert parts.sum((1, 2)) == pytest.approx([area / region.segments] * region.segments, rel=1e-9)


@pytest.mark.parametrize(
    "region",
    [
        Region(outer_mrad=7.3),
        Region(inner_mrad=3.3, outer_mrad=11.0, segments=4, rotation_deg=20.0, centre_mrad=(4.0, -2.5)),
        Region(inner_mrad=0.2, outer_mrad=0.4, segments=3, rotation_deg=-70.0, centre_mrad=(0.4, 0.45)),
        Region(inner_mrad=2.0, outer_mrad=9.0, segments=2, rotation_deg=33.0),
    ],
)
def test_weights_are_the_areas_that_points_count(region: Region) -> None:
    grid = DiffractionGrid(shape=(24, 32), pixel_mrad=0.9, centre_px=(11.3, 17.6))
    # A boundary through a pixel crosses at most about 2 x 40 of its 1600 sub-pixels, half of each wrongly counted.
    assert np.abs(region_weights(region, grid) - sampled(region, grid)).max() < 0.025


def test_first_segment_faces_plus_x_and_they_turn_towards_plus_y() -> None:
    share = weights({"quadrants": standard("quadrants", 20.0)}, GRID)
    rows, columns = np.indices(GRID.shape)
    x = [np.average(columns - 40, weights=part) for part in share]
    y = [np.average(rows - 32, weights=part) for part in share]
    centroid = 20.0 * 4 * math.sqrt(2) / (3 * math.pi)  # of a quarter disc along its own axis
    assert x == pytest.approx([centroid, 0, -centroid, 0], abs=1e-2)  # pixels on the rim count at their own centre
    assert y == pytest.approx([0, centroid, 0, -centroid], abs=1e-2)  # pixels on the rim count at their own centre


def test_standard_detectors_partition_what_they_should() -> None:
    grid = DiffractionGrid(shape=(200, 200), pixel_mrad=2.1)
    detectors = {name: standard(name, 20.0) for name in LAYOUTS}
    share = weights(detectors, grid)
    names = labels(detectors)
    assert share.shape == (len(names), 200, 200)
    assert len(names) == 5 + 4 + 4 + 16

    def total(prefix: str) -> np.ndarray:
        parts = dict(zip(names, share, strict=True))
        outer = parts.pop("abf_outer")  # the outer part of what abf collects
        assert np.all(outer <= parts["abf"] + 1e-12)
        return sum(part for name, part in parts.items() if name.split("_")[0] == prefix)

    # Fig. 1.3: 0-20, 20-90 and 90-190 mrad. They touch: together they are the disc of 190 mrad.
    disc = region_weights(Region(outer_mrad=190.0), grid)[0]
    assert np.abs(total("bf") + total("adf") + total("haadf") - disc).max() < 1e-11
    assert np.abs(total("quadrants") - total("bf")).max() < 1e-11
    assert np.abs(total("sixteen") - total("bf")).max() < 1e-11
    assert np.abs(total("annular") - total("abf")).max() < 1e-11
    assert total("abf").sum() == pytest.approx(0.75 * total("bf").sum())
    assert [name for name in names if name.startswith("sixteen")][5] == "sixteen_segments_5"
    assert names[:5] == ("bf", "abf", "abf_outer", "adf", "haadf")


def test_electrons_are_conserved_over_a_partition() -> None:
    rng = np.random.default_rng(1)
    grid = DiffractionGrid(shape=(48, 52), pixel_mrad=1.0)
    rings = (
        Region(outer_mrad=8.0, segments=4, rotation_deg=10.0),
        Region(inner_mrad=8.0, outer_mrad=15.5, segments=7, rotation_deg=3.0),
        Region(inner_mrad=15.5, outer_mrad=22.0),
    )
    counts = rng.poisson(3.0, (5, 48, 52)).astype(np.uint16)
    inside = region_weights(Region(outer_mrad=22.0), grid)[0] > 0
    counts[:, region_weights(Region(outer_mrad=22.0), grid)[0] < 1 - 1e-12] = 0
    signals = np.einsum("nhw,dhw->nd", counts.astype(float), weights({"all": rings}, grid))
    assert signals.shape == (5, 12)
    assert signals.sum(1) == pytest.approx(counts[:, inside].sum(1), rel=1e-12)


def reciprocal_grid(optics: Optics) -> DiffractionGrid:
    """The computing grid's diffraction plane, zero angle at grid // 2."""
    return DiffractionGrid(shape=(optics.grid, optics.grid), pixel_mrad=optics.pixel_mrad)


def camera_grid(optics: Optics) -> DiffractionGrid:
    """The ideal camera's pixels.

    A camera pixel joins `binning` grid pixels, so that zero angle, the centre of a grid pixel, is the centre of a
    camera pixel only where nothing is binned.
    """
    side, bins = optics.camera_pixels * optics.binning, optics.binning
    centre = (side // 2 + 0.5) / bins - 0.5
    return DiffractionGrid(
        shape=(optics.camera_pixels, optics.camera_pixels),
        pixel_mrad=optics.camera_pixel_mrad,
        centre_px=(centre, centre),
    )


@pytest.mark.parametrize("binning", [1, 2, 3, 4])
def test_camera_grid_is_where_the_binned_grid_puts_zero_angle(binning: int) -> None:
    optics = Optics(grid=256, camera_pixels=63, binning=binning)
    grid = camera_grid(optics)
    fine = reciprocal_grid(optics)
    region = Region(inner_mrad=3.0, outer_mrad=0.9 * min(grid.reach_mrad), segments=3)
    side = optics.camera_pixels * binning
    start = optics.grid // 2 - side // 2  # as render.to_camera crops
    crop = region_weights(region, fine)[:, start : start + side, start : start + side]
    binned = crop.reshape(3, 63, binning, 63, binning).mean((2, 4))
    assert np.abs(region_weights(region, grid) - binned).max() < 1e-11
    assert fine.reach_mrad[0] == pytest.approx(optics.max_angle_mrad + optics.pixel_mrad / 2)


def test_an_angle_beyond_the_sampled_range_is_refused_with_both_numbers() -> None:
    with pytest.raises(AngleError, match=r"'haadf' reaches 190.0 mrad along \+y; the sampled angles end at 31.5 mrad"):
        check_sampled(
            {"haadf": (Region(inner_mrad=90.0, outer_mrad=190.0),)}, DiffractionGrid(shape=(64, 600), pixel_mrad=1.0)
        )
    check_sampled({"edge": (Region(outer_mrad=31.5),)}, GRID)
    with pytest.raises(AngleError, match=r"reaches 33.5 mrad along \+y"):
        weights({"shifted": (Region(outer_mrad=31.5, centre_mrad=(0.0, 2.0)),)}, GRID)
    with pytest.raises(AngleError, match=r"reaches 41.5 mrad along -x; the sampled angles end at 40.5 mrad"):
        weights({"shifted": (Region(outer_mrad=20.0, centre_mrad=(-21.5, 0.0)),)}, GRID)


def test_bad_regions_and_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'hadf' is not a detector \(did you mean haadf\?\)"):
        standard("hadf", 20.0)
    with pytest.raises(ValidationError, match=r"inner_mrad 20.0 must lie below outer_mrad 10.0"):
        Region(inner_mrad=20.0, outer_mrad=10.0)
    with pytest.raises(ValidationError):
        Region(outer_mrad=10.0, segments=0)


@pytest.mark.parametrize("name", LAYOUTS)
def test_no_share_is_negative_not_even_by_rounding(name: str) -> None:
    """In vacuum a dark field expects nothing at all, and a Poisson variate takes no negative mean."""
    optics = Optics(convergence_mrad=4.0)
    share = weights({name: standard(name, 4.0)}, reciprocal_grid(optics))
    assert share.min() >= 0.0
    assert share.max() <= 1.0 + 1e-11
