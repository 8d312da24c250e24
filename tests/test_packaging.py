"""What is installed: pins that agree with each other, data files that travel, the licence."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SHIPPED = [pattern.rstrip("*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]]
PACKAGES = [name for name in SHIPPED if (ROOT / name / "__init__.py").is_file()]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return PROJECT


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def requirements(project: dict[str, Any]) -> list[Requirement]:
    optional = project["project"]["optional-dependencies"].values()
    return [Requirement(text) for group in [project["project"]["dependencies"], *optional] for text in group]


def test_every_dependency_is_pinned_to_a_version_it_allows(project: dict[str, Any], pins: dict[str, str]) -> None:
    for requirement in requirements(project):
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in constraints.txt"
        assert requirement.specifier.contains(version), f"{requirement} does not allow {version}"


def test_the_makefile_installs_the_pinned_torch(pins: dict[str, str]) -> None:
    assert re.findall(r"torch==(\S+)", (ROOT / "Makefile").read_text()) == [pins["torch"]]


def imported(path: Path) -> Iterator[str]:
    """Top-level modules that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.partition(".")[0]


def test_imports_are_declared(project: dict[str, Any]) -> None:
    distributions = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn", "annotated_types": "annotated-types"}
    optional = project["project"]["optional-dependencies"]
    texts = project["project"]["dependencies"] + optional["rl"] + optional["live"] + optional["notebook"]
    declared = {canonicalize_name(Requirement(text).name) for text in texts}
    third_party = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            third_party |= set(imported(path))
    third_party -= set(sys.stdlib_module_names) | set(PACKAGES)
    missing = {name for name in third_party if canonicalize_name(distributions.get(name, name)) not in declared}
    assert not missing


def test_package_data_patterns_hold_every_data_file(project: dict[str, Any]) -> None:
    patterns = project["tool"]["setuptools"]["package-data"]
    kept = {path for package, globs in patterns.items() for glob in globs for path in (ROOT / package).glob(glob)}
    present = {
        path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in {".yaml", ".safetensors", ".json", ".html", ".css", ".js"}
    }
    assert present
    assert present <= kept


def test_each_package_says_what_it_is_and_the_licence_is_the_gpl(project: dict[str, Any]) -> None:
    assert project["project"]["license"] == "GPL-3.0-or-later"
    assert "GNU GENERAL PUBLIC LICENSE" in (ROOT / "LICENSE").read_text()[:200]
    for package in PACKAGES:
        assert (ROOT / package / "__init__.py").read_text().startswith('"""')


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import twin.scan.setup", {"numba", "torch", "abtem", "scipy", "matplotlib"}),
        ("import twin.detectors.layouts", {"numba", "torch", "abtem", "scipy", "matplotlib"}),
        ("import twin", {"numba", "torch", "abtem", "scipy", "matplotlib", "pydantic"}),
        ("from twin import *", {"numba", "torch", "abtem", "matplotlib"}),
    ],
)
def test_settings_import_without_numerics(statement: str, heavy: set[str]) -> None:
    code = f"{statement}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)).isdisjoint(heavy)


def test_the_door_of_twin_is_what_it_lists() -> None:
    import twin

    assert sorted(twin.__all__) == twin.__all__
    assert [getattr(twin, name).__name__ for name in twin.__all__] == twin.__all__
    with pytest.raises(AttributeError, match="'SimulatedMicroscop'"):
        _ = twin.SimulatedMicroscop  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built from a copy: nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / "tree" / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "tree")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "--wheel-dir", str(folder), str(folder / "tree")], check=True, timeout=120)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_packages_with_their_data_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == expected
    assert {f"{package}/py.typed" for package in PACKAGES} <= names


def test_the_wheel_calibrates_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    (tmp_path / "empty").mkdir()
    command = "import sys, scenarios; print(scenarios.__file__, file=sys.stderr); import scenarios.cli as c; c.main()"
    arguments = ["calibrate", "nominal", "--controller", "random", "--observations", "1", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", command, *arguments],
        cwd=tmp_path / "empty",
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(str(tmp_path / "installed"))
    assert json.loads(done.stdout)["status"] == "complete"
    assert (tmp_path / "empty" / "runs" / "nominal" / "random" / "0" / "report.html").is_file()
