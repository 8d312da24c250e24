"""What is chosen by name: modules and presets, found, described and resolved without importing more than asked."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from twin import registry
from twin.errors import StemtwinError


class UnknownTool(StemtwinError, ValueError):
    """No tool of that name."""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A package of two modules, one of them hidden, and two presets."""
    folder = tmp_path / "tools_of_this_test"
    folder.mkdir()
    (folder / "saw.py").write_text('"""Cuts wood.\n\nAlong the grain.\n"""\nteeth = 20\n')
    (folder / "_hidden.py").write_text('"""Cuts metal."""\nraise RuntimeError("imported")\n')
    (folder / "__init__.py").write_text(
        "from twin.registry import Preset\n"
        "PRESETS = {\n"
        '    "fret_saw": Preset("saw", {"teeth": 80}),\n'
        '    "hack_saw": Preset("_hidden", {"teeth": 120}, "Cuts pipes."),\n'
        "}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield __import__(folder.name)
    for name in [name for name in sys.modules if name.startswith(folder.name)]:
        del sys.modules[name]


def test_modules_and_presets_are_listed_and_hidden_modules_are_not(tools: ModuleType) -> None:
    assert registry.names(tools) == ["fret_saw", "hack_saw", "saw"]


def test_entries_are_described_without_an_import(tools: ModuleType) -> None:
    assert registry.describe(tools, "saw") == "Cuts wood."
    assert registry.describe(tools, "fret_saw") == "saw with teeth=80: Cuts wood."
    assert registry.describe(tools, "hack_saw") == "Cuts pipes."
    assert f"{tools.__name__}.saw" not in sys.modules


def test_a_preset_sets_options_and_the_user_overrides_them(tools: ModuleType) -> None:
    module, options = registry.resolve(tools, "fret_saw", {"width": 3}, "a tool", UnknownTool)
    assert (module.teeth, options) == (20, {"teeth": 80, "width": 3})
    assert registry.resolve(tools, "fret_saw", {"teeth": 60}, "a tool", UnknownTool)[1] == {"teeth": 60}
    assert registry.resolve(tools, "saw", {}, "a tool", UnknownTool)[1] == {}


def test_an_unknown_name_is_refused_with_the_nearest(tools: ModuleType) -> None:
    with pytest.raises(UnknownTool, match=r"'fret_sow' is not a tool \(did you mean fret_saw\?\); known: fret_"):
        registry.resolve(tools, "fret_sow", {}, "a tool", UnknownTool)
