"""The folder of a run: chosen before the run begins, locked until its end; an earlier run there stays.

    runs/SCENARIO/CONTROLLER/SEED, then SEED-2, SEED-3, ...; SEED-dry-run for rehearsals

A run that continues or replaces an earlier one is written aside, in a hidden folder, and moved in at its end if that is
worth it; otherwise it gets a number of its own.
"""

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scenarios.calibration.results import MARK
from scenarios.folders import (
    FOLDER_LOCK,
    InUse,
    Lock,
    NotWritten,
    latest,
    missing,
    new_folder,
    numbered,
    remove_empty,
    sentence,
)
from scenarios.schema import ScenarioError

FILES = ("config.yaml", "steps.csv", "summary.json", "report.html")
"""What a run writes into its folder, beside an instrument's `audit.jsonl`, which is only ever continued."""


class Place:
    """The folder of one run.

    Attributes:
        path: the folder after `settle`; before it, the folder that the run will have if it is worth it.
        at: the folder that is written; hidden while an earlier run is in `path`.
    """

    def __init__(self, path: Path, at: Path, lock: Lock, created: list[Path], rows: int = 0) -> None:
        self.path, self.at = path, at
        self._lock, self._created, self._rows = lock, created, rows
        self._moved = path == at

    @property
    def audit(self) -> Path:
        """The log of an instrument's commands: that of the earlier run, if there is one."""
        return self.path / "audit.jsonl"

    def settle(self, observations: int, stopped: bool = False) -> None:
        """Decide where the run stays: in place of the earlier one only if it is worth it.

        Args:
            observations: at least as many as the earlier run has, if this one continues it.
            stopped: the run was stopped, and needs more of them than the earlier one.
        """
        if not self._moved and observations < max(1, self._rows + stopped * (self._rows > 0)):
            self._keep_apart()

    def move_in(self) -> None:
        """Move the files to `path`, each in one step.

        Raises:
            OSError: as the system says.
        """
        if self._moved:
            return
        for name in FILES:
            if (self.at / name).exists():
                (self.at / name).replace(self.path / name)
            else:
                (self.path / name).unlink(missing_ok=True)
        self.at.rmdir()
        self.at, self._moved = self.path, True

    def leave(self) -> None:
        """Unlock; a run that is not moved in gets a number of its own, and an empty folder goes."""
        with suppress(OSError):
            if not self._moved:
                self._keep_apart()
            _remove_empty(self.at / "audit.jsonl", self.at / "audit.jsonl.lock")
        self._lock.release()
        remove_empty([self.at, *self._created])

    def _keep_apart(self) -> None:
        folder = new_folder(next(numbered(self.path.with_name(re.sub(r"-\d+$", "", self.path.name)))))
        self.at.replace(folder)
        self.path = self.at = folder
        self._moved = True


@contextmanager
def claimed(base: Path, dry_run: bool = False, replace: bool = False, resumed: str | None = None) -> Iterator[Place]:
    """Choose and lock the folder of a run, until the end of the block.

    Args:
        base: OUT/SCENARIO/CONTROLLER/SEED.
        dry_run: a rehearsal, which has folders of its own.
        replace: replace an earlier run in `base`; its audit log is continued.
        resumed: name of the folder, beside `base`, of the run that is continued; "" is the latest; None continues none.

    Raises:
        ScenarioError: the folder cannot be created, or what is to be replaced is not a run of stemtwin.
        InUse: another run writes there.
    """
    base = base.with_name(f"{base.name}-dry-run") if dry_run else base
    try:
        earlier = _earlier(base, replace, resumed)
        place = _new(base) if earlier is None else _aside(earlier, not replace)
    except OSError as error:
        raise ScenarioError(sentence(error, base)) from error
    try:
        yield place
    finally:
        place.leave()


def _earlier(base: Path, replace: bool, resumed: str | None) -> Path | None:
    """Return the folder that a run continues or replaces, if it exists."""
    if replace:
        return base if base.exists() or base.is_symlink() else None
    if resumed is None:
        return None
    if re.fullmatch(re.escape(base.name) + r"(-\d+)?", resumed) and (base.parent / resumed).is_dir():
        return base.parent / resumed
    return latest(base)


def _new(base: Path) -> Place:
    """Return the first number without a run; a folder with nothing but an audit log has none."""
    created = missing(base.parent)
    base.parent.mkdir(parents=True, exist_ok=True)
    for path in numbered(base):
        with suppress(FileExistsError):
            path.mkdir()
        if path.is_dir() and not path.is_symlink() and _is_free(path):
            try:
                lock = Lock(path, inside=True)
            except InUse:
                continue
            if _is_free(path):  # still: it may have been taken and released meanwhile
                return Place(path, path, lock, created)
            lock.release()
    raise AssertionError("the numbers do not end")


def _is_free(folder: Path) -> bool:
    return all(entry.name == FOLDER_LOCK or entry.name.startswith("audit.jsonl") for entry in folder.iterdir())


def _aside(path: Path, continued: bool) -> Place:
    """Return a hidden folder beside an earlier run.

    Raises:
        ScenarioError: it is not a run of stemtwin.
    """
    config = path / "config.yaml"
    mark = config.read_text(encoding="utf-8", errors="replace")[: len(MARK)] if config.is_file() else ""
    if path.is_symlink() or not path.is_dir() or mark != MARK:
        raise ScenarioError(f"{path} is not a run of stemtwin, which alone is replaced: choose another --out")
    lock = Lock(path, inside=True)
    try:
        hidden = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        hidden.chmod(path.stat().st_mode)
        return Place(path, hidden, lock, [], _rows(path / "steps.csv") if continued else 0)
    except BaseException:
        lock.release()
        raise


def _rows(table: Path) -> int:
    """Return the number of rows below the head of a table."""
    return max(0, table.read_bytes().count(b"\n") - 1) if table.is_file() else 0


def _remove_empty(log: Path, lock: Path) -> None:
    """Remove an audit log without a line, and its lock."""
    if log.is_file() and log.stat().st_size == 0:
        log.unlink()
        lock.unlink(missing_ok=True)


def forget(folder: Path, recording: Path | None) -> None:
    """Remove what a run that has not begun has made: its files, the folders that become empty, its recording.

    Args:
        folder: of the run; anything else in it stays.
        recording: made by this run, without a frame; None if there is none.
    """
    if recording is not None:
        shutil.rmtree(recording, ignore_errors=True)
    with suppress(OSError):
        for name in (*FILES, "audit.jsonl", "audit.jsonl.lock"):
            (folder / name).unlink(missing_ok=True)
        remove_empty([folder, *folder.parents[:3]])


def not_written(error: OSError, observations: int, place: Place, recording: Path | None) -> NotWritten:
    """Return the sentence for a run that could not write its files: what is kept, and how to go on."""
    kept = f"{observations} observation{'' if observations == 1 else 's'} are in {place.at / 'steps.csv'}"
    if recording is not None:
        kept += f", the frames in {recording}: make room and go on with the same command and --resume"
    return NotWritten(f"{sentence(error, place.at)}; {kept}")
