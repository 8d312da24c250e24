"""The library's days are what docs/days.md says: one factor each, inside or outside the training ranges; they run."""

import re
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.dataset import DayRanges
from scenarios.calibration import run
from scenarios.schema import Scenario, ScenarioError, library, load
from twin import dynamics
from twin.day import ActuatorProperties, Day, DriftProperties
from twin.drift import by_coefficient
from twin.simulated import SimulatedMicroscope, check_reach

PAGE = Path(__file__).parents[2] / "docs" / "days.md"

ONE_FACTOR = {
    "day_thick": {"film.thickness_nm"},
    "day_focal_spread": {"focal_spread_nm"},
    "day_source": {"source_size_nm"},
    "day_low_dose": {"dose_e"},
    "day_spherical": {"residual_nm"},
    "day_coma": {"residual_nm"},
    "day_camera": {"camera.rotation_deg", "camera.scale"},
    "day_actuator": {"actuator.gain", "actuator.rotation_deg", "actuator.coupling"},
    "day_drift": {"drift.rate_nm_per_sqrt_s", "overhead_s"},
}
DAYS = [name for name in library() if not name.startswith("random") and load(name).scan is None]
"""Days of docs/days.md: neither drawn per seed nor made for scans."""

UNTRAINED = {"day_c", "day_actuator", "day_drift"}


def flat(plain: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted field names and values of a day; named coefficients stay together."""
    for key, value in plain.items():
        if isinstance(value, dict) and key in ("film", "camera", "actuator", "drift"):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def changed(day: Day) -> set[str]:
    """Fields in which a day differs from the nominal one."""
    nominal = dict(flat(asdict(Day())))
    return {name for name, value in flat(asdict(day)) if value != nominal[name]}


def trained(day: Day) -> bool:
    """Whether training could have drawn a day, up to defects and dark level, which preprocessing removes."""
    ranges = {f.name: getattr(DayRanges(), f.name) for f in fields(DayRanges)}
    residual, camera = day.residual, day.camera
    odd = {"coma_nm": ("C21a", "C21b"), "threefold_nm": ("C23a", "C23b"), "spherical_nm": ("C30",)}
    values = {name: [residual[c] for c in coefficients] for name, coefficients in odd.items()}
    values |= {name: [getattr(day, name)] for name in ("focal_spread_nm", "source_size_nm", "dose_e")}
    values |= {name: [getattr(camera, name)] for name in ("rotation_deg", "scale", "mtf_nyquist", "shading", "gain")}
    values |= {"thickness_nm": [day.film.thickness_nm], "shift_px": list(camera.shift_px)}
    assert set(values) == set(ranges)
    inside = all(low <= value <= high for name, (low, high) in ranges.items() for value in values[name])
    return inside and day.actuator == ActuatorProperties() and day.drift == DriftProperties()


def microscope(scenario: Scenario) -> SimulatedMicroscope:
    return SimulatedMicroscope(scenario.optics, scenario.space, scenario.day, "fast")


def test_the_library_has_every_single_factor() -> None:
    assert set(ONE_FACTOR) <= set(library())
    assert {"nominal", "day_a", "day_b", "day_c", "random_1", "random_2"} <= set(library())


@pytest.mark.parametrize("name", ONE_FACTOR)
def test_a_single_factor_day_is_nominal_but_for_its_factor(name: str) -> None:
    scenario = load(name)
    assert changed(scenario.day) == ONE_FACTOR[name]
    assert scenario.renderer == "multislice"
    assert scenario.optics == load("nominal").optics
    if name != "day_drift":
        assert scenario.space == load("nominal").space


def test_on_the_drift_day_the_corrector_reaches_what_drift_does_within_the_trained_range() -> None:
    scenario, nominal = load("day_drift"), load("nominal").space
    space = scenario.space
    seconds = scenario.task.observations * (scenario.day.exposure_s + scenario.day.overhead_s)
    rms = by_coefficient(scenario.day.drift.rate_nm_per_sqrt_s)[:3] * np.sqrt(seconds)
    assert np.all(space.start + 3 * rms < space.input + space.tolerance)
    assert (space.names, space.tolerance_nm) == (nominal.names, nominal.tolerance_nm)
    assert space.range_nm == pytest.approx(nominal.range_nm)


def test_coma_and_spherical_days_have_those_residuals_alone() -> None:
    assert set(load("day_spherical").day.residual.nonzero()) == {"C30"}
    assert set(load("day_coma").day.residual.nonzero()) == {"C21a", "C21b", "C23a", "C23b"}


@pytest.mark.parametrize("name", DAYS)
def test_a_day_is_inside_the_training_ranges_as_documented(name: str) -> None:
    inside = trained(load(name).day)
    assert inside == (name not in UNTRAINED)
    row = re.search(rf"^\| `{name}` \|.*\| (yes|no)[^|]*\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert row, f"docs/days.md has no row for {name}"
    assert row[1] == ("yes" if inside else "no")


def test_severity_1_is_inside_the_training_ranges_and_severity_2_is_not() -> None:
    shares = {
        severity: np.mean([trained(Day.random(np.random.default_rng(seed), severity)) for seed in range(400)])
        for severity in (0.5, 1.0, 2.0)
    }
    # Promised: over 95 % and under 5 %. 1 is on the edge of the ranges by construction, 2 twice as far out.
    assert shares[0.5] == 1.0
    assert shares[1.0] > 0.95
    assert shares[2.0] < 0.05


@pytest.mark.parametrize("name", library())
def test_every_scenario_shows_a_frame(name: str) -> None:
    scenario = load(name).for_seed(1)
    instrument = microscope(scenario)
    instrument.reset(np.random.default_rng(1))
    frame = instrument.acquire()
    camera = scenario.day.camera
    alive = frame.counts[frame.counts < camera.saturation]  # hot pixels are not
    electrons = float(np.sum(alive - camera.dark_level)) / camera.gain
    assert 0.8 < electrons / scenario.day.dose_e < 1.1
    assert np.std(frame.counts) > 0


@pytest.mark.parametrize("seed", range(25))
def test_no_random_day_of_the_library_aliases(seed: int) -> None:
    for name in ("random_1", "random_2"):
        scenario = load(name).for_seed(seed)
        check_reach(scenario.optics, scenario.space, scenario.day)


def test_the_actuator_day_moves_by_less_and_elsewhere_than_asked() -> None:
    scenario = load("day_actuator")
    instrument = microscope(scenario)
    instrument.reset(np.random.default_rng(2))
    start = instrument.truth().state_nm
    instrument.apply(np.array([40.0, 0.0, 0.0]))
    assert instrument.truth().state_nm - start == pytest.approx([0.95 * 40.0, 0.03 * 40.0, -0.02 * 40.0])
    instrument.apply(np.array([0.0, 20.0, 0.0]))
    turned = 0.95 * 20.0 * np.array([np.cos(np.radians(5.0)), np.sin(np.radians(5.0))])
    assert instrument.truth().state_nm - start == pytest.approx([38.0, 1.2 + turned[0], -0.8 + turned[1]])
    assert dynamics.reach_nm(scenario.space, scenario.day.actuator)[0] < scenario.space.range_nm[0]


def test_the_drift_day_lasts_30_minutes_at_one_frame_per_10_s() -> None:
    scenario = load("day_drift")
    assert scenario.task.observations * (scenario.day.exposure_s + scenario.day.overhead_s) == 1800.0
    rates = by_coefficient(scenario.day.drift.rate_nm_per_sqrt_s)
    assert rates[:7].tolist() == [0.3, 0.2, 0.2, 1.8, 1.8, 0.6, 0.6]  # C10 C12 C21 C23; B2 is C21 / 3
    assert by_coefficient({"C30": 8.0}).tolist() == [0.0] * 7 + rates[7:].tolist()


class Dark:
    """A renderer that shows nothing and remembers what it was asked."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.shown: list[float] = []

    def probability(self, aberrations: Any, region_seeds: Any) -> Any:
        self.shown += [state["C30"] for state in aberrations]
        return np.zeros((len(aberrations), self.side, self.side), np.float32)


def test_the_drift_day_drifts_as_far_as_its_page_says() -> None:
    scenario = load("day_drift", ["optics.camera_pixels=16", "optics.binning=24"])
    moved = []
    for seed in range(60):
        dark = Dark(scenario.optics.camera_pixels)
        instrument = SimulatedMicroscope(scenario.optics, scenario.space, scenario.day, dark)
        instrument.reset(np.random.default_rng(seed))
        for _ in range(scenario.task.observations):
            frame = instrument.acquire()
        truth = instrument.truth()
        moved.append([*(truth.state_nm - truth.initial_nm), dark.shown[-1]])
    assert frame.clock_s == 1800.0
    # 60 draws: a standard deviation is known to 9 %, here to 3.9 sigma of that.
    assert np.std(moved, axis=0) == pytest.approx(np.sqrt(1800) * np.array([0.3, 0.2, 0.2, 8.0]), rel=0.36)


def test_a_run_needs_its_day_drawn_and_calibrate_draws_it(small: Any, tmp_path: Path) -> None:
    scenario = small(2, name="random_1")
    with pytest.raises(ScenarioError, match="random_1: severity 1 draws a day per seed; choose a seed first"):
        run.prepare(scenario, "random")
    results = [run.calibrate(scenario, "random", seed, tmp_path, report=False) for seed in (3, 4)]
    days = [result.scenario.day for result in results]
    assert days == [scenario.for_seed(3).day, scenario.for_seed(4).day]
    assert f"thickness_nm: {days[0].film.thickness_nm}" in (results[0].directory / "config.yaml").read_text()
