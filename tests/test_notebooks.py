"""The notebooks of the docs run from top to bottom, each in a namespace of its own, and are stored without outputs."""

import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))


def cells(name: str, kind: str) -> list[dict[str, Any]]:
    found = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    assert (found["nbformat"], found["metadata"]["kernelspec"]["name"]) == (4, "python3")
    return [cell for cell in found["cells"] if cell["cell_type"] == kind]


def test_there_are_notebooks() -> None:
    assert {"calibrate.ipynb", "own_controller.ipynb", "scan.ipynb"} <= set(NOTEBOOKS)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_stored_without_outputs_and_says_what_it_shows(name: str) -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells(name, "code"))
    assert "".join(cells(name, "markdown")[0]["source"]).startswith("# ")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import matplotlib

    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(cells(name, "code"), 1):
        exec(compile("".join(cell["source"]), f"{name}, cell {number}", "exec"), namespace)
    assert namespace.keys() > {"__name__", "__builtins__"}
