"""The audit log: every entry on disc before the next thing happens, and nothing of it is ever lost or rewritten."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from twin.instrument.audit import AuditLog, read


def test_entries_are_json_lines_in_order_with_their_number_and_time(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "deep" / "audit.jsonl", now=lambda: "noon")
    log.write("command", delta_nm=np.array([1.5, -2.0]), attempt=np.int64(2))
    log.write("moved")
    lines = (tmp_path / "deep" / "audit.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"n": 0, "time": "noon", "event": "command", "delta_nm": [1.5, -2.0], "attempt": 2},
        {"n": 1, "time": "noon", "event": "moved"},
    ]


def test_an_entry_is_on_disc_when_write_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "audit.jsonl", []
    log = AuditLog(path)

    def fsync(file: int) -> None:
        synced.append(path.read_text().count("\n"))

    monkeypatch.setattr(os, "fsync", fsync)
    log.write("one")
    log.write("two")
    assert synced == [1, 2]


def test_a_log_is_continued_and_a_torn_line_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    first = AuditLog(path)
    first.write("one")
    before = path.read_bytes() + b'{"n": 1, "time": "x", "eve'
    path.write_bytes(before)
    AuditLog(path).write("two")
    assert path.read_bytes().startswith(before)
    assert [(entry["n"], entry["event"]) for entry in read(path)] == [(0, "one"), (2, "two")]


@pytest.mark.parametrize("full", [False, True])
def test_a_disc_that_takes_a_part_is_asked_again_or_said_to_be_full(
    full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, write, calls = AuditLog(tmp_path / "audit.jsonl"), os.write, []
    log.write("one")

    def nearly_full(file: int, data: bytes) -> int:
        calls.append(data)
        if full and len(calls) > 1:
            raise OSError("no space left on device")
        return write(file, data[:7])

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", nearly_full)
        if full:
            with pytest.raises(OSError, match="no space"):
                log.write("two")
        else:
            log.write("two")
    log.write("three")
    assert [entry["event"] for entry in read(log.path)] == ["one", "three"] if full else ["one", "two", "three"]


def test_what_is_no_number_is_a_text(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.write("odd", values=np.array([1.0, np.nan]), one=float("-inf"), deep={"a": (np.float32("inf"), True, None)})
    (line,) = log.path.read_text().splitlines()
    told = json.loads(line, parse_constant=lambda name: pytest.fail(name))
    assert (told["values"], told["one"], told["deep"]) == ([1.0, "nan"], "-inf", {"a": ["inf", True, None]})


def test_two_writers_do_not_overwrite_each_other(tmp_path: Path) -> None:
    one, other = AuditLog(tmp_path / "audit.jsonl"), AuditLog(tmp_path / "audit.jsonl")
    for k in range(5):
        one.write("one", k=k)
        other.write("other", k=k)
    assert [entry["event"] for entry in read(tmp_path / "audit.jsonl")] == ["one", "other"] * 5


def test_what_is_not_plain_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="plain values; got object"):
        AuditLog(tmp_path / "audit.jsonl").write("odd", what=object())
    assert (tmp_path / "audit.jsonl").read_bytes() == b""


def test_a_kill_leaves_every_entry(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from twin.instrument.audit import AuditLog\n"
        "log = AuditLog(Path(sys.argv[1]))\n"
        "for k in range(20): log.write('command', k=k)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "audit.jsonl"
    done = subprocess.run([sys.executable, "-c", program, str(path)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert [entry["k"] for entry in read(path)] == list(range(20))


@pytest.mark.parametrize("kind", ["link", "folder"])
@pytest.mark.skipif(os.name == "nt", reason="needs links")
def test_a_lock_that_is_none_is_named_and_what_it_points_to_is_left_alone(kind: str, tmp_path: Path) -> None:
    lock, other = tmp_path / "audit.jsonl.lock", tmp_path / "other"
    other.write_text("precious")
    lock.symlink_to(other) if kind == "link" else lock.mkdir()
    log = AuditLog(tmp_path / "audit.jsonl")
    for _ in range(2):
        with pytest.raises(OSError, match=r"the log cannot be taken for a session: .*audit\.jsonl\.lock"):
            log.begin()
    assert other.read_text() == "precious"
    lock.unlink() if kind == "link" else lock.rmdir()
    log.begin()
    log.write("reset")
    log.end()
    assert [entry["event"] for entry in read(log.path)] == ["reset"]
