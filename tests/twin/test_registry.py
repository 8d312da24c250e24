"""What is chosen by name: modules and presets, found, described and resolved without importing more than asked."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from twin import registry
from twin.errors import StemtwinError
from twin.options import OptionError


class UnknownTool(StemtwinError, ValueError):
    """No tool of that name."""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A package of two modules, one of them hidden, and presets."""
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


@pytest.mark.parametrize(
    ("name", "teeth", "instead"),
    [("coping_saw", 120, "choose hack_saw"), ("coping_saw", 7, "leave teeth out"), ("rip_saw", 7, "choose saw")],
)
def test_what_defines_a_preset_is_not_changed(
    tools: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str, teeth: int, instead: str
) -> None:
    fixed = {
        "coping_saw": registry.Preset("_hidden", {"teeth": 60}, "Cuts curves.", ("teeth",)),
        "rip_saw": registry.Preset("saw", {"teeth": 10}, "Cuts along.", ("teeth",)),
    }
    monkeypatch.setattr(tools, "PRESETS", {**tools.PRESETS, **fixed})
    with pytest.raises(OptionError, match=rf"{name} has teeth=\d+, got {teeth}: {instead}$"):
        registry.resolve(tools, name, {"teeth": teeth}, "a tool", UnknownTool)
    module, options = registry.resolve(tools, "rip_saw", {"teeth": 10}, "a tool", UnknownTool)  # said again
    assert (module.teeth, options) == (20, {"teeth": 10})


def test_an_unknown_name_is_refused_with_the_nearest(tools: ModuleType) -> None:
    with pytest.raises(UnknownTool, match=r"'fret_sow' is not a tool \(did you mean fret_saw\?\); known: fret_"):
        registry.resolve(tools, "fret_sow", {}, "a tool", UnknownTool)


# --- modules of other packages -------------------------------------------------------------------


def install(folder: Path, distribution: str, group: str, entries: dict[str, str]) -> None:
    """Write what `pip install` leaves of a distribution with entry points."""
    info = folder / f"{distribution}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    lines = [f"{name} = {module}" for name, module in entries.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))


@pytest.fixture
def added(tools: ModuleType, tmp_path: Path) -> Iterator[ModuleType]:
    """The tools, with those of two other distributions: a good one, one that fails, one that lacks what it needs."""
    tools.GROUP = "tests.tools"  # type: ignore[attr-defined]
    (tmp_path / "good_of_this_test.py").write_text('"""Drives nails."""\ndef make(): return 3\n')
    (tmp_path / "broken_of_this_test.py").write_text('"""Breaks."""\nimport no_such_module\n')
    (tmp_path / "exits_of_this_test.py").write_text("import sys\nsys.exit(3)\n")
    (tmp_path / "empty_of_this_test.py").write_text("")
    install(tmp_path, "hammers", "tests.tools", {"hammer": "good_of_this_test", "saw": "good_of_this_test"})
    names = ("broken", "exits", "empty", "absent")
    install(tmp_path, "wrecks", "tests.tools", {name: f"{name}_of_this_test" for name in names})
    registry._entry_points.cache_clear()
    yield tools
    registry._entry_points.cache_clear()
    for name in [name for name in sys.modules if name.endswith("_of_this_test")]:
        del sys.modules[name]


def test_modules_of_other_packages_are_listed_and_described_with_their_origin(added: ModuleType) -> None:
    assert registry.names(added) == ["absent", "broken", "empty", "exits", "fret_saw", "hack_saw", "hammer", "saw"]
    assert registry.describe(added, "hammer") == "Drives nails. (hammers)"
    assert registry.describe(added, "broken") == "Breaks. (wrecks)"
    assert registry.describe(added, "absent") == "no description (wrecks)"
    assert "good_of_this_test" not in sys.modules


def test_a_module_of_another_package_is_loaded_by_name(added: ModuleType) -> None:
    module, options = registry.resolve(added, "hammer", {"width": 3}, "a tool", UnknownTool)
    assert (module.make(), options) == (3, {"width": 3})


def test_the_package_s_own_module_is_not_replaced(added: ModuleType) -> None:
    assert registry.describe(added, "saw") == "Cuts wood."


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("broken", "broken of wrecks cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'"),
        ("exits", "exits of wrecks cannot be loaded: SystemExit: 3"),
        ("empty", "empty of wrecks cannot be used: empty_of_this_test has no make"),
        ("absent", "absent of wrecks cannot be loaded: ModuleNotFoundError: No module named 'absent_of_this_test'"),
    ],
)
def test_a_broken_one_is_a_sentence_and_the_others_work(added: ModuleType, name: str, problem: str) -> None:
    with pytest.raises(registry.PluginError) as caught:
        registry.resolve(added, name, {}, "a tool", UnknownTool)
    assert str(caught.value) == problem
    assert isinstance(caught.value, StemtwinError)
    assert registry.resolve(added, "hammer", {}, "a tool", UnknownTool)[0].make() == 3
