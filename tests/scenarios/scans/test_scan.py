"""`stemtwin scan`: the scan goes through agents as it is made, and the loop of scan, calibration and scan closes."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from typer.testing import CliRunner

from agents.stream import Progress
from scenarios.calibration.results import RunDirectory
from scenarios.cli import app
from scenarios.scans import acquire, reconstruction_plots
from scenarios.scans import before_and_after as scan_report
from scenarios.scans.before_and_after import Loop
from scenarios.scans.page import problems
from scenarios.scans.scan import prepare, run
from scenarios.scans.stream import Recorded
from scenarios.scans.truth import true_phase
from scenarios.schema import Scenario, ScenarioError, load
from twin.formats import open_frames
from twin.scan.acquisition import Acquisition

TINY = """
scan:
  specimen: sto_001
  specimen_options: {width_nm: 1.5, height_nm: 1.5, thickness_nm: 0.39}
  optics: {grid: 80, sampling_nm: 0.02, camera_pixels: 16, binning: 3}
  detectors: [bf]
  plan: {rows: 8, columns: 7, step_nm: 0.05, dose_e: 5000, dwell_s: 1.0e-4}
day: {focal_spread_nm: 0, source_size_nm: 0}
space: {start_nm: [12, 6, 6], input_nm: [12, 6, 6]}
optics: {convergence_mrad: 14, sampling_nm: 0.05, grid: 256, camera_pixels: 64, binning: 4}
"""
AGENTS = ["com,icom"]


@pytest.fixture(autouse=True)
def quick_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """What pictures show is the business of other tests, and drawing takes longer than scanning here."""
    monkeypatch.setattr(reconstruction_plots, "png_of", lambda *_: b"PNG")
    monkeypatch.setattr("scenarios.calibration.run.render", lambda _: "<html></html>")


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Scenario]:
    def make(*overrides: str) -> Scenario:
        (tmp_path / "tiny.yaml").write_text(TINY)
        return load(tmp_path / "tiny.yaml", overrides)

    return make


def images(out: Path) -> dict[str, np.ndarray]:
    root = zarr.open_group(str(out / "reconstructions.zarr"), mode="r")
    return {"true_phase": np.asarray(root["true_phase"]), "icom": np.asarray(root["icom/icom"])}


# --- the scan ------------------------------------------------------------------------------------


def test_a_scan_leaves_images_and_figures(tiny: Callable[..., Scenario], tmp_path: Path) -> None:
    scenario, seen = tiny(), list[Progress]()
    scanned = run(prepare(scenario, 3, AGENTS, tmp_path / "out"), seen.append)
    summary = scanned.summary()
    assert (summary["frames"], summary["status"], summary["seed"]) == (56, "complete", 3)
    assert summary["e_per_nm2"] == pytest.approx(5000 / 0.05**2)
    assert summary["data"] is None
    assert seen[-1].positions == 56
    found = images(tmp_path / "out")
    truth = true_phase(Acquisition(scenario.scan, scenario.day), scenario.scan.plan)
    assert np.array_equal(found["true_phase"], truth)
    expected = np.corrcoef(found["icom"].ravel(), truth.ravel())[0, 1]
    assert summary["agents"]["icom"]["cross_correlation"] == pytest.approx(expected)
    # Columns lie on the atoms: an image that is turned, mirrored or negative is far from that.
    assert expected > 0.75


def test_the_same_seed_makes_the_same_images_however_the_frames_are_kept(
    tiny: Callable[..., Scenario], tmp_path: Path
) -> None:
    kept = run(prepare(tiny(), 1, AGENTS, tmp_path / "a", tmp_path / "frames.zarr"))
    run(prepare(tiny(), 1, AGENTS, tmp_path / "b"))
    run(prepare(tiny(), 2, AGENTS, tmp_path / "c"))
    a, b, c = (images(tmp_path / name)["icom"] for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert kept.data == tmp_path / "frames.zarr"
    acquired = acquire.acquire(tiny(), 1, tmp_path / "acquired.zarr")
    assert acquired.data is not None
    with open_frames(kept.data) as ours, open_frames(acquired.data) as theirs:
        assert np.array_equal(ours.read(0, 56), theirs.read(0, 56))


def test_kept_frames_stream_to_the_same_images(tiny: Callable[..., Scenario], tmp_path: Path) -> None:
    run(prepare(tiny(), 1, AGENTS, tmp_path / "a", tmp_path / "frames.zarr"))
    done = CliRunner().invoke(
        app, ["stream", str(tmp_path / "frames.zarr"), "--agents", "com,icom", "--out", str(tmp_path / "b")]
    )
    assert done.exit_code == 0, done.output
    root = zarr.open_group(str(tmp_path / "b" / "reconstructions.zarr"), mode="r")
    assert np.allclose(np.asarray(root["icom/icom"]), images(tmp_path / "a")["icom"], rtol=1e-9, atol=1e-12)
    assert "true_phase" not in root


def test_an_interrupt_keeps_what_came(tiny: Callable[..., Scenario], tmp_path: Path) -> None:
    session = prepare(tiny(), 1, AGENTS, tmp_path / "a", tmp_path / "frames.zarr")
    blocks = session.acquisition.blocks

    def torn() -> Any:
        yield next(blocks)
        yield next(blocks)
        raise KeyboardInterrupt

    object.__setattr__(session.acquisition, "blocks", torn())
    scanned = run(session)
    assert scanned.summary()["status"] == "interrupted"
    assert scanned.summary()["frames"] == 14
    assert np.isfinite(images(tmp_path / "a")["icom"]).sum() == 14
    with open_frames(tmp_path / "frames.zarr") as reader:
        assert reader.acquired.sum() == 14


def test_the_command_prints_one_object_or_lines(tiny: Callable[..., Scenario], tmp_path: Path) -> None:
    tiny()
    arguments = [
        "scan",
        str(tmp_path / "tiny.yaml"),
        "--agents",
        "com",
        "--agents",
        "icom",
        "--out",
        str(tmp_path / "o"),
    ]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    assert list(json.loads(done.stdout)["agents"]) == ["com", "icom"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert "has the results of an earlier scan: choose another --out, or give --overwrite" in done.stderr
    done = CliRunner().invoke(app, [*arguments, "--overwrite"])
    assert re.search(r"icom .*correlation with the true phase 0\.\d+", done.stdout)
    assert "56 of 56, complete" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--agents", "icomm"], "icom"),
        (["--set", "scan.camera=null"], "camera"),
        (["--set", "scan.plan.centre_nm=[0,0]"], "specimen spans"),
        (["--images", "adf"], "--calibrate"),
        (["--calibrate", "nobody"], "nobody"),
        (["--calibrate", "random,vae_em"], "one controller"),
        (["--calibrate", "random", "--view"], "--view"),
        (["--calibrate", "bo_contrast", "--images", "com,icom"], "one image"),
        (["--calibrate", "bo_contrast", "--images", "bf", "--set", "space.input_nm=[60,30,30]"], "needs a window"),
        (["--keep", "x.tif"], ".tif"),
        (["--view"], "needs a screen"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tiny: Callable[..., Scenario], tmp_path: Path, arguments: list[str], words: str
) -> None:
    tiny()
    out = tmp_path / "out"
    done = CliRunner().invoke(
        app, ["scan", str(tmp_path / "tiny.yaml"), "--agents", "com", "--out", str(out), *arguments]
    )
    assert done.exit_code == 2, done.output
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not out.exists()


def test_a_scenario_without_a_scan_is_refused() -> None:
    done = CliRunner().invoke(app, ["scan", "nominal"])
    assert done.exit_code == 2
    assert "no scan" in done.stderr


def test_agents_are_listed() -> None:
    done = CliRunner().invoke(app, ["list", "agents"])
    assert done.exit_code == 0
    assert re.search(r"^ricom +\S", done.stdout, re.MULTILINE)


# --- the loop ------------------------------------------------------------------------------------


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """A correction that hits: what is under test is the loop, not a controller."""

    def correct(session: Any, last: Any) -> None:
        scanner = session.bench.simulator
        scanner.apply(-scanner.truth().state_nm)

    monkeypatch.setattr("scenarios.calibration.run._correct", correct)


def close(scenario: Scenario, out: Path, progress: Callable[[Progress], None] | None = None) -> Loop:
    return scan_report.run(scan_report.prepare(scenario, 4, ["icom"], "random", out=out), progress)


@pytest.mark.usefixtures("exact")
def test_the_loop_scans_the_same_place_before_and_after(tiny: Callable[..., Scenario], tmp_path: Path) -> None:
    scenario = tiny("task.observations=1", "scan.plan.rows=16", "scan.plan.columns=16")
    loop = close(scenario, tmp_path)
    assert loop.status == "complete"
    assert loop.calibrated is not None
    assert loop.after is not None
    # The calibration found the state in which the first scan was made.
    assert loop.before.state_nm == pytest.approx(loop.calibrated.truth_nm)
    assert np.linalg.norm(loop.before.state_nm) > 5
    assert loop.after.state_nm == pytest.approx((0, 0, 0), abs=1e-9)
    assert loop.after.strehl > 0.99 > 0.5 > loop.before.strehl
    assert loop.after.probe_d50_nm < loop.before.probe_d50_nm
    before, after = images(tmp_path / "before"), images(tmp_path / "after")
    assert np.array_equal(before["true_phase"], after["true_phase"])
    likeness = [part.recorded.likeness["icom"]["icom"] for part in (loop.before, loop.after)]
    assert likeness[1] > max(0.8, likeness[0] + 0.2)
    assert loop.after.resolution_nm["icom"] < 0.2
    page = loop.report.read_text()
    assert page.count("<img") == 1
    assert "http" not in re.sub(r'src="data:[^"]*"', "", page)
    (link,) = re.findall(r'href="([^"]+)"', page)
    assert (tmp_path / link).is_file()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["after"]["agents"]["icom"]["resolution_nm"] == loop.after.resolution_nm["icom"]


@pytest.mark.usefixtures("exact")
def test_a_corrected_scan_is_what_the_loop_ends_with(tiny: Callable[..., Scenario], tmp_path: Path) -> None:
    """Both in the same state on the same region; the noise is another scan's of the same session, or the same."""
    scenario = tiny("task.observations=1")
    close(scenario, tmp_path / "loop")
    run(prepare(scenario, 4, ["icom"], tmp_path / "scan"))
    assert np.allclose(images(tmp_path / "loop" / "after")["icom"], images(tmp_path / "scan")["icom"])


def test_the_controller_may_look_at_images(tiny: Callable[..., Scenario], tmp_path: Path) -> None:
    tiny()
    plan = ["--set", "scan.plan.rows=6", "--set", "scan.plan.columns=6", "--set", "task.observations=2"]
    plan += ["--set", "scan.optics.grid=100"]  # inputs may double what the state has
    arguments = ["scan", str(tmp_path / "tiny.yaml"), "--agents", "com", "--out", str(tmp_path / "o"), "--json", *plan]
    done = CliRunner().invoke(app, [*arguments, "--calibrate", "bo_contrast:contrast=scan", "--images", "bf"])
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    # Two images and one after the correction, 36 positions of 5000 electrons each.
    assert summary["calibration"]["dose_e"] == 2 * 36 * 5000
    assert summary["controller"] == "bo_contrast"


def test_a_calibration_that_ruins_the_probe_is_reported_all_the_same(
    tiny: Callable[..., Scenario], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ruin(session: Any, last: Any) -> None:
        held = session.bench.simulator._session
        held.column = replace(held.column, calibrated_nm=held.column.calibrated_nm + 480.0)

    monkeypatch.setattr("scenarios.calibration.run._correct", ruin)
    loop = close(tiny("task.observations=1"), tmp_path)
    assert loop.status == "incomplete"
    assert loop.after is None
    (problem,) = problems(loop)
    assert problem[0] == "after"
    assert "no second scan" in problem[1]
    assert "window" in problem[1]
    assert "no second scan" in loop.report.read_text()
    assert json.loads((tmp_path / "summary.json").read_text())["failure"] == loop.failure


def test_an_interrupted_first_scan_ends_the_loop(
    tiny: Callable[..., Scenario], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RunDirectory, "__init__", lambda *_: pytest.fail("the calibration began"))
    loop = close(tiny(), tmp_path, stop)
    assert (loop.status, loop.calibrated, loop.after) == ("interrupted", None, None)
    assert isinstance(loop.before.recorded, Recorded)
    assert "interrupted before the calibration" in loop.report.read_text()


def test_the_loop_needs_a_window_for_the_uncorrected_probe(tiny: Callable[..., Scenario], tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="window"):
        close(tiny("space.start_nm=[60,30,30]", "space.input_nm=[60,30,30]", "scan.optics.grid=56"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_event_camera_streams_too(tiny: Callable[..., Scenario], tmp_path: Path) -> None:
    scenario = tiny("scan.camera={kind: event}", "scan.plan.dose_e=2000")
    scanned = run(prepare(scenario, 1, ["icom,ssb"], tmp_path / "a", tmp_path / "events.t3p"))
    summary = scanned.summary()
    assert (summary["frames"], summary["status"]) == (56, "complete")
    # One makes its image of events alone, the other has frames made.
    assert [agent["error"] for agent in summary["agents"].values()] == [None, None]
    assert summary["agents"]["icom"]["cross_correlation"] > 0.5
    assert scanned.data is not None
    assert scanned.data.stat().st_size > 16 * 1000
