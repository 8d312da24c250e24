"""The table of plane waves against multislice: its errors are errors, its rates are those of a whole scan."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.imaging import prism
from benchmarks.imaging.prism import Row, errors, ours, strontium_titanate


def test_plane_waves_are_multislice_and_a_narrow_window_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prism, "LINE", 3)
    monkeypatch.setattr(prism, "FEW", 2)
    narrow, whole, level, anywhere = ours(strontium_titanate(slices=1), rounds=1)
    for row in (level, anywhere):
        assert row.patterns is not None
        assert row.patterns < 3e-6
        assert row.signals is not None
        assert row.signals < 1e-5
        assert row.build_s > row.frame_s > 0
    assert narrow.signals is not None
    assert narrow.signals > 1e-4
    assert (whole.build_s, whole.patterns) == (0.0, 0.0)


def test_what_is_wrong_shows() -> None:
    case = strontium_titanate(slices=1)
    truth = np.random.default_rng(0).uniform(0.0, 1.0, (2, case.whole.grid, case.whole.grid))
    assert errors(case, truth, truth) == (0.0, 0.0)
    assert errors(case, truth, 1.1 * truth) == (pytest.approx(0.1), pytest.approx(0.1))
    patterns, signals = errors(case, truth, truth[:, ::-1])
    assert patterns > 0.1
    assert signals < 0.1  # rings hardly tell left from right


def test_plane_waves_are_shared_by_the_whole_scan() -> None:
    row = Row("", frame_s=3.0, build_s=4096.0)
    assert row.scan_s(64) == pytest.approx(4 * 4096.0)
    assert replace(row, build_s=0.0).scan_s(2) == pytest.approx(12.0)
