"""riCOM as an agent: the offline correlation of what has arrived, whatever order, reference and settings."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.signal import correlate2d

from agents.base import Agent, MetaError, StreamMeta, load
from agents.com.ricom_kernel import kernel, transfer
from agents.geometry import along_scan
from agents.methods.phase.ricom import Options
from twin.formats.dataset import Layout
from twin.options import OptionError

SHAPE = (11, 13)


def random_frames(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).poisson(2.0, (shape[0] * shape[1], 6, 5)).astype(np.uint16)


def offline(agent, options):
    """Eq 3.4 on the gradient map of what has arrived; the kernel is odd, so that correlating turns its sign."""
    gradient = np.nan_to_num(agent.map.gradient())
    vector_kernel = kernel(options.kernel_px, 0.02, options.k_min_per_nm, options.k_max_per_nm)
    return -sum(correlate2d(gradient[..., c], vector_kernel[c], mode="same") for c in range(2))


@pytest.mark.parametrize("order", ["raster", "serpentine", "random with repeats", "half"])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_px": 5},
        {"kernel_px": 11, "rotation_deg": 33.0, "transposed": True},
        {"kernel_px": 7, "k_min_per_nm": 3.0, "k_max_per_nm": 12.0, "reference": "plane"},
        {"kernel_px": 9, "reference": "lines", "rotation_deg": -70.0},
        {"kernel_px": 9, "reference": "vacuum", "vacuum_px": (2.4, 2.2), "outer_px": 2.5},
    ],
)
def test_the_image_at_any_moment_is_the_offline_correlation_of_what_has_arrived(beam, order, options):
    flat = np.arange(SHAPE[0] * SHAPE[1]).reshape(SHAPE)
    rng = np.random.default_rng(1)
    positions = {
        "raster": flat.ravel(),
        "serpentine": np.where(np.arange(SHAPE[0])[:, None] % 2, flat[:, ::-1], flat).ravel(),
        "random with repeats": rng.integers(0, flat.size, flat.size),
        "half": flat.ravel()[rng.random(flat.size) < 0.5],
    }[order]
    agent = load("ricom", options)
    agent.start(beam.meta(SHAPE, (6, 5)))
    for part in np.array_split(positions, 3):
        beam.feed(agent, random_frames(), SHAPE, part, block=17)
        image = agent.result().images["ricom"]
        expected = offline(agent, Options(**options))
        reached = np.isfinite(image.values)
        assert reached.any()
        np.testing.assert_allclose(
            image.values[reached], expected[reached], rtol=0, atol=1e-12 * np.abs(expected).max()
        )
        # Out of reach of everything that has come there is nothing to correlate.
        np.testing.assert_array_equal(expected[~reached], 0.0)
    assert image.unit == "rad"


def test_a_kernel_larger_than_the_scan_is_the_same_as_one_that_just_spans_it(beam):
    images = []
    for size in (2 * max(SHAPE) - 1, 99, 10**9 + 1):  # the last would take 16 EB
        agent = beam.feed(started("ricom", beam, kernel_px=size), random_frames(), SHAPE)
        images.append(agent.result().images["ricom"].values)
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[0], images[2])


def started(name, beam, shape=SHAPE, camera=(6, 5), **options):
    agent = load(name, options)
    agent.start(beam.meta(shape, camera))
    return agent


@pytest.mark.parametrize(("rotation_deg", "transposed"), [(0.0, False), (30.0, False), (-70.0, True)])
def test_a_phase_wave_comes_back_in_rad_times_the_transfer(beam, rotation_deg, transposed):
    shape, k = (48, 52), (5.0, 3.0)
    phase, gradient = beam.waves([k], shape)
    frames = beam.deflected(gradient, rotation_deg, transposed)
    agent = load("ricom", {"kernel_px": 21, "reference": "centre"})
    agent.start(replace(beam.meta(shape, rotation_deg=rotation_deg), transposed=transposed))
    image = beam.feed(agent, frames, shape).result().images["ricom"].values
    gain = float(transfer(kernel(21), k[0] * beam.step_nm, k[1] * beam.step_nm))
    inner = slice(10, -10), slice(10, -10)
    np.testing.assert_allclose(image[inner], gain * phase[inner], atol=2e-4)
    assert gain > 0.9


def test_settings_changed_on_the_way_give_what_they_give_from_the_start(beam):
    late = {"kernel_px": 7, "rotation_deg": 20.0, "k_max_per_nm": 15.0, "reference": "plane", "centre_px": (2.0, 1.0)}
    changed = started("ricom", beam, kernel_px=5)
    beam.feed(changed, random_frames(), SHAPE, np.arange(60))
    changed.configure(**late)
    beam.feed(changed, random_frames(), SHAPE, np.arange(60, 143))
    fixed = beam.feed(started("ricom", beam, **late), random_frames(), SHAPE)
    for mine, its in zip(pictures(changed), pictures(fixed), strict=True):
        np.testing.assert_allclose(mine, its, rtol=0, atol=1e-12 * np.abs(its).max())


def pictures(agent):
    image = agent.result().images["ricom"]
    return image.values, image.spread


def test_radii_changed_on_the_way_count_from_then_on(beam):
    changed = beam.feed(started("ricom", beam), random_frames(), SHAPE, np.arange(60))
    before = changed.map.centre_px()
    changed.configure(outer_px=2.0)
    beam.feed(changed, random_frames(), SHAPE, np.arange(60, 143))
    narrow = beam.feed(started("ricom", beam, outer_px=2.0), random_frames(), SHAPE)
    after = changed.map.centre_px().reshape(-1, 2)
    np.testing.assert_array_equal(after[:60], before.reshape(-1, 2)[:60])
    np.testing.assert_array_equal(after[60:], narrow.map.centre_px().reshape(-1, 2)[60:])


@pytest.mark.parametrize("change", [{"kernel_px": 4}, {"kernal_px": 5}, {"k_max_per_nm": 30.0}, {"vacuum_px": (1, 1)}])
def test_a_refused_change_changes_nothing(beam, change):
    agent = beam.feed(started("ricom", beam, kernel_px=5), random_frames(), SHAPE)
    before, options = pictures(agent), agent.options
    with pytest.raises(ValueError, match=r"odd|kernel_px|k_max_per_nm|vacuum"):
        agent.configure(**change)
    assert agent.options == options
    for mine, its in zip(pictures(agent), before, strict=True):
        np.testing.assert_allclose(mine, its, rtol=0, atol=1e-12 * np.abs(its).max())


def test_the_spread_is_that_of_repeated_scans(beam):
    # 200 scans: each variance is known to 10 %, their mean over the scan far better.
    shape, dose_e = (10, 12), 40.0
    _, gradient = beam.waves([(4.0, 2.0)], shape)
    images, spreads = [], []
    for seed in range(200):
        agent = started("ricom", beam, shape, (16, 16), kernel_px=9, reference="centre")
        beam.feed(agent, beam.deflected(gradient, dose_e=dose_e, seed=seed), shape)
        image = agent.result().images["ricom"]
        images.append(image.values)
        spreads.append(image.spread)
    ratio = np.var(images, axis=0, ddof=1) / np.mean(np.square(spreads), axis=0)
    assert ratio.mean() == pytest.approx(1.0, abs=0.04)
    assert np.all((ratio > 0.5) & (ratio < 1.7))


def test_a_result_is_there_from_the_start_and_changes_nothing(beam):
    agent = started("ricom", beam)
    assert isinstance(agent, Agent)
    empty = agent.result()
    assert np.isnan(empty.images["ricom"].values).all()
    assert empty.trust is None
    beam.feed(agent, random_frames(), SHAPE)
    first, second = pictures(agent), pictures(agent)
    np.testing.assert_array_equal(first, second)
    agent.start(beam.meta(SHAPE, (6, 5)))
    assert np.isnan(agent.result().images["ricom"].values).all()


def test_a_stream_that_knows_no_lengths_gives_pixels_and_says_so(beam):
    agent = load("ricom", {"kernel_px": 5})
    agent.start(StreamMeta(Layout(SHAPE, (6, 5))))
    found = beam.feed(agent, random_frames(), SHAPE).result()
    assert found.images["ricom"].unit == "px"
    assert any("step_nm, pixel_mrad, energy_kev" in note for note in found.notes)
    gradient = np.nan_to_num(agent.map.shift_px())
    expected = -sum(correlate2d(gradient[..., c], kernel(5)[c], mode="same") for c in range(2))
    np.testing.assert_allclose(found.images["ricom"].values, expected, atol=1e-12)
    banded = load("ricom", {"k_max_per_nm": 5.0})
    with pytest.raises(MetaError, match="ricom needs step_nm"):
        banded.start(StreamMeta(Layout(SHAPE, (6, 5))))


def test_a_list_of_positions_and_wrong_options_are_refused(beam):
    with pytest.raises(MetaError, match="ricom needs a scan in rows and columns"):
        load("ricom").start(beam.meta((143,)))
    with pytest.raises(OptionError, match="odd"):
        load("ricom", {"kernel_px": 60})
    with pytest.raises(OptionError, match="did you mean kernel_px"):
        load("ricom", {"kernel_pix": 61})


def test_the_camera_kernel_undoes_rotation_and_transposition(beam):
    agent = started("ricom", beam, rotation_deg=40.0, transposed=True)
    shift = np.random.default_rng(0).standard_normal(2)
    turned = np.einsum("dij,d->ij", agent.sum.kernel, shift)
    along = np.einsum("dij,d->ij", started("ricom", beam).sum.kernel, along_scan(shift, 40.0, True))
    np.testing.assert_allclose(turned, along, atol=1e-15)


def test_a_preview_is_the_result_without_noise_and_test(beam):
    agent = load("ricom", {"kernel_px": 5})
    agent.start(beam.meta(SHAPE, camera=(6, 5)))
    beam.feed(agent, random_frames(), SHAPE, order=np.arange(60))
    shown, found = agent.preview(), agent.result()
    np.testing.assert_array_equal(shown.images["ricom"].values, found.images["ricom"].values)
    assert np.isnan(shown.images["ricom"].values).any()  # the last rows have not come
    assert (shown.images["ricom"].spread, shown.trust) == (None, None)
    assert set(shown.notes) <= set(found.notes)
