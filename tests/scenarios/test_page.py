"""The page layout: every text is escaped, every block is shown, nothing is loaded from elsewhere."""

import re

from scenarios.page import (
    Card,
    Cards,
    Cell,
    Details,
    Heading,
    Items,
    Listing,
    Picture,
    Section,
    Table,
    page,
)

NASTY = "<b onclick='x'>&\"</b>"


def test_every_text_is_escaped() -> None:
    table = Table([NASTY], [[NASTY, Cell(NASTY, NASTY, "yes", True)]])
    inner = [
        table,
        Picture(b"png", NASTY),
        Heading(NASTY, NASTY),
        Listing(NASTY),
        Items([NASTY]),
        Details(NASTY, table),
    ]
    text = page(NASTY, NASTY, [Cards([Card(NASTY, NASTY, "good")]), Section(NASTY, NASTY, inner)], (NASTY, NASTY))
    assert "onclick='x'" not in text
    assert text.count("&lt;b onclick=") == 22
    assert re.findall(r'(?:src|href)="([^"]{0,22})', text) == ["%3Cb%20onclick%3D%27x%", "data:image/png;base64,"]


def test_one_layout_suits_light_and_dark_and_small_screens() -> None:
    text = page("A", "B", [])
    assert text.startswith("<!doctype html>")
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert "http" not in text
