"""Integration inverts the gradient; what no phase explains is all of it, and nothing else."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.com.integration import integrate, unexplained


def waves(k, shape, step_nm=1.0, seed=0):
    """A phase of plane waves of these frequencies, cycles per nm, and its gradient, rad / nm."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape) * step_nm
    phase, gradient = np.zeros(shape), np.zeros((*shape, 2))
    for k_x, k_y in k:
        amplitude, start = rng.uniform(0.5, 1.0), rng.uniform(0, 2 * math.pi)
        angle = 2 * math.pi * (k_x * x + k_y * y) + start
        phase += amplitude * np.cos(angle)
        gradient -= (amplitude * np.sin(angle) * 2 * math.pi)[..., None] * np.array([k_x, k_y])
    return phase, gradient


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(5, 30), columns=st.integers(5, 30), step_nm=st.floats(0.01, 2.0), seed=st.integers(0, 10**6))
def test_a_repeating_phase_comes_back_from_its_gradient(rows, columns, step_nm, seed):
    rng = np.random.default_rng(seed)
    # Below half the sampling frequency: there a wave has no derivative on the grid.
    p, q = (rng.integers(-((n - 1) // 2), (n - 1) // 2 + 1, 4) for n in (columns, rows))
    k = np.stack([p / (columns * step_nm), q / (rows * step_nm)], axis=1)
    k = k[np.any(k != 0, axis=1)]
    phase, gradient = waves(k, (rows, columns), step_nm, seed)
    np.testing.assert_allclose(integrate(gradient, step_nm, "periodic"), phase, atol=1e-11)


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(2, 30), columns=st.integers(2, 30), step_nm=st.floats(0.01, 2.0), seed=st.integers(0, 10**6))
def test_a_phase_that_is_level_at_the_edges_comes_back_exactly(rows, columns, step_nm, seed):
    rng = np.random.default_rng(seed)
    y, x = (np.arange(rows)[:, None] + 0.5) / rows, (np.arange(columns) + 0.5) / columns
    phase, fast, slow = np.zeros((rows, columns)), np.zeros((rows, columns)), np.zeros((rows, columns))
    for p, q in zip(rng.integers(0, columns, 4), rng.integers(0, rows, 4), strict=True):
        if p == q == 0:
            continue
        phase += np.cos(math.pi * p * x) * np.cos(math.pi * q * y)
        fast -= math.pi * p / (columns * step_nm) * np.sin(math.pi * p * x) * np.cos(math.pi * q * y)
        slow -= math.pi * q / (rows * step_nm) * np.cos(math.pi * p * x) * np.sin(math.pi * q * y)
    np.testing.assert_allclose(integrate(np.stack([fast, slow], -1), step_nm), phase, atol=1e-11)


@pytest.mark.parametrize("boundary", ["mirror", "periodic"])
def test_the_fit_is_the_least_squares_one(boundary):
    # Any other phase of the same kind fits noise worse: the residual is orthogonal to the gradient of each of them.
    rng = np.random.default_rng(2)
    shape = (7, 9)
    noise = rng.standard_normal((*shape, 2))
    fitted = integrate(noise, 1.0, boundary)
    impulses = np.eye(shape[0] * shape[1]).reshape(-1, *shape)
    gradients = np.stack([derivative(impulse, boundary) for impulse in impulses])
    residual = noise - derivative(fitted, boundary)
    np.testing.assert_allclose(np.einsum("nijc,ijc->n", gradients, residual), 0.0, atol=1e-12)


def derivative(phase, boundary):
    """Gradient of a phase as a sum of cosines (mirror) or of waves (periodic), by explicit sums."""
    rows, columns = phase.shape
    along_y, along_x = (first_derivative(n, boundary) for n in (rows, columns))
    return np.stack([phase @ along_x.T, along_y @ phase], axis=-1)


def first_derivative(n, boundary):
    m = np.arange(n)
    if boundary == "mirror":
        p = np.arange(n)
        cosines = np.cos(math.pi * np.outer(m + 0.5, p) / n)
        sines = -math.pi * p / n * np.sin(math.pi * np.outer(m + 0.5, p) / n)
        return sines @ np.linalg.inv(cosines)
    k = np.fft.fftfreq(n)
    forward = np.exp(-2j * math.pi * np.outer(k, m)) / 1.0
    return np.real(np.exp(2j * math.pi * np.outer(m, k)) @ np.diag(2j * math.pi * k) @ forward) / n


def test_mirroring_suits_a_scan_that_does_not_repeat():
    phase, gradient = waves([(0.031, 0.017), (0.06, -0.044), (-0.11, 0.09)], (60, 50))
    phase -= phase.mean()
    errors = {boundary: np.std(integrate(gradient, 1.0, boundary) - phase) for boundary in ("mirror", "periodic")}
    assert errors["mirror"] < 0.03 * phase.std()
    assert errors["periodic"] > 5 * errors["mirror"]


def test_a_band_keeps_the_frequencies_between_its_limits_and_no_others():
    shape, step_nm = (80, 40), 0.05
    low, middle, high = [(1 / 2.0, 0.0)], [(2.0, 1.5)], [(0.0, 6.0)]
    _, gradient = waves(low + middle + high, shape, step_nm)
    kept = integrate(gradient, step_nm, "periodic", 1.0, 4.0)
    rng = np.random.default_rng(0)
    rng.uniform(size=2)
    amplitude, start = rng.uniform(0.5, 1.0), rng.uniform(0, 2 * math.pi)
    y, x = np.indices(shape) * step_nm
    np.testing.assert_allclose(kept, amplitude * np.cos(2 * math.pi * (2.0 * x + 1.5 * y) + start), atol=1e-11)
    mirrored = integrate(gradient, step_nm, "mirror", k_min_per_nm=1.0)
    spectrum = np.abs(np.fft.rfft2(mirrored))
    assert spectrum[0, 1] < 0.1 * spectrum.max()


@pytest.mark.parametrize("shape", [(64, 64), (57, 70)])
def test_a_phase_is_explained_and_a_curl_is_not(shape):
    _, gradient = waves([(0.031, 0.017), (0.16, -0.144), (-0.21, 0.19), (0.0, 0.3)], shape)
    one = np.ones(shape)
    residual = unexplained(gradient, one)
    assert np.nanstd(residual) < 2e-3 * gradient.std()
    turned = np.stack([-gradient[..., 1], gradient[..., 0]], axis=-1)
    # All of it across the waves: the standardised residual then is as large as the map.
    assert np.nanstd(unexplained(turned, one)) == pytest.approx(np.hypot(*np.std(gradient, axis=(0, 1))), rel=0.05)
    assert np.isnan(residual[:5]).all()
    assert np.isfinite(residual[14:-14, 14:-14]).all()


def test_noise_comes_out_white_and_of_variance_one_where_its_own_variance_differs():
    # Standard error of the mean variance here: 0.4 %; four of them.
    rng = np.random.default_rng(5)
    shape, trials = (48, 52), 200
    variance = np.outer(np.linspace(0.5, 2.0, 48), np.linspace(1.0, 3.0, 52))
    total, neighbours = 0.0, 0.0
    for _ in range(trials):
        r = unexplained(rng.standard_normal((*shape, 2)) * np.sqrt(variance)[..., None] * 7.0, variance * 49.0)
        r = r[14:-14, 14:-14]
        total += float((r**2).mean()) / trials
        neighbours += float((r[1:] * r[:-1]).mean() + (r[:, 1:] * r[:, :-1]).mean()) / (2 * trials)
    assert total == pytest.approx(1.0, abs=0.016)
    assert neighbours == pytest.approx(0.0, abs=0.016)


def test_a_scan_too_small_to_test_has_no_residuals():
    assert np.isnan(unexplained(np.ones((20, 40, 2)), np.ones((20, 40)))).all()
    assert np.isfinite(unexplained(np.random.default_rng(0).random((24, 40, 2)), np.ones((24, 40)))).any()
