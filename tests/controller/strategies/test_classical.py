"""Simplex and scan on figures of merit with a known maximum."""

import numpy as np
import pytest

from controller.strategies.coordinate_scan import vertex
from controller.strategies.nelder_mead import simplex_search

LIMIT = np.array([60.0, 30.0, 30.0])


def climb(peak: np.ndarray, frames: int) -> tuple[np.ndarray, list[np.ndarray]]:
    simplex: list[tuple[float, np.ndarray]] = []
    search = simplex_search(np.zeros(3), 0.6 * LIMIT, LIMIT, simplex)
    asked = [next(search)]
    for _ in range(frames):
        asked.append(search.send(-float(np.sum(((asked[-1] - peak) / LIMIT) ** 2))))
    return max(simplex, key=lambda vertex: vertex[0])[1], asked


@pytest.mark.parametrize("peak", [[25.0, -10.0, 5.0], [-40.0, 20.0, -20.0], [0.0, 0.0, 0.0]])
def test_the_simplex_finds_a_quadratic_maximum(peak: list[float]) -> None:
    best, asked = climb(np.array(peak), 80)
    assert np.linalg.norm(best - peak) < 1.0
    assert np.all(np.abs(asked) <= LIMIT)


def test_the_simplex_stays_inside_when_the_maximum_is_outside() -> None:
    _, asked = climb(np.array([200.0, 0.0, 0.0]), 60)
    assert np.all(np.abs(asked) <= LIMIT)
    assert max(point[0] for point in asked) > 0.9 * LIMIT[0]


def test_the_vertex_of_a_parabola_is_exact() -> None:
    at = np.linspace(-60, 60, 5)
    assert vertex(at, -((at - 11.0) ** 2))[0] == pytest.approx(11.0)


def test_a_maximum_at_the_end_of_a_scan_stays_there() -> None:
    at = np.linspace(-60, 60, 5)
    assert vertex(at, at**3)[0] == 60.0
