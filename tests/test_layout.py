"""Sizes that keep the code easy to find one's way in: files, function bodies, arguments, folders."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("stemtwin", "twin", "learning", "controller", "agents", "scenarios")
FILE_LINES, BODY_LINES, ARGUMENTS, MODULES = 400, 45, 10, 16
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without signature and docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("package", PACKAGES)
def test_files_and_functions_stay_small(package: str) -> None:
    large = []
    for path in FILES:
        name = path.relative_to(ROOT)
        if name.parts[0] != package:
            continue
        if path.read_text(encoding="utf-8").count("\n") > FILE_LINES:
            large.append(f"{name}: more than {FILE_LINES} lines")
        large += [f"{name}: {f.name} has a long body" for f in functions(path) if body_lines(f) > BODY_LINES]
        if "commands" not in name.parts:  # a command line has as many parameters as options
            many = [f for f in functions(path) if len(f.args.posonlyargs + f.args.args + f.args.kwonlyargs) > ARGUMENTS]
            large += [f"{name}: {f.name} has more than {ARGUMENTS} arguments" for f in many]
    assert large == []


def test_folders_hold_few_modules() -> None:
    folders = {path.parent for package in (*PACKAGES, "benchmarks") for path in (ROOT / package).rglob("*.py")}
    modules = {folder: [path for path in folder.glob("*.py") if path.stem != "__init__"] for folder in folders}
    assert [str(folder.relative_to(ROOT)) for folder, found in modules.items() if len(found) > MODULES] == []


@pytest.mark.parametrize("folder", ["controller/strategies", "agents/methods"])
def test_every_controller_and_agent_has_an_example(folder: str) -> None:
    modules = [path for path in (ROOT / folder).rglob("*.py") if path.stem[0] != "_"]
    assert [path.name for path in modules if "    Example:\n" not in path.read_text(encoding="utf-8")] == []
