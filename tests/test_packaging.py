"""What is installed: pins that agree with each other, data files that travel, the licence."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("twin", "controller", "agents", "scenarios")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


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
    distributions = {"yaml": "pyyaml", "sklearn": "scikit-learn", "annotated_types": "annotated-types"}
    texts = project["project"]["dependencies"] + project["project"]["optional-dependencies"]["rl"]
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
        if path.suffix in {".yaml", ".safetensors", ".json"}
    }
    assert present
    assert present <= kept


def test_each_package_says_what_it_is_and_the_licence_is_the_gpl(project: dict[str, Any]) -> None:
    assert project["project"]["license"] == "GPL-3.0-or-later"
    assert "GNU GENERAL PUBLIC LICENSE" in (ROOT / "LICENSE").read_text()[:200]
    for package in PACKAGES:
        assert (ROOT / package / "__init__.py").read_text().startswith('"""')


@pytest.mark.parametrize("module", ["twin.scan.setup", "twin.detectors.layouts"])
def test_settings_of_a_scan_import_without_numerics(module: str) -> None:
    code = f"import {module}, json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)).isdisjoint({"numba", "torch", "abtem", "scipy", "matplotlib"})
