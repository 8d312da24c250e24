"""Lemma 1 and Theorem 2 on a synthetic even map: joint estimation needs the symmetry."""

import numpy as np
import pytest

from benchmarks.identifiability import Experiment, even_map, experiment, log_marginal, with_symmetry, without_symmetry

LINE = np.linspace(-60, 60, 481)[:, None]
AXIS = np.linspace(-60, 60, 25)
PLANE = np.stack(np.meshgrid(AXIS, AXIS), -1).reshape(-1, 2)


def seen(start: list[float], observations: int, seed: int) -> Experiment:
    return experiment(np.array(start), observations, np.random.default_rng(seed))


def test_the_map_is_even_and_not_constant() -> None:
    x = np.random.default_rng(0).uniform(-60, 60, (50, 2))
    assert np.allclose(even_map(x), even_map(-x), rtol=0, atol=1e-15)
    assert np.ptp(even_map(x)) > 0.5


@pytest.mark.parametrize("seed", range(3))
def test_without_symmetry_every_start_is_as_likely(seed: int) -> None:
    # Lemma 1: a translation of x0 is undone by a translation of f. Flat to rounding, not roughly.
    assert np.ptp(without_symmetry(seen([23.0], 20, seed), LINE)) < 1e-6
    assert np.ptp(without_symmetry(seen([23.0, -14.0], 30, seed), PLANE)) < 1e-6


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("start", [23.0, -8.0, 0.0])
def test_with_symmetry_the_start_is_found_on_a_line(seed: int, start: float) -> None:
    values = with_symmetry(seen([start], 40, seed), LINE)
    best = float(LINE[np.argmax(values), 0])
    # Theorem 2: unique, the mirror image included, for the inputs are known.
    assert abs(best - start) < 1.5
    away = np.abs(LINE[:, 0] - best) > 5.0
    assert values.max() - values[away].max() > 10.0


@pytest.mark.parametrize("seed", range(3))
def test_with_symmetry_the_start_is_found_in_the_plane(seed: int) -> None:
    start = np.array([25.0, -15.0])  # a node of the grid
    values = with_symmetry(seen([*start], 100, seed), PLANE)
    assert np.linalg.norm(PLANE[np.argmax(values)] - start) <= 5.0
    away = np.linalg.norm(PLANE - start, axis=1) > 15.0
    assert values.max() - values[away].max() > 10.0


def test_inputs_on_one_side_of_the_null_leave_it_ambiguous() -> None:
    # The symmetry tells nothing about a map that was never seen on both sides: the condition is needed.
    rng = np.random.default_rng(4)
    inputs = rng.uniform(100.0, 180.0, (20, 1))
    one_sided = Experiment(np.array([23.0]), inputs, even_map(23.0 + inputs), 0.02, 20.0)
    assert np.ptp(with_symmetry(one_sided, np.linspace(0, 60, 61)[:, None])) < 1.0


def test_both_codes_agree_on_the_symmetrised_kernel() -> None:
    data = seen([23.0, -14.0], 12, 5)
    some = PLANE[::37]
    plain = np.array([log_marginal(data, x, symmetrised=True) for x in some])
    assert np.allclose(with_symmetry(data, some), plain, rtol=0, atol=1e-6)
