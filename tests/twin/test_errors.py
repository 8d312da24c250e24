"""Foreign text in messages: whatever it is, one printable line of bounded length."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twin.errors import LONGEST_WORDS, printable


@given(st.text(max_size=2000), st.integers(8, 500))
@settings(max_examples=200, deadline=None)
def test_any_text_is_printable_and_short(text: str, most: int) -> None:
    words = printable(text, most)
    assert words.isprintable()
    assert len(words) <= most
    assert printable(words, most) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Measured probe diameter out of range: 25.5 px", "Measured probe diameter out of range: 25.5 px"),
        ("Größe: 3 µm, 5 Å", "Größe: 3 µm, 5 Å"),
        ("a\r\nb\tc", "a b c"),
        ("\x1b]0;title\x07", "?]0;title?"),
        ("\x9b31m", "?31m"),
        ("abc\u202edef", "abc?def"),
        ("\ud800", "?"),
        ("", ""),
        (ValueError("no beam"), "no beam"),
        (None, "None"),
    ],
)
def test_what_becomes_of_it(text: object, words: str) -> None:
    assert printable(text) == words


def test_a_megabyte_is_cut_and_its_end_is_marked() -> None:
    words = printable("A" * 10**6)
    assert len(words) == LONGEST_WORDS
    assert words.endswith("A...")
    assert printable(" " * 10**6 + "A").endswith("...")
