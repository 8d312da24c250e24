"""The templates of the pages on extending run as printed, in a package of somebody else, under the contract tests."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES = {
    "brightest": ("agent.md", "stemtwin.agents", "tests/contracts/test_agents.py"),
    "walk": ("controller.md", "stemtwin.controllers", "tests/contracts/test_controllers.py"),
}
"""Name of the entry: page of the template, group of entry points, its contract."""


def template(page: str) -> str:
    """The first Python block of a page."""
    found = re.search(r"```python\n(.+?)```", (ROOT / "docs" / "extend" / page).read_text(), re.DOTALL)
    assert found is not None
    return found.group(1)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an installed package `lab` that holds the templates, and a broken module beside them."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "lab").mkdir()
    (folder / "lab" / "__init__.py").write_text("")
    (folder / "lab" / "broken.py").write_text('"""Broken."""\nimport no_such_module\n')
    sections: dict[str, list[str]] = {}
    for name, (page, group, _) in TEMPLATES.items():
        (folder / "lab" / f"{name}.py").write_text(template(page))
        sections.setdefault(group, []).append(f"{name} = lab.{name}")
    sections["stemtwin.controllers"].append("broken_walk = lab.broken")
    info = folder / "lab-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab\nVersion: 1.0\n")
    text = "\n".join(line for group, lines in sections.items() for line in (f"[{group}]", *lines))
    (info / "entry_points.txt").write_text(text + "\n")
    return folder


def run(lab: Path, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join((str(ROOT), str(lab)))
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        capture_output=True, text=True, cwd=cwd, env={**os.environ, "PYTHONPATH": path}, timeout=280,
    )  # fmt: skip


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_passes_the_contract_tests(name: str, lab: Path) -> None:
    done = run(lab, "pytest", "-q", "-p", "no:cacheprovider", TEMPLATES[name][2], "-k", f"{name} and not broken")
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 5


def test_templates_are_listed_with_their_origin_and_a_broken_module_hides_nothing(lab: Path) -> None:
    listed = run(lab, "stemtwin", "list", "controllers").stdout
    assert re.search(r"walk +Random steps of the first coefficient; the estimate is the prior\. \(lab\)", listed)
    assert re.search(r"broken_walk +Broken\. \(lab\)", listed)
    assert "vae_em " in listed
    assert re.search(r"brightest +Brightest camera pixel .+ \(lab\)", run(lab, "stemtwin", "list", "agents").stdout)


def test_the_command_uses_a_template_and_refuses_a_broken_module_in_one_line(lab: Path, tmp_path: Path) -> None:
    words = ["calibrate", "nominal", "--observations", "2", "--set", "optics.grid=512", "--controller"]
    done = run(lab, "stemtwin", *words, "walk", "--set", "controllers.walk.step_nm=5", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "nominal" / "walk").is_dir()
    refused = run(lab, "stemtwin", *words, "broken_walk", cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr == (
        "stemtwin: broken_walk of lab cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'\n"
    )
