"""The page on the guard names the code that its lines describe."""

import importlib
import re
from pathlib import Path
from typing import Any

PAGE = (Path(__file__).parents[3] / "docs" / "hardware.md").read_text(encoding="utf-8")


def in_the_code(name: str) -> Any:
    """What a dotted name under `twin.instrument` stands for: a class or function of a module."""
    module, _, thing = name.rpartition(".")
    if module.rpartition(".")[2][:1].isupper():  # a method of a class
        return getattr(in_the_code(module), thing)
    return getattr(importlib.import_module(f"twin.instrument.{module}"), thing)


def test_every_name_in_the_table_is_in_the_code() -> None:
    table = PAGE.partition("### In the code")[2].partition("\n\nA command costs")[0]
    rows = [row.split("|")[2] for row in table.splitlines() if row.startswith("|") and "`" in row]
    assert len(rows) == 10
    for row in rows:
        places, _, methods = row.partition(":")
        holders = [in_the_code(name) for name in re.findall(r"`([\w.]+)`", places)]
        assert all(callable(holder) for holder in holders)
        assert all(hasattr(holders[0], name) for name in re.findall(r"`(\w+)`", methods))
