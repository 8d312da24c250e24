"""Lemma 1 and Theorem 2 on a synthetic even map: joint estimation needs the symmetry."""

import numpy as np
import pytest

from benchmarks.identifiability import (
    Experiment,
    conditions,
    even_map,
    experiment,
    log_marginal,
    with_symmetry,
    without_symmetry,
)
from controller.vae_em.hyperparameters import KERNELS

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


# --- conditions C1 to C4 ---------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_meets_the_conditions_of_the_theorem(kernel: str) -> None:
    rng = np.random.default_rng(6)
    found = conditions(kernel, rng.uniform(-3, 3, (6, 3)), rng)
    assert found.odd_part < 1e-12
    wide, wider, widest = found.strongest_share
    assert widest < 0.6 * wider < 0.36 * wide  # a continuous spectrum: each frequency has less the finer they are
    assert found.condition < 1e4
    assert found.silent_share == 0.0


def test_basis_functions_at_opposite_states_are_one_function() -> None:
    rng = np.random.default_rng(7)
    states = rng.uniform(-3, 3, (3, 3))
    assert conditions("rbf", np.concatenate([states, -states[:1]]), rng).condition > 1e10


def test_a_constant_is_outside_c2_as_worded_and_does_no_harm() -> None:
    rng = np.random.default_rng(8)
    found = conditions("rbf", rng.uniform(-3, 3, (6, 3)), rng, offset=1.0)
    assert found.strongest_share[2] > found.strongest_share[0] > 0.5  # all power goes to one frequency
    data = seen([25.0, -15.0], 100, 0)
    lifted = Experiment(data.start_nm, data.inputs_nm, data.values + 3.0, data.noise_std, data.lengthscale_nm)
    # A deviation common to all states no longer misleads, and the start is as unique as without.
    values = with_symmetry(lifted, PLANE, offset_variance=9.0)
    best = PLANE[np.argmax(values)]
    assert np.linalg.norm(best - data.start_nm) <= 5.0
    away = np.linalg.norm(PLANE - best, axis=1) > 15.0
    assert values.max() - values[away].max() > 10.0
