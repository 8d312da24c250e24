"""A beam that is off or of another energy, a camera that is saturated: a report and a reason, never a crash."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scenarios.calibration.run import calibrate
from scenarios.schema import Scenario


@pytest.mark.parametrize("name", ["coordinate_scan", "nelder_mead", "spectrum_ml"])
def test_a_controller_that_reads_frames_stops_with_a_reason(
    name: str, small: Callable[..., Scenario], tmp_path: Path
) -> None:
    result = calibrate(small(6, "day.dose_e=1e-3"), name, out=tmp_path)
    assert result.status == "stopped"
    assert (
        result.reason
        == "4 frames in a row cannot be used: the frame holds no signal above its dark level; check the camera"
    )
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


SATURATED = "day.camera.saturation=100"


@pytest.mark.parametrize("name", ["coordinate_scan", "two_ronchigram", "joint_fit"])
def test_a_saturated_camera_gives_no_estimate(name: str, small: Callable[..., Scenario], tmp_path: Path) -> None:
    """244 electrons per pixel on average, a limit of 100 counts: with any dark level and under a gain reference."""
    gain = tmp_path / "gain.npy"
    np.save(gain, np.random.default_rng(0).uniform(0.9, 1.1, (64, 64)))
    for more in ([], [f"references.gain={gain}"]):
        result = calibrate(small(6, SATURATED, *more), name, out=tmp_path)
        assert result.status == "stopped"
        assert "saturated" in result.reason
        assert all(step.saturated > 0.9 for step in result.steps)
        assert not any(step.done for step in result.steps)
        # The prior, not a sure estimate.
        assert min(result.steps[-1].std_nm) > 0.5 * min(result.scenario.space.start_nm) / 3**0.5
        assert result.report is not None
        assert "of the lit pixels are saturated" in result.report.read_text()


@pytest.mark.parametrize("energy_kev", [60, 80])
@pytest.mark.parametrize("name", ["two_ronchigram", "coordinate_scan"])
def test_other_beams_are_calibrated(energy_kev: int, name: str, small: Callable[..., Scenario], tmp_path: Path) -> None:
    result = calibrate(small(2, f"optics.energy_kev={energy_kev}"), name, out=tmp_path)
    assert (result.status, result.reason) == ("complete", "")
    assert all(np.isfinite(step.std_nm).all() for step in result.steps)
