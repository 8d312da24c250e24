"""Work folders: one training's checkpoints, refused to a training with other settings, timed over all calls."""

import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twin.errors import StemtwinError
from twin.text import json_text
from twin.text.aside import written_aside


class ResumeError(StemtwinError, ValueError):
    """A work folder that holds a training with other settings."""


def claim(work: Path, settings: Mapping[str, Any], free: Collection[str] = ()) -> None:
    """Record the settings in `config.json` of a work folder, or compare them with those that it records.

    Args:
        work: folder; made if missing.
        settings: JSON values.
        free: settings that may differ, because no checkpoint depends on them.

    Raises:
        ResumeError: another setting differs, or the record cannot be read.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> claim(folder, {"seed": 1, "epochs": 20})
        >>> claim(folder, {"seed": 1, "epochs": 30}, free=["epochs"])
        >>> try:
        ...     claim(folder, {"seed": 2, "epochs": 30})
        ... except ResumeError as error:
        ...     print(str(error).removeprefix(f"{folder} "))
        holds a training with other seed; choose another folder or delete it
    """
    work.mkdir(parents=True, exist_ok=True)
    path = work / "config.json"
    if path.exists():
        recorded = _recorded(path)
        changed = sorted(key for key in settings if key not in free and recorded.get(key) != settings[key])
        if changed:
            raise ResumeError(
                f"{work} holds a training with other {', '.join(changed)}; choose another folder or delete it"
            )
    with written_aside(path) as partial:
        partial.write_text(json.dumps(settings, indent=1))


def _recorded(path: Path) -> Mapping[str, Any]:
    try:
        recorded = json_text.loads(path.read_bytes())
    except ValueError as error:
        raise ResumeError(f"{path} cannot be read: {error}; choose another folder or delete it") from None
    if not isinstance(recorded, dict):
        raise ResumeError(f"{path} is not a JSON object; choose another folder or delete it")
    return recorded


@contextmanager
def stopwatch(path: Path) -> Iterator[Callable[[], float]]:
    """Yield a function that returns the seconds spent so far, earlier interrupted calls included.

    Args:
        path: file that keeps the seconds between calls.
    """
    try:
        earlier = max(0.0, float(path.read_text()))
    except (OSError, ValueError):  # none yet, or cut short by a crash
        earlier = 0.0
    begun = time.monotonic()

    def elapsed() -> float:
        return earlier + time.monotonic() - begun

    try:
        yield elapsed
    finally:
        with written_aside(path) as partial:
            partial.write_text(str(elapsed()))
