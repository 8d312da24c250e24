"""Single-sideband sums against the plain double sum, in any order and however they are cut."""

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from agents.ssb.accumulate import PENDING, SidebandSum, fold_row, squares, weighted_power
from agents.ssb.weights import Trotters, bright_field, trotters
from twin.aberrations import Aberrations

SCAN, CAMERA = (7, 6), (20, 23)
FIELD = bright_field(CAMERA, (10, 12), 2.0, 16.0, 2)
ABERRATIONS = [Aberrations(), Aberrations.of({"C10": 9.0, "C21b": 200.0})]
WEIGHTS = [trotters(FIELD, SCAN, (6.0, 5.0), 20.0, a, 0.00196875) for a in ABERRATIONS]


def dense(weights: Trotters) -> NDArray[np.complex128]:
    """w of every fast frequency, slow frequency and square, by a transposed product: one square at a time."""
    out = np.zeros((*weights.response.shape, len(FIELD)), np.complex128)
    arrays = (weights.first, weights.square, weights.begin, weights.offset, weights.real, weights.imag)
    for k in range(len(FIELD)):
        spectrum = np.zeros((len(out), len(FIELD)), np.complex64)
        spectrum[:, k] = 1.0
        fold_row(spectrum, np.ones(SCAN[0], np.complex128), arrays, out[:, :, k])
    return out


def double_sum(weights: Trotters, counts: NDArray[np.float64], pixel: NDArray[np.int64]) -> NDArray[np.complex128]:
    """psi(Q) = sum_r exp(-2 pi i Q r) sum_K w (I - mean I), position by position."""
    fast, slow = np.arange(SCAN[1] // 2 + 1), np.arange(SCAN[0]) - SCAN[0] // 2
    psi = np.zeros(weights.response.shape, np.complex128)
    each = counts - counts.mean(axis=0)
    for (row, column), here in zip(pixel, each, strict=True):
        turn = fast[:, None] * column / SCAN[1] + slow[None, :] * row / SCAN[0]
        psi += np.exp(-2j * np.pi * turn) * (dense_of[id(weights)] @ here)
    return psi


dense_of = {id(weights): dense(weights) for weights in WEIGHTS}


def positions(order: NDArray[np.integer]) -> NDArray[np.int64]:
    return np.stack(np.divmod(order, SCAN[1]), axis=1)


@pytest.mark.parametrize("weights", WEIGHTS, ids=["real", "complex"])
def test_the_weights_are_kept_by_runs(weights: Trotters) -> None:
    """What the kernel makes of single squares is what the lists say, entry by entry."""
    w = dense_of[id(weights)]
    total = 0
    for fast in range(len(weights.first) - 1):
        for run in range(weights.first[fast], weights.first[fast + 1]):
            a, b = weights.offset[run : run + 2]
            slow = slice(weights.begin[run], weights.begin[run] + b - a)
            values = weights.real[a:b] + (1j * weights.imag[a:b] if weights.imag.size else 0.0)
            np.testing.assert_array_equal(w[fast, slow, weights.square[run]], values)
            total += b - a
    assert np.count_nonzero(w) <= total == len(weights.real)
    np.testing.assert_allclose((np.abs(w) ** 2).sum(axis=2)[weights.strength > 1].min() > 0, True)


@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(seed=st.integers(0, 2**32 - 1), which=st.sampled_from([0, 1]), share=st.floats(0.05, 1.0))
def test_any_order_and_any_cut_gives_the_double_sum(seed: int, which: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    weights = WEIGHTS[which]
    order = rng.permutation(SCAN[0] * SCAN[1])[: max(1, round(share * SCAN[0] * SCAN[1]))]
    if seed % 3 == 0:
        order.sort()
    counts = rng.poisson(20.0, (len(order), len(FIELD))).astype(np.float32)
    sums = SidebandSum(SCAN, weights, len(FIELD))
    first = 0
    while first < len(order):
        stop = first + int(rng.integers(1, 12))
        sums.add(counts[first:stop], positions(order[first:stop]))
        first = stop
    expected = double_sum(weights, counts.astype(np.float64), positions(order))
    np.testing.assert_allclose(sums.psi(), expected, atol=2e-5 * max(np.abs(expected).max(), 1.0))
    assert sums.count == len(order)
    np.testing.assert_allclose(sums.pattern, counts.sum(axis=0))


def test_asking_changes_nothing_and_unfinished_rows_are_bounded() -> None:
    rng = np.random.default_rng(3)
    order = np.arange(SCAN[0] * SCAN[1]).reshape(SCAN).T.ravel()  # by columns: every row stays unfinished
    counts = rng.poisson(20.0, (len(order), len(FIELD))).astype(np.float32)
    sums = SidebandSum(SCAN, WEIGHTS[1], len(FIELD))
    for i, position in enumerate(positions(order)):
        sums.add(counts[i : i + 1], position[None])
        np.testing.assert_array_equal(sums.psi(), sums.psi())
        assert len(sums._pending) <= PENDING
    expected = double_sum(WEIGHTS[1], counts.astype(np.float64), positions(order))
    np.testing.assert_allclose(sums.psi(), expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("weights", WEIGHTS, ids=["real", "complex"])
def test_a_pattern_that_never_changes_has_no_phase_at_any_moment(weights: Trotters) -> None:
    pattern = np.random.default_rng(0).uniform(50.0, 100.0, len(FIELD)).astype(np.float32)
    sums = SidebandSum(SCAN, weights, len(FIELD))
    for row in range(SCAN[0]):
        pixel = positions(np.arange(row * SCAN[1], (row + 1) * SCAN[1] - row))
        sums.add(np.tile(pattern, (len(pixel), 1)), pixel)
        flat = np.abs(dense_of[id(weights)] @ pattern.astype(np.float64)).max() * sums.count
        assert np.abs(sums.psi()).max() < 1e-5 * max(flat, pattern.sum())


def test_the_noise_is_that_of_poisson_counts() -> None:
    """Over 400 scans of noise: each frequency's variance has a relative error of 7 %; six of these, over all 42."""
    rng = np.random.default_rng(5)
    weights, pixel = WEIGHTS[1], positions(np.arange(SCAN[0] * SCAN[1]))
    expected = rng.uniform(1.0, 8.0, len(FIELD))
    found = []
    for _ in range(400):
        sums = SidebandSum(SCAN, weights, len(FIELD))
        sums.add(rng.poisson(expected, (len(pixel), len(FIELD))).astype(np.float32), pixel)
        found.append(sums.psi())
    power = np.zeros(weights.response.shape)
    arrays = (weights.first, weights.square, weights.begin, weights.offset, weights.real, weights.imag)
    weighted_power(expected * len(pixel), arrays, power)
    used = power > 0
    ratio = (np.abs(np.array(found)) ** 2).mean(axis=0)[used] / power[used]
    assert np.abs(ratio - 1).max() < 6 * 0.07
    assert ratio.mean() == pytest.approx(1.0, abs=0.05)
    np.testing.assert_allclose(sums.noise()[used] / power[used], 1.0, atol=0.2)


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", ">u4", "<u4"])
def test_squares_add_up_pixels_of_any_kind(dtype: str) -> None:
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 200, (5, *CAMERA)).astype(dtype)
    found = squares(frames, FIELD.label, len(FIELD))
    for n in range(5):
        expected = [frames[n][FIELD.label == k].sum(dtype=np.float64) for k in range(len(FIELD))]
        np.testing.assert_array_equal(found[n], expected)
