"""Likelihood of the frames given a particle, as a quadratic form in the parameters that are integrated out.

For a particle (an initial state x0 of the first order) frame k was taken at x_k = x0 + U_k and contributes
`q(x_k | frame) / p(x_k) * q(c | frame, x_k) / p(c)`, with U_k the cumulative input, q the network's posteriors, p the
training densities. c are the nuisance parameters and the second order: common to the frames, or moved by known inputs.
The second factor is Gaussian in c, so that frames add up in information form and c integrates out in closed form.
"""

from dataclasses import dataclass

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from controller.posterior.frames import MARGINALISED, SECOND_ORDER, FramePosteriors
from controller.posterior.network import log_densities
from controller.spectrum import sub_areas
from twin.arrays import Array

UNINFORMATIVE = 1e-3
"""Probability that a frame carries no information: bounds the influence of one bad frame."""


@dataclass(frozen=True)
class Likelihood:
    """Log-likelihood of M particles: `constant + vector' c - c' matrix c / 2`. Adds up over frames.

    Attributes:
        constant: (M,).
        vector: information vector of c, (M, C).
        matrix: information matrix of c beyond the prior's, (M, C, C).
    """

    constant: Array
    vector: Array
    matrix: Array

    @classmethod
    def flat(cls, count: int) -> "Likelihood":
        """The likelihood without any frame."""
        c = len(MARGINALISED)
        return cls(np.zeros(count), np.zeros((count, c)), np.zeros((count, c, c)))

    def __add__(self, other: "Likelihood") -> "Likelihood":
        """Join the likelihoods of two sets of frames for the same particles."""
        return Likelihood(self.constant + other.constant, self.vector + other.vector, self.matrix + other.matrix)

    def forget(self, factor: float) -> "Likelihood":
        """Multiply the weight of all frames so far by a forgetting factor."""
        if factor == 1.0:
            return self
        return Likelihood(factor * self.constant, factor * self.vector, factor * self.matrix)

    def select(self, keep: NDArray[np.int64]) -> "Likelihood":
        """Keep these particles."""
        return Likelihood(self.constant[keep], self.vector[keep], self.matrix[keep])

    def concatenate(self, other: "Likelihood") -> "Likelihood":
        """Join two groups of particles after the same frames."""
        pairs = ((self.constant, other.constant), (self.vector, other.vector), (self.matrix, other.matrix))
        return Likelihood(*(np.concatenate(pair) for pair in pairs))

    def conditional(self, keep: NDArray[np.int64], prior: Array, inflation: float = 1.0) -> tuple[Array, Array]:
        """Posterior mean (N, C) and covariance (N, C, C) of c given each of N particles.

        Args:
            keep: indices of the particles, (N,).
            prior: prior precision of c, (C,).
            inflation: divides the information of the frames, see `FramePosteriors.variance_inflation`.
        """
        covariance = np.linalg.inv(self.matrix[keep] / inflation + np.diag(prior))
        return np.einsum("nij,nj->ni", covariance, self.vector[keep] / inflation), covariance

    def marginal(self, prior: Array) -> Array:
        """Log marginal likelihood, (M,), up to a constant: c of this prior precision (C,) integrated out."""
        out = np.empty(len(self.constant))
        _integrate_out(self.constant, self.vector, self.matrix, prior, out)
        return out


def likelihood(frames: FramePosteriors, states_nm: Array, first: int = 0) -> Likelihood:
    """Likelihood of the frames from index `first` on, for particles (M, n) of the first order.

    The nuisance head and the sub-areas were never trained on states that the frame excludes. Their terms are therefore
    weighted by the probability that the frame was taken at the particle's state.
    """
    total = Likelihood.flat(len(states_nm))
    scaled = (states_nm[None] + frames.inputs_nm[first:, None]) / frames.trained.first.range_nm
    trust, prior_precision = _add_first_order(total.constant, frames, scaled, first)
    with torch.no_grad():
        gain = frames.trained.network.nuisances(frames.features[first:, None], torch.from_numpy(scaled).float())
    known = _information(gain.mean.numpy(), gain.root.numpy())
    target = (total.constant, total.vector, total.matrix)
    m = SECOND_ORDER.stop - SECOND_ORDER.start
    matrix, vector = np.empty((len(states_nm), m, m)), np.empty((len(states_nm), m))
    areas = sub_areas.ready(frames.areas[first:], frames.trained.directions)
    parts = zip(*known, scaled, prior_precision, frames.shifts[first:], trust, strict=True)
    for k, (day_matrix, day_vector, states, prior, shift, weight) in enumerate(parts):
        _add_gaussian(day_matrix, day_vector, shift[: SECOND_ORDER.start], weight, 0, *target)
        sub_areas.information(areas.frame(k), states, prior, frames.trained.area_weight, matrix, vector)
        _add_gaussian(matrix, vector, shift[SECOND_ORDER], weight, SECOND_ORDER.start, *target)
    return total


def _add_first_order(constant: Array, frames: FramePosteriors, scaled: Array, first: int) -> tuple[Array, list[Array]]:
    """Add each frame's log ratio of posterior to training density at the scaled states (T, M, n).

    Returns:
        Weight of the frame's other terms for each particle, (T, M), and the training density's precision, (T, (M,)).
    """
    space, density = frames.trained.first, frames.trained.states
    trust, log_posterior, precision = np.empty(scaled.shape[:2]), np.empty(scaled.shape[1]), []
    weights = frames.weights[first:]
    for mixture, states, weight, trusted in zip(frames.mixtures[first:], scaled, weights, trust, strict=True):
        columns = np.ascontiguousarray(states.T)
        log_densities(mixture, columns, log_posterior)
        log_prior = density.log_density(space, columns)
        precision.append(density.precision(space, columns, log_prior))
        ratio = (1 - UNINFORMATIVE) * np.exp(np.minimum(log_posterior - log_prior, 50.0))
        constant += weight * np.log(ratio + UNINFORMATIVE)
        trusted[:] = weight * ratio / (ratio + UNINFORMATIVE)
    return trust, precision


def _information(mean: Array, root: Array) -> tuple[Array, Array]:
    """Information matrix (..., d, d) and vector (..., d) of a `Gain` beyond the standard normal prior's.

    The precision is I + root root', so that the matrix is root root'; the vector is precision times mean.
    """
    matrix = root @ root.swapaxes(-1, -2)
    return matrix, np.einsum("...ij,...j->...i", matrix, mean) + mean


@numba.njit(cache=True)
def _half_log_det_and_quadratic(matrix, vector, lower, white):  # type: ignore[no-untyped-def]
    """log det(M) / 2 and v' M^-1 v of a positive definite matrix (C, C); `lower` and `white` are work space."""
    count = len(vector)
    half, quadratic = 0.0, 0.0
    for i in range(count):
        white[i] = vector[i]
        for j in range(i + 1):
            value = matrix[i, j]
            for k in range(j):
                value -= lower[i, k] * lower[j, k]
            if i == j:
                lower[i, i] = np.sqrt(max(value, 1e-12))
                half += np.log(lower[i, i])
            else:
                lower[i, j] = value / lower[j, j]
        for k in range(i):
            white[i] -= lower[i, k] * white[k]
        white[i] /= lower[i, i]
        quadratic += white[i] * white[i]
    return half, quadratic


@numba.njit(cache=True)
def _integrate_out(constant, vector, matrix, prior, out):  # type: ignore[no-untyped-def]
    """constant + log integral of exp(v'c - c'(A + diag prior) c / 2) dc for every particle."""
    particles, count = vector.shape
    total, lower, white = np.empty((count, count)), np.zeros((count, count)), np.empty(count)
    for m in range(particles):
        total[:] = matrix[m]
        for i in range(count):
            total[i, i] += prior[i]
        half, quadratic = _half_log_det_and_quadratic(total, vector[m], lower, white)
        out[m] = constant[m] - half + 0.5 * quadratic


@numba.njit(cache=True)
def _add_gaussian(matrix, vector, shift, weight, first, constant, to_vector, to_matrix):  # type: ignore[no-untyped-def]
    """Add `weight log[q(c + shift) / p(c + shift)]` as a function of c to a `Likelihood`, for every particle.

    q / p = exp(b'c - c'Ac / 2) / Z with p standard normal and q normalised, so that q has precision I + A.

    Args:
        matrix: A, (M, d, d).
        vector: b, (M, d).
        shift: (d,).
        weight: (M,).
        first: index of the first of these d parameters among all C.
        constant, to_vector, to_matrix: of the likelihood, added to.
    """
    particles, count = vector.shape
    precision, lower, white = np.empty((count, count)), np.zeros((count, count)), np.empty(count)
    for m in range(particles):
        w, offset = weight[m], 0.0
        for i in range(count):
            moved = 0.0
            for j in range(count):
                precision[i, j] = matrix[m, i, j]
                to_matrix[m, first + i, first + j] += w * matrix[m, i, j]
                moved += matrix[m, i, j] * shift[j]
            precision[i, i] += 1.0
            to_vector[m, first + i] += w * (vector[m, i] - moved)
            offset += shift[i] * (vector[m, i] - 0.5 * moved)
        half, quadratic = _half_log_det_and_quadratic(precision, vector[m], lower, white)
        constant[m] += w * (offset + half - 0.5 * quadratic)
