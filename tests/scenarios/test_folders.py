"""What a run writes: locked, numbered, whole or not at all, and never somebody else's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scenarios.cli import app
from scenarios.folders import (
    InUse,
    Lock,
    OutputError,
    check_folder,
    latest,
    locked,
    new_folder,
    results_folder,
    sentence,
    write_text,
)


def test_one_place_has_one_writer(tmp_path: Path) -> None:
    with locked(tmp_path / "scan.zarr"):
        with pytest.raises(InUse, match=r"scan\.zarr is being written by another run: wait for its end, or choose"):
            Lock(tmp_path / "scan.zarr")
        with locked(tmp_path / "other.zarr"):
            pass
    with locked(tmp_path / "scan.zarr"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_another_program_is_refused_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    program = "import sys, time; from pathlib import Path; from scenarios.folders import Lock\n"
    program += "lock = Lock(Path(sys.argv[1]), inside=True); print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            with pytest.raises(InUse, match="is being written by another run"):
                Lock(tmp_path, inside=True)
        finally:
            other.kill()
    Lock(tmp_path, inside=True).release()


def test_a_lock_leaves_no_folder_that_it_made(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "b" / "scan.zarr"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not (tmp_path / "a").exists()
    with locked(tmp_path / "a", inside=True):
        (tmp_path / "a" / "result").write_text("")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["result"]


def test_numbers_are_given_once(tmp_path: Path) -> None:
    assert latest(tmp_path / "x" / "3") is None
    assert [new_folder(tmp_path / "3").name for _ in range(11)] == ["3", *(f"3-{k}" for k in range(2, 12))]
    found = latest(tmp_path / "3")
    assert found is not None
    assert found.name == "3-11"  # 11 is more than 2, not before it
    (tmp_path / "3-12").write_text("a file")
    (tmp_path / "3-13").symlink_to(tmp_path / "3")
    (tmp_path / "3-dry-run").mkdir()
    assert latest(tmp_path / "3") == found


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "summary.json").symlink_to(tmp_path / "mine")
    write_text(tmp_path / "summary.json", "{}")
    assert (tmp_path / "mine").read_text() == "precious"
    assert (tmp_path / "summary.json").read_text() == "{}"
    assert not (tmp_path / "summary.json").is_symlink()


def test_somebody_elses_partial_file_stays(tmp_path: Path) -> None:
    (tmp_path / "summary.json.partial").write_text("not ours")
    write_text(tmp_path / "summary.json", "{}")
    assert (tmp_path / "summary.json.partial").read_text() == "not ours"
    assert len(list(tmp_path.iterdir())) == 2


def test_what_cannot_be_written_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text(tmp_path / "summary.json", "earlier")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left") as told:
        write_text(tmp_path / "summary.json", "later")
    assert (tmp_path / "summary.json").read_text() == "earlier"
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]
    assert sentence(told.value) == f"{tmp_path / 'summary.json'}: No space left on device"


@pytest.mark.parametrize("kind", ["link", "folder", "fifo"])
@pytest.mark.skipif(os.name == "nt", reason="needs links and pipes")
def test_what_stands_in_the_place_of_a_lock_is_left_alone_and_named(kind: str, tmp_path: Path) -> None:
    lock, other = tmp_path / ".run.lock", tmp_path / "other"
    other.write_text("precious")
    {"link": lambda: lock.symlink_to(other), "folder": lock.mkdir, "fifo": lambda: os.mkfifo(lock)}[kind]()
    if kind == "fifo":  # a pipe can be locked; what matters is that nobody waits for its other end
        with locked(tmp_path / "run"):
            pass
    else:
        with pytest.raises(OSError, match=r"\.run\.lock"), locked(tmp_path / "run"):
            pass
        assert lock.is_symlink() or lock.is_dir()
    assert other.read_text() == "precious"


@pytest.mark.parametrize(
    ("words", "locked_path", "inside"),
    [("gallery --only histogram --out a.html", "a.html", False), ("train quality --work w --frames f", "w", True)],
)
def test_a_page_or_a_training_that_another_run_writes_is_refused(
    words: str, locked_path: str, inside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if inside:
        Path(locked_path).mkdir()
    lock = Lock(Path(locked_path), inside)
    try:
        done = CliRunner().invoke(app, words.split())
    finally:
        lock.release()
    assert done.exit_code == 2
    assert f"{locked_path} is being written by another run" in done.stderr.splitlines()[-1]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_results_have_a_folder_before_the_work_begins_and_leave_none_without_results(tmp_path: Path) -> None:
    default = tmp_path / "runs" / "quantify"

    def refused() -> None:
        with results_folder(None, default, ["a.csv"], False) as place:
            assert place.is_dir()
            raise ValueError("no lattice")

    with pytest.raises(ValueError, match="no lattice"):
        refused()
    assert list(tmp_path.iterdir()) == []
    for number in ("quantify", "quantify-2"):
        with results_folder(None, default, ["a.csv"], False) as place:
            (place / "a.csv").write_text("1")
        assert place == default.with_name(number)
        assert os.listdir(place) == ["a.csv"]


def test_results_of_an_earlier_run_stay_unless_they_are_to_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1")
    with (
        pytest.raises(OutputError, match="has the results of an earlier run: choose another --out, or give"),
        results_folder(tmp_path, tmp_path, ["a.csv"], False),
    ):
        pass
    with results_folder(tmp_path, tmp_path, ["a.csv"], True) as place:
        with pytest.raises(InUse), results_folder(tmp_path, tmp_path, ["a.csv"], True):
            pass
        assert place == tmp_path
    assert os.listdir(tmp_path) == ["a.csv"]
    with (
        pytest.raises(OutputError, match=r"a\.csv exists and is no folder"),
        results_folder(place / "a.csv", place, [], True),
    ):
        pass


def test_a_folder_that_cannot_be_made_is_refused_without_making_any(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    check_folder(tmp_path / "a" / "b")
    with pytest.raises(NotADirectoryError, match="file/b"):
        check_folder(tmp_path / "file" / "b")
    assert os.listdir(tmp_path) == ["file"]
