"""Training days: drawn inside their ranges; the library's days lie inside or outside as promised."""

from dataclasses import fields, replace

import numpy as np
import pytest

from controller import dataset, preprocess
from controller.dataset import (
    CLOSED_LOOP,
    DayJob,
    DayRanges,
    DaySource,
    StateMixture,
    draw_day,
    joined,
    nominal_ranges,
    simulate_day,
)
from scenarios import schema
from twin.day import Day
from twin.optics import Optics, check_window
from twin.state import FIRST_ORDER

SMALL = Optics(convergence_mrad=14.0, grid=256, sampling_nm=0.05, camera_pixels=64, binning=4)


def quantities(day: Day) -> dict[str, list[float]]:
    """Everything `DayRanges` has a range for, by its name there."""
    residual, camera = day.residual, day.camera
    return {
        "thickness_nm": [day.film.thickness_nm],
        "coma_nm": [residual["C21a"], residual["C21b"]],
        "threefold_nm": [residual["C23a"], residual["C23b"]],
        "spherical_nm": [residual["C30"]],
        "focal_spread_nm": [day.focal_spread_nm],
        "source_size_nm": [day.source_size_nm],
        "dose_e": [day.dose_e],
        "rotation_deg": [camera.rotation_deg],
        "scale": [camera.scale],
        "shift_px": list(camera.shift_px),
        "mtf_nyquist": [camera.mtf_nyquist],
        "shading": [camera.shading],
        "gain": [camera.gain],
    }


def outside(day: Day, ranges: DayRanges) -> set[str]:
    bounds = {f.name: getattr(ranges, f.name) for f in fields(ranges)}
    return {
        name for name, values in quantities(day).items() for v in values if not bounds[name][0] <= v <= bounds[name][1]
    }


def test_every_range_has_a_quantity():
    assert set(quantities(Day())) == {f.name for f in fields(DayRanges)}


def test_drawn_days_lie_inside_and_fill_their_ranges():
    rng = np.random.default_rng(1)
    days = [draw_day(DayRanges(), rng) for _ in range(400)]
    assert all(outside(day, DayRanges()) == set() for day in days)
    for f in fields(DayRanges):
        low, high = getattr(DayRanges(), f.name)
        values = np.array([quantities(day)[f.name] for day in days]).ravel()
        if f.name == "dose_e":
            low, high, values = np.log(low), np.log(high), np.log(values)
        # Uniform: mean at the middle and standard deviation of width / sqrt(12), to 2.9 % and 2.2 % of the width.
        assert abs(values.mean() - (low + high) / 2) < 0.075 * (high - low), f.name
        assert values.std() == pytest.approx((high - low) / np.sqrt(12), rel=0.12), f.name


def test_the_two_components_of_a_residual_are_independent():
    rng = np.random.default_rng(2)
    days = [draw_day(DayRanges(), rng) for _ in range(400)]
    pairs = np.array([[day.residual[name] for name in ("C21a", "C21b", "C23a", "C23b")] for day in days])
    shifts = np.array([day.camera.shift_px for day in days])
    # Correlations of 400 independent pairs: 5 % each; 0.2 is 4 sigma.
    assert np.abs(np.corrcoef(pairs.T) - np.eye(4)).max() < 0.2
    assert abs(np.corrcoef(shifts.T)[0, 1]) < 0.2


def test_the_nominal_ranges_hold_the_nominal_day_alone():
    day = draw_day(nominal_ranges(), np.random.default_rng(3))
    assert replace(day, residual_nm=None, dose_e=Day().dose_e) == Day()
    assert day.dose_e == pytest.approx(Day().dose_e, rel=1e-12)
    assert day.residual == Day().residual


def test_days_a_and_b_lie_inside_the_training_ranges_and_c_outside():
    assert outside(schema.load("day_a").day, DayRanges()) == set()
    assert outside(schema.load("day_b").day, DayRanges()) == set()
    promised = {"thickness_nm", "coma_nm", "threefold_nm", "rotation_deg"}
    assert promised <= outside(schema.load("day_c").day, DayRanges())


def test_no_training_day_aliases():
    # The worst corner of the state and the residuals still fits the default window.
    rng = np.random.default_rng(4)
    for _ in range(40):
        corner = FIRST_ORDER.to_aberrations(FIRST_ORDER.range_nm * rng.choice([-1, 1], 3))
        check_window(Optics(), corner + draw_day(DayRanges(), rng).residual)


def test_states_gather_near_the_null_and_stay_in_range():
    states = StateMixture().draw(FIRST_ORDER, 20_000, np.random.default_rng(5))
    scaled = states / FIRST_ORDER.range_nm
    assert np.all(np.abs(scaled) <= 1.0)
    # Half uniform (7.9 % of each axis' 0.3^3 = 2.7 % near), half normal of 1/7 (0.964^3 near): 46.2 % within 0.3.
    near = np.mean(np.all(np.abs(scaled) < 0.3, axis=1))
    assert near == pytest.approx(0.5 * 0.3**3 + 0.5 * 0.9643**3, abs=0.015)
    np.testing.assert_allclose(states.mean(0) / FIRST_ORDER.range_nm, 0.0, atol=0.02)


def test_the_density_of_states_is_that_of_the_draws():
    rng = np.random.default_rng(6)
    scaled = CLOSED_LOOP.draw(FIRST_ORDER, 40_000, rng).T / FIRST_ORDER.range_nm[:, None]
    # Importance weights of a uniform box against the density: its volume, whatever the box.
    for half in (0.05, 0.2, 0.45):
        inside = np.all(np.abs(scaled) < half, axis=0)
        weights = np.exp(-CLOSED_LOOP.log_density(FIRST_ORDER, scaled[:, inside]))
        volume = weights.sum() / scaled.shape[1]
        error = weights.std() * np.sqrt(inside.sum()) / scaled.shape[1]
        assert abs(volume - (2 * half) ** 3) < 4 * error + 0.02 * (2 * half) ** 3


def test_a_state_mixture_adds_up():
    with pytest.raises(ValueError, match="add up to 1"):
        StateMixture(whole=0.5, start=0.2)


def test_a_day_follows_from_its_job_alone():
    job = DayJob(SMALL, FIRST_ORDER, DayRanges(), 3, 7, 12)
    one, again = simulate_day(job), simulate_day(job)
    for f in fields(one):
        assert getattr(one, f.name).tobytes() == getattr(again, f.name).tobytes(), f.name
    assert one.spectra.shape == (3, 64, 32)
    assert one.spectra.dtype == np.float16
    assert np.all(one.days == 12)
    assert np.all(np.isfinite(one.spectra))
    assert np.any(simulate_day(replace(job, index=13)).spectra != one.spectra)
    assert np.any(simulate_day(replace(job, seed=8)).spectra != one.spectra)


@pytest.mark.parametrize("dose_e", [2e5, 3e6])
def test_the_floor_of_a_simulated_frame_is_its_shot_noise(dose_e: float):
    # sum h^2 I / (sum h I)^2 of the bright disc, in units of 9/4: the window weighs its middle.
    optics = Optics()
    axis = (np.arange(optics.camera_pixels) - optics.camera_pixels / 2 + 0.5) * optics.camera_pixel_mrad
    disc = (np.hypot(axis[:, None], axis[None, :]) <= optics.convergence_mrad).astype(float)
    disc /= disc.sum()
    hann = preprocess.hann_window(optics.camera_pixels)
    expected = preprocess.REFERENCE_DOSE_E / dose_e * np.sum(hann**2 * disc) / np.sum(hann * disc) ** 2 / 2.25
    day = replace(Day(), dose_e=dose_e)
    source = DaySource(day, optics, FIRST_ORDER, np.random.default_rng(6))
    data = dataset.spectra_on(source, np.zeros((12, 3)))
    # One frame knows its floor to 8 %, twelve to 2.3 %, and 2 % too high; the band leaves 3 sigma.
    assert data.floors.mean() == pytest.approx(expected, rel=0.09)


def test_spectra_show_the_state_and_the_residuals():
    def mean_spectrum(
        state_nm: tuple[float, ...],
        day: Day = Day(),  # noqa: B008 (frozen)
        seed: int = 7,
    ) -> np.ndarray:
        source = DaySource(day, SMALL, FIRST_ORDER, np.random.default_rng(seed))
        data = dataset.spectra_on(source, np.array([state_nm] * 4))
        return data.spectra.astype(float).mean(0)

    here = mean_spectrum((0.0, 0.0, 0.0))
    np.testing.assert_array_equal(mean_spectrum((0.0, 0.0, 0.0)), here)
    # Another film and other noise at the same state, against which a state has to show.
    scatter = np.linalg.norm(mean_spectrum((0.0, 0.0, 0.0), seed=8) - here)
    for state in ((90.0, 0.0, 0.0), (0.0, 60.0, 0.0), (0.0, 0.0, 60.0)):
        assert np.linalg.norm(mean_spectrum(state) - here) > 3 * scatter, state
    # A residual of the same kind is the same aberration.
    moved = replace(Day(), residual_nm={"C10": 90.0})
    np.testing.assert_allclose(mean_spectrum((0.0, 0.0, 0.0), moved), mean_spectrum((90.0, 0.0, 0.0)), atol=1e-3)


def test_joined_and_subset_keep_rows_together():
    parts = [simulate_day(DayJob(SMALL, FIRST_ORDER, DayRanges(), 2, 1, index)) for index in (0, 1)]
    both = joined(parts)
    assert both.days.tolist() == [0, 0, 1, 1]
    picked = both.subset(np.array([False, True, True, False]))
    np.testing.assert_array_equal(picked.spectra, np.stack([parts[0].spectra[1], parts[1].spectra[0]]))
    np.testing.assert_array_equal(picked.states_nm, np.stack([parts[0].states_nm[1], parts[1].states_nm[0]]))
    assert picked.days.tolist() == [0, 1]
