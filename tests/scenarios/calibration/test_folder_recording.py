"""A folder of Ronchigrams becomes a recording that replays, and references reach the controller."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from scenarios import load_scenario
from scenarios.calibration.folder_recording import FolderOptions, entries, record
from scenarios.calibration.session import observe, prepare
from scenarios.cli import app
from scenarios.schema import Scenario, ScenarioError, parse
from twin.instrument.recording import Recording
from twin.options import checked_options
from twin.references.camera_reference import ReferenceOptions
from twin.simulated import SimulatedMicroscope

SMALL = ["renderer=fast", "optics.convergence_mrad=14", "optics.sampling_nm=0.05", "optics.grid=256",
         "optics.camera_pixels=64", "optics.binning=4", "task.observations=1"]  # fmt: skip


def scenario(*more: str) -> Scenario:
    return load_scenario("nominal", [*SMALL, *more])


def ronchigrams(count: int = 3) -> np.ndarray:
    """Frames of the twin, (n, 64, 64)."""
    told = scenario()
    microscope = SimulatedMicroscope(told.optics, told.space, told.day, "fast")
    microscope.reset(np.random.default_rng(0))
    return np.stack([microscope.acquire().counts for _ in range(count)])


def folder_of(path: Path, frames: np.ndarray, suffix: str = ".npy") -> Path:
    path.mkdir()
    for k, frame in enumerate(frames):
        if suffix == ".npy":
            np.save(path / f"{k:03d}.npy", frame)
        else:
            Image.fromarray(frame.astype(np.uint16)).save(path / f"{k:03d}{suffix}")
    return path


@pytest.mark.parametrize("suffix", [".npy", ".tif"])
def test_the_images_come_back_as_frames(tmp_path: Path, suffix: str) -> None:
    frames = ronchigrams()
    found = entries(folder_of(tmp_path / "images", frames, suffix), scenario().space)
    done = record(scenario(), found, tmp_path / "a.zarr", FolderOptions(exposure_s=0.5, dose_e=1e6))
    recording = Recording(tmp_path / "a.zarr")
    assert (done.frames, recording.count) == (3, 3)
    for k, frame in enumerate(frames):
        kept = recording.frame(k)
        np.testing.assert_array_equal(kept.counts, frame)
        assert (kept.dose_e, kept.exposure_s, kept.clock_s) == (1e6, 0.5, 0.5 * (k + 1))
    assert recording.attributes["provenance"]["images"]["files"] == [f"{k:03d}{suffix}" for k in range(3)]


def test_a_replay_gives_a_run_the_first_image(tmp_path: Path) -> None:
    frames = ronchigrams()
    found = entries(folder_of(tmp_path / "images", frames), scenario().space)
    record(scenario(), found, tmp_path / "a.zarr")
    replay = scenario("microscope.kind=replay", f"microscope.options.path={tmp_path / 'a.zarr'}")
    (seen,) = observe(prepare(replay, "random"), seed=0)
    np.testing.assert_array_equal(seen.frame.counts, frames[0])


def test_a_table_tells_inputs_and_states(tmp_path: Path) -> None:
    frames = ronchigrams()
    images = folder_of(tmp_path / "images", frames)
    table = tmp_path / "t.csv"
    table.write_text(
        "file,cumulative.C10,state.C10,state.C12a,state.C12b,dose_e\n"
        "002.npy,0,5,1,-1,2e5\n000.npy,10,15,1,-1,\n001.npy,-5,0,1,-1,3e5\n"
    )
    record(scenario(), entries(images, scenario().space, table), tmp_path / "a.zarr", FolderOptions(dose_e=1e5))
    recording = Recording(tmp_path / "a.zarr")
    trace = recording.trace(0)
    assert trace.delta_nm[:, 0].tolist() == [0, 10, -15]
    assert trace.state_nm[:, 0].tolist() == [5, 15, 0]
    assert trace.session["initial_nm"] == [5, 1, -1]
    assert [recording.frame(k).dose_e for k in range(3)] == [2e5, 1e5, 3e5]
    np.testing.assert_array_equal(recording.frame(0).counts, frames[2])
    options = json.dumps({"path": str(tmp_path / "a.zarr"), "mode": "nearest", "start_nm": [15, 1, -1]})
    nearest = scenario("microscope.kind=replay", f"microscope.options={options}")
    (seen,) = observe(prepare(nearest, "random"), seed=3)
    np.testing.assert_array_equal(seen.frame.counts, frames[0])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,cumulative.C11\n000.npy,1\n", "did you mean cumulative.C10"),
        ("name\n000.npy\n", "no column 'name'"),
        ("cumulative.C10\n1\n", "needs a column file"),
        ("file\n009.npy\n", "line 2: there is no file '009.npy'"),
        ("file,dose_e\n000.npy,many\n", "line 2: dose_e is 'many'"),
        ("file,state.C10\n000.npy,3\n", "a state has all of C10, C12a, C12b"),
        ("file,dose_e\n000.npy,inf\n", "dose_e is 'inf'"),
        ("file,exposure_s\n000.npy,-1\n", "exposure_s is '-1', and a number above zero"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path: Path, text: str, words: str) -> None:
    images = folder_of(tmp_path / "images", ronchigrams(1))
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ScenarioError, match=words):
        entries(images, scenario().space, tmp_path / "t.csv")


def test_a_larger_image_is_cut_to_the_camera_and_binned(tmp_path: Path) -> None:
    frame = ronchigrams(1)[0]
    large = np.zeros((1, 200, 220), np.uint16)
    large[0, 36:164, 46:174] = np.kron(frame, np.ones((2, 2), np.uint16)) // 4
    found = entries(folder_of(tmp_path / "images", large), scenario().space)
    pixel_mrad = scenario().optics.camera_pixel_mrad / 2
    done = record(scenario(), found, tmp_path / "a.zarr", FolderOptions(pixel_mrad=pixel_mrad))
    np.testing.assert_array_equal(Recording(done.path).frame(0).counts, frame // 4 * 4)
    assert done.notes == ("of 200 x 220 pixels the square of 128 about (100, 110) became 64 x 64",)
    off = checked_options(ReferenceOptions, {"centre_px": (90, 100)})
    done = record(scenario(), found, tmp_path / "b.zarr", references=off)
    assert "the square of 180 about (90, 100)" in done.notes[0]
    counts = Recording(done.path).frame(0).counts
    assert abs(int(counts.astype(int).sum()) - int(large[0, :180, 10:190].astype(int).sum())) < 64 * 64


def test_references_are_applied_before_the_image_is_cut(tmp_path: Path) -> None:
    frame = ronchigrams(1)[0]
    spoilt = frame.astype(np.float64) * 2 + 7
    spoilt[10, 11] = 60000
    found = entries(folder_of(tmp_path / "images", spoilt[None]), scenario().space)
    references = checked_options(ReferenceOptions, {"dark": 7, "bad_pixels": [(10, 11)]})
    record(scenario(), found, tmp_path / "a.zarr", references=references)
    kept = Recording(tmp_path / "a.zarr").frame(0).counts.astype(int)
    good = np.ones(frame.shape, bool)
    good[10, 11] = False
    np.testing.assert_array_equal(kept[good], 2 * frame[good])
    assert kept[10, 11] < 10 * frame.max()


def test_fractions_and_negative_values_become_whole_counts(tmp_path: Path) -> None:
    frame = ronchigrams(1)[0]
    found = entries(folder_of(tmp_path / "images", (frame / frame.max() - 0.05)[None]), scenario().space)
    done = record(scenario(), found, tmp_path / "a.zarr")
    kept = Recording(done.path).frame(0)
    signal = kept.counts - kept.settings["dark_level"]
    assert np.corrcoef(signal.ravel(), frame.ravel())[0, 1] > 0.9999
    assert kept.counts.max() > 50_000
    assert any("scaled" in note for note in done.notes)
    assert any("dark_level" in note for note in done.notes)


@pytest.mark.parametrize(
    ("frames", "options", "words"),
    [
        (np.zeros((1, 64, 64)), {}, "no counts above zero"),
        (np.full((1, 64, 64), np.nan), {}, "4096 pixels are no numbers"),
        (np.ones((1, 64, 64)), {"pixel_mrad": 1e-3}, "pixel_mrad: the camera of 64"),
    ],
)
def test_images_without_use_are_refused(tmp_path: Path, frames: np.ndarray, options: Any, words: str) -> None:
    found = entries(folder_of(tmp_path / "images", frames), scenario().space)
    with pytest.raises(ScenarioError, match=words):
        record(scenario(), found, tmp_path / "a.zarr", FolderOptions(**options))
    assert not (tmp_path / "a.zarr").exists()


def test_the_command_records_and_refuses_in_one_line(tmp_path: Path) -> None:
    images = folder_of(tmp_path / "images", ronchigrams())
    sets = ["--scenario", "nominal", *(part for item in SMALL for part in ("--set", item))]
    arguments = ["record", str(images), "--out", str(tmp_path / "a.zarr"), *sets, "--json"]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["frames"] == 3
    for more, words in (
        ([], "exists; choose another name"),
        (["--option", "bad_row=3"], "did you mean"),
        (["--option", "dark=none.npy"], "none.npy does not exist"),
    ):
        again = CliRunner().invoke(app, [*arguments, *more])
        assert again.exit_code == 2
        assert words in again.stderr
        assert again.stderr.count("\n") == 1


def test_a_controller_sees_frames_corrected_by_the_references(tmp_path: Path) -> None:
    frames = ronchigrams(1)
    spoilt = frames + 40
    spoilt[0, 30] = 0
    found = entries(folder_of(tmp_path / "images", spoilt), scenario().space)
    record(scenario(), found, tmp_path / "a.zarr")
    replay = ("microscope.kind=replay", f"microscope.options.path={tmp_path / 'a.zarr'}")
    told = scenario(*replay, "references.dark=40", "references.bad_rows=[30]")
    (seen,) = observe(prepare(told, "random"), seed=0)
    signal = seen.frame.counts - seen.frame.settings.get("dark_level", 0.0)
    good = np.delete(np.arange(64), 30)
    np.testing.assert_array_equal(signal[good], frames[0][good].astype(float))
    assert signal[30].mean() > 0.5 * frames[0][30].mean() > 1
    np.testing.assert_array_equal(Recording(tmp_path / "a.zarr").frame(0).counts, spoilt[0])
    assert parse(told.resolved(), "again") == told
    with pytest.raises(ScenarioError, match=r"bad_rows: \[64\] lies outside a camera"):
        prepare(scenario(*replay, "references.bad_rows=[64]"), "random")
    with pytest.raises(ScenarioError, match=r"references\.bad_row is not a key here"):
        scenario("references.bad_row=[64]")
