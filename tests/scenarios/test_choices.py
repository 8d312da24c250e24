"""Lists on the command line: names with options, however the commas fall."""

from typing import Any

import pytest

from scenarios.choices import ChoiceError, name_and_options, options, split_choices


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("adf", ("adf",)),
        ("adf,com , ricom", ("adf", "com", "ricom")),
        ("ricom:kernel_px=41,k_min_per_nm=1,adf", ("ricom:kernel_px=41,k_min_per_nm=1", "adf")),
        ("ssb:aberrations={C10: 5, C12a: 1},epie", ("ssb:aberrations={C10: 5, C12a: 1}", "epie")),
        ("adf,inner_mrad=20,com", ("adf:inner_mrad=20", "com")),
    ],
)
def test_an_option_belongs_to_the_name_before_it(text: str, expected: tuple[str, ...]) -> None:
    assert split_choices(text, "agent", "--agents") == expected


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("adf", "adf", {}),
        ("a:x=1,y=1e3,z=true,w=abc", "a", {"x": 1, "y": 1000.0, "z": True, "w": "abc"}),
        ("a:x=[1, 2],y={C10: 5.0}", "a", {"x": [1, 2], "y": {"C10": 5.0}}),
        ("a:path=c:d", "a", {"path": "c:d"}),
        ("a:x=null", "a", {"x": None}),
    ],
)
def test_values_are_yaml(text: str, name: str, expected: dict[str, Any]) -> None:
    assert name_and_options(text, "--agents") == (name, expected)


@pytest.mark.parametrize("text", ["", " , ", "x=1,a"])
def test_a_list_without_a_name_is_refused(text: str) -> None:
    with pytest.raises(ChoiceError, match="--agents"):
        split_choices(text, "agent", "--agents")


@pytest.mark.parametrize(("part", "words"), [("x", "key=value"), ("=1", "key=value"), ("x=[1", "YAML")])
def test_an_option_that_is_none_is_refused(part: str, words: str) -> None:
    with pytest.raises(ChoiceError, match=words):
        options([part], "--meta")
    with pytest.raises(ChoiceError, match="twice"):
        options(["x=1", "x=2"], "--meta")
