"""E-step and M-step against dense linear algebra: one covariance matrix at a time, from gpytorch's kernels."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.linalg import block_diag
from scipy.stats import multivariate_normal, multivariate_t

from controller.vae_em import latent_gp
from controller.vae_em.hyperparameters import KERNELS, SymmetrisedKernel
from controller.vae_em.latent_gp import KERNEL_CODES, Factors, Kernel, Residuals
from twin.arrays import Array

LENGTHSCALE_NM = np.array([35.0, 20.0, 15.0])
SIGNAL, OFFSET = np.array([1.3, 0.4]), np.array([0.2, 0.7])
CANDIDATES, OBSERVATIONS, LATENTS = 6, 9, 2
RANKS = (0, 2)


def kernel(name: str = "rbf", freedom: float = np.inf) -> Kernel:
    return Kernel(KERNEL_CODES[name], 1 / LENGTHSCALE_NM, SIGNAL, OFFSET, freedom)


@dataclass(frozen=True)
class Case:
    """Candidates (M, n), inputs (T, n) and what the candidates make of the observations."""

    candidates: Array
    inputs: Array
    residuals: Residuals

    @property
    def rank(self) -> int:
        return self.residuals.modes.shape[1]

    def visited(self, candidate: int) -> Array:
        return self.candidates[candidate] + self.inputs

    def factors(self, k: Kernel, upto: int = OBSERVATIONS, older: Factors | None = None) -> Factors:
        older = Factors.empty(LATENTS, self.rank, CANDIDATES) if older is None else older
        e = self.residuals
        seen = Residuals(e.residual[:, :upto], e.noise[:, :upto], e.modes[:, :, :upto])
        return latent_gp.absorb(older, k, self.candidates, self.inputs[:upto], seen)

    def residual(self, candidate: int) -> Array:
        """All latent axes one after the other, (d T,)."""
        return self.residuals.residual[:, :, candidate].ravel()

    def loadings(self, candidate: int) -> Array:
        """The day modes of all axes, (d T, r)."""
        return self.residuals.modes[:, :, :, candidate].transpose(0, 2, 1).reshape(LATENTS * OBSERVATIONS, -1)

    def covariance(self, name: str, candidate: int) -> Array:
        """Of all observations on all axes, (d T, d T): deviation, noise, and modes of standard normal weight."""
        x = self.visited(candidate)
        blocks = [dense(name, j, x, x) + np.diag(self.residuals.noise[j, :, candidate]) for j in range(LATENTS)]
        return block_diag(*blocks) + self.loadings(candidate) @ self.loadings(candidate).T


def dense(name: str, latent: int, x1: Array, x2: Array) -> Array:
    """Covariance of one axis' deviation between states, from gpytorch."""
    base = KERNELS[name](3).double()
    base.lengthscale = torch.from_numpy(LENGTHSCALE_NM)
    with torch.no_grad():
        unit = SymmetrisedKernel(base).double()(torch.from_numpy(x1), torch.from_numpy(x2)).to_dense().numpy()
    return SIGNAL[latent] * unit + OFFSET[latent]


def make_case(rank: int) -> Case:
    rng = np.random.default_rng(1)
    box = np.array([60.0, 30.0, 30.0])
    inputs = np.vstack([np.zeros(3), rng.uniform(-1, 1, (OBSERVATIONS - 1, 3)) * box])
    shape = (OBSERVATIONS, CANDIDATES)
    evidence = Residuals(
        rng.standard_normal((LATENTS, *shape)),
        rng.uniform(0.05, 0.4, (LATENTS, *shape)),
        rng.standard_normal((LATENTS, rank, *shape)),
    )
    return Case(rng.uniform(-1, 1, (CANDIDATES, 3)) * box, inputs, evidence)


@pytest.fixture(scope="module", params=RANKS, ids=lambda rank: f"{rank} modes")
def case(request: pytest.FixtureRequest) -> Case:
    return make_case(request.param)


# --- E-step ----------------------------------------------------------------------------------------


def test_the_same_kernels_are_known_offline_and_online():
    assert set(KERNEL_CODES) == set(KERNELS)


@pytest.mark.parametrize("name", sorted(KERNEL_CODES))
def test_the_factors_are_the_cholesky_factors_of_the_dense_covariance(name: str):
    case = make_case(0)
    factors = case.factors(kernel(name))
    for i in range(CANDIDATES):
        for j in range(LATENTS):
            x = case.visited(i)
            matrix = dense(name, j, x, x) + np.diag(case.residuals.noise[j, :, i])
            lower = np.zeros_like(matrix)
            lower[np.tril_indices(OBSERVATIONS)] = factors.lower[j, :, i]
            np.testing.assert_allclose(lower, np.linalg.cholesky(matrix), rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(lower @ factors.whitened[j, :, i], case.residuals.residual[j, :, i], atol=1e-6)
        full = case.covariance(name, i)
        y = case.residual(i)
        np.testing.assert_allclose(factors.log_determinant[i], np.linalg.slogdet(full)[1], rtol=1e-6)
        np.testing.assert_allclose(factors.quadratic[i], y @ np.linalg.solve(full, y), rtol=1e-6)


@pytest.mark.parametrize("freedom", [np.inf, 3.0, 25.0])
@pytest.mark.parametrize("name", sorted(KERNEL_CODES))
def test_the_likelihood_is_scipys(case: Case, name: str, freedom: float):
    expected = np.empty(CANDIDATES)
    for i in range(CANDIDATES):
        matrix = case.covariance(name, i)
        law = multivariate_normal(cov=matrix) if np.isinf(freedom) else multivariate_t(shape=matrix, df=freedom)
        expected[i] = law.logpdf(case.residual(i))
    k = kernel(name, freedom)
    np.testing.assert_allclose(latent_gp.log_likelihood(case.factors(k), k), expected, rtol=1e-6)


@pytest.mark.parametrize("freedom", [np.inf, 4.0])
def test_without_data_every_candidate_is_equally_likely(freedom: float):
    likelihood = latent_gp.log_likelihood(Factors.empty(LATENTS, 2, 5), kernel(freedom=freedom))
    np.testing.assert_allclose(likelihood, np.zeros(5), atol=1e-12)


@pytest.mark.parametrize("steps", [(1, 2, 3, 4, 5, 6, 7, 8, 9), (4, 9), (4, 4, 9)])
def test_growing_row_by_row_is_the_same_as_all_at_once(case: Case, steps: tuple[int, ...]):
    k = kernel("matern52")
    grown: Factors | None = None
    for upto in steps:
        grown = case.factors(k, upto, grown)
    assert grown is not None
    whole = case.factors(k)
    for one, other in zip(grown, whole, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)
    assert grown.observations == OBSERVATIONS


def test_growing_leaves_the_older_factors_alone(case: Case):
    older = case.factors(kernel(), 4)
    before = {name: value.copy() for name, value in older._asdict().items()}
    case.factors(kernel(), OBSERVATIONS, older)
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(older, name), value)


def test_chosen_and_joined_candidates_keep_their_factors(case: Case):
    k = kernel(freedom=5.0)
    factors = case.factors(k)
    order = np.array([4, 0, 5, 1, 2, 3])
    again = latent_gp.joined(latent_gp.chosen(factors, order[:2]), latent_gp.chosen(factors, order[2:]))
    np.testing.assert_allclose(latent_gp.log_likelihood(again, k), latent_gp.log_likelihood(factors, k)[order])
    np.testing.assert_array_equal(again.lower, factors.lower[:, :, order])


def test_states_and_their_mirror_images_are_one_to_an_even_map(case: Case):
    # The mirrored candidate under mirrored inputs visits the mirrored states: an even map cannot tell.
    k = kernel("matern32")
    mirrored = replace(case, candidates=-case.candidates, inputs=-case.inputs)
    np.testing.assert_allclose(
        latent_gp.log_likelihood(mirrored.factors(k), k), latent_gp.log_likelihood(case.factors(k), k), rtol=1e-10
    )


# --- day modes -------------------------------------------------------------------------------------


def test_the_modes_weights_are_their_regression_on_the_residual():
    # Bayesian linear regression with standard normal weights and the deviation's covariance as noise.
    case = make_case(2)
    mean, covariance = latent_gp.mode_posterior(case.factors(kernel()))
    for i in range(CANDIDATES):
        phi = case.loadings(i)
        inverse = np.linalg.inv(case.covariance("rbf", i) - phi @ phi.T)
        expected = np.linalg.inv(np.eye(2) + phi.T @ inverse @ phi)
        np.testing.assert_allclose(covariance[i], expected, rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(mean[i], expected @ phi.T @ inverse @ case.residual(i), rtol=1e-5, atol=1e-7)


def test_modes_that_are_nowhere_change_nothing():
    bare, case = make_case(0), make_case(2)
    nowhere = Residuals(bare.residuals.residual, bare.residuals.noise, np.zeros_like(case.residuals.modes))
    silent = replace(bare, residuals=nowhere)
    k = kernel(freedom=6.0)
    np.testing.assert_allclose(
        latent_gp.log_likelihood(silent.factors(k), k), latent_gp.log_likelihood(bare.factors(k), k), rtol=1e-12
    )


# --- M-step ----------------------------------------------------------------------------------------


def predicted(case: Case, k: Kernel, queries: Array, query_modes: Array, keep: Array) -> tuple[Array, Array]:
    factors = latent_gp.chosen(case.factors(k), keep)
    return latent_gp.predict(factors, k, case.candidates[keep], case.inputs, queries, query_modes)


@pytest.mark.parametrize("name", sorted(KERNEL_CODES))
def test_predictions_are_the_dense_posterior(case: Case, name: str):
    rng = np.random.default_rng(2)
    queries = rng.uniform(-1, 1, (4, 3)) * [60, 30, 30]
    keep = np.array([5, 2])
    query_modes = rng.standard_normal((LATENTS, case.rank, 4, 2))
    mean, variance = predicted(case, kernel(name), queries, query_modes, keep)
    assert mean.shape == variance.shape == (LATENTS, 4, 2)
    for column, i in enumerate(keep):
        wanted = case.candidates[i] + queries
        phi = query_modes[:, :, :, column].transpose(0, 2, 1).reshape(LATENTS * 4, -1)
        axes = range(LATENTS)
        cross = block_diag(*(dense(name, j, wanted, case.visited(i)) for j in axes)) + phi @ case.loadings(i).T
        prior = block_diag(*(dense(name, j, wanted, wanted) for j in axes)) + phi @ phi.T
        gain = np.linalg.solve(case.covariance(name, i), cross.T).T
        np.testing.assert_allclose(mean[:, :, column].ravel(), gain @ case.residual(i), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            variance[:, :, column].ravel(), np.diag(prior - gain @ cross.T), rtol=1e-5, atol=1e-6
        )


def test_without_data_the_prediction_is_the_prior():
    case = make_case(0)
    queries = np.array([[0.0, 0, 0], [10.0, 5, -5]])
    empty = Factors.empty(LATENTS, 0, CANDIDATES)
    nothing = np.zeros((LATENTS, 0, 2, CANDIDATES))
    mean, variance = latent_gp.predict(empty, kernel(), case.candidates, np.zeros((0, 3)), queries, nothing)
    assert np.all(mean == 0)
    for i in range(CANDIDATES):
        at = case.candidates[i] + queries
        np.testing.assert_allclose(variance[0, :, i], np.diag(dense("rbf", 0, at, at)), rtol=1e-6)


def test_a_visited_state_is_predicted_as_well_as_its_noise_allows(case: Case):
    everyone = np.arange(CANDIDATES)
    _, variance = predicted(case, kernel(), case.inputs[2:3], case.residuals.modes[:, :, 2:3], everyone)
    assert np.all(variance[:, 0] < case.residuals.noise[:, 2])
    quiet = replace(case, residuals=case.residuals._replace(noise=np.full_like(case.residuals.noise, 1e-8)))
    mean, variance = predicted(quiet, kernel(), case.inputs[2:3], case.residuals.modes[:, :, 2:3], everyone)
    np.testing.assert_allclose(mean[:, 0], case.residuals.residual[:, 2], atol=1e-5)
    assert variance.max() < 1e-6


def test_the_mirror_state_is_predicted_alike(case: Case):
    keep, queries = np.array([1]), np.array([[12.0, -7.0, 4.0]])
    mirrored = -queries - 2 * case.candidates[1]  # x0 + query becomes -(x0 + query)
    modes = np.random.default_rng(3).standard_normal((LATENTS, case.rank, 1, 1))
    one = predicted(case, kernel(), queries, modes, keep)
    other = predicted(case, kernel(), mirrored, modes, keep)
    np.testing.assert_allclose(one, other, rtol=1e-9)


def test_the_posterior_scale_is_that_of_its_inverse_gamma_law(case: Case):
    # Prior scale ~ nu / chi2_nu, Gaussian likelihood of count = d T values: integrate its posterior mean.
    k = kernel(freedom=5.0)
    factors, count = case.factors(k), LATENTS * OBSERVATIONS
    size = np.exp(np.linspace(-7, 7, 200_001))
    for i in (0, 4):
        y = case.residual(i)
        quadratic = y @ np.linalg.solve(case.covariance("rbf", i), y)
        log_density = -(5.0 + count) / 2 * np.log(size) - (5.0 + quadratic) / (2 * size)  # per d log scale
        weight = np.exp(log_density - log_density.max())
        expected = np.sum(weight * size) / np.sum(weight)
        np.testing.assert_allclose(latent_gp.scale(factors, k)[i], expected, rtol=1e-4)
    np.testing.assert_array_equal(latent_gp.scale(factors, kernel()), np.ones(CANDIDATES))


def test_the_mixture_has_the_moments_of_its_parts():
    rng = np.random.default_rng(3)
    mean, variance = rng.standard_normal((2, 3, 4)), rng.uniform(0.1, 2.0, (2, 3, 4))
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    average, total = latent_gp.mixture(mean, variance, weights)
    for j in range(2):
        for q in range(3):
            first = sum(w * m for w, m in zip(weights, mean[j, q], strict=True))
            second = sum(w * (v + m * m) for w, m, v in zip(weights, mean[j, q], variance[j, q], strict=True))
            assert average[j, q] == pytest.approx(first)
            assert total[j, q] == pytest.approx(second - first**2)


# --- evidence lower bound --------------------------------------------------------------------------


def test_the_bound_touches_the_evidence_at_the_e_step_and_nowhere_else():
    rng = np.random.default_rng(4)
    log_likelihood, log_prior = 5 * rng.standard_normal(30), np.full(30, -np.log(30))
    evidence = float(np.logaddexp.reduce(log_likelihood + log_prior))
    posterior = np.exp(log_likelihood + log_prior - evidence)
    assert latent_gp.evidence_lower_bound(log_likelihood, log_prior, posterior) == pytest.approx(evidence, abs=1e-10)
    for _ in range(20):
        other = rng.dirichlet(np.ones(30))
        gap = evidence - latent_gp.evidence_lower_bound(log_likelihood, log_prior, other)
        assert gap == pytest.approx(np.sum(other * np.log(other / posterior)), rel=1e-9)
        assert gap > 0
    certain = np.eye(30)[np.argmax(posterior)]
    assert latent_gp.evidence_lower_bound(log_likelihood, log_prior, certain) == pytest.approx(
        log_likelihood.max() - np.log(30)
    )
