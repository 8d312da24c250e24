"""Dose series: doses in e/A^2 become electrons per position, seeds are counted apart, and the figure can be drawn."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.tiny_scan import TINY_SCAN

from benchmarks import dose_study as dose_series
from benchmarks.dose_study import (
    Entry,
    Series,
    dose_e,
    fitted,
    profile_line,
    resolution_table,
    run,
    shared_with_truth_nm,
    table,
)
from benchmarks.imaging import dose_series as command
from scenarios.scans.truth import aperture_limit_per_nm
from scenarios.schema import Scenario, ScenarioError, load

TINY = (
    TINY_SCAN
    + """\
  detectors: [bf]
  plan: {rows: 10, columns: 9, step_nm: 0.05, dwell_s: 1.0e-4}
"""
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Scenario]:
    file = tmp_path_factory.mktemp("scenario") / "tiny.yaml"
    file.write_text(TINY)
    return lambda *overrides: load(file, overrides)


@pytest.fixture(scope="module")
def series(tiny: Callable[..., Scenario]) -> Series:
    return run(tiny(), ["icom,bf"], (20.0, 1e5), seeds=(0, 1))


def test_a_dose_per_area_is_shared_by_the_positions() -> None:
    # 500 e/A^2 on steps of 0.4 A: 500 * 0.16.
    assert dose_e(500.0, 0.04) == pytest.approx(80.0)


def test_every_agent_at_every_dose(series: Series) -> None:
    assert (series.agents, series.doses) == (["icom", "bf"], [20.0, 1e5])
    assert len(series.entries) == 4
    assert series.truth.shape == (10, 9)
    entry = series.at("icom", 1e5)
    assert entry.image is not None
    assert len(entry.cross_correlation) == len(entry.fits) == 2
    assert entry.cross_correlation[0] != entry.cross_correlation[1]
    assert entry.cross_correlation[0] == pytest.approx(
        np.corrcoef(entry.image.values.ravel(), series.truth.ravel())[0, 1]
    )
    # The disc loses what is scattered beyond it: 5 electrons per position, then 25,000.
    bright = series.at("bf", 20.0).image, series.at("bf", 1e5).image
    assert bright[0] is not None
    assert bright[1] is not None
    assert bright[0].values.mean() == pytest.approx(5.0, rel=0.2)
    assert bright[1].values.mean() == pytest.approx(25000.0, rel=0.2)


def test_more_electrons_show_more(series: Series) -> None:
    assert series.at("icom", 1e5).mean > 0.8
    assert series.at("icom", 1e5).mean > series.at("icom", 20.0).mean + 0.1
    assert series.at("icom", 1e5).spread < series.at("icom", 20.0).spread


def test_the_resolution_is_the_finest_detail_shared_with_the_truth() -> None:
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((64, 64))
    spectrum, frequency = np.fft.fft2(truth), np.hypot(*np.meshgrid(*(np.fft.fftfreq(64, 0.05),) * 2))
    coarse = np.fft.ifft2(np.where(frequency < 4.0, spectrum, 0)).real  # nothing finer than 0.25 nm
    assert shared_with_truth_nm(coarse, truth, 0.05) == pytest.approx(0.25, rel=0.08)
    assert np.isnan(shared_with_truth_nm(rng.standard_normal((64, 64)), truth, 0.05))
    entries = (
        Entry("a", 500.0, None, (0.5,), (None,), "", (0.25,)),
        Entry("a", 5e3, None, (0.5,), (None,), "", (np.nan,)),
    )
    lines = resolution_table(Series("x", 0.05, truth, entries)).splitlines()
    assert [line.split() for line in lines] == [["nm", "500", "5000"], ["a", "0.250", "-"]]


def test_the_table_has_a_row_per_agent_and_a_star_for_a_bad_fit() -> None:
    truth = np.zeros((4, 4))
    entries = (
        Entry("a", 500.0, None, (0.5, 0.7), (True, False)),
        Entry("a", 5e3, None, (0.8, 0.8), (True, None)),
    )
    lines = table(Series("x", 0.1, truth, entries)).splitlines()
    assert lines[0].split() == ["e/A^2", "500", "5000"]
    assert lines[1].split() == ["a", "0.600", "+-", "0.141*", "0.800", "+-", "0.000"]


def test_an_agent_that_fails_has_a_gap_and_a_reason(tiny: Callable[..., Scenario]) -> None:
    found = run(tiny(), ["icom,haadf"], (100.0,))  # this camera does not see that far
    entry = found.at("haadf", 100.0)
    assert entry.image is None
    assert np.isnan(entry.mean)
    assert "haadf" in entry.error
    assert found.at("icom", 100.0).error == ""


def test_the_figure_draws_what_there_is(series: Series) -> None:
    gap = Series(
        series.scenario,
        series.step_nm,
        series.truth,
        (
            *series.entries,
            Entry("x", 20.0, None, (np.nan,), (None,), "no"),
            Entry("x", 1e5, None, (np.nan,), (None,), "no"),
        ),
    )
    assert dose_series.figure(gap).startswith(b"\x89PNG")


def test_the_profile_goes_through_the_brightest_atom_of_the_middle() -> None:
    truth = np.zeros((20, 30))
    truth[12, 17], truth[0, 0] = 2.0, 5.0
    row, first, last = profile_line(Series("x", 0.1, truth, ()))
    assert row == 12
    assert (first + last) / 2 == 17


def test_images_in_any_unit_are_drawn_on_the_truths_axis() -> None:
    truth = np.random.default_rng(0).standard_normal((5, 5))
    assert np.allclose(fitted(7 - 3 * truth, truth), truth)
    holes = np.where(np.arange(25).reshape(5, 5) == 3, np.nan, 2 * truth)
    assert np.allclose(fitted(holes, truth), truth, equal_nan=True) is False
    assert np.isnan(fitted(holes, truth)).sum() == 1


def test_a_scan_without_camera_or_grid_is_refused(tiny: Callable[..., Scenario]) -> None:
    with pytest.raises(ScenarioError, match="camera"):
        run(tiny("scan.camera=null"), ["icom"], (100.0,))


def test_the_command_prints_a_table_or_one_object(
    series: Series, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(dose_series, "run", lambda *_: series)
    command.main([])
    assert "icom" in capsys.readouterr().out
    command.main(["--json", "--figure", str(tmp_path / "x.png")])
    printed = json.loads(capsys.readouterr().out)
    assert [entry["agent"] for entry in printed["entries"]] == ["icom", "icom", "bf", "bf"]
    assert (tmp_path / "x.png").exists()


def test_the_thesis_beam_and_truth_are_one_word(series: Series, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def run(scenario: Scenario, agents: Any, doses: Any, seeds: Any, progress: Any, sharpness: float) -> Series:
        asked.extend([scenario.required_scan, sharpness])
        return series

    monkeypatch.setattr(dose_series, "run", run)
    command.main(["--thesis", "--set", "scan.plan.rows=8"])
    scan, sharpness = asked
    assert (scan.optics.energy_kev, scan.optics.convergence_mrad, scan.plan.step_nm) == (300.0, 20.0, 0.01)
    assert scan.plan.rows == 8
    assert sharpness * aperture_limit_per_nm(scan.optics) > 1 / scan.optics.sampling_nm  # every frequency of the grid
