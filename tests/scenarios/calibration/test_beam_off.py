"""A beam that is off: the run stops with a report and a reason, whatever the controller."""

from collections.abc import Callable
from pathlib import Path

import pytest

from scenarios.calibration.run import calibrate
from scenarios.schema import Scenario


@pytest.mark.parametrize("name", ["coordinate_scan", "nelder_mead", "spectrum_ml"])
def test_a_controller_that_reads_frames_stops_with_a_reason(
    name: str, small: Callable[..., Scenario], tmp_path: Path
) -> None:
    result = calibrate(small(2, "day.dose_e=1e-3"), name, out=tmp_path)
    assert result.status == "stopped"
    assert result.reason == "frame 1 cannot be used: the frame holds no signal above its dark level"
    assert result.report is not None
    assert "no signal above its dark level" in result.report.read_text()


@pytest.mark.usefixtures("drawn")
def test_a_controller_that_reads_none_goes_on_and_its_report_is_drawn(
    small: Callable[..., Scenario], tmp_path: Path
) -> None:
    result = calibrate(small(1, "day.dose_e=1e-3"), "random", out=tmp_path)
    assert result.status == "complete"
    assert result.report is not None
    assert result.report.exists()
