"""Symmetrised kernels, the noise model, and recovery of known hyperparameters from simulated days."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import multivariate_normal, multivariate_t

from controller.vae_em.hyperparameters import (
    KERNELS,
    RADIAL_KNOTS,
    Hyperparameters,
    SymmetrisedKernel,
    fit,
    radial_weights,
    student_log_density,
)

LENGTHSCALE = np.array([0.4, 0.9])

PROFILES = {
    "rbf": lambda r: np.exp(-(r**2) / 2),
    "matern52": lambda r: (1 + np.sqrt(5) * r + 5 * r**2 / 3) * np.exp(-np.sqrt(5) * r),
    "matern32": lambda r: (1 + np.sqrt(3) * r) * np.exp(-np.sqrt(3) * r),
    "rational_quadratic": lambda r: 1 / (1 + r**2 / 2),
}


def covariance(kernel: str, x1: np.ndarray, x2: np.ndarray) -> np.ndarray:
    base = KERNELS[kernel](2).double()
    base.lengthscale = torch.from_numpy(LENGTHSCALE)
    with torch.no_grad():
        return SymmetrisedKernel(base).double()(torch.from_numpy(x1), torch.from_numpy(x2)).to_dense().numpy()


states = arrays(np.float64, (7, 2), elements=st.floats(-2, 2))


@settings(max_examples=40, deadline=None)
@given(x=states)
@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_the_symmetrised_kernel_is_even_and_positive(kernel: str, x: np.ndarray):
    matrix = covariance(kernel, x, x)
    np.testing.assert_allclose(covariance(kernel, x, -x), matrix, atol=1e-6)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-6)
    assert np.linalg.eigvalsh(matrix).min() > -1e-6


@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_the_symmetrised_kernel_is_the_mean_of_both_signs(kernel: str):
    rng = np.random.default_rng(1)
    x1, x2 = rng.uniform(-1, 1, (5, 2)), rng.uniform(-1, 1, (6, 2))
    near = np.linalg.norm((x1[:, None] - x2[None]) / LENGTHSCALE, axis=-1)
    far = np.linalg.norm((x1[:, None] + x2[None]) / LENGTHSCALE, axis=-1)
    expected = (PROFILES[kernel](near) + PROFILES[kernel](far)) / 2
    np.testing.assert_allclose(covariance(kernel, x1, x2), expected, atol=1e-7)


def test_the_diagonal_agrees_with_the_matrix():
    x = torch.from_numpy(np.random.default_rng(2).uniform(-1, 1, (6, 2)))
    kernel = SymmetrisedKernel(KERNELS["rbf"](2).double())
    with torch.no_grad():
        np.testing.assert_allclose(kernel(x, x, diag=True).numpy(), np.diag(kernel(x, x).to_dense().numpy()), rtol=1e-9)


# --- likelihood ------------------------------------------------------------------------------------


def scale_matrix(count: int, seed: int) -> np.ndarray:
    root = np.random.default_rng(seed).standard_normal((count, count))
    return root @ root.T + 0.5 * np.eye(count)


def student(y: np.ndarray, scale: np.ndarray, freedom: float) -> float:
    quadratic, log_det = y @ np.linalg.solve(scale, y), np.linalg.slogdet(scale)[1]
    as_tensor = [torch.tensor(v, dtype=torch.float64) for v in (quadratic, log_det)]
    return float(student_log_density(*as_tensor, len(y), torch.tensor(freedom, dtype=torch.float64)))


@pytest.mark.parametrize("count", [1, 4, 9])
@pytest.mark.parametrize("freedom", [2.6, 5.0, 40.0])
def test_the_student_density_is_scipys(count: int, freedom: float):
    scale, y = scale_matrix(count, count), 2 * np.random.default_rng(3).standard_normal(count)
    expected = multivariate_t(np.zeros(count), scale, df=freedom).logpdf(y)
    assert student(y, scale, freedom) == pytest.approx(float(expected), rel=1e-10)


def test_with_many_degrees_of_freedom_it_is_the_normal_density():
    scale, y = scale_matrix(5, 4), np.random.default_rng(5).standard_normal(5)
    assert student(y, scale, 1e7) == pytest.approx(float(multivariate_normal(cov=scale).logpdf(y)), abs=1e-4)


# --- noise -----------------------------------------------------------------------------------------


def test_radial_weights_interpolate_the_radius():
    x = np.random.default_rng(6).uniform(-1, 1, (200, 3))
    weights = radial_weights(x)
    assert np.all(weights >= 0)
    np.testing.assert_allclose(weights.sum(1), 1.0)
    assert np.all((weights > 0).sum(1) <= 2)
    np.testing.assert_allclose(weights @ np.asarray(RADIAL_KNOTS), np.linalg.norm(x, axis=1), atol=1e-12)
    # At and beyond the last knot the last one counts.
    np.testing.assert_allclose(
        radial_weights(np.array([[0.0, 0.0], [1.8, 0.0], [5.0, 5.0]])) @ RADIAL_KNOTS, [0, 1.8, 1.8]
    )


def test_noise_follows_radius_and_floor():
    log_noise = np.log(0.1 * (1 + np.asarray(RADIAL_KNOTS)))[:, None]
    h = Hyperparameters("rbf", np.ones(2), np.ones(1), np.ones(1), log_noise, np.full_like(log_noise, 0.5), np.inf)
    x = np.array([[0.4, 0.0], [0.0, -0.4], [1.1, 0.0]])
    noise = h.noise_variance(x, np.array([0.0, 2.0, -1.0]))[:, 0]
    np.testing.assert_allclose(noise, [0.14, 0.14 * np.exp(1.0), 0.21 * np.exp(-0.5)], rtol=1e-12)


# --- recovery --------------------------------------------------------------------------------------

SIGNAL, OFFSET, NOISE = np.array([1.0, 0.3]), np.array([0.25, 0.6]), np.array([0.05, 0.02])


def simulated_days(days: int, frames: int, freedom: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States, log floors and residuals of days drawn from a known prior; noise grows as floor to the 0.6."""
    rng = np.random.default_rng(seed)
    x, floor = rng.uniform(-1, 1, (days, frames, 2)), rng.uniform(-1, 1, (days, frames))
    y = np.empty((days, frames, 2))
    for day in range(days):
        base = covariance("rbf", x[day], x[day])
        scale = 1.0 if np.isinf(freedom) else freedom / rng.chisquare(freedom)
        for j in range(2):
            full = SIGNAL[j] * base + OFFSET[j] + np.diag(NOISE[j] * np.exp(0.6 * floor[day]))
            y[day, :, j] = np.sqrt(scale) * np.linalg.cholesky(full) @ rng.standard_normal(frames)
    return x, floor, y


def test_known_hyperparameters_are_recovered_from_simulated_days():
    # 200 days: a variance that each day shows about once is known to sqrt(2 / 200) = 10 %; the bands are 3 sigma.
    losses = []
    h = fit(*simulated_days(200, 12, np.inf, 7), steps=250, report=lambda step, loss: losses.append(loss))
    np.testing.assert_allclose(h.lengthscale, LENGTHSCALE, rtol=0.15)
    np.testing.assert_allclose(h.signal_variance, SIGNAL, rtol=0.3)
    np.testing.assert_allclose(h.offset_variance, OFFSET, rtol=0.4)
    x = np.random.default_rng(9).uniform(-1, 1, (1000, 2))
    quiet, loud = (np.log(h.noise_variance(x, np.full(1000, level))) for level in (-0.5, 0.5))
    np.testing.assert_allclose(np.mean(quiet + loud, 0) / 2, np.log(NOISE), atol=0.15)
    np.testing.assert_allclose(np.mean(loud - quiet, 0), 0.6, atol=0.25)
    assert h.freedom > 40
    assert len(losses) == 250
    assert losses[-1] < losses[0]


def test_days_with_scales_of_their_own_ask_for_few_degrees_of_freedom():
    h = fit(*simulated_days(200, 12, 4.0, 8), steps=250)
    assert 3.0 < h.freedom < 6.0
    np.testing.assert_allclose(h.signal_variance, SIGNAL, rtol=0.4)


def test_an_unknown_kernel_is_refused():
    with pytest.raises(ValueError, match="'rbff' is not a kernel \\(did you mean rbf\\?\\)"):
        fit(np.zeros((1, 2, 2)), np.zeros((1, 2)), np.zeros((1, 2, 1)), kernel="rbff")
