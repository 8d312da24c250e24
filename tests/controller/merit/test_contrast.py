"""Figures of merit and the quality network: what they must not depend on, and what they must fall with."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from controller.dataset import DaySource
from controller.merit import contrast as quality
from controller.merit import quality_network
from learning.weights_file import WeightsError
from twin.day import Day
from twin.optics import Optics
from twin.state import FIRST_ORDER, SECOND_ORDER
from twin.types import Frame

torch.set_num_threads(1)

OPTICS = Optics()
SIZES_NM = (5.0, 20.0, 60.0)


def frame(counts: np.ndarray, dose_e: float = 1e6, dark: float = 0.0) -> Frame:
    return Frame(counts.astype(np.uint16), dose_e, 0.5, 0.5, {"dark_level": dark})


def disc(mean: float, rng: np.random.Generator, modulation: float = 0.0, period_px: float = 8.0) -> np.ndarray:
    """Poisson counts of a uniform disc with a cosine of relative amplitude `modulation` along x."""
    axis = np.arange(128) - 63.5
    inside = np.hypot(axis[:, None], axis) < OPTICS.convergence_mrad / OPTICS.camera_pixel_mrad
    wave = 1 + modulation * np.cos(2 * np.pi * axis / period_px)
    return rng.poisson(np.where(inside, mean * wave[None, :], 0.0))


@pytest.fixture(scope="module")
def frames() -> dict[float, list[Frame]]:
    """Frames of the nominal day by size of the aberrations, along three directions."""
    source = DaySource(Day(), OPTICS, FIRST_ORDER, np.random.default_rng(2))
    return {size: [source.frame(size * np.eye(3)[i % 3]) for i in range(6)] for size in SIZES_NM}


def test_normalised_variance_is_that_of_a_cosine_without_shot_noise():
    electrons = 80.0
    disc_px = np.pi * (OPTICS.convergence_mrad / OPTICS.camera_pixel_mrad) ** 2
    counts = disc(electrons, np.random.default_rng(1), modulation=0.3)
    found = quality.normalised_variance(frame(counts, dose_e=electrons * disc_px), OPTICS)
    assert found == pytest.approx(0.3**2 / 2, rel=0.05)
    flat = disc(electrons, np.random.default_rng(1))
    assert abs(quality.normalised_variance(frame(flat, dose_e=electrons * disc_px), OPTICS)) < 5e-4


def test_rms_gradient_grows_with_the_frequency():
    rng = np.random.default_rng(3)
    slow, fast = (quality.rms_gradient(frame(disc(400.0, rng, 0.3, period))) for period in (16.0, 8.0))
    # Of a cosine: amplitude / sqrt(2) * 2 pi / period; the band cuts some of the line's flank.
    assert slow == pytest.approx(0.3 / np.sqrt(2) * 2 * np.pi / 16, rel=0.1)
    assert fast / slow == pytest.approx(2.0, rel=0.1)


def test_dark_level_and_gain_drop_out(frames: dict[float, list[Frame]]):
    seen = frames[20.0][0]
    brighter = Frame(seen.counts * 2 + 30, seen.dose_e, 0.5, 0.5, {"dark_level": 30.0})
    assert quality.contrast(brighter, OPTICS, "image") == pytest.approx(quality.contrast(seen, OPTICS, "image"))
    assert quality.contrast(brighter, OPTICS) == pytest.approx(quality.contrast(seen, OPTICS), rel=0.02)
    assert quality.spectrum_score(brighter) == pytest.approx(quality.spectrum_score(seen), rel=0.05)


def test_every_figure_is_best_near_the_null(frames: dict[float, list[Frame]]):
    gradient = [np.mean([quality.contrast(f, OPTICS) for f in frames[s]]) for s in SIZES_NM]
    score = [np.mean([quality.spectrum_score(f) for f in frames[s]]) for s in SIZES_NM]
    image = [np.mean([quality.contrast(f, OPTICS, "image") for f in frames[s]]) for s in SIZES_NM]
    assert gradient[0] > gradient[1] > gradient[2]
    assert score[0] > score[1] > score[2]
    # A thin film in focus shows the least contrast, and out of focus no less than far out of focus.
    assert image[0] > image[1] + 0.001
    assert abs(image[1] - image[2]) < 0.5 * (image[0] - image[1])


def test_an_empty_frame_is_refused():
    with pytest.raises(ValueError, match="no signal"):
        quality.contrast(frame(np.zeros((128, 128))), OPTICS, "image")


def test_shipped_network_reads_the_size_of_the_aberrations(frames: dict[float, list[Frame]]):
    from controller.preprocess import power_spectrum

    trained = quality_network.load_for("quality", OPTICS, FIRST_ORDER)
    for size, seen in frames.items():
        read = trained.size_nm(np.stack([power_spectrum(f).values for f in seen]))
        assert np.abs(np.median(read) - size) < 3 + 0.15 * size


def test_weights_for_something_else_are_refused(tmp_path: Path):
    with pytest.raises(WeightsError, match=r"trained with convergence_mrad 28.*train quality"):
        quality_network.load_for("quality", replace(OPTICS, convergence_mrad=25.0), FIRST_ORDER)
    with pytest.raises(WeightsError, match=r"calibrates.*C21a"):
        quality_network.load_for("quality", OPTICS, SECOND_ORDER)
    with pytest.raises(WeightsError, match="reaches"):
        quality_network.load_for("quality", OPTICS, replace(FIRST_ORDER, input_nm=(90.0, 40.0, 40.0)))
    with pytest.raises(WeightsError, match="format"):
        quality_network.load_for("vae_random_days", OPTICS, FIRST_ORDER)
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="cannot be read"):
        quality_network.load(tmp_path / "broken.safetensors")
