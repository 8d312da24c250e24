"""Kinds of departures: off by default, drawn by name, each in its own part of the day, each a frame."""

from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest

from twin.aberrations import Aberrations
from twin.cameras.ronchigram_camera import draw_defects, expose, gain_map, scattered
from twin.day import KINDS, ActuatorProperties, CameraProperties, Day, FilmProperties, IlluminationProperties
from twin.day.kinds import with_kinds
from twin.dynamics import actual_input
from twin.matter.carbon_screen import screen_filter
from twin.optics import Optics
from twin.ronchigram.multislice import MultisliceRenderer
from twin.ronchigram.phase_screens import FastRenderer
from twin.simulated import SimulatedMicroscope
from twin.state import FIRST_ORDER

OPTICS = Optics(convergence_mrad=14.0, grid=128, sampling_nm=0.05, camera_pixels=32, binning=4)
SPACE = replace(FIRST_ORDER, start_nm=(5.0, 3.0, 3.0), input_nm=(5.0, 3.0, 3.0))


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_kind_changes_one_part_of_the_day_and_nothing_at_severity_0(name):
    base = Day.random(rng(), 1.0)
    assert with_kinds(base, [name], 0.0, rng()) == base
    changed = with_kinds(base, [name], 1.0, rng())
    different = {field.name for field in fields(Day) if getattr(changed, field.name) != getattr(base, field.name)}
    assert different
    assert len(different - {"same_region"}) == 1
    assert Day.random(rng(7), 1.0, kinds=[name]) != Day.random(rng(7), 1.0)


@pytest.mark.parametrize("severity", [0.5, 2.0, 50.0])
def test_all_kinds_together_are_a_day_at_any_severity(severity):
    day = Day.random(rng(3), severity, kinds=sorted(KINDS))
    assert day == Day.random(rng(3), severity, kinds=sorted(KINDS))
    assert day != Day.random(rng(3), severity)


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(ValueError, match="vibration"):
        Day.random(rng(), 1.0, kinds=["vibrations"])


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_kind_gives_a_frame(name):
    day = with_kinds(Day(film=FilmProperties(thickness_nm=3.0)), [name], 1.0, rng(1))
    if day.film.thickness_nm > 5.0:
        day = replace(day, film=replace(day.film, thickness_nm=5.0))
    microscope = SimulatedMicroscope(OPTICS, SPACE, day)
    microscope.reset(rng(2))
    for _ in range(2):
        counts = microscope.acquire().counts
    assert counts.dtype == np.uint16
    assert counts.any()


# --- the camera ----------------------------------------------------------------------------------

EVEN = np.full((64, 48), 1 / (64 * 48))


def frame(camera, dose_e=1e6, probability=EVEN, seed=0):
    return expose(
        probability, dose_e, camera, draw_defects(camera, probability.shape, rng(seed)), rng(seed + 1)
    ).astype(float)


def test_row_noise_is_shared_by_a_row():
    """64 rows: the rms is known to 9 %; the bound is four times that."""
    quiet, noisy = (frame(CameraProperties(dark_level=100.0, row_rms=row)) for row in (0.0, 20.0))
    difference = noisy - quiet
    assert np.all(np.ptp(difference, axis=1) <= 1)  # rounding
    assert difference[:, 0].std() == pytest.approx(20.0, rel=0.36)


def test_spots_are_few_small_and_bright():
    camera = CameraProperties(spots=4.0, spot_px=3.0)
    changed = [frame(camera, seed=seed) - frame(CameraProperties(), seed=seed) for seed in range(40)]
    share = np.mean([(difference > 50).mean() for difference in changed])
    assert share == pytest.approx(4 * np.pi * 1.5**2 / EVEN.size, rel=0.35)
    assert max(difference.max() for difference in changed) > 5000


def test_glare_and_background_move_light_and_keep_it():
    spot = np.zeros((64, 48))
    spot[30, 20] = 1.0
    image = scattered(spot, CameraProperties(glare=0.3, background=0.2))
    assert image.sum() == pytest.approx(1.0)
    assert image[30, 20] == pytest.approx(0.8 * 0.7, rel=0.02)
    assert image.min() >= 0.2 / spot.size


def test_gain_errors_have_their_size():
    gain = gain_map(CameraProperties(gain_error_rms=0.04), (64, 48))
    assert gain.std() == pytest.approx(0.04, rel=0.1)
    quadrants = gain_map(CameraProperties(quadrant_error_rms=0.05), (64, 48))
    assert len(np.unique(quadrants)) == 4
    assert len(np.unique(quadrants[:32, :24])) == 1


def test_bright_rows_are_stuck():
    counts = frame(CameraProperties(bright_rows=2))
    assert (counts == 65535).all(axis=1).sum() == 2


def test_a_video_signal_spans_eight_bits():
    ramp = np.linspace(0, 1, EVEN.size).reshape(EVEN.shape)
    counts = frame(CameraProperties(video=True, gamma=0.5), dose_e=1e7, probability=ramp / ramp.sum())
    assert (counts.min(), counts.max()) == (0, 255)
    assert counts[32, 24] == pytest.approx(255 * np.sqrt(0.5), rel=0.1)


def test_a_dark_error_is_in_what_is_stated_alone():
    camera = CameraProperties(dark_level=100.0, dark_error=30.0)
    microscope = SimulatedMicroscope(OPTICS, SPACE, Day(dose_e=1e4, camera=camera))
    microscope.reset(rng())
    shown = microscope.acquire()
    assert shown.settings["dark_level"] == 130.0
    assert shown.counts.min() == pytest.approx(100, abs=5)


# --- timing and corrector ------------------------------------------------------------------------


def frames(day, number=6):
    microscope = SimulatedMicroscope(OPTICS, SPACE, day)
    microscope.reset(rng(4))
    shown = []
    for k in range(number):
        shown.append(microscope.acquire().counts)
        microscope.apply(np.array([0.3, 0.1, 0.0]) * (-1) ** k)
    return shown


def test_a_buffered_camera_hands_out_earlier_frames():
    prompt, late = frames(Day()), frames(Day(late_frames=2))
    assert np.array_equal(late[0], prompt[0])
    for k in range(2, 6):
        assert np.array_equal(late[k], prompt[k - 2])


def test_repeated_frames_are_the_one_before():
    """39 chances of 1/2: outside 8 to 31 once in 10^4 seeds."""
    shown = frames(Day(repeated_share=0.5), 40)
    repeats = sum(np.array_equal(a, b) for a, b in pairwise(shown))
    assert 8 <= repeats <= 31
    assert not any(np.array_equal(a, b) for a, b in pairwise(frames(Day())))


def test_a_reversed_coefficient_moves_against_the_request():
    moved = actual_input(np.array([2.0, 1.0, -1.0]), FIRST_ORDER, ActuatorProperties(reversed=("C10",)))
    assert moved == pytest.approx([-2.0, 1.0, -1.0])
    with pytest.raises(ValueError, match="C10"):
        ActuatorProperties(reversed=("C1",))


# --- film and illumination -----------------------------------------------------------------------


class States:
    """A renderer that remembers what it was asked."""

    def __init__(self):
        self.states, self.grown = [], []

    def probability(self, aberrations, region_seeds, grown_nm=None):
        self.states += aberrations
        self.grown += grown_nm or [0.0]
        return np.full((1, 32, 32), 1 / 32**2, np.float32)


def asked(day, number):
    renderer = States()
    microscope = SimulatedMicroscope(OPTICS, SPACE, day, renderer)
    microscope.reset(rng(5))
    for _ in range(number):
        microscope.acquire()
    return renderer


def test_an_uneven_film_spreads_the_defocus_and_stays_where_the_region_stays():
    """80 regions: the rms is known to 8 %; the bound is four times that."""
    day = Day(film=FilmProperties(height_rms_nm=3.0))
    heights = [state["C10"] for state in asked(day, 80).states]
    assert np.std(heights) == pytest.approx(3.0, rel=0.32)
    assert len({state["C10"] for state in asked(replace(day, same_region=True), 5).states}) == 1


def test_contamination_grows_with_the_exposures_of_a_region():
    film = FilmProperties(contamination_nm_per_s=0.4)
    assert asked(Day(film=film, exposure_s=0.5, same_region=True), 4).grown == pytest.approx([0.0, 0.2, 0.4, 0.6])
    assert asked(Day(film=film), 4).grown == [0.0] * 4


def test_vibration_blurs_along_its_axis_alone():
    still = screen_filter(FilmProperties(), OPTICS, 2.0)
    shaken = screen_filter(
        FilmProperties(), OPTICS, 2.0, illumination=IlluminationProperties(vibration_nm=0.1, vibration_deg=90.0)
    )
    ratio = shaken[1:] / still[1:]
    qy = np.fft.fftfreq(128, 0.05)[1:]
    assert ratio == pytest.approx(np.repeat(np.exp(-2 * (np.pi * 0.1 * qy) ** 2)[:, None], 65, 1), abs=1e-4)


@pytest.mark.parametrize("kind", [FastRenderer, MultisliceRenderer])
def test_both_renderers_blur_along_the_same_axis(kind):
    day = Day(
        film=FilmProperties(thickness_nm=2.0),
        focal_spread_nm=0.0,
        source_size_nm=0.0,
        illumination=IlluminationProperties(vibration_nm=0.15, vibration_deg=30.0),
    )
    renderer = kind(OPTICS, day)
    layers = (0, 1) if kind is MultisliceRenderer else 0
    phases = [np.angle(np.asarray(renderer.transmission(seed))).sum(axis=layers) for seed in range(6)]
    spectra = [np.abs(np.fft.fft2(phase)) ** 2 for phase in phases]
    power = np.mean(spectra, 0)
    axis = np.fft.fftfreq(len(power), OPTICS.window_nm / len(power))
    qx, qy = axis[None, :], axis[:, None]
    ring = (np.hypot(qx, qy) > 1.0) & (np.hypot(qx, qy) < 2.5)
    turn = np.radians(30.0)
    along = np.abs(np.cos(turn) * qx + np.sin(turn) * qy) / np.maximum(np.hypot(qx, qy), 1e-9)
    blurred, sharp = power[ring & (along > 0.9)].mean(), power[ring & (along < 0.3)].mean()
    assert blurred < 0.2 * sharp


@pytest.mark.parametrize("material", ["Ge", "SiO2"])
def test_films_of_both_renderers_have_the_same_phase_variance(material):
    """Eight regions of one film each: the variance is known to 3 %; thermal motion and abTEM's slices take 5 %."""
    day = Day(film=FilmProperties(thickness_nm=2.0, material=material), source_size_nm=0.06)
    optics = replace(OPTICS, sampling_nm=0.04)
    fast, slow = FastRenderer(optics, day, slices=1), MultisliceRenderer(optics, day, slice_nm=2.0)
    screens = [np.angle(fast.transmission(seed)[0].numpy()).var() for seed in range(8)]
    atoms = [np.angle(slow.transmission(seed)[0, 0]).var() for seed in range(8)]
    assert np.mean(atoms) == pytest.approx(np.mean(screens), rel=0.15)


def test_a_crystal_and_crystallites_show_in_both_renderers():
    state = Aberrations.of({"C10": 8.0})
    for changes in ({"crystal": "si_001"}, {"crystallites_per_um2": 2e5}):
        film = FilmProperties(thickness_nm=2.0, **changes)
        for kind in (FastRenderer, MultisliceRenderer):
            plain = kind(OPTICS, Day(film=replace(film, crystal="none", crystallites_per_um2=0.0)))
            changed = kind(OPTICS, Day(film=film))
            frames = [r.probability([state] * 3, [1, 2, 3])[:, 10:22, 10:22] for r in (plain, changed)]
            contrast = [frame.std() / frame.mean() for frame in frames]
            assert contrast[1] > 1.2 * contrast[0]
