"""Programs import three functions from `scenarios`; importing the package alone is instant."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import scenarios
from scenarios.schema import Scenario

Make = Callable[..., Scenario]


def test_the_door_is_lazy() -> None:
    code = (
        "import sys, scenarios; assert scenarios.__all__; print(len({'numpy', 'pydantic', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"


def test_every_listed_name_is_there_and_no_other() -> None:
    assert all(callable(getattr(scenarios, name)) for name in scenarios.__all__)
    assert set(scenarios.__all__) <= set(dir(scenarios))
    with pytest.raises(AttributeError, match="no attribute 'calibrat'"):
        _ = scenarios.calibrat  # type: ignore[attr-defined]


def test_calibrate_takes_a_name(tmp_path: Path, small: Make) -> None:
    by_name = scenarios.calibrate("nominal", "random", 2, tmp_path / "a", report=False)
    loaded = scenarios.calibrate(scenarios.load_scenario("nominal"), "random", 2, tmp_path / "b", report=False)
    assert by_name.truth_nm == loaded.truth_nm
    assert by_name.status == "complete"


def test_compare_gives_what_the_folder_holds(tmp_path: Path, small_overrides: tuple[str, ...]) -> None:
    outcomes: list[object] = []
    changes = [*small_overrides, "day.same_region=true"]
    found = scenarios.compare(
        ["nominal"], ["random", "coordinate_scan"], 2, observations=1, overrides=changes, out=tmp_path,
        progress=outcomes.append,
    )  # fmt: skip
    assert len(outcomes) == 4
    assert found.failures == ()
    assert found.left_out == ""
    assert found.report.exists()
    assert set(found.summary["controllers"]) == {"random", "coordinate_scan"}
