"""JSON and YAML of somebody else: what is plain data is read, everything else is one kind of error, at once."""

import json
import time
from itertools import pairwise

import pytest

from twin.text import Limits, json_text, yaml_text

LETTERS = "abcdefghij"


def bomb(form: str) -> str:
    """Nine aliases of nine aliases of ...: a billion values once they are expanded."""
    lines = [f"a: &a {form.format('1', '1')}"]
    for above, below in pairwise(LETTERS):
        lines.append(f"{below}: &{below} {form.format(*['*' + above] * 2)}")
    return "\n".join(lines)


LISTS = bomb("[{0}, {1}, {0}, {1}, {0}, {1}, {0}, {1}, {0}]")
MERGES = "a: &a {x: 1}\n" + "\n".join(
    f"{below}: &{below} {{<<: [{', '.join(['*' + above] * 9)}]}}" for above, below in pairwise(LETTERS)
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (LISTS, "more than 100000 values, aliases counted each time"),
        (MERGES, "more than 100000 values, aliases counted each time"),
        ("a: &a [*a]", "the alias a stands inside what it repeats"),
        ("a: &a {<<: *a}", "the alias a stands inside what it repeats"),
        ("[" * 900 + "]" * 900, "lists and mappings are at most 40 deep"),
        ("{a: " * 5000, "lists and mappings are at most 40 deep"),
        ("? [1, 2]\n: 3", "a key is plain text, not a list or a mapping"),
        ("a: 1\na: 2", "a is given twice"),
        ("a: " + "9" * 5000, "a number of 5000 characters; at most 64 are read"),
        ("a: 0x" + "f" * 5000, "a number of 5002 characters; at most 64 are read"),
        ("!!python/object/apply:os.system [ls]", "the tag tag:yaml.org,2002:python/object/apply:os.system is not read"),
        ("!!bool maybe", "the tag tag:yaml.org,2002:bool is not read"),
        ("a: *nothing", "found undefined alias"),
        ("a: \x00", "special characters are not allowed"),
        ("'\ud800'", "special characters are not allowed"),
        ("#" * 2**21, "2097152 bytes; at most 1048576 are read"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_yaml_that_is_not_plain_data_is_refused_at_once(text: str, problem: str) -> None:
    began = time.monotonic()
    with pytest.raises(yaml_text.YamlError) as caught:
        yaml_text.loads(text)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 5


def test_plain_yaml_is_read_as_before() -> None:
    text = "a: &x {b: [1, 2.5, yes, ~, text], c: 'it''s'}\nd: *x\ne: {<<: *x, b: 3}\nf: !!str 7\n"
    assert yaml_text.loads(text) == {
        "a": {"b": [1, 2.5, True, None, "text"], "c": "it's"},
        "d": {"b": [1, 2.5, True, None, "text"], "c": "it's"},
        "e": {"b": 3, "c": "it's"},
        "f": "7",
    }
    assert yaml_text.loads("") is None


@pytest.mark.parametrize("date", ["2001-01-01", "2001-13-45", "2001-12-14t21:59:43.10-05:00"])
def test_a_date_is_text(date: str) -> None:
    assert yaml_text.loads(date) == date


def test_the_line_of_a_mistake_is_told() -> None:
    with pytest.raises(yaml_text.YamlError) as caught:
        yaml_text.loads("a: 1\nb: 2\na: 3\n")
    assert caught.value.line == 3


def test_limits_can_be_narrower() -> None:
    with pytest.raises(yaml_text.YamlError, match="at most 2 deep"):
        yaml_text.loads("[[[1]]]", Limits(depth=2))
    with pytest.raises(yaml_text.YamlError, match="more than 3 values"):
        yaml_text.loads("[1, 2, 3]", Limits(values=3))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 5000, "lists and objects are at most 40 deep"),
        ('{"a":' * 100_000, "lists and objects are at most 40 deep"),
        ("Infinity", "Infinity is not JSON"),
        ("[NaN]", "NaN is not JSON"),
        ("1e999", "1e999 is beyond double precision"),
        ("9" * 5000, "a number of 5000 digits; at most 64 are read"),
        (b"\xff", "not UTF-8 text"),
        ("{", "Expecting property name"),
        ("[1] 2", "Extra data"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_json_that_is_not_plain_data_is_one_kind_of_error(text: str | bytes, problem: str) -> None:
    with pytest.raises(json.JSONDecodeError, match=problem):
        json_text.loads(text)


def test_brackets_within_strings_have_no_depth() -> None:
    value = {"a": "[" * 100 + '"\\', "b": ["{" * 100]}
    assert json_text.loads(json.dumps(value)) == value


def test_a_text_full_of_quotes_takes_linear_time() -> None:
    began = time.monotonic()
    with pytest.raises(json.JSONDecodeError):
        json_text.loads('\\"' * 200_000 + "[" * 50)
    assert time.monotonic() - began < 5


def test_json_larger_than_its_limit_is_not_parsed() -> None:
    with pytest.raises(json.JSONDecodeError, match="11 bytes; at most 10 are read"):
        json_text.loads(" " * 11, Limits(bytes=10))


def test_what_python_writes_beside_json_is_read_where_it_may_stand() -> None:
    assert json_text.loads("[Infinity]", finite=False) == [float("inf")]
