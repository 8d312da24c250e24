"""iCOM as an agent: the phase in rad, of what has arrived, with the noise it must have."""

from dataclasses import replace

import numpy as np
import pytest

from agents.base import Agent, MetaError, StreamMeta, load
from agents.block import FrameBlock
from agents.com.integration import integrate
from agents.trust import linear_spread
from twin.aberrations import Aberrations
from twin.day import Day
from twin.formats.dataset import Layout, Metadata
from twin.optics import Optics
from twin.options import OptionError
from twin.scan.acquisition import Acquisition
from twin.scan.plan import ScanPlan, path
from twin.scan.setup import ScanSetup

SHAPE = (40, 44)
WAVES = [(5.0, 3.0), (-9.0, 2.0), (1.5, 8.0)]


def started(beam, shape=SHAPE, **options):
    agent = load("icom", options)
    agent.start(beam.meta(shape))
    return agent


@pytest.mark.parametrize(("rotation_deg", "transposed"), [(0.0, False), (35.0, False), (-70.0, True)])
def test_a_phase_comes_back_in_rad(beam, rotation_deg, transposed):
    phase, gradient = beam.waves(WAVES, SHAPE)
    agent = load("icom", {"reference": "centre"})
    agent.start(replace(beam.meta(SHAPE, rotation_deg=rotation_deg), transposed=transposed))
    found = beam.feed(agent, beam.deflected(gradient, rotation_deg, transposed), SHAPE).result()
    image = found.images["icom"]
    inner = slice(6, -6), slice(6, -6)
    error = image.values[inner] - phase[inner]
    assert image.unit == "rad"
    assert np.std(error) < 0.03 * np.std(phase)
    # The sign and the scale, apart from the shape.
    assert np.vdot(image.values[inner], phase[inner]) / np.vdot(phase[inner], phase[inner]) == pytest.approx(
        1, abs=0.03
    )


def test_what_has_not_come_is_undeflected_and_not_shown(beam):
    _, gradient = beam.waves(WAVES, SHAPE)
    frames = beam.deflected(gradient, dose_e=100.0)
    agent = started(beam)
    part = np.random.default_rng(0).permutation(SHAPE[0] * SHAPE[1])[:900]
    beam.feed(agent, frames, SHAPE, part)
    image = agent.result().images["icom"]
    seen = np.zeros(SHAPE, bool)
    seen.flat[part] = True
    np.testing.assert_array_equal(np.isfinite(image.values), seen)
    expected = integrate(np.nan_to_num(agent.map.gradient()), beam.step_nm)
    np.testing.assert_allclose(image.values[seen], expected[seen], atol=1e-12)
    assert image.spread is None


@pytest.mark.parametrize("options", [{"boundary": "periodic"}, {"k_min_per_nm": 2.0, "k_max_per_nm": 9.0}])
def test_settings_reach_the_integration_and_can_change_on_the_way(beam, options):
    _, gradient = beam.waves(WAVES, SHAPE)
    frames = beam.deflected(gradient, dose_e=100.0)
    changed = beam.feed(started(beam), frames, SHAPE)
    changed.configure(**options)
    band = options.get("k_min_per_nm"), options.get("k_max_per_nm")
    expected = integrate(changed.map.gradient(), beam.step_nm, options.get("boundary", "mirror"), *band)
    np.testing.assert_allclose(changed.result().images["icom"].values, expected, atol=1e-12)
    with pytest.raises(ValueError, match="k_max_per_nm 26"):
        changed.configure(k_max_per_nm=26.0)
    np.testing.assert_allclose(changed.result().images["icom"].values, expected, atol=1e-12)


@pytest.mark.parametrize("boundary", ["mirror", "periodic"])
def test_the_noise_is_that_of_an_ensemble_of_noise_through_the_same_integration(beam, boundary):
    # 300 scans and 4000 realisations: each variance is known to 8 %, dominated by the scans. Neighbours vary together,
    # so that the mean over the image is known to 4 % or so.
    shape, dose_e = (10, 12), 60.0
    images = []
    for seed in range(300):
        agent = started(beam, shape, reference="centre", boundary=boundary)
        beam.feed(agent, beam.deflected(np.zeros((*shape, 2)), dose_e=dose_e, seed=seed), shape, block=120)
        images.append(agent.map.shift_px())
    deviation = np.repeat(np.sqrt(agent.map.variance_px2())[..., None], 2, axis=2)
    images = [agent._integrate(shift_px) for shift_px in images]
    ratio = np.var(images, axis=0, ddof=1) / linear_spread(agent._integrate, deviation, members=4000) ** 2
    assert ratio.mean() == pytest.approx(1.0, abs=0.12)
    assert np.all((ratio > 0.65) & (ratio < 1.4))
    spread = agent.result().images["icom"].spread
    np.testing.assert_allclose(spread, linear_spread(agent._integrate, deviation, members=16))


def test_a_result_is_there_from_the_start_and_changes_nothing(beam):
    agent = started(beam)
    assert isinstance(agent, Agent)
    empty = agent.result()
    assert np.isnan(empty.images["icom"].values).all()
    assert empty.trust is None
    _, gradient = beam.waves(WAVES, SHAPE)
    beam.feed(agent, beam.deflected(gradient, dose_e=100.0), SHAPE)
    first, second = agent.result(), agent.result()
    np.testing.assert_array_equal(first.images["icom"].values, second.images["icom"].values)
    np.testing.assert_array_equal(first.images["icom"].spread, second.images["icom"].spread)
    assert first.trust == second.trust


def test_lists_bands_without_a_step_and_unknown_options_are_refused(beam):
    with pytest.raises(MetaError, match="icom needs a scan in rows and columns"):
        load("icom").start(beam.meta((143,)))
    agent = load("icom", {"k_min_per_nm": 1.0})
    with pytest.raises(MetaError, match="icom needs step_nm"):
        agent.start(beam.meta(SHAPE, step_nm=None))
    with pytest.raises(OptionError, match="did you mean boundary"):
        load("icom", {"bondary": "mirror"})
    with pytest.raises(OptionError, match="mirror"):
        load("icom", {"boundary": "mirrored"})


CELL_NM = 0.3905
OPTICS = Optics(convergence_mrad=20.0, grid=128, sampling_nm=4 * CELL_NM / 128, camera_pixels=64, binning=1)


@pytest.fixture(scope="module")
def twin_scan():
    """A thin crystal under a focused beam, scanned at an angle: frames, positions and the phase that iCOM sees, rad."""
    options = {"width_nm": 4 * CELL_NM, "height_nm": 4 * CELL_NM, "thickness_nm": CELL_NM, "thermal": False}
    setup = ScanSetup(specimen="sto_001", specimen_options=options, optics=OPTICS, detectors={"bf": None})
    scan = Acquisition(setup, Day(focal_spread_nm=0.0, source_size_nm=0.0))
    plan = scan.placed(ScanPlan(rows=36, columns=36, step_nm=0.02, dose_e=2e4, rotation_deg=25.0))
    positions = path(plan, 0, plan.count)
    rng = np.random.default_rng(0)
    expected = scan.expected(positions, positions.intended_nm, lambda line: Aberrations())
    frames = np.stack([rng.poisson(np.maximum(image, 0.0)) for image, _ in expected]).astype(np.uint16)
    # Thesis eq 3.2: the phase, blurred by the intensity of the probe, which is that of an aperture without aberrations.
    angle = np.fft.fftfreq(OPTICS.grid, 1 / OPTICS.grid) * OPTICS.pixel_mrad
    aperture = np.hypot(angle[:, None], angle) <= OPTICS.convergence_mrad
    probe = np.abs(np.fft.ifft2(aperture)) ** 2
    spectrum = np.fft.fft2(np.angle(scan.renderer.field.functions[0, 0])) * np.fft.fft2(probe / probe.sum())
    k = np.fft.fftfreq(OPTICS.grid, OPTICS.sampling_nm)
    wave_x, wave_y = (np.exp(2j * np.pi * np.outer(r, k)) for r in positions.intended_nm.T)
    phase = np.einsum("ny,yx,nx->n", wave_y, spectrum, wave_x, optimize=True).real / spectrum.size
    return frames, positions.pixel, phase.reshape(36, 36)


def on_twin(twin_scan, rotation_deg):
    frames, pixel, _ = twin_scan
    known = Metadata(step_nm=0.02, pixel_mrad=OPTICS.camera_pixel_mrad, energy_kev=300.0, rotation_deg=rotation_deg)
    agent = load("icom")
    agent.start(StreamMeta(Layout((36, 36), frames.shape[1:]), known, transposed=False))
    agent.update(FrameBlock(frames, pixel))
    return agent.result()


def test_on_the_twin_it_is_the_blurred_phase_in_rad_and_positive_at_atoms(twin_scan):
    image, phase = on_twin(twin_scan, 25.0).images["icom"].values, twin_scan[2]
    inner = slice(4, -4), slice(4, -4)
    mine, true = image[inner] - image[inner].mean(), phase[inner] - phase[inner].mean()
    assert np.corrcoef(mine.ravel(), true.ravel())[0, 1] > 0.98
    assert np.vdot(mine, true) / np.vdot(true, true) == pytest.approx(1.0, abs=0.05)


def test_on_the_twin_the_right_rotation_fits_and_a_wrong_one_does_not(twin_scan):
    assert on_twin(twin_scan, 25.0).trust.fits
    assert not on_twin(twin_scan, 33.0).trust.fits
    assert not on_twin(twin_scan, 17.0).trust.fits
