"""One calibration, as `stemtwin calibrate` makes it, on phase screens and with the shipped weights."""

from collections.abc import Callable
from pathlib import Path

import pytest

from scenarios.calibration.results import Result
from scenarios.calibration.run import calibrate
from scenarios.schema import load


@pytest.fixture(scope="session")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Result]:
    """`calibrated(scenario, controller, observations, seed, *overrides)`."""
    out: Path = tmp_path_factory.mktemp("runs")

    def run(name: str, controller: str, observations: int, seed: int, *overrides: str) -> Result:
        scenario = load(name, ["renderer=fast", f"task.observations={observations}", *overrides])
        return calibrate(scenario, controller, seed, out, report=False)

    return run
