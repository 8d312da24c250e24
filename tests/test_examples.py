"""Examples run: every doctest of the packages, the Python blocks of README and docs, and their command lines parse.

A block that cannot run here says why in the line before it: `<!-- not run: needs an instrument -->`.
"""

import doctest
import importlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import typer
import typer.main

from scenarios.cli import app
from scenarios.schema import Scenario

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("twin", "controller", "agents", "scenarios", "learning")
PAGES = [path for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md") if path.exists()]
PAGES += sorted(path for path in (ROOT / "docs").rglob("*.md") if "decisions" not in path.parts)
NOT_RUN = re.compile(r"<!--\s*not run: .+-->")
FENCE = re.compile(r"^\s*```")
COMMAND = re.compile(r"^\s*(?:\$ )?(stemtwin|make|python -m [a-z_.]+)(?=\s|$)")
SYNOPSIS = re.compile(r"[A-Z]{2,}|\||\[|\.\.\.|\bHOST\b")
"""A placeholder in capitals, alternatives, brackets: a synopsis, of which only command and options are checked."""


@dataclass(frozen=True)
class Block:
    """A code block or a line of a page; `line` counts from 1."""

    page: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def modules_with_examples() -> list[str]:
    """Dotted names of the modules whose source has a doctest."""
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if re.search(r"^\s*>>> ", path.read_text(encoding="utf-8"), re.MULTILINE):
                parts = path.relative_to(ROOT).with_suffix("").parts
                found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def python_blocks(page: Path) -> list[Block]:
    """Blocks of ```python, but those that say that they do not run."""
    lines, found = page.read_text(encoding="utf-8").splitlines(), []
    before, start = "", 0
    for number, line in enumerate(lines, 1):
        if start and FENCE.match(line):
            found.append(Block(page, start, "\n".join(lines[start : number - 1])))
            start = 0
        elif not start and re.match(r"^```(python|py)\b", line) and not NOT_RUN.search(before):
            start = number
        before = line if line.strip() else before
    return found


def command_lines() -> Iterator[Block]:
    """Lines of code, fenced or indented, that begin with stemtwin, make or python -m; continued lines as one."""
    for page in PAGES:
        lines, inside, skipped, before = page.read_text(encoding="utf-8").splitlines(), False, False, ""
        for number, line in enumerate(lines, 1):
            if FENCE.match(line):
                inside, skipped = not inside, bool(NOT_RUN.search(before)) and not inside
            elif (
                COMMAND.match(line) and (inside or line.startswith("    ")) and not (skipped or NOT_RUN.search(before))
            ):
                yield Block(page, number, joined(lines[number - 1 :]))
            before = line if line.strip() else before


def joined(lines: list[str]) -> str:
    """The first line and what a backslash continues."""
    text = ""
    for line in lines:
        text += line.strip()
        if not text.endswith("\\"):
            break
        text = text[:-1]
    return text.removeprefix("$ ")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None) -> Iterator[Path]:
    """An empty folder to run in; numbers print as they do by default; torch uses one thread, afterwards as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", modules_with_examples())
def test_docstring_examples(name: str, elsewhere: Path) -> None:
    module = importlib.import_module(name)
    with np.printoptions(precision=8, suppress=False, linewidth=75, legacy=False):
        result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.attempted
    assert not result.failed
    assert not list(elsewhere.iterdir()), "an example writes into the working folder"


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrations take three frames at most, on phase screens."""
    drawn = Scenario.for_seed

    def for_seed(self: Scenario, seed: int) -> Scenario:
        scenario = drawn(self, seed)
        task = replace(scenario.task, observations=min(3, scenario.task.observations))
        return scenario.model_copy(update={"renderer": "fast", "task": task})

    monkeypatch.setattr(Scenario, "for_seed", for_seed)


@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(page)], ids=lambda page: page.name)
def test_python_blocks_run(page: Path, elsewhere: Path, short: None) -> None:
    """All blocks of a page in one namespace, in their order."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    for block in python_blocks(page):
        # Line numbers of a traceback are those of the page.
        exec(compile("\n" * block.line + block.text, str(block), "exec"), namespace)
        assert namespace.keys() > {"__name__", "__builtins__"}, f"{block} names nothing"


@pytest.mark.parametrize("block", list(command_lines()), ids=str)
def test_command_lines_parse(block: Block) -> None:
    words = shlex.split(block.text, comments=True)
    if words[0] == "make":
        known = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word and word[0] != "-"} <= set(known)
    elif words[0] == "python":
        assert (ROOT / words[2].replace(".", "/")).with_suffix(".py").exists()
    else:
        check(words[1:], synopsis=bool(SYNOPSIS.search(block.text.partition("#")[0])))


def check(words: list[str], synopsis: bool) -> None:
    """Parse a `stemtwin` command line without running it; of a synopsis, look for its command and options."""
    command = typer.main.get_command(app)
    while hasattr(command, "commands") and words and words[0][0] != "-":
        name, *words = words
        if command.name == "list" and name not in command.commands:
            assert all(word.strip("[]") == "--json" for word in words)  # `list NAME`: any entry of a list
            return
        context = typer.Context(command, info_name=command.name)
        for alternative in name.split("|"):
            assert alternative in command.list_commands(context), f"{alternative!r} is no command"
        command = command.get_command(context, name.split("|")[0])
    if not synopsis:
        command.make_context(command.name, list(words))
        return
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    named = {word.strip("[]").partition("=")[0] for word in words if word.lstrip("[").startswith("--")}
    assert named <= options | {"--help", "--version"}
