"""A scenario file is refused, with the nearest valid choice, before anything is computed."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from scenarios.schema import ScenarioError, library, load, parse
from twin.day import Day
from twin.errors import nearest
from twin.optics import Optics
from twin.state import FIRST_ORDER, SECOND_ORDER


def refused(text: str, tmp_path: Path) -> str:
    """The message with which a scenario file of this text is refused."""
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ScenarioError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("mine.yaml:")
    return message


def refused_override(override: str) -> str:
    with pytest.raises(ScenarioError) as caught:
        load("nominal", [override])
    return str(caught.value)


@pytest.mark.parametrize("name", library())
def test_library_scenario_loads_under_its_name_and_survives_a_round_trip(name: str) -> None:
    scenario = load(name)
    assert scenario.name == name
    assert scenario.description
    again = parse(yaml.safe_load(yaml.safe_dump(scenario.resolved())), "config.yaml")
    assert again == scenario


def test_library_days_hold_the_published_gaps() -> None:
    a, b, c = (load(f"day_{letter}") for letter in "abc")
    assert {s.renderer for s in (a, b, c)} == {"multislice"}
    assert [s.day.film.thickness_nm for s in (a, b, c)] == [4.0, 8.0, 10.0]
    assert [s.day.dose_e for s in (a, b, c)] == [1e6, 2e5, 1e6]
    assert a.day.residual_nm == {"C21a": 25, "C21b": -20, "C23a": 30, "C23b": 30, "C30": 500}
    assert b.day.residual_nm == {"C21a": -50, "C21b": 35, "C23a": 60, "C23b": -50, "C30": -1500}
    assert c.day.residual_nm == {"C21a": 130, "C21b": -90, "C23a": -110, "C23b": 120, "C30": 1200}
    assert b.day.camera.shift_px == (2.0, -2.0)
    assert [s.day.camera.rotation_deg for s in (a, b, c)] == [1.5, -3.0, 6.0]


def test_nominal_is_all_defaults() -> None:
    scenario = load("nominal")
    assert scenario.renderer == "fast"
    assert scenario.optics == Optics()
    assert scenario.space == FIRST_ORDER
    assert scenario.day == type(scenario.day)()


def test_unknown_scenario_names_the_nearest_and_lists_all() -> None:
    with pytest.raises(ScenarioError, match=r"'dya_a' is not a scenario \(did you mean day_a\?\)") as caught:
        load("dya_a")
    assert all(name in str(caught.value) for name in library())


def test_missing_file_is_named() -> None:
    with pytest.raises(ScenarioError, match=r"nowhere/x\.yaml does not exist"):
        load("nowhere/x.yaml")


def test_file_stem_is_the_default_name(tmp_path: Path) -> None:
    path = tmp_path / "tuesday.yaml"
    path.write_text("")
    assert load(path).name == "tuesday"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optics: {semi_angle_mrad: 28}", "optics.semi_angle_mrad is not a key here (did you mean convergence_mrad?)"),
        ("opitcs: {}", "opitcs is not a key here (did you mean optics?)"),
        ("dose_e: 1.0", "dose_e is not a key here (did you mean day.dose_e?)"),
        ("day: {film: {thicknes_nm: 3}}", "day.film.thicknes_nm is not a key here (did you mean thickness_nm?)"),
        ("task: {observation: 3}", "task.observation is not a key here (did you mean observations?)"),
        ("severty: 1", "severty is not a key here (did you mean severity?)"),
        (
            "day: {actuator: {coupling: {C12a: {C1O: 0.1}}}}",
            "'C1O' is not an aberration coefficient (did you mean C10?)",
        ),
        ("day: {residual_nm: {C21: 3}}", "'C21' is not an aberration coefficient (did you mean C21"),
        ("space: second_ordre", "space 'second_ordre' is not a shorthand (did you mean second_order?)"),
        ("controllers: {randon: {}}", "controllers.randon is not a controller (did you mean random?)"),
    ],
)
def test_unknown_names_at_any_depth_suggest_the_nearest(text: str, expected: str, tmp_path: Path) -> None:
    assert expected in refused(text, tmp_path)


@pytest.mark.parametrize(
    ("text", "where", "value"),
    [
        ("optics: {grid: many}", "optics.grid", "'many'"),
        ("optics: {grid: true}", "optics.grid", "true"),
        ("day: {dose_e: -1}", "day.dose_e", "-1"),
        ("day: {dose_e: .nan}", "day.dose_e", "nan"),
        ("day: 3", "day", "3"),
        ("task: {observations: 0}", "task.observations", "0"),
        ("renderer: slow", "renderer", "'slow'"),
        ("space: {names: C10}", "space.names", "'C10'"),
        ("name: ../../etc", "name", "'../../etc'"),
        ("severity: -1", "severity", "-1"),
        ("severity: .inf", "severity", "inf"),
        ("severity: true", "severity", "true"),
        ("day: {drift: {rate_nm_per_sqrt_s: {C3O: 8}}}", "day.drift.rate_nm_per_sqrt_s", "'C3O'"),
    ],
)
def test_wrong_values_name_key_and_value(text: str, where: str, value: str, tmp_path: Path) -> None:
    message = refused(text, tmp_path)
    assert where in message
    assert value in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optics: {grid: 128}", "the camera spans 128 x 3 grid pixels; the grid has 128"),
        ("optics: {convergence_mrad: 90}", "convergence_mrad 90.0 exceeds the grid's 39.4 mrad"),
        ("space: {start_nm: [1, 2]}", "start_nm has 2 entries; expected one per name, 3"),
        ("day: {film: {hard_core_nm: 0.5}}", "packing fraction"),
    ],
)
def test_values_that_do_not_fit_together_are_refused(text: str, expected: str, tmp_path: Path) -> None:
    assert expected in refused(text, tmp_path)


# --- days drawn per seed ---------------------------------------------------------------------------


def test_a_day_and_a_severity_exclude_each_other(tmp_path: Path) -> None:
    message = refused("severity: 1.0\nday: {dose_e: 2.0e+5}", tmp_path)
    assert "severity: severity draws the whole day; give either day or severity" in message
    with pytest.raises(ScenarioError, match=r"--set severity=1: severity: severity draws the whole day"):
        load("day_a", ["severity=1"])
    with pytest.raises(ScenarioError, match="give either day or severity"):
        load("random_1", ["day.dose_e=2e5"])


def test_a_fixed_day_is_the_same_for_every_seed() -> None:
    scenario = load("day_a")
    assert scenario.for_seed(1) is scenario
    assert "severity" not in scenario.resolved()


def test_a_drawn_day_depends_on_seed_and_severity_alone() -> None:
    scenario = load("random_1")
    fixed = scenario.for_seed(3)
    assert fixed.severity is None
    assert fixed.day != Day()
    assert fixed.name == "random_1"
    others = load("random_1", ["renderer=fast", "space=second_order", "task.observations=3", "controllers.random={}"])
    assert others.for_seed(3).day == fixed.day
    assert scenario.for_seed(4).day != fixed.day
    assert load("random_2").for_seed(3).day != fixed.day
    assert scenario.severity == 1.0  # not touched
    assert load("random_1", ["severity=0"]).for_seed(3).day == Day()


def test_everything_adds_corrector_drift_and_scan_to_a_drawn_day() -> None:
    plain, full = load("random_1"), load("random_1", ["everything=true"])
    assert "everything" not in plain.resolved()
    assert parse(full.resolved(), "again") == full
    day = full.for_seed(3)
    assert day.day.drift.active
    assert not day.everything
    assert parse(day.resolved(), "again") == day
    imperfect = {name: getattr(day.day, name) for name in ("actuator", "drift", "scan")}
    assert dataclasses.replace(plain.for_seed(3).day, **imperfect) == day.day
    with pytest.raises(ScenarioError, match="--set everything=true: everything: everything goes with severity"):
        load("day_a", ["everything=true"])


def test_the_day_of_a_seed_is_part_of_what_the_seed_means() -> None:
    # Written down once: a change here changes every published figure on random days.
    day = load("random_1").for_seed(0).day
    assert day.film.thickness_nm == pytest.approx(3.5126574826045673, rel=1e-12)
    assert day.residual["C30"] == pytest.approx(1526.038226243697, rel=1e-12)
    assert day.dose_e == pytest.approx(420785.64208670537, rel=1e-12)


def test_a_run_on_a_drawn_day_resolves_to_that_day() -> None:
    scenario = load("random_2")
    assert "day" not in scenario.resolved()
    fixed = scenario.for_seed(5)
    again = parse(yaml.safe_load(yaml.safe_dump(fixed.resolved())), "config.yaml")
    assert again == fixed


# --- files and overrides ---------------------------------------------------------------------------


def test_malformed_yaml_names_the_line(tmp_path: Path) -> None:
    assert "line 2 is not valid YAML" in refused("renderer: fast\nday: ]", tmp_path)
    assert "line 3 is not valid YAML: dose_e is given twice" in refused("day:\n  dose_e: 1\n  dose_e: 2", tmp_path)


def test_a_list_is_not_a_scenario(tmp_path: Path) -> None:
    assert "a scenario is a mapping of keys to values, got list" in refused("- 1\n- 2", tmp_path)


def test_overrides_reach_any_depth_and_leave_the_rest() -> None:
    changed = load("day_a", ["day.film.thickness_nm=6", "day.dose_e=2e5", "task.stop=true", "day.residual_nm.C30=-800"])
    plain = load("day_a")
    assert changed.day.film.thickness_nm == 6.0
    assert changed.day.dose_e == 2e5
    assert changed.task.stop is True
    assert changed.day.residual_nm == {**(plain.day.residual_nm or {}), "C30": -800.0}
    assert changed.day.camera == plain.day.camera
    assert changed.optics == plain.optics


def test_overrides_reach_into_a_shorthand() -> None:
    assert load("nominal", ["space=second_order"]).space == SECOND_ORDER
    changed = load("nominal", ["space.tolerance_nm=[5, 5, 5]"])
    assert changed.space.tolerance_nm == (5.0, 5.0, 5.0)
    assert changed.space.start_nm == FIRST_ORDER.start_nm


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optics.semi_angle_mrad=3", "--set optics.semi_angle_mrad=3: optics.semi_angle_mrad is not a key here"),
        ("day.dose_e=-1", "--set day.dose_e=-1: day.dose_e: input should be greater than 0, got -1"),
        ("day.dose_e", "an override is written key.key=value"),
        ("=3", "an override is written key.key=value"),
        ("day..dose_e=3", "an override is written key.key=value"),
        ("space=secnod_order", "did you mean second_order?"),
        ("day.camera.shift_px=[1", "is not a YAML value"),
    ],
)
def test_bad_overrides_are_refused_under_their_own_name(override: str, expected: str) -> None:
    assert expected in refused_override(override)


def test_controller_options_pass_through_untouched(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("controllers: {random: {anything: [1, 2]}}")
    assert load(path).controllers == {"random": {"anything": [1, 2]}}


def test_nearest_is_silent_when_nothing_is_near() -> None:
    assert nearest("zzz", ["day_a", "nominal"]) == ""
    assert nearest("nominl", ["day_a", "nominal"]) == " (did you mean nominal?)"


def test_kinds_add_departures_to_a_drawn_day() -> None:
    day = load("random_1", ["kinds=[vibration, spots]"]).for_seed(3)
    assert day.day.illumination.vibration_nm > 0
    assert day.day.camera.spots > 0
    assert day.kinds == ()
    assert load("random_1").for_seed(3).day.illumination == Day().illumination
    with pytest.raises(ScenarioError, match="did you mean vibration"):
        load("random_1", ["kinds=[vibratoin]"])
    with pytest.raises(ScenarioError, match="kinds go with severity"):
        load("day_a", ["kinds=[vibration]"])
