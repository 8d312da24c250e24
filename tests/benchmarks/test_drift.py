"""Figures of the drift benchmark: the true state is recovered, and only settled frames count as held."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import drift
from benchmarks.drift import SETTLED, state_nm, summarise
from scenarios.calibration.results import Step
from scenarios.comparison import ledger


def step(observation: int, error_nm: tuple[float, ...], estimate_nm: tuple[float, ...] = (5.0, 0.0, 0.0)) -> Step:
    norm = float(np.linalg.norm(error_nm))
    zero = (0.0, 0.0, 0.0)
    return Step(
        observation, zero, (-4.0, 1.0, 2.0), estimate_nm, zero, 1.0, error_nm, norm, norm < 10, False, norm < 2, 0.01,
        1e6 * observation, 10.0 * observation,
    )  # fmt: skip


def test_the_state_is_error_and_estimate_and_input_together():
    np.testing.assert_allclose(state_nm(step(1, (0.5, -1.0, 0.0))), [1.5, 0.0, 2.0])


def test_the_search_does_not_count_as_lost():
    lost = [step(k, (30.0, 0.0, 0.0)) for k in range(1, SETTLED)]
    held = [step(k, (1.0, 0.0, 0.0)) for k in range(SETTLED, 21)]
    found = summarise([lost + held])
    assert (found["in_spec"], found["runs_always_in_spec"], found["state_in_spec"]) == (1.0, 1.0, 1.0)
    assert found["coverage_90"] == 1.0
    assert found["by_observation"]["10"]["median_error_nm"] == pytest.approx(1.0)
    slipped = summarise([lost + held[:-1] + [step(20, (0.0, 11.0, 0.0))]])
    assert slipped["in_spec"] == pytest.approx(10 / 11)
    assert slipped["runs_always_in_spec"] == 0.0
    assert found["curve"]["minutes"][-1] == pytest.approx(200 / 60)


def test_finished_runs_are_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = ("random", 2, 12, ["renderer=fast"], 1, tmp_path)
    first = drift.figures(*asked)
    assert first["random"]["runs"] == 2
    asked_for: list[int] = []

    def nothing(jobs: list[object], ready: object) -> list[object]:
        asked_for.append(len(jobs))
        return []

    monkeypatch.setattr(ledger, "sweep", nothing)
    assert drift.figures(*asked) == first
    assert asked_for == [0]
