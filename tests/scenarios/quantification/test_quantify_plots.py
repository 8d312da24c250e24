"""The picture of the columns: each stands where the image shows it, though the table has its true place."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from agents.quantify.quantify import drift_notes
from scenarios.quantification.plots import recorded_px

LINES = 64


def found(shift_px: np.ndarray, x_px: np.ndarray, y_px: np.ndarray) -> Any:
    return SimpleNamespace(
        columns=SimpleNamespace(x_px=x_px, y_px=y_px),
        fit=SimpleNamespace(shift_px=shift_px, measured=np.zeros((LINES, 80))),
    )


def test_columns_are_drawn_where_the_image_shows_them() -> None:
    # A line j that was shifted by (0.4, 0.05 j - 2) shows what lies at y = 1.05 j - 2, 0.4 px to the left.
    line = np.arange(LINES)
    shift_px = np.stack([np.full(LINES, 0.4), 0.05 * line - 2.0])
    shown = np.array([10.0, 31.0, 50.0])
    x, y = recorded_px(found(shift_px, np.array([5.0, 20.0, 70.0]), 1.05 * shown - 2.0))
    np.testing.assert_allclose(y, shown, atol=1e-3)
    np.testing.assert_allclose(x, [4.6, 19.6, 69.6])


@pytest.mark.parametrize(
    ("slope", "axis", "words"), [(0.05, 1, "drift along y by 3.2 px"), (-0.03, 0, "along x by 1.9 px")]
)
def test_a_drift_of_the_lines_is_told(slope: float, axis: int, words: str) -> None:
    shift_px = np.zeros((2, LINES))
    shift_px[axis] = slope * np.arange(LINES)
    (note,) = drift_notes(found(shift_px, np.zeros(0), np.zeros(0)).fit)
    assert words in note
    assert drift_notes(found(0.3 * shift_px, np.zeros(0), np.zeros(0)).fit) == []
