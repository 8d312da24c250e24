"""Virtual detectors: against areas counted by hand, several at once, radii that change, and what is refused."""

import math

import numpy as np
import pytest

from agents.base import MetaError, StreamMeta, load
from agents.block import FrameBlock
from twin.detectors.layouts import LAYOUTS, AngleError
from twin.formats.dataset import Layout, Metadata
from twin.options import OptionError

CAMERA = (40, 44)
BEAM = {"convergence_mrad": 6.0, "pixel_mrad": 1.5}
SCAN = (4, 5)
PIXEL = np.stack(np.divmod(np.arange(20), 5), axis=1)


def meta(scan=SCAN, **known):
    return StreamMeta(Layout(scan, CAMERA, "uint16"), Metadata(**{**BEAM, **known}))


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(1).poisson(3.0, (20, *CAMERA)).astype(np.uint16)


def run(name, frames, options=None, about=None):
    agent = load(name, options)
    agent.start(about or meta())
    agent.update(FrameBlock(frames, PIXEL))
    return agent.result()


def share(inner_mrad, outer_mrad, start_deg=0.0, stop_deg=360.0, centre=(20.0, 22.0)):
    """Part of each pixel inside, by 37 x 36 samples: other numbers along y and x, so that none lies on a diagonal."""
    y = (np.arange(CAMERA[0])[:, None] + (np.arange(37) - 18) / 37 - centre[0])[:, None, :, None]
    x = (np.arange(CAMERA[1])[:, None] + (np.arange(36) - 17.5) / 36 - centre[1])[None, :, None, :]
    angle, radius = np.degrees(np.arctan2(y, x)), np.hypot(x, y) * 1.5
    inside = (radius >= inner_mrad) & (radius < outer_mrad) & ((angle - start_deg) % 360 < stop_deg - start_deg)
    return inside.mean(axis=(2, 3))


def assert_counts(image, frames, weights):
    """To the samples' resolution."""
    expected = np.einsum("nhw,hw->n", frames.astype(float), weights).reshape(SCAN)
    np.testing.assert_allclose(image.values, expected, rtol=4e-3)


@pytest.mark.parametrize("name", ["bf", "abf", "adf"])
def test_the_usual_detectors_count_what_falls_on_them(name, frames):
    inner, outer = (6.0 * r for r in LAYOUTS[name].radii)
    found = run(name, frames)
    assert list(found.images) == [name]
    assert found.images[name].unit == "counts"
    assert_counts(found.images[name], frames, share(inner, outer))
    np.testing.assert_allclose(found.images[name].spread, np.sqrt(found.images[name].values))
    assert found.figures[f"{name}_mean"] == pytest.approx(found.images[name].values.mean())


def test_haadf_counts_at_high_angles(frames):
    found = run("haadf", frames, about=meta(convergence_mrad=3.0))
    assert_counts(found.images["haadf"], frames, share(13.5, 28.5))


def test_radii_and_centre_of_one_s_own(frames):
    found = run("adf", frames, {"inner_mrad": 5.0, "outer_mrad": 20.0, "centre_px": (18.5, 21.0)})
    assert_counts(found.images["adf"], frames, share(5.0, 20.0, centre=(18.5, 21.0)))
    alone = StreamMeta(Layout(SCAN, CAMERA), Metadata(pixel_mrad=1.5))
    np.testing.assert_allclose(
        run("bf", frames, {"outer_mrad": 7.0, "inner_mrad": 0.0}, alone).images["bf"].values,
        run("virtual", frames, {"detectors": {"x": {"outer_mrad": 7.0}}}, alone).images["x"].values,
    )


def test_segments_count_from_the_camera_s_x_towards_its_y(frames):
    found = run("segments", frames)
    assert list(found.images) == [f"quadrants_{i}" for i in range(4)]
    for i, image in enumerate(found.images.values()):
        assert_counts(image, frames, share(0.0, 6.0, -45.0 + 90 * i, 45.0 + 90 * i))
    right = np.zeros((20, *CAMERA), np.uint16)
    right[:, 20, 24] = 7
    assert run("segments", right).images["quadrants_0"].values[0, 0] == 7
    below = np.zeros((20, *CAMERA), np.uint16)
    below[:, 22, 22] = 7
    assert run("segments", below).images["quadrants_1"].values[0, 0] == 7
    sixteen = run("segments", frames, {"layout": "sixteen_segments"})
    assert len(sixteen.images) == 16
    total = sum(image.values for image in sixteen.images.values())
    np.testing.assert_allclose(total, run("bf", frames).images["bf"].values, rtol=1e-6)


def test_several_at_once_are_those_one_by_one(frames):
    ring = {"inner_mrad": 7.0, "outer_mrad": 15.0, "segments": 2, "rotation_deg": 30.0}
    found = run("virtual", frames, {"detectors": {"bf": None, "abf": None, "mine": ring}})
    assert list(found.images) == ["bf", "abf", "mine_0", "mine_1"]
    for name in ("bf", "abf"):
        np.testing.assert_array_equal(found.images[name].values, run(name, frames).images[name].values)
    assert_counts(found.images["mine_0"], frames, share(7.0, 15.0, 30.0, 210.0))
    named = run("virtual", frames, {"detectors": "bf, abf"})
    assert list(named.images) == ["bf", "abf"]


def test_what_has_not_come_is_not_known_and_the_latest_wins(frames):
    agent = load("bf")
    agent.start(meta())
    agent.update(FrameBlock(frames[:6], PIXEL[::-1][:6]))
    agent.update(FrameBlock(frames[10:12], PIXEL[[19, 3]]))
    image, whole = agent.result().images["bf"].values, run("bf", frames).images["bf"].values.ravel()
    assert np.isnan(image).sum() == 20 - 7
    assert image.ravel()[19] == whole[10]
    assert image.ravel()[3] == whole[11]
    assert image.ravel()[18] == whole[1]


def test_a_ring_is_the_one_that_its_name_says() -> None:
    with pytest.raises(OptionError, match="adf has layout=adf, got 'bf': choose bf"):
        load("adf", {"layout": "bf"})


def test_radii_change_while_it_runs(frames):
    agent = load("bf", {"outer_mrad": 6.0})
    agent.start(meta())
    agent.update(FrameBlock(frames[:10], PIXEL[:10]))
    agent.configure(outer_mrad=12.0)
    agent.update(FrameBlock(frames[10:], PIXEL[10:]))
    image = agent.result().images["bf"].values
    small, large = (run("bf", frames, {"outer_mrad": r}).images["bf"].values for r in (6.0, 12.0))
    np.testing.assert_array_equal(image[:2], small[:2])
    np.testing.assert_array_equal(image[2:], large[2:])
    with pytest.raises(AngleError, match="bf"):
        agent.configure(outer_mrad=90.0)
    with pytest.raises(OptionError, match="inner_mrad 8 must lie below outer_mrad 3"):
        agent.configure(inner_mrad=8.0, outer_mrad=3.0)
    with pytest.raises(OptionError, match="bf has layout=bf, got 'adf': choose another agent"):
        agent.configure(layout="adf")
    np.testing.assert_array_equal(agent.result().images["bf"].values, image)
    agent.update(FrameBlock(frames[:1], PIXEL[:1]))
    assert agent.result().images["bf"].values[0, 0] == large[0, 0]


def test_detectors_come_and_go_while_it_runs(frames):
    agent = load("virtual", {"detectors": {"bf": None, "ring": {"inner_mrad": 3.0, "outer_mrad": 9.0}}})
    agent.start(meta())
    agent.update(FrameBlock(frames[:10], PIXEL[:10]))
    agent.configure(detectors="bf,abf")
    agent.update(FrameBlock(frames[10:], PIXEL[10:]))
    images = agent.result().images
    assert list(images) == ["bf", "abf"]
    np.testing.assert_array_equal(images["bf"].values, run("bf", frames).images["bf"].values)
    assert np.isnan(images["abf"].values[:2]).all()
    assert np.isfinite(images["abf"].values[2:]).all()


def test_the_spread_is_that_of_repeated_exposures():
    """Variance over 400 frames of a flat pattern over the given one: two-sided 1e-4 (3.9 standard errors of 7 %)."""
    counts = np.random.default_rng(3).poisson(0.2, (400, *CAMERA)).astype(np.uint16)
    agent = load("bf")
    agent.start(meta((16, 25)))
    agent.update(FrameBlock(counts, np.stack(np.divmod(np.arange(400), 25), axis=1)))
    image = agent.result().images["bf"]
    ratio = image.values.var(ddof=1) / np.mean(image.spread**2)
    assert abs(ratio - 1) < 3.9 * math.sqrt(2 / 399)


def test_a_detector_beyond_the_camera_is_refused_with_both_angles(frames):
    with pytest.raises(AngleError, match=r"'adf' reaches 40.0 mrad.*end at 29.2 mrad"):
        run("adf", frames, {"outer_mrad": 40.0})
    with pytest.raises(AngleError, match=r"'haadf' reaches 76.0 mrad.*end at 29.2 mrad"):
        run("haadf", frames, about=meta(convergence_mrad=8.0))
    with pytest.raises(AngleError, match="'far'"):
        run("virtual", frames, {"detectors": {"far": {"outer_mrad": 40.0}}})


def test_a_usual_ring_that_is_wider_than_the_camera_ends_with_it_and_says_so(frames):
    found = run("haadf", frames)
    assert_counts(found.images["haadf"], frames, share(27.0, 29.25))
    assert found.notes == ("ends with the camera at 29.2 mrad, not at 57.0 mrad",)
    assert run("adf", frames).notes == ()
    agent = load("haadf")
    agent.start(meta())
    agent.configure(outer_mrad=29.0)
    assert agent.result().notes == ()


def test_angles_that_nobody_knows_are_asked_for(frames):
    with pytest.raises(MetaError, match="abf needs convergence_mrad"):
        run("abf", frames, about=StreamMeta(Layout(SCAN, CAMERA), Metadata(pixel_mrad=1.0)))
    with pytest.raises(MetaError, match="virtual needs pixel_mrad"):
        run("virtual", frames, about=StreamMeta(Layout(SCAN, CAMERA), Metadata(convergence_mrad=1.0)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"detectors": "bf,abff"}, "did you mean abf"),
        ({"detectors": {}}, "at least one detector"),
        ({"detectors": {"x": []}}, "at least one ring"),
        ({"detectors": {"x": {"inner_mrad": 5.0, "outer_mrad": 4.0}}}, "must lie below"),
        ({"detector": "bf"}, "did you mean detectors"),
    ],
)
def test_detectors_that_make_no_sense_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        load("virtual", options)


def test_a_list_of_positions_is_one_row(frames):
    agent = load("bf")
    agent.start(meta((20,)))
    agent.update(FrameBlock(frames, np.stack([np.zeros(20, int), np.arange(20)], axis=1)))
    image = agent.result().images["bf"].values
    np.testing.assert_array_equal(image[0], run("bf", frames).images["bf"].values.ravel())


@pytest.mark.parametrize("name", ["bf", "abf", "adf", "haadf"])
@pytest.mark.parametrize(
    "bad", [{"inner_mrad": -1.0}, {"outer_mrad": 0.0}, {"inner_mrad": math.nan}, {"centre_px": "x"}, {"inner": 1.0}]
)
def test_a_ring_refuses_what_is_no_radius(name, bad):
    with pytest.raises(OptionError, match=next(iter(bad))):
        load(name, bad)
