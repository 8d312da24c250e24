"""The page on the papers names what exists: tests, modules, options, commands, benchmarks, scenarios and weights."""

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from test_examples import check

import agents
from controller import strategies
from scenarios.choices import name_and_options, split_choices
from scenarios.commands.groups.listing import known_names
from scenarios.schema import load
from twin import registry
from twin.options import checked_options

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
PACKAGES = ("twin", "learning", "controller", "agents", "scenarios", "benchmarks")
STATES = ("yes", "option", "part", "no")
NAMES = {*known_names(), *(path.stem for path in ROOT.glob("*/weights/*.safetensors"))}


def spans(text: str) -> list[str]:
    """What stands in code type."""
    return re.findall(r"`([^`]+)`", text)


def rows() -> Iterator[list[str]]:
    """Cells of the lines that take a point: point, place in the source, state, where it is here, what shows it."""
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 5 and cells[0] != "point" and not cells[0].startswith("---"):
            yield cells


@cache
def defined(path: Path) -> frozenset[str]:
    """Names that a module defines, attributes and methods of its classes as `Class.name`."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        own = set(named(node))
        inner = node.body if isinstance(node, ast.ClassDef) else []
        found |= own | {f"{owner}.{name}" for owner in own for part in inner for name in named(part)}
    return frozenset(found)


def named(node: ast.stmt) -> Iterator[str]:
    """Names that a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    yield from (target.id for target in targets if isinstance(target, ast.Name))


def module_file(dotted: str) -> Path | None:
    path = ROOT / dotted.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def exists(dotted: str) -> bool:
    """Whether `package.module.Name` is there; a module alone is enough."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        file = module_file(".".join(parts[:length]))
        if file is not None:
            return length == len(parts) or ".".join(parts[length:]) in defined(file)
    return False


def check_choice(choice: str) -> None:
    """An agent or controller with options that it takes, or any other name."""
    name, options = name_and_options(choice, "docs/papers.md")
    assert name in NAMES, f"nothing is called {name!r}"
    if options and name in registry.names(strategies):
        preset = registry.presets(strategies).get(name, registry.Preset(name, {}))
        checked_options(registry.module(strategies, name).Options, {**preset.options, **options})
    elif options:
        agents.load(name, options)


def check_command(words: list[str]) -> None:
    """A command that parses, with figures, agents and keys of scenarios that there are."""
    check(words, synopsis=False)
    for flag, value in pairwise(words):
        if flag == "--set":
            load(words[1], [value])
        elif flag == "--agents":
            for agent in split_choices(value, "agent", flag):
                check_choice(agent)
        elif flag == "--only" and words[0] == "figures":
            source = (ROOT / "scenarios" / "figures" / f"{words[1]}.py").read_text(encoding="utf-8")
            assert f"_figure({value}, " in source, f"figure {value} is not drawn"
        elif flag == "--only":
            assert f'Section(\n        "{value}",' in (ROOT / "scenarios/gallery/page.py").read_text(encoding="utf-8")


def check_benchmark(dotted: str, words: list[str]) -> None:
    """A benchmark whose source, or that of its folder, has every word of the command line."""
    file = module_file(dotted)
    assert file is not None, dotted
    folder = file.parent.glob("*.py") if file.parent.name != "benchmarks" else [file]
    text = "".join(path.read_text(encoding="utf-8") for path in folder)
    assert all(word in text for word in words if not word[0].isdigit()), words


def check_span(span: str) -> None:
    """One word in code type; anything that is of none of these kinds is refused."""
    words = shlex.split(span)
    if span.startswith("tests/"):
        path, _, name = span.partition("::")
        assert (ROOT / path).is_file(), span
        assert not name or name in defined(ROOT / path), span
    elif words[0] == "stemtwin":
        check_command(words[1:])
    elif words[:2] == ["python", "-m"]:
        check_benchmark(words[2], words[3:])
    elif span.partition(".")[0] in PACKAGES and ":" not in span:
        assert exists(span), span
    else:
        check_choice(span)


def test_the_points_of_all_papers_are_there() -> None:
    assert len(list(rows())) >= 170
    assert len(re.findall("^## ", PAGE, re.MULTILINE)) == 5


@pytest.mark.parametrize("cells", list(rows()), ids=lambda cells: cells[0])
def test_everything_that_a_line_names_exists(cells: list[str]) -> None:
    point, _, state, where, shown = cells
    assert state in STATES
    assert point
    assert where
    assert spans(shown) if state != "no" else not shown, "a point that is there is shown, one that is not has a reason"
    for span in spans(where + shown):
        check_span(span)


@pytest.mark.parametrize(
    "span",
    [
        "tests/test_papers.py::test_nothing", "tests/nowhere.py", "twin.optics.Optik", "twin.state.StateSpace.sing",
        "stemtwin fly", "stemtwin gallery --only holes", "stemtwin figures paper --only 3",
        "stemtwin scan sto_001 --agents adf,adff", "stemtwin acquire sto_001 --set day.scan.jitter=3",
        "vae_em:likelyhood=gaussian", "vae_em:likelihood=cauchy", "ricom:kernel=3", "vea_em",
        "python -m benchmarks.nothing", "python -m benchmarks.codes.patterns nothing",
    ],
)  # fmt: skip
def test_what_does_not_exist_is_refused(span: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        check_span(span)
