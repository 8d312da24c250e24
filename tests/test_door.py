"""The package `stemtwin`: public names in one place, and one sentence where packages of others hide ours."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import stemtwin
from stemtwin.ownership import OPENINGS

ROOT = Path(__file__).resolve().parents[1]


def python(code: str, *before: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that finds these folders before the packages."""
    path = os.pathsep.join(map(str, (*before, ROOT)))
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd="/", env={**os.environ, "PYTHONPATH": path}
    )


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A folder with another package called `agents`, and the distribution that it belongs to."""
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "__init__.py").write_text('"""Agents that write letters."""\n')
    info = tmp_path / "letters-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: letters\nVersion: 1.0\n")
    (info / "top_level.txt").write_text("agents\n")
    return tmp_path


def test_every_public_name_is_there() -> None:
    for name in stemtwin.__all__:
        assert getattr(stemtwin, name) is not None
        assert name in dir(stemtwin)
    with pytest.raises(AttributeError, match="'calibrat'"):
        _ = stemtwin.calibrat
    assert set(stemtwin.__all__) == set(stemtwin._PLACES)


def test_names_are_those_of_the_packages() -> None:
    import agents
    import controller
    import scenarios
    import twin

    assert stemtwin.load_controller is controller.load
    assert stemtwin.load_agent is agents.load
    assert stemtwin.load_scenario is scenarios.load_scenario
    assert stemtwin.Optics is twin.Optics


def test_importing_it_registers_the_environments_and_loads_nothing_heavy() -> None:
    code = "import stemtwin, sys, json, gymnasium; gymnasium.spec('stemtwin/Calibration-v0');"
    done = python(code + "print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))")
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)).isdisjoint({"torch", "abtem", "matplotlib", "numba", "scipy", "pydantic"})


@pytest.mark.parametrize("name", OPENINGS)
def test_our_packages_are_recognised_as_ours(name: str) -> None:
    assert (ROOT / name / "__init__.py").read_text().startswith(f'"""{OPENINGS[name]}')


def test_the_command_says_in_one_line_whose_package_hides_ours(other: Path) -> None:
    done = python("import sys; sys.argv = ['stemtwin', 'list', 'agents']; import stemtwin; stemtwin.main()", other)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("stemtwin: another package called 'agents' of letters hides the one of stemtwin")
    assert line.endswith("install stemtwin in an environment of its own")


def test_a_program_hears_the_same_sentence(other: Path) -> None:
    done = python("from stemtwin import calibrate", other)
    assert "ImportError: another package called 'agents' of letters" in done.stderr


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    code = (
        "from stemtwin import ownership; ownership._found = lambda name: None; "
        "ownership.foreign.cache_clear(); print(ownership.foreign())"
    )
    assert python(code).stdout == "its package twin is missing; install stemtwin again\n"


def test_it_is_a_command() -> None:
    done = subprocess.run([sys.executable, "-m", "stemtwin", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.startswith("stemtwin ")
