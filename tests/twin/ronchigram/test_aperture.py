"""The real aperture: conservation, areas in closed form, and the same image in both renderers over vacuum."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.aberrations import Aberrations
from twin.day import Day, FilmProperties, IlluminationProperties
from twin.optics import Optics
from twin.ronchigram.aperture import aperture_amplitude, widest
from twin.ronchigram.multislice import MultisliceRenderer
from twin.ronchigram.phase_screens import FastRenderer

OPTICS = Optics(grid=256, camera_pixels=64, binning=3)
AXIS = OPTICS.angles_mrad(255)
WHOLE = int((np.hypot(AXIS[None, :], AXIS[:, None]) <= OPTICS.convergence_mrad).sum())

illuminations = st.builds(
    IlluminationProperties,
    radius_scale=st.floats(0.7, 1.1),
    fall_off=st.floats(0.0, 0.8),
    brightest=st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)),
    ragged_rms=st.floats(0.0, 0.05),
    flake_share=st.floats(0.0, 0.3),
)


@settings(max_examples=25)
@given(illuminations)
def test_the_beam_is_one_whatever_the_aperture(illumination):
    amplitude = aperture_amplitude(OPTICS, illumination, AXIS)
    assert (amplitude**2).sum() == pytest.approx(1.0)
    reach = widest(OPTICS, illumination).convergence_mrad
    assert not amplitude[np.hypot(AXIS[None, :], AXIS[:, None]) > reach * 1.001].any()


@pytest.mark.parametrize("scale", [0.8, 0.95, 1.1])
def test_a_smaller_aperture_lights_a_smaller_disc(scale):
    lit = aperture_amplitude(OPTICS, IlluminationProperties(radius_scale=scale), AXIS) > 0
    assert lit.sum() / WHOLE == pytest.approx(scale**2, rel=0.01)


def test_a_flake_blocks_its_share():
    lit = aperture_amplitude(OPTICS, IlluminationProperties(flake_share=0.1, flake_at=(0.2, -0.4)), AXIS) > 0
    assert 1 - lit.sum() / WHOLE == pytest.approx(0.1, abs=0.004)
    y, x = np.nonzero(~lit & (np.hypot(AXIS[None, :], AXIS[:, None]) < 0.99 * OPTICS.convergence_mrad))
    assert AXIS[x].mean() / OPTICS.convergence_mrad == pytest.approx(0.2, abs=0.02)
    assert AXIS[y].mean() / OPTICS.convergence_mrad == pytest.approx(-0.4, abs=0.02)


def test_the_intensity_falls_off_from_the_brightest_point():
    intensity = aperture_amplitude(OPTICS, IlluminationProperties(fall_off=0.5, brightest=(0.0, 0.0)), AXIS) ** 2
    row = intensity[127, 127:]
    radii = AXIS[127:] / OPTICS.convergence_mrad
    inside = radii < 0.99
    assert row[inside] / row[0] == pytest.approx(1 - 0.5 * radii[inside] ** 2)


def test_a_ragged_edge_deviates_as_stated():
    lit = aperture_amplitude(OPTICS, IlluminationProperties(ragged_rms=0.05, ragged_seed=2), AXIS) > 0
    y, x = np.meshgrid(AXIS, AXIS, indexing="ij")
    direction, radius = np.arctan2(y, x)[lit], np.hypot(x, y)[lit]
    sectors = np.digitize(direction, np.linspace(-np.pi, np.pi, 73))
    edges = np.array([radius[sectors == i].max() for i in range(1, 73)]) / OPTICS.convergence_mrad
    assert edges.std() == pytest.approx(0.05, rel=0.25)


@pytest.mark.parametrize(
    "illumination",
    [
        IlluminationProperties(),
        IlluminationProperties(fall_off=0.5, brightest=(0.3, 0.1)),
        IlluminationProperties(flake_share=0.1, flake_at=(0.5, 0.3)),
        IlluminationProperties(radius_scale=0.9, ragged_rms=0.03),
    ],
    ids=["even", "fall_off", "flake", "ragged"],
)
def test_over_vacuum_a_frame_is_the_aperture_in_both_renderers(illumination):
    day = Day(film=FilmProperties(hole_share=1.0), illumination=illumination)
    state = Aberrations.of({"C10": 20.0, "C12a": 5.0})
    fast = FastRenderer(OPTICS, day).probability([state], [3])[0]
    slow = MultisliceRenderer(OPTICS, day, film_windows=1).probability([state], [3])[0]
    side = OPTICS.camera_pixels * OPTICS.binning
    lit = aperture_amplitude(OPTICS, illumination, OPTICS.angles_mrad(side)) ** 2
    expected = lit.reshape(64, 3, 64, 3).sum((1, 3))
    assert fast == pytest.approx(expected, abs=1e-3 * expected.max())
    assert slow == pytest.approx(expected, abs=1e-3 * expected.max())
    assert fast.sum() == pytest.approx(1.0, rel=1e-3)
