"""What a run writes: locked, numbered, whole or not at all, and never somebody else's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from learning import weights_file
from scenarios.cli import app
from scenarios.folders import (
    InUse,
    Lock,
    OutputError,
    carries,
    check_folder,
    latest,
    locked,
    new_folder,
    results_folder,
    sentence,
    write_text,
)
from twin import formats


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


# --- folders of results --------------------------------------------------------------------------

FILES = ("table.csv", "arrays.zarr")


def ours(folder: Path) -> bool:
    return carries(folder / "arrays.zarr", "stemtwin-columns")


def write_results(folder: Path, words: str = "x", mark: str = "stemtwin-columns") -> None:
    (folder / "table.csv").write_text(words)
    (folder / "arrays.zarr").mkdir(exist_ok=True)
    (folder / "arrays.zarr" / "zarr.json").write_text(json.dumps({"attributes": {"format": mark}}))


def test_two_runs_at_once_do_not_write_one_folder_of_results(tmp_path: Path) -> None:
    out = tmp_path / "a"
    with results_folder(out, out, FILES, overwrite=True, is_ours=ours):
        with pytest.raises(InUse, match="is being written by another run"), results_folder(out, out, FILES, True, ours):
            pass
        with results_folder(None, out, FILES, overwrite=False, is_ours=ours) as other:
            assert other == tmp_path / "a-2"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["table.csv", "arrays.zarr"])
@pytest.mark.parametrize("kind", ["file", "folder", "link", "dangling link", "group of another program"])
def test_somebody_elses_results_are_not_replaced_however_it_is_asked(place: str, kind: str, tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    write_results(elsewhere)
    if kind == "group of another program":
        write_results(out, mark="another")
    elif kind == "file":
        (out / place).write_text("precious")
    elif kind == "folder":
        (out / place).mkdir()
        (out / place / "precious").write_text("precious")
    else:
        (out / place).symlink_to(elsewhere / (place if kind == "link" else "nothing"))
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with (
        pytest.raises(OutputError, match="was not written by stemtwin and is not replaced"),
        results_folder(out, out, FILES, True, ours),
    ):
        raise AssertionError("it was given away")
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_ones_own_results_are_replaced_if_asked_and_a_run_that_fails_leaves_no_folder(tmp_path: Path) -> None:
    out = tmp_path / "runs" / "out"
    with results_folder(None, out, FILES, False, ours) as place:
        write_results(place)
    with pytest.raises(OutputError, match="--overwrite"), results_folder(out, out, FILES, False, ours):
        pass
    with results_folder(out, out, FILES, True, ours) as place:
        write_results(place, "second")
    assert (out / "table.csv").read_text() == "second"
    with pytest.raises(ZeroDivisionError), results_folder(None, out, FILES, False, ours):
        raise ZeroDivisionError
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("options", [["--play"], ["--only", "histogram"]])
@pytest.mark.parametrize("kind", ["notes", "link"])
def test_a_page_replaces_no_file_that_is_none(options: list[str], kind: str, tmp_path: Path) -> None:
    page, notes = tmp_path / "page.html", tmp_path / "notes.html"
    notes.write_text("<html>my notes</html>")
    page.symlink_to(notes) if kind == "link" else page.write_text("<html>my notes</html>")
    done = CliRunner().invoke(app, ["gallery", *options, "--out", str(page)])
    assert done.exit_code == 2
    assert "is no page of stemtwin, which alone is replaced: choose another --out" in done.stderr
    assert page.read_text() == notes.read_text() == "<html>my notes</html>"


def test_a_page_of_ours_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "play.html"
    for _ in range(2):
        assert CliRunner().invoke(app, ["gallery", "--play", "--out", str(page)]).exit_code == 0


def test_weights_and_frames_of_a_training_replace_a_link_and_leave_what_it_points_to(tmp_path: Path) -> None:
    precious, link = tmp_path / "precious", tmp_path / "a.safetensors"
    precious.write_text("precious")
    link.symlink_to(precious)
    weights_file.write(link, {"slope": torch.ones(1)}, {"format": "line-1"})
    assert precious.read_text() == "precious"
    assert not link.is_symlink()


@pytest.mark.parametrize("name", ["scan.zarr", "scan.hspy", "scan.mib", "scan.hdr"])
def test_no_scan_is_written_through_a_link_that_leads_nowhere(name: str, tmp_path: Path) -> None:
    (tmp_path / name).symlink_to(tmp_path / "elsewhere")
    layout = formats.Layout((2, 2), (8, 8), "uint16", 4000)
    path = (tmp_path / name).with_suffix(".mib") if name.endswith(".hdr") else tmp_path / name
    with pytest.raises(formats.FormatError, match="exists; choose another name"):
        formats.create(path, layout, formats.Metadata())
    assert not (tmp_path / "elsewhere").exists()


def always(_: Path) -> bool:
    return True


def test_results_have_a_folder_before_the_work_begins_and_leave_none_without_results(tmp_path: Path) -> None:
    default = tmp_path / "runs" / "quantify"

    def refused() -> None:
        with results_folder(None, default, ["a.csv"], False, always) as place:
            assert place.is_dir()
            raise ValueError("no lattice")

    with pytest.raises(ValueError, match="no lattice"):
        refused()
    assert list(tmp_path.iterdir()) == []
    for number in ("quantify", "quantify-2"):
        with results_folder(None, default, ["a.csv"], False, always) as place:
            (place / "a.csv").write_text("1")
        assert place == default.with_name(number)
        assert os.listdir(place) == ["a.csv"]


def test_results_of_an_earlier_run_stay_unless_they_are_to_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1")
    with (
        pytest.raises(OutputError, match="has the results of an earlier run: choose another --out, or give"),
        results_folder(tmp_path, tmp_path, ["a.csv"], False, always),
    ):
        pass
    with results_folder(tmp_path, tmp_path, ["a.csv"], True, always) as place:
        with pytest.raises(InUse), results_folder(tmp_path, tmp_path, ["a.csv"], True, always):
            pass
        assert place == tmp_path
    assert os.listdir(tmp_path) == ["a.csv"]
    with (
        pytest.raises(OutputError, match=r"a\.csv exists and is no folder"),
        results_folder(place / "a.csv", place, [], True, always),
    ):
        pass


def test_a_folder_that_cannot_be_made_is_refused_without_making_any(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    check_folder(tmp_path / "a" / "b")
    with pytest.raises(NotADirectoryError, match="file/b"):
        check_folder(tmp_path / "file" / "b")
    assert os.listdir(tmp_path) == ["file"]
