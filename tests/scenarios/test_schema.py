"""A scenario file is refused, with the nearest valid choice, before anything is computed."""

from pathlib import Path

import pytest
import yaml

from scenarios.schema import ScenarioError, library, load, nearest, parse
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


@pytest.mark.parametrize("name", ["nominal", "day_a", "day_b", "day_c"])
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
    with pytest.raises(ScenarioError, match=r"nowhere/x\.yaml: No such file"):
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
