"""Work folders: claimed by their settings, timed over all calls."""

import time
from pathlib import Path

import pytest

from learning.work_folder import ResumeError, claim, stopwatch


def test_a_folder_belongs_to_its_settings(tmp_path: Path) -> None:
    work = tmp_path / "deep" / "work"
    settings = {"seed": 1, "epochs": 20, "optics": {"energy_kev": 300.0}}
    claim(work, settings)
    claim(work, settings)
    with pytest.raises(ResumeError, match=r"other epochs, seed; choose another folder"):
        claim(work, settings | {"epochs": 21, "seed": 2})
    with pytest.raises(ResumeError, match="other optics"):
        claim(work, settings | {"optics": {"energy_kev": 200.0}}, free=["seed"])
    claim(work, settings)  # a refusal changes nothing


def test_free_settings_may_differ_and_are_recorded(tmp_path: Path) -> None:
    claim(tmp_path, {"seed": 1, "runs": 40})
    claim(tmp_path, {"seed": 1, "runs": 80}, free=["runs"])
    with pytest.raises(ResumeError, match="other runs"):
        claim(tmp_path, {"seed": 1, "runs": 40})


def test_the_stopwatch_counts_interrupted_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    path = tmp_path / "seconds"

    def interrupted() -> None:
        with stopwatch(path) as elapsed:
            now[0] += 7
            assert elapsed() == 7
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    now[0] += 1000
    with stopwatch(path) as elapsed:
        now[0] += 5
        assert elapsed() == 12
