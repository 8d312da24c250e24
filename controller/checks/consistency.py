"""Do the frames of a run agree with each other? Each frame's own state, about what the estimate and the inputs say.

Frames of one day, at known inputs, show one initial state within their noise. A film of uneven height, inputs that
are not what they are said to be, or a specimen that the model does not describe set them apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from controller.spectrum import fit as spectrum_fit
from controller.spectrum import model as spectrum_model
from controller.spectrum.fit import Observation
from controller.spectrum.model import Grid
from twin.arrays import Array

ITERATIONS, STEP_NM, LONGEST_NM = 3, 0.3, 9.0
"""Scoring steps per frame, step of the finite differences, and the longest step."""
WEAK_PER_NM2 = 1e-4
"""Information of a frame that tells nothing: a state known to 100 nm."""


@dataclass(frozen=True)
class Consistency:
    """Every frame's own state, fitted with the nuisance parameters of all frames together.

    Attributes:
        offsets_nm: C10, C12a, C12b of each frame less the joint fit and its input, (K, 3).
        information: of each frame's state, nm^-2, (K, 3, 3).
        gained: log-likelihood that the frames' own states gain, nats.
        misfit: variance inflation that is left, see `spectrum_fit.tile_misfit`.
    """

    offsets_nm: Array
    information: Array
    gained: float
    misfit: float

    @property
    def per_degree(self) -> float:
        """Twice the gain over the degrees of freedom: 1 on average where only noise sets the frames apart."""
        return 2 * self.gained / max(3 * (len(self.offsets_nm) - 1), 1)

    @property
    def astigmatic(self) -> float:
        """Share of the gain that other defoci alone, as of a film of uneven height, would not bring."""
        information, offsets = self.information, self.offsets_nm
        whole = np.einsum("ki,kij,kj->k", offsets, information, offsets)
        cross = information[:, 0, 1:]
        conditional = information[:, 1:, 1:] - np.einsum("ki,kj->kij", cross, cross) / information[:, :1, :1]
        rest = np.einsum("ki,kij,kj->k", offsets[:, 1:], conditional, offsets[:, 1:])
        return float(rest.sum() / max(whole.sum(), 1e-9))

    def spread_nm(self) -> Array:
        """Standard deviation of the frames' states that noise does not account for, (3,)."""
        count = len(self.offsets_nm)
        noise = np.diagonal(np.linalg.inv(self.information), axis1=1, axis2=2) * self.misfit
        excess = np.sum(self.offsets_nm**2, axis=0) / max(count - 1, 1) - noise.mean(axis=0)
        return np.sqrt(np.maximum(excess, 0.0))


def of_frames(theta: Array, observations: Sequence[Observation], grid: Grid) -> Consistency:
    """Fit every frame's own state by damped Fisher scoring from a joint fit theta (9,), all frames side by side."""
    joint = theta[:3] + np.array([o.input_nm for o in observations])
    measured = np.array([o.spectrum.values for o in observations])
    states, damping = joint.copy(), np.full(len(joint), 1e-2)
    mean = _expected(states, theta, observations, grid)
    best = first = _log_likelihood(mean, measured)
    information, score = _curvature(states, mean, measured, theta, observations, grid)
    for _ in range(ITERATIONS):
        damped = information + damping[:, None, None] * information * np.eye(3)
        step = np.linalg.solve(damped, score[..., None])[..., 0]
        trial = states + np.clip(step, -LONGEST_NM, LONGEST_NM)
        trial_mean = _expected(trial, theta, observations, grid)
        value = _log_likelihood(trial_mean, measured)
        better = value > best
        states, best = np.where(better[:, None], trial, states), np.maximum(value, best)
        mean = np.where(better[:, None], trial_mean, mean)
        damping = np.where(better, damping / 5, damping * 10)
        information, score = _curvature(states, mean, measured, theta, observations, grid)
    misfit = spectrum_fit.tile_misfit(measured / mean, grid.pixels)
    return Consistency(states - joint, information, float(np.sum(best - first)), misfit)


def _expected(states_nm: Array, theta: Array, observations: Sequence[Observation], grid: Grid) -> Array:
    """Expected periodogram of each frame at a state of its own (K, 3), shape (K, P)."""
    floors = np.array([o.spectrum.floor for o in observations])
    signal = spectrum_model.expected_signal(states_nm, spectrum_fit.nuisance(theta), grid)
    return np.asarray(1.0 + signal[:, spectrum_model.band(grid.pixels)] / floors[:, None])


def _log_likelihood(mean: Array, measured: Array) -> Array:
    """Whittle log-likelihood of each frame, nats, (K,)."""
    return np.asarray(-np.sum(np.log(mean) + measured / mean, axis=1) / spectrum_model.CORRELATION)


def _curvature(
    states_nm: Array, mean: Array, measured: Array, theta: Array, observations: Sequence[Observation], grid: Grid
) -> tuple[Array, Array]:
    """Fisher information (K, 3, 3) and score (K, 3) of each frame's state."""
    log_mean = np.log(mean)
    moved = [_expected(states_nm + STEP_NM * axis, theta, observations, grid) for axis in np.eye(3)]
    slopes = np.stack([(np.log(each) - log_mean) / STEP_NM for each in moved], axis=1)
    information = slopes @ slopes.transpose(0, 2, 1) / spectrum_model.CORRELATION + WEAK_PER_NM2 * np.eye(3)
    score = (slopes @ (measured / mean - 1)[..., None])[..., 0] / spectrum_model.CORRELATION
    return information, score
