"""The map of centres of mass: against definitions, whatever the order, the reference and the camera's orientation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from agents.base import MetaError, StreamMeta
from agents.block import FrameBlock
from agents.com.centre_map import ComMap, ComOptions, lines, plane
from twin.formats import create
from twin.formats.dataset import Layout, Metadata
from twin.optics import Optics

CAMERA = (12, 10)
KNOWN = Metadata(energy_kev=200.0, pixel_mrad=0.5, step_nm=0.1, rotation_deg=0.0)
rng = np.random.default_rng


def meta(scan, metadata=KNOWN, transposed=False, camera=CAMERA):
    return StreamMeta(Layout(scan, camera), metadata, transposed)


def raster(rows, columns):
    return np.stack(np.divmod(np.arange(rows * columns), columns), axis=1)


def filled(frames, pixel, about, options=None):
    made = ComMap(ComOptions() if options is None else options, "test")
    made.start(about)
    made.add(FrameBlock(frames, pixel))
    return made


def random_frames(count, seed=0, camera=CAMERA):
    return rng(seed).integers(0, 50, (count, *camera)).astype(np.uint16)


def centres(frames):
    """(column, row) by the definition."""
    y, x = np.indices(frames.shape[1:])
    weights = frames.astype(float)
    total = weights.sum((1, 2))
    return np.stack([(weights * x).sum((1, 2)), (weights * y).sum((1, 2))], axis=1) / total[:, None]


def test_centres_are_column_and_row_of_the_camera_at_row_and_column_of_the_scan():
    frames = np.zeros((2, *CAMERA), np.uint16)
    frames[0, 3, 7] = 5
    frames[1, 2, 1], frames[1, 2, 2] = 1, 3
    made = filled(frames, np.array([[0, 1], [2, 0]]), meta((3, 2)))
    assert made.centre_px()[0, 1].tolist() == [7.0, 3.0]
    assert made.centre_px()[2, 0].tolist() == [1.75, 2.0]
    assert np.isnan(made.centre_px()).sum() == 2 * 4
    assert made.electrons[2, 0] == 4
    assert np.isnan(made.electrons[0, 0])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_and_cuts_do_not_matter_and_the_latest_wins(seed):
    frames, pixel, draw = random_frames(30), raster(5, 6), rng(seed)
    order = draw.permutation(np.concatenate([np.arange(30), draw.integers(0, 30, 10)]))
    latest = {int(i): k for k, i in enumerate(order)}
    # A position that comes again comes with another frame; only the last of them counts.
    sent = np.stack([frames[i] if latest[int(i)] == k else frames[(i + 1) % 30] for k, i in enumerate(order)])
    made = ComMap(ComOptions(), "test")
    made.start(meta((5, 6)))
    cuts = np.sort(draw.integers(0, 41, 3))
    for part in np.split(np.arange(40), cuts):
        made.add(FrameBlock(sent[part], pixel[order[part]]))
    np.testing.assert_array_equal(made.centre_px().reshape(-1, 2), centres(frames))
    np.testing.assert_array_equal(made.shift_px(), filled(frames, pixel, meta((5, 6))).shift_px())
    assert made.visited.all()


def test_positions_without_electrons_have_no_centre():
    frames = random_frames(6)
    frames[2] = 0
    made = filled(frames, raster(2, 3), meta((2, 3)))
    assert np.isnan(made.gradient()[0, 2]).all()
    assert made.electrons[0, 2] == 0
    assert np.isfinite(np.delete(made.gradient().reshape(6, 2), 2, axis=0)).all()
    np.testing.assert_allclose(made.reference_px(), centres(np.delete(frames, 2, axis=0)).mean(axis=0))
    assert np.isnan(made.variance_px2()[0, 2])


def test_nothing_is_known_before_the_first_block():
    made = ComMap(ComOptions(reference="plane"), "test")
    made.start(meta((3, 4)))
    for values in (made.centre_px(), made.shift_px(), made.gradient(), made.variance_px2(), made.electrons):
        assert values.shape[:2] == (3, 4)
        assert np.isnan(values).all()


@pytest.mark.parametrize(("rotation_deg", "transposed"), [(0, False), (25, False), (-70, True), (180, True)])
def test_a_beam_bent_along_the_scan_s_axes_is_found_along_them(rotation_deg, transposed):
    """The camera sees (2, 1) px along the scan's (fast, slow) axes turned by the rotation, then maybe transposed."""
    angle = math.radians(rotation_deg)
    fast, slow = np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)])
    x, y = 2.0 * fast + 1.0 * slow
    if transposed:
        x, y = y, x
    at = np.array([5.0 + x, 6.0 + y])  # (column, row)
    frame = np.zeros(CAMERA)
    low, part = np.floor(at).astype(int), at - np.floor(at)
    for dy in (0, 1):
        for dx in (0, 1):
            share = (part[0] if dx else 1 - part[0]) * (part[1] if dy else 1 - part[1])
            frame[low[1] + dy, low[0] + dx] = round(1e8 * share)
    about = meta((1, 1), Metadata(energy_kev=200.0, pixel_mrad=0.5, rotation_deg=rotation_deg), transposed)
    options = ComOptions(reference="vacuum", vacuum_px=(6.0, 5.0))
    made = filled(frame[None].astype(np.uint32), np.array([[0, 0]]), about, options)
    np.testing.assert_allclose(made.shift_px()[0, 0], [2.0, 1.0], atol=1e-6)
    wavelength_nm = Optics(energy_kev=200.0).wavelength_nm
    np.testing.assert_allclose(
        made.gradient()[0, 0], 2 * math.pi * np.array([2.0, 1.0]) * 0.5e-3 / wavelength_nm, rtol=1e-6
    )
    # What the options say goes before what the stream says.
    other = ComOptions(reference="vacuum", vacuum_px=(6.0, 5.0), rotation_deg=rotation_deg + 90, transposed=transposed)
    made.configure(other)
    np.testing.assert_allclose(made.shift_px()[0, 0], [1.0, -2.0], atol=1e-6)


def bent(rows, columns, base, per_row, per_column, seed=0):
    """Frames of two bright pixels whose centre lies on a plane, with its (rows, columns, 2) (column, row)."""
    r, c = np.indices((rows, columns))
    exact = np.array(base) + r[..., None] * np.array(per_row) + c[..., None] * np.array(per_column)
    frames = np.zeros((rows, columns, *CAMERA), np.uint32)
    whole, part = np.floor(exact).astype(int), exact - np.floor(exact)
    for i in range(rows):
        for j in range(columns):
            for dy in (0, 1):
                for dx in (0, 1):
                    px, py = (part[i, j, k] if d else 1 - part[i, j, k] for k, d in ((0, dx), (1, dy)))
                    frames[i, j, whole[i, j, 1] + dy, whole[i, j, 0] + dx] = round(1e7 * px * py)
    return frames.reshape(-1, *CAMERA), exact


def test_a_dragged_pattern_is_no_shift_against_a_plane():
    frames, exact = bent(6, 7, (3.0, 4.0), (0.3, -0.1), (0.25, 0.4))
    made = filled(frames, raster(6, 7), meta((6, 7)), ComOptions(reference="plane"))
    np.testing.assert_allclose(made.reference_px(), exact, atol=1e-5)
    np.testing.assert_allclose(made.shift_px(), 0.0, atol=1e-5)
    made.configure(ComOptions())
    np.testing.assert_allclose(made.shift_px(), exact - exact.mean((0, 1)), atol=1e-5)


def test_lines_with_offsets_of_their_own_are_no_shift_against_lines():
    offset = rng(1).uniform(-1, 1, (6, 1, 2))
    exact = 5.0 + offset + np.arange(7)[None, :, None] * np.array([0.2, -0.3])
    exact[2, 3:] = np.nan
    found = lines(exact)
    np.testing.assert_allclose(found[np.isfinite(exact)], exact[np.isfinite(exact)])
    exact[4] = np.nan
    assert np.isnan(lines(exact)[4]).all()
    assert np.isfinite(lines(exact)[2]).all()


def test_a_plane_through_too_little_goes_through_what_there_is():
    exact = np.full((4, 5, 2), np.nan)
    exact[2, 3] = (1.0, 2.0)
    np.testing.assert_allclose(plane(exact)[2, 3], (1.0, 2.0))
    exact[2, 4] = (2.0, 2.0)
    np.testing.assert_allclose(plane(exact)[2, 3:], exact[2, 3:])


def test_references_without_a_specimen(tmp_path):
    frames = random_frames(12)
    about, pixel = meta((3, 4)), raster(3, 4)
    area = filled(frames, pixel, about, ComOptions(reference="vacuum", vacuum_area=(0, 2, 1, 3)))
    np.testing.assert_allclose(area.reference_px(), centres(frames)[[1, 2, 5, 6]].mean(axis=0))
    centre = filled(frames, pixel, about, ComOptions(reference="centre"))
    assert centre.reference_px().tolist() == [5.0, 6.0]
    vacuum = random_frames(9, seed=7)
    with create(tmp_path / "vacuum.mib", Layout((9,), CAMERA)) as writer:
        writer.append(vacuum)
    stored = ComOptions(reference="vacuum", vacuum_file=str(tmp_path / "vacuum.mib"))
    np.testing.assert_allclose(filled(frames, pixel, about, stored).reference_px(), centres(vacuum.sum(0)[None])[0])
    with pytest.raises(MetaError, match=r"frames of \(12, 10\).*\(12, 11\)"):
        ComMap(stored, "test").start(meta((3, 4), camera=(12, 11)))
    with pytest.raises(MetaError, match=r"\(0, 4, 0, 1\) is not part of this scan of 3 x 4"):
        ComMap(ComOptions(reference="vacuum", vacuum_area=(0, 4, 0, 1)), "test").start(about)


def test_radii_in_mrad_are_those_in_px_and_count_from_now_on():
    frames, pixel, about = random_frames(12), raster(3, 4), meta((3, 4))
    in_px = filled(frames, pixel, about, ComOptions(inner_px=1.5, outer_px=4.0, centre_px=(5.5, 4.5)))
    in_mrad = filled(frames, pixel, about, ComOptions(inner_mrad=0.75, outer_mrad=2.0, centre_px=(5.5, 4.5)))
    np.testing.assert_array_equal(in_px.centre_px(), in_mrad.centre_px())
    y, x = np.indices(CAMERA)
    distance = np.hypot(y - 5.5, x - 4.5)
    ring = frames * ((distance >= 1.5) & (distance <= 4.0))
    np.testing.assert_allclose(in_px.centre_px().reshape(-1, 2), centres(ring))
    assert not in_px.takes_whole_camera
    made = ComMap(ComOptions(), "test")
    made.start(about)
    made.add(FrameBlock(frames[:6], pixel[:6]))
    made.configure(in_px.options)
    made.add(FrameBlock(frames[6:], pixel[6:]))
    expected = np.concatenate([centres(frames[:6]), centres(ring[6:])])
    np.testing.assert_allclose(made.centre_px().reshape(-1, 2), expected)
    outside = filled(frames, pixel, about, ComOptions(inner_px=2.0))
    np.testing.assert_allclose(outside.centre_px().reshape(-1, 2), centres(frames * (np.hypot(y - 6, x - 5) >= 2.0)))


def test_settings_that_a_stream_does_not_allow_change_nothing():
    made = filled(random_frames(4), raster(2, 2), meta((2, 2), Metadata()))
    before = made.shift_px()
    with pytest.raises(MetaError, match="test needs pixel_mrad"):
        made.configure(ComOptions(outer_mrad=3.0, rotation_deg=90.0))
    np.testing.assert_array_equal(made.shift_px(), before)
    with pytest.raises(MetaError, match="pixel_mrad"):
        made.gradient()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"outer_px": 3.0, "inner_mrad": 1.0}, "not in both"),
        ({"outer_px": 3.0, "inner_px": 3.0}, "inner_px 3 must lie below outer_px 3"),
        ({"reference": "vacuum"}, "one of vacuum_px"),
        ({"vacuum_px": (1.0, 2.0)}, "reference mean and 1"),
        ({"reference": "vacuum", "vacuum_px": (1.0, 2.0), "vacuum_file": "x.mib"}, "and 2"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ComOptions(**wrong)


def test_what_is_assumed_is_said():
    made = ComMap(ComOptions(), "test")
    made.start(meta((2, 2), Metadata(), transposed=None))
    assert len(made.notes) == 2
    made.configure(ComOptions(rotation_deg=3.0, transposed=True))
    assert made.notes == ()
    assert (made.rotation_deg, made.transposed) == (3.0, True)


def test_the_variance_is_that_of_repeated_measurements():
    """600 positions of one pattern, 20 electrons each on average: the scatter of the centres about their mean over the
    variance told for each is chi-squared with 2 * 599 degrees of freedom (the excess kurtosis of a centre is a
    twentieth of the pattern's); two-sided 1e-3, fixed seed.
    """
    y, x = np.indices(CAMERA)
    pattern = np.exp(-((x - 4.3) ** 2 + (y - 6.1) ** 2) / (2 * 1.8**2))
    frames = rng(3).poisson(20 * pattern / pattern.sum(), (600, *CAMERA)).astype(np.uint16)
    made = filled(frames, raster(20, 30), meta((20, 30)))
    shift, variance = made.camera_shift_px(), made.variance_px2()
    statistic = float(np.nansum(shift**2 / variance[..., None]))
    low, high = chi2.ppf([5e-4, 1 - 5e-4], 2 * 599)
    assert low < statistic < high
    # And that of the closed form: the width of the pattern, over the electrons.
    wide = float((pattern * ((x - 4.3) ** 2 + (y - 6.1) ** 2)).sum() / pattern.sum() / 2)
    np.testing.assert_allclose(np.nanmean(variance * made.electrons), wide, rtol=0.05)


def test_the_width_is_the_mean_squared_distance_from_the_centre():
    frames = random_frames(4)
    made = filled(frames, raster(2, 2), meta((2, 2)))
    y, x = np.indices(CAMERA)
    for width, frame, (cx, cy) in zip(made.width_px2().ravel(), frames.astype(float), centres(frames), strict=True):
        assert width == pytest.approx((frame * ((x - cx) ** 2 + (y - cy) ** 2)).sum() / frame.sum())


def test_a_list_of_positions_is_one_row():
    made = filled(random_frames(5), np.stack([np.zeros(5, int), np.arange(5)], 1), meta((5,)))
    assert made.shift_px().shape == (1, 5, 2)


def test_the_variance_of_few_counts_is_that_of_repeated_frames():
    """Three electrons per frame: without Bessel's correction the variance would come out a third too small."""
    y, x = np.indices(CAMERA)
    pattern = np.exp(-((y - 5.0) ** 2 + (x - 4.0) ** 2) / (2 * 1.5**2))
    frames = rng(4).multinomial(3, pattern.ravel() / pattern.sum(), 5 * 7 * 60).reshape(-1, *CAMERA).astype(np.uint16)
    measured = np.var(centres(frames), axis=0).mean()  # known to 1 / sqrt(2 * 2100 / 2) = 2 %
    made = filled(frames, raster(5 * 60, 7), meta((5 * 60, 7)))
    assert made.variance_px2().mean() == pytest.approx(measured, rel=0.08)
