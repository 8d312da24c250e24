"""Drift against its closed forms: walk, step and wander of every coefficient."""

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from scipy.stats import chi2

from twin import drift
from twin.aberrations import NAMES, TERMS, Aberrations, index
from twin.day import DRIFT_PRESETS, Day, DriftProperties
from twin.optics import Optics
from twin.simulated import SimulatedMicroscope
from twin.state import FIRST_ORDER

FALSE_ALARM = 1e-4
NO_PHASE = np.zeros(len(NAMES))


def test_drift_is_off_unless_the_day_says_so() -> None:
    off = DriftProperties()
    assert not off.active
    assert np.all(drift.increment_nm(0.0, 1e6, off, NO_PHASE, np.random.default_rng(0)) == 0.0)


@pytest.mark.parametrize(
    "on",
    [
        DriftProperties(rate_nm_per_sqrt_s={"C10": 1.0}),
        DriftProperties(step_nm={"C30": 1.0}),
        DriftProperties(wander_nm={"2": 1.0}),
        DriftProperties(preset="commercial"),
    ],
)
def test_each_kind_of_drift_alone_moves_what_it_names_and_nothing_else(on: DriftProperties) -> None:
    assert on.active
    moved = drift.increment_nm(0.0, 100.0, on, NO_PHASE, np.random.default_rng(0))
    named = {
        **DRIFT_PRESETS.get(on.preset or "", {}),
        **(on.rate_nm_per_sqrt_s or {}),
        **(on.step_nm or {}),
        **(on.wander_nm or {}),
    }
    expected = {term.name for term in TERMS if term.name in named or str(term.n) in named}
    assert {name for name, value in zip(NAMES, moved, strict=True) if value != 0.0} == expected


def test_a_name_wins_over_its_order() -> None:
    rates = dict(zip(NAMES, drift.by_coefficient({"1": 0.2, "C10": 0.3, "2": 0.6, "C23b": 0.0}), strict=True))
    assert [rates[name] for name in ("C10", "C12a", "C12b")] == [0.3, 0.2, 0.2]
    assert [rates[name] for name in ("C21a", "C21b", "C23a", "C23b")] == [0.6, 0.6, 0.6, 0.0]
    assert all(rate == 0.0 for name, rate in rates.items() if name[1] not in "12")


@pytest.mark.parametrize(("steps", "seconds"), [(1, 1.0), (1, 16.0), (16, 1.0), (4, 4.0)])
def test_variance_of_the_walk_grows_linearly_in_time_however_it_is_cut(steps: int, seconds: float) -> None:
    day = DriftProperties(rate_nm_per_sqrt_s={"1": 0.5, "C30": 8.0})
    rng = np.random.default_rng(12)
    runs = 2500
    walks = np.array([sum(drift.walk_nm(seconds, day, rng) for _ in range(steps)) for _ in range(runs)])
    drifting = [index(name) for name in ("C10", "C12a", "C12b", "C30")]
    scaled = walks[:, drifting] / (np.array([0.5, 0.5, 0.5, 8.0]) * np.sqrt(steps * seconds))
    # 10 000 independent normals of known mean: the sum of squares is chi-squared and resolves 6 %.
    low, high = chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], scaled.size)
    assert low < np.sum(scaled**2) < high
    correlation = np.corrcoef(scaled.T)[np.triu_indices(4, 1)]
    assert np.abs(correlation).max() < 4.4 / np.sqrt(runs)  # six pairs: under 1e-4 in all
    assert np.all(np.delete(walks, drifting, axis=1) == 0.0)


def test_the_step_comes_once_and_stays() -> None:
    day = DriftProperties(step_nm={"C10": 5.0, "C30": -100.0}, step_at_s=10.0)
    rng = np.random.default_rng(0)
    increments = np.array([drift.increment_nm(t, 4.0, day, NO_PHASE, rng) for t in (0.0, 4.0, 8.0, 12.0, 16.0)])
    assert increments[:, index("C10")].tolist() == [0.0, 0.0, 5.0, 0.0, 0.0]
    assert increments[:, index("C30")].tolist() == [0.0, 0.0, -100.0, 0.0, 0.0]


def test_a_step_at_zero_is_there_in_the_first_exposure() -> None:
    day = DriftProperties(step_nm={"C10": 5.0})
    assert drift.increment_nm(0.0, 1.0, day, NO_PHASE, np.random.default_rng(0))[0] == 5.0


def test_wander_is_a_sinusoid_that_starts_from_no_displacement() -> None:
    day = DriftProperties(wander_nm={"C10": 4.0, "C12b": 2.0}, wander_period_s=100.0)
    phases = drift.draw_phases(np.random.default_rng(3))
    rng = np.random.default_rng(0)
    total = np.cumsum([drift.increment_nm(t, 5.0, day, phases, rng) for t in np.arange(0.0, 200.0, 5.0)], axis=0)
    times = np.arange(5.0, 205.0, 5.0)
    for name, amplitude in (("C10", 4.0), ("C12b", 2.0)):
        phase = phases[index(name)]
        expected = amplitude * (np.sin(2 * np.pi * times / 100.0 + phase) - np.sin(phase))
        assert total[:, index(name)] == pytest.approx(expected, abs=1e-9)
        assert np.ptp(total[:, index(name)]) == pytest.approx(2 * amplitude, rel=0.03)
    assert total[19] == pytest.approx(NO_PHASE, abs=1e-9)  # one whole period


def test_phases_differ_by_coefficient_and_fill_the_circle() -> None:
    phases = np.array([drift.draw_phases(np.random.default_rng(seed)) for seed in range(200)])
    assert phases.shape == (200, len(NAMES))
    assert len(np.unique(phases)) == phases.size
    # The mean of exp(i phi) over 5000 uniform phases: |.|^2 N is exponential of mean 1.
    assert abs(np.exp(1j * phases).mean()) ** 2 * phases.size < -np.log(FALSE_ALARM)


def rates(day: DriftProperties) -> dict[str, float]:
    return dict(zip(NAMES, drift.rates_nm_per_sqrt_s(day).tolist(), strict=True))


def test_the_commercial_preset_has_a_rate_for_every_coefficient_of_first_to_third_order() -> None:
    preset = rates(DriftProperties(preset="commercial"))
    # In CEOS' names: C1 0.30, A1 0.20, B2 0.60 (C21 is three of it), C3 8, per component.
    assert preset["C10"] == 0.30
    assert preset["C12a"] == preset["C12b"] == 0.20
    assert preset["C21a"] / 3 == preset["C21b"] / 3 == pytest.approx(0.60)
    assert preset["C30"] == 8.0
    assert {name for name, rate in preset.items() if rate > 0} == {term.name for term in TERMS if term.n <= 3}


def test_what_is_given_wins_over_the_preset_by_name_and_by_order() -> None:
    day = DriftProperties(preset="commercial", rate_nm_per_sqrt_s={"C10": 0.0, "2": 1.0, "C23a": 5.0, "4": 2.0})
    mixed = rates(day)
    assert (mixed["C10"], mixed["C12a"], mixed["C21a"], mixed["C23a"], mixed["C23b"]) == (0.0, 0.20, 1.0, 5.0, 1.0)
    assert (mixed["C30"], mixed["C41b"], mixed["C50"]) == (8.0, 2.0, 0.0)
    assert rates(DriftProperties()) == dict.fromkeys(NAMES, 0.0)


def test_a_preset_is_one_word_of_a_scenario() -> None:
    day = TypeAdapter(Day).validate_python({"drift": {"preset": "commercial"}})
    assert day.drift == DriftProperties(preset="commercial")
    with pytest.raises(ValidationError, match="did you mean commercial"):
        DriftProperties(preset="comercial")


class Dark:
    """A renderer that shows nothing: drift is what the tests below are about."""

    def probability(self, aberrations: Sequence[Aberrations], region_seeds: Sequence[int]) -> NDArray[np.float32]:
        return np.zeros((len(region_seeds), 64, 64), np.float32)


def displacements(day: Day, sessions: int, frames: tuple[int, ...]) -> np.ndarray:
    """Of the calibrated state since the start, (sessions, len(frames), n), when so many frames have been taken."""
    microscope = SimulatedMicroscope(Optics(grid=512, camera_pixels=64, binning=4), FIRST_ORDER, day, Dark())
    found = np.empty((sessions, len(frames), 3))
    for seed in range(sessions):
        microscope.reset(np.random.default_rng(seed))
        for column, more in enumerate(np.diff(frames, prepend=0)):
            for _ in range(more):
                microscope.apply(np.zeros(3))
                microscope.acquire()
            truth = microscope.truth()
            found[seed, column] = truth.state_nm - truth.initial_nm
    return found


@pytest.mark.parametrize("latency_s", [0.0, 3.0])
def test_variance_of_the_instrument_s_drift_grows_linearly_with_its_clock(latency_s: float) -> None:
    day = Day(exposure_s=0.5, overhead_s=0.5, command_latency_s=latency_s, drift=DriftProperties(preset="commercial"))
    sessions, frames = 600, (1, 4, 16)
    moved = displacements(day, sessions, frames)
    seconds = (1.0 + latency_s) * np.array(frames)
    scaled = moved / (np.sqrt(seconds)[:, None] * np.array([0.30, 0.20, 0.20]))
    low, high = chi2.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], sessions * 3)  # resolves 13 % at each time
    for column in range(len(frames)):
        assert low < np.sum(scaled[:, column] ** 2) < high
    # Increments of one session are independent of what came before.
    later = moved[:, 2] - moved[:, 1]
    assert abs(np.corrcoef(later.ravel(), moved[:, 1].ravel())[0, 1]) < 3.9 / np.sqrt(sessions * 3)  # 1e-4
