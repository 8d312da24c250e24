"""Mutated scenarios and random `--set`: a ScenarioError of one line, or a valid scenario; nothing else, and at once."""

import os
import random
import time
from pathlib import Path

import pytest

from scenarios.scenario_file import parse_yaml, read
from scenarios.schema import Scenario, ScenarioError, _dotted, _keys, library, load, parse

SECONDS = 2.5
"""Of each of the two fuzz tests."""
VALUES = [
    "1e-300", "1e300", "-1e300", "1e9", "1000000000", "9" * 5000, "0x" + "f" * 5000, "2001-13-45", "[1, 2]", "{a: 1}",
    "{[1]: 2}", "[[[[]]]]", "~", "", "true", ".nan", ".inf", "-.inf", "x", "0", "-1", "-0.0", "5e-324", "1.7e308",
    "!!python/name:os", "*a", "&a [*a]", "[" * 900, "1:2:3", '"\\uD800"', "1e400", "{1: 2}", "{~: 2}", "[~]",
    "[1e308, 1e308]", "[C10]", "first_order", "100000", "3.7", "{C10: 1}", "{C10: 1e308}", "{'1': 1e300}", "event",
    "{kind: event}", "{adf: {inner_mrad: 1e300}}", "list", "65536", "1048576", "{<<: 3}", "9" * 60, "[adf, [bf]]",
]  # fmt: skip
BYTES = [*"[]{}:,'\"\n\t#-é", "&a ", "*a", "<<: ", "- ", "? ", "!!", "e9", "0x"]


def outcome(make: object) -> Scenario | str:
    """The scenario, or the sentence that refuses it."""
    began = time.monotonic()
    try:
        made = make()  # type: ignore[operator]
        made.for_seed(0).resolved()
    except ScenarioError as error:
        sentence = str(error)
        assert "\n" not in sentence
        assert len(sentence) < 1000
        made = sentence
    assert time.monotonic() - began < 3
    return made  # type: ignore[no-any-return]


def test_random_overrides_are_refused_or_valid() -> None:
    rng, keys = random.Random(1), [_dotted((*place, key)) for place, names in _keys().items() for key in names]
    keys += ["", ".", "day..x", ".".join("abcdefghijklmn"), "scan.detectors.adf", "day.residual_nm.C10"]
    began, kinds = time.monotonic(), set()
    while time.monotonic() - began < SECONDS:
        name = rng.choice(["nominal", "day_a", "sto_001", "random_1", "calibrate_and_scan"])
        changes = [f"{rng.choice(keys)}={rng.choice(VALUES)}" for _ in range(rng.choice([1, 1, 2, 3]))]
        kinds.add(type(outcome(lambda name=name, changes=changes: load(name, changes))))
    assert kinds == {Scenario, str}


def test_mutated_files_are_refused_or_valid() -> None:
    rng, began, kinds = random.Random(2), time.monotonic(), set()
    texts = [read(name)[1] for name in library()]
    while time.monotonic() - began < SECONDS:
        text = rng.choice(texts)
        for _ in range(rng.choice([1, 1, 2, 5])):
            at = rng.randrange(len(text))
            text = text[:at] + rng.choice([*BYTES, *VALUES]) + text[at + rng.choice([0, 1, 3]) :]
        kinds.add(type(outcome(lambda text=text: parse({"name": "x", **parse_yaml(text, "x.yaml")}, "x.yaml"))))
    assert kinds == {Scenario, str}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: &a [*a]", "mine.yaml: line 1 is not valid YAML: the alias a stands inside what it repeats"),
        ("day: {dose_e: " + "[" * 900, "are at most 40 deep"),
        ("1: 2", "mine.yaml: a key is text, got 1"),
        ("scan: {detectors: [[bf]]}", "a list of detectors holds names, got ['bf']"),
        ("optics: {grid: 1000000000}", "optics.grid must be from 8 to 4096, got 1000000000"),
        ("optics: {energy_kev: 1.0e-300}", "optics.energy_kev must be from 0.1 to 5000, got 1e-300; nearest: 0.1"),
        ("day: {dose_e: 1e99}", "day.dose_e: a number up to 1e+15 in size is expected, got 1e+99"),
        ("day: {camera: {rotation_deg: 1e300}}", "day.camera.rotation_deg: a number up to 1e+15 in size is expected"),
        ("day: {residual_nm: {C30: 1e308}}", "a number up to 1e+15 in size is expected"),
        ("task: {observations: 1000000000}", "task.observations"),
    ],
)
def test_hostile_values_name_the_limit(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ScenarioError) as caught:
        load(path)
    assert expected in str(caught.value)


def test_an_override_is_blamed_where_parts_do_not_fit_together() -> None:
    with pytest.raises(ScenarioError, match=r"^--set optics.grid=100000: optics.grid must be from 8 to 4096"):
        load("nominal", ["optics.grid=100000"])
    with pytest.raises(
        ScenarioError, match=r"^--set optics.convergence_mrad=90: optics: convergence_mrad 90.0 exceeds"
    ):
        load("nominal", ["optics.convergence_mrad=90", "optics.energy_kev=250"])


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path / "pipe.yaml", Path("/dev/zero")):
        with pytest.raises(ScenarioError, match=r"is a (pipe|device); a file is expected"):
            load(path)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.yaml").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ScenarioError, match="a scenario has at most 1048576 bytes"):
        load(tmp_path / "huge.yaml")
