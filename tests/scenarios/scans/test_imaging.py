"""Scanned images as a controller's exposures: what a frame carries, and that a controller sharpens them."""

from dataclasses import replace

import numpy as np
import pytest
from fakes.sessions import observe

from agents import base
from agents.base import Image
from controller import base as controllers
from controller.merit import contrast as quality
from scenarios.scans.imaging import ImagingMicroscope, encoded
from twin.day import Day
from twin.optics import Optics
from twin.scan.plan import ScanPlan
from twin.scan.setup import ScanSetup
from twin.simulated import SimulatedMicroscope
from twin.state import StateSpace
from twin.types import HasTruth, Microscope

OPTICS = Optics(energy_kev=80.0, convergence_mrad=25.0, grid=96, sampling_nm=0.016, camera_pixels=16, binning=4)
SETUP = ScanSetup(
    specimen="mos2_twisted",
    specimen_options={"angle_deg": 5, "width_nm": 2, "height_nm": 2},
    optics=OPTICS,
    detectors={"bf": None},
)
PLAN = ScanPlan(rows=12, columns=12, step_nm=0.05, dose_e=2e4, dwell_s=1e-3)
SPACE = StateSpace(("C10",), (14.0,), (14.0,), (3.0,))
ADF = {"inner_mrad": 40.0}
"""Two camera pixels clear of the disc: with a share of the disc in it, the image is not sharpest in focus."""
SEED = 0
"""Starts 13 nm out of focus."""


def microscope() -> SimulatedMicroscope:
    return SimulatedMicroscope(
        replace(OPTICS, grid=128), SPACE, Day(focal_spread_nm=0.0, source_size_nm=0.0), scan=SETUP
    )


@pytest.fixture(scope="module")
def imaging() -> ImagingMicroscope:
    return ImagingMicroscope(microscope(), SETUP, PLAN, base.load("adf", ADF))


def test_it_is_a_microscope_that_makes_images(imaging: ImagingMicroscope) -> None:
    assert isinstance(imaging, Microscope)
    assert isinstance(imaging, HasTruth)
    assert imaging.capabilities.camera_shape == (12, 12)
    imaging.reset(np.random.default_rng(SEED))
    imaging.apply(-imaging.truth().state_nm)
    frame = imaging.acquire()
    assert frame.counts.shape == (12, 12)
    assert frame.dose_e == pytest.approx(2e4 * 144)
    again = imaging.acquire()
    assert again.clock_s - frame.clock_s == pytest.approx(0.144)
    # The same place, with noise of its own.
    assert np.corrcoef(frame.counts.ravel(), again.counts.ravel())[0, 1] > 0.9
    assert not np.array_equal(frame.counts, again.counts)


def test_an_image_is_sharper_the_nearer_the_focus(imaging: ImagingMicroscope) -> None:
    imaging.reset(np.random.default_rng(SEED))
    imaging.apply(-imaging.truth().state_nm)
    found = []
    for state in (0.0, 1.5, 3.0, 4.5):
        imaging.apply(state - imaging.truth().state_nm)
        found.append(quality.sharpness(imaging.acquire()))
    assert list(found) == sorted(found, reverse=True)
    assert found[0] > 2.0 * found[3]


def test_bo_contrast_focuses_by_images_alone(imaging: ImagingMicroscope) -> None:
    """The controller as it is, told nothing but that its frames are scanned images."""
    controller = controllers.load("bo_contrast", OPTICS, SPACE, {"contrast": "scan"})
    controller.reset(SPACE, np.random.default_rng(1))
    imaging.reset(np.random.default_rng(SEED))
    start = imaging.truth().initial_nm
    assert abs(start[0]) > 6.0
    observe(controller, imaging, SPACE, 11)
    found = controller.estimate().mean_nm
    assert abs(found[0] - start[0]) < 3.0


# --- what a frame carries ------------------------------------------------------------------------


def test_counts_go_as_they_are_and_poisson_noise_is_taken_off() -> None:
    """A flat specimen has no sharpness: variance of 1e4 Poisson counts of 50 within four of its standard errors."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(50.0, (100, 100)).astype(float)
    frame = encoded(Image(counts, "counts", np.sqrt(counts)), 1e6, 0.1, 0.2)
    assert np.array_equal(frame.counts, counts)
    assert frame.settings == {}
    assert abs(quality.sharpness(frame)) < 4 * np.sqrt(2 / 1e4) * 50 / 50**2
    wave = 50 * (1 + 0.4 * np.cos(np.arange(100) * 2 * np.pi / 20))[None].repeat(100, 0)
    seen = encoded(Image(rng.poisson(wave).astype(float), "e"), 1e6, 0.1, 0.2)
    assert quality.sharpness(seen) == pytest.approx(0.4**2 / 2, rel=0.05)


def test_the_sharpness_of_a_phase_is_its_variance_without_noise() -> None:
    rng = np.random.default_rng(1)
    phase = 0.2 * np.cos(np.arange(80) * 2 * np.pi / 16)[None].repeat(80, 0)
    noise = 0.05
    image = Image(phase + noise * rng.standard_normal(phase.shape) - 3.0, "rad", np.full(phase.shape, noise))
    found = quality.sharpness(encoded(image, 1e6, 0.1, 0.2))
    assert found == pytest.approx(0.2**2 / 2, rel=0.03)
    doubled = quality.sharpness(encoded(Image(2 * image.values, "rad", 2 * np.full(phase.shape, noise)), 1e6, 0.1, 0.2))
    assert doubled == pytest.approx(4 * found, rel=1e-3)


def test_unknown_pixels_take_the_mean() -> None:
    values = np.arange(16.0).reshape(4, 4)
    values[0, 0] = np.nan
    assert encoded(Image(values, "e"), 1.0, 1.0, 1.0).counts[0, 0] == 8
    with pytest.raises(ValueError, match="nothing"):
        encoded(Image(np.full((4, 4), np.nan), "e"), 1.0, 1.0, 1.0)
    assert encoded(Image(np.full((4, 4), -1.5), "rad"), 1.0, 1.0, 1.0).counts.max() == 0


def test_a_microscope_that_cannot_scan_makes_no_images() -> None:
    plain = SimulatedMicroscope(replace(OPTICS, grid=128), SPACE, Day())
    with pytest.raises(ValueError, match="set up to scan"):
        ImagingMicroscope(plain, SETUP, PLAN, base.load("adf", ADF))
