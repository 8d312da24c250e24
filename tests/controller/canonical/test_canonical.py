"""Frames and coefficients in canonical form: what is kept, what is moved, what is taken out."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from controller import preprocess
from controller.canonical import cleaning, disc, units
from controller.canonical.preparation import Prepared, prepare
from controller.canonical.resampling import overlap, resampled
from controller.dataset import DaySource
from twin.aberrations import aberration_phase
from twin.arrays import Array
from twin.day import CameraProperties, Day
from twin.optics import Optics
from twin.state import FIRST_ORDER, SECOND_ORDER
from twin.types import Frame

REFERENCE = Optics()
OTHERS = [
    Optics(energy_kev=200.0, convergence_mrad=25.0),
    Optics(energy_kev=60.0, convergence_mrad=33.0, sampling_nm=0.05),
    Optics(camera_pixels=64, binning=6),
    Optics(energy_kev=200.0, convergence_mrad=25.0, grid=768, sampling_nm=0.0232, camera_pixels=256, binning=2),
]


def film(optics: Optics, state_nm: Array, day: Day | None = None, seed: int = 0) -> Frame:
    return DaySource(day or Day(), optics, FIRST_ORDER, np.random.default_rng(seed)).frame(state_nm)


def lit(mean: float, centre: tuple[float, float] = (64.0, 64.0), radius: float = 60.7) -> Array:
    y, x = np.mgrid[:128, :128] + 0.5
    return mean * np.clip(radius - np.hypot(x - centre[0], y - centre[1]) + 0.5, 0, 1)


def as_frame(counts: Array, dose_e: float = 1e6) -> Frame:
    return Frame(np.clip(np.rint(counts), 0, 65535).astype(np.uint16), dose_e, 0.5, 0.0)


@pytest.mark.parametrize("optics", OTHERS)
def test_scaled_coefficients_make_the_same_phase_at_the_edge(optics: Optics) -> None:
    factor = units.scale(SECOND_ORDER.names, optics, REFERENCE)
    state = np.array([30.0, -11.0, 7.0, 90.0, -40.0, 60.0, 20.0])
    phases = []
    for values, at in ((state, optics), (state * factor, REFERENCE)):
        phi = np.linspace(0, 6, 7)
        x, y = at.convergence_mrad * np.cos(phi), at.convergence_mrad * np.sin(phi)
        phases.append(aberration_phase(SECOND_ORDER.to_aberrations(values), x, y, at.wavelength_nm))
    assert phases[0] == pytest.approx(phases[1], rel=1e-9)


def test_the_same_beam_has_factors_of_exactly_one() -> None:
    assert np.all(units.scale(SECOND_ORDER.names, Optics(camera_pixels=64), REFERENCE) == 1.0)
    assert units.scaled(FIRST_ORDER, np.ones(3)) is FIRST_ORDER


def test_overlaps_keep_every_electron_that_the_new_frame_reaches() -> None:
    share = overlap(20, 10.0, 40, 20.0, 1.43)
    assert share.sum(0) == pytest.approx(np.ones(20))


def test_resampled_noise_is_white_and_has_the_dose_of_the_electrons() -> None:
    rng = np.random.default_rng(0)
    electrons = rng.poisson(40.0, (90, 90))
    moved = resampled(electrons, (45.0, 45.0), (128, 64.0), 128 / 90, rng)
    assert moved.sum() == electrons.sum()
    # Poisson: the variance of a pixel is its mean; an interpolation halves it.
    assert moved.var() == pytest.approx(moved.mean(), rel=0.05)
    floor = preprocess.noise_floor(preprocess.spectrum(moved.astype(float)))
    assert floor.decay * 64**2 < 0.05


def test_resampling_keeps_x_and_y_apart() -> None:
    electrons = np.zeros((10, 10), np.int64)
    electrons[2, 7] = 1000
    moved = resampled(electrons, (5.0, 5.0), (20, 10.0), 2.0, np.random.default_rng(0))
    rows, columns = np.nonzero(moved)
    assert (set(rows), set(columns)) == ({4, 5}, {14, 15})


@pytest.fixture(scope="module")
def clean_days() -> list[Day]:
    rng = np.random.default_rng(11)
    return [Day.random(rng, 1.0) for _ in range(6)]


def clean_frames(days: list[Day]) -> Iterator[Frame]:
    rng = np.random.default_rng(12)
    for day in days:
        camera = replace(day.camera, hot_fraction=2e-4, dead_fraction=2e-4, dark_level=20.0)
        source = DaySource(replace(day, camera=camera), REFERENCE, FIRST_ORDER, rng)
        for size in (1.0, 0.1):
            yield source.frame(FIRST_ORDER.draw_start(rng) * size)


def test_a_frame_of_a_training_day_passes_as_it_is(clean_days: list[Day]) -> None:
    for frame in clean_frames(clean_days):
        assert prepare(frame, REFERENCE, REFERENCE).frame is frame


@pytest.mark.parametrize("optics", OTHERS)
def test_the_disc_of_any_camera_comes_to_the_reference_radius(optics: Optics) -> None:
    reference = units.on_reference_camera(optics)
    frame = film(optics, np.array([20.0, 5.0, 0.0]) / units.scale(FIRST_ORDER.names, optics, REFERENCE))
    prepared = prepare(frame, optics, reference)
    found = disc.find(preprocess.signal(prepared.frame))
    assert found is not None
    assert found.radius_px == pytest.approx(units.disc_radius_px(REFERENCE), rel=0.02)
    assert np.subtract(found.centre_px, 64.17) == pytest.approx(np.zeros(2), abs=0.6)
    # The noise is that of the electrons.
    assert prepared.dose_e == pytest.approx(1e6, rel=0.35)


def test_a_disc_far_from_the_middle_is_moved_back() -> None:
    counts = np.random.default_rng(0).poisson(lit(80.0, (73.0, 58.0), 50.0))
    prepared = prepare(as_frame(counts), replace(REFERENCE, convergence_mrad=23.07), REFERENCE)
    found = disc.find(preprocess.signal(prepared.frame))
    assert found is not None
    assert found.centre_px == pytest.approx((64.17, 64.17), abs=0.6)


def spectra_differ(frame: Frame, prepared: Prepared) -> float:
    values = [preprocess.power_spectrum(each).values for each in (frame, prepared.frame)]
    return float(np.sqrt(np.mean((values[0] - values[1]) ** 2)))


def disturbed(frame: Frame, name: str) -> Array:
    rng, counts = np.random.default_rng(3), frame.counts.astype(float)
    if name == "spots":
        for row, column in ((40, 50), (80, 30), (66, 99)):
            counts[row : row + 3, column : column + 3] += 400.0
    elif name == "rows":
        counts += 6.0 * rng.standard_normal((128, 1))
    elif name == "columns":
        counts += 6.0 * rng.standard_normal((1, 128))
    elif name == "dark level":
        counts += 60.0
    elif name == "flake":
        counts[45:75, 96:] *= 0.02
    return counts


@pytest.mark.parametrize("name", ["spots", "rows", "columns", "dark level", "flake"])
def test_what_a_camera_adds_is_taken_out_before_the_spectrum(name: str) -> None:
    frame = film(REFERENCE, np.array([30.0, 10.0, -5.0]))
    spoilt = as_frame(disturbed(frame, name))
    prepared = prepare(spoilt, REFERENCE, REFERENCE)
    left, raw = spectra_differ(frame, prepared), spectra_differ(frame, Prepared(spoilt, None, 0, 0, 0))
    other_region = spectra_differ(frame, Prepared(film(REFERENCE, np.array([30.0, 10.0, -5.0]), seed=1), None, 0, 0, 0))
    # What remains is smaller than what another region of the film changes.
    assert left < 0.5 * other_region
    if name != "dark level":  # a constant hardly shows in a spectrum
        assert raw > 2 * left


def test_uneven_illumination_is_levelled() -> None:
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    counts = np.random.default_rng(0).poisson(lit(90.0) * np.clip(1 - 0.5 * np.hypot(x - 0.2, y) ** 2, 0.2, 1))
    found = disc.find(counts.astype(float))
    assert found is not None
    level = cleaning.level_illumination(counts.astype(float), found)
    assert level[60:68, 108:116].mean() == pytest.approx(level[60:68, 60:68].mean(), rel=0.1)


def test_a_dose_above_training_is_thinned_and_the_same_frame_gives_the_same_bytes() -> None:
    frame = film(REFERENCE, np.array([30.0, 10.0, -5.0]), Day(dose_e=3e7))
    first, second = (prepare(frame, REFERENCE, REFERENCE).frame for _ in range(2))
    assert np.array_equal(first.counts, second.counts)
    assert prepare(first, REFERENCE, REFERENCE).frame is first
    assert preprocess.signal(first).sum() == pytest.approx(2e6, rel=0.1)


def test_an_ellipse_and_a_cut_are_told() -> None:
    y, x = np.mgrid[:128, :128] + 0.5
    ellipse = disc.find(80.0 * (np.hypot((x - 64) / 1.05, (y - 64) / 0.95) < 50))
    assert ellipse is not None
    assert ellipse.ellipticity == pytest.approx(0.05, abs=0.01)
    cut = disc.find(80.0 * (np.hypot(x - 90, y - 64) < 50))
    assert cut is not None
    assert (cut.centre_px[0], cut.radius_px) == pytest.approx((90, 50), abs=0.7)
    assert 0.1 < cut.cut < 0.4


def test_a_frame_lit_all_over_has_no_disc() -> None:
    frame = as_frame(np.random.default_rng(0).poisson(60.0, (128, 128)))
    assert prepare(frame, REFERENCE, REFERENCE).disc is None


def test_a_camera_with_defects_is_recognised_as_clean() -> None:
    day = Day(camera=CameraProperties(hot_fraction=1e-3, dead_fraction=1e-3, gain=1.2, mtf_nyquist=0.6))
    frame = film(REFERENCE, np.array([20.0, 0.0, 5.0]), day)
    assert prepare(frame, REFERENCE, REFERENCE).frame is frame
