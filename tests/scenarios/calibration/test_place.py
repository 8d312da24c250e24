"""One place, one run: what a run left is kept, and replaced only on request and by something worth it."""

import csv
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from scenarios.calibration import run
from scenarios.calibration.instruments import Wiring
from scenarios.calibration.place import claimed
from scenarios.calibration.results import Result, Step
from scenarios.cli import app
from scenarios.folders import InUse, Lock, NotWritten
from scenarios.schema import Scenario, ScenarioError
from twin.instrument.faults import MicroscopeFault

Make = Callable[..., Scenario]


def quick(scenario: Scenario, out: Path, **options: Any) -> Any:
    return run.calibrate(scenario, "random", 0, out, report=False, **options)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_earlier_run_is_kept_and_the_next_has_a_number(small: Make, tmp_path: Path) -> None:
    first = quick(small(2), tmp_path).directory
    before = content(first)
    others = [quick(small(1), tmp_path).directory for _ in range(2)]
    assert [path.name for path in (first, *others)] == ["0", "0-2", "0-3"]
    assert content(first) == before
    assert json.loads((others[0] / "summary.json").read_text())["directory"] == str(others[0])


def test_overwrite_replaces_the_first_and_nothing_that_is_not_ours(small: Make, tmp_path: Path) -> None:
    first = quick(small(2), tmp_path).directory
    (first / "notes.txt").write_text("good specimen")
    result = quick(small(3), tmp_path, overwrite=True)
    assert result.directory == first
    assert sorted(content(first)) == ["config.yaml", "notes.txt", "steps.csv", "summary.json"]
    assert json.loads((first / "summary.json").read_text())["observations"] == 3
    assert [path.name for path in first.parent.iterdir()] == ["0"]  # nothing is left beside it


@pytest.mark.parametrize("kind", ["foreign", "link", "file"])
def test_what_is_not_a_run_is_not_replaced(small: Make, tmp_path: Path, kind: str) -> None:
    place, elsewhere = tmp_path / "nominal" / "random" / "0", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "config.yaml").write_text("mine: true\n")
    place.parent.mkdir(parents=True)
    if kind == "link":
        place.symlink_to(elsewhere)
    elif kind == "file":
        place.write_text("mine")
    else:
        elsewhere.rename(place)
        elsewhere = place
    with pytest.raises(ScenarioError, match="is not a run of stemtwin, which alone is replaced"):
        quick(small(1), tmp_path, overwrite=True)
    assert quick(small(1), tmp_path).directory.name == "0-2"
    if kind != "file":
        assert content(elsewhere) == {"config.yaml": b"mine: true\n"}


def test_a_run_that_fails_to_start_replaces_nothing(
    small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = quick(small(2), tmp_path).directory
    before = content(first)

    def absent(*_: object) -> None:
        raise MicroscopeFault("no driver")

    monkeypatch.setattr("twin.simulated.SimulatedMicroscope.reset", absent)
    result = quick(small(2), tmp_path, overwrite=True)
    assert (result.status, result.reason, result.directory.name) == ("stopped", "no driver", "0-2")
    assert content(first) == before
    with pytest.raises(ScenarioError):
        run.calibrate(small(2), "randon", 0, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_resumed_run_goes_on_in_its_own_folder(small: Make, tmp_path: Path) -> None:
    def interrupt(step: Step) -> None:
        if step.observation == 2:
            raise KeyboardInterrupt

    def recorded(observations: int, resume: bool, progress: Callable[[Step], None] | None = None) -> Result:
        wiring = Wiring(record=tmp_path / "run.zarr", resume=resume)
        with run.opened(small(observations), "random", 0, tmp_path, wiring) as (session, place):
            return run.run_at(place, session, 0, progress, report=False)

    def observations(result: Result) -> int:
        return int(json.loads((result.directory / "summary.json").read_text())["observations"])

    quick(small(1), tmp_path)
    first = recorded(4, False, interrupt)
    quick(small(1), tmp_path)
    second = recorded(4, True)
    assert first.directory == second.directory == tmp_path / "nominal" / "random" / "0-2"
    assert (first.status, second.status, observations(second)) == ("interrupted", "complete", 4)
    # Its last frame is that of the correction: nothing goes on from there, and the good report stays.
    third = recorded(9, True)
    assert (third.status, third.directory.name, observations(second)) == ("stopped", "0-4", 4)


def test_a_run_that_is_being_written_is_not_gone_on_with(small: Make, tmp_path: Path) -> None:
    folder = quick(small(1), tmp_path).directory
    lock = Lock(folder, inside=True)
    with pytest.raises(InUse, match="is being written by another run"):
        quick(small(1), tmp_path, overwrite=True)
    lock.release()
    assert quick(small(1), tmp_path, overwrite=True).directory == folder


def test_many_runs_at_once_have_a_folder_each(tmp_path: Path) -> None:
    found: list[str] = []
    start = threading.Barrier(8)

    def claim() -> None:
        start.wait()
        with claimed(tmp_path / "a" / "b" / "0") as place:
            found.append(place.path.name)
            (place.at / "config.yaml").write_text("")

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(found) == sorted(["0", *(f"0-{k}" for k in range(2, 9))])


def test_a_full_disc_names_what_is_kept_and_how_to_go_on(
    small: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("scenarios.calibration.results.RunDirectory.write_summary", full)
    wiring = Wiring(record=tmp_path / "run.zarr")
    words = r"No space left on device; 2 observations are in .*steps\.csv, the frames in .*run\.zarr: .*--resume"
    with (
        pytest.raises(NotWritten, match=words),
        run.opened(small(2), "random", 0, tmp_path, wiring) as (session, place),
    ):
        run.run_at(place, session, 0, report=False)
    with (tmp_path / "nominal" / "random" / "0" / "steps.csv").open(newline="") as file:
        assert len(list(csv.reader(file))) == 3


def test_the_command_keeps_numbers_and_overwrites(small_overrides: tuple[str, ...], tmp_path: Path) -> None:
    words = ["calibrate", "nominal", "--controller", "random", "--observations", "1", "--out", str(tmp_path), "--json"]
    words += [word for text in small_overrides for word in ("--set", text)]
    folders = []
    for more in ([], [], ["--overwrite"]):
        done = CliRunner().invoke(app, [*words, *more])
        assert done.exit_code == 0, done.output
        folders.append(Path(json.loads(done.stdout)["directory"]).name)
    assert folders == ["0", "0-2", "0"]


def test_an_instrument_without_its_driver_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    words = ["calibrate", "nominal", "--microscope", "nion", "--controller", "random", "--out", str(tmp_path / "runs")]
    for more in ([], ["--record", str(tmp_path / "frames.zarr")]):
        done = CliRunner().invoke(app, [*words, *more])
        assert done.exit_code == 2
        assert "no Nion Swift" in done.stderr.splitlines()[-1]
        assert done.stdout == ""
        assert list(tmp_path.iterdir()) == []


def test_a_driver_that_is_missing_leaves_an_earlier_run_as_it_was(
    small_overrides: tuple[str, ...], tmp_path: Path
) -> None:
    earlier = tmp_path / "nominal" / "random" / "0"
    words = ["calibrate", "nominal", "--controller", "random", "--out", str(tmp_path), "--observations", "1"]
    small = [word for change in small_overrides for word in ("--set", change)]
    assert CliRunner().invoke(app, [*words, *small]).exit_code == 0
    before = {path: path.read_bytes() for path in earlier.iterdir()}
    for more in ([], ["--overwrite"]):
        assert CliRunner().invoke(app, [*words, *small, "--microscope", "nion", *more]).exit_code == 2
        assert {path: path.read_bytes() for path in earlier.iterdir() if "audit" not in path.name} == before
        assert list(earlier.parent.iterdir()) == [earlier]
