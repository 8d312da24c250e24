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
from controller.spectrum.model import Grid, whittle
from twin.arrays import Array

ITERATIONS, STEP_NM, LONGEST_NM = 3, 0.3, 9.0
"""Scoring steps per frame, step of the finite differences, and the longest step."""
WEAK_PER_NM2 = 1e-4
"""Information of a frame that tells nothing: a state known to 100 nm."""
MODEL_NM, IN_FOCUS_NM2, LEAST_NM = 2.0, 20.0, 3.0
"""Error of a frame's state because the model neglects coma, three-fold astigmatism and spherical aberration: so much,
and so much over the length of the state, nm at the reference optics; near focus nothing else is left to see."""


@dataclass(frozen=True)
class Consistency:
    """Every frame's own state, fitted with the nuisance parameters of all frames together.

    Attributes:
        offsets_nm: C10, C12a, C12b of each frame less the joint fit and its input, (K, 3).
        covariance_nm2: of noise and of the model's error, (K, 3, 3).
        misfit: variance inflation that is left, see `spectrum_fit.tile_misfit`.
    """

    offsets_nm: Array
    covariance_nm2: Array
    misfit: float

    @property
    def per_degree(self) -> float:
        """Squared distances of the frames from the joint fit over the degrees of freedom: 1 for noise and model error.

        The median over runs of severity 1 is 0.5; with wrong inputs it is 3.
        """
        return float(self._squared().sum() / max(3 * (len(self.offsets_nm) - 1), 1))

    @property
    def astigmatic(self) -> float:
        """Share of the squared distances that other defoci alone, as on a film of uneven height, would not remove."""
        information, offsets = np.linalg.inv(self.covariance_nm2), self.offsets_nm[:, 1:]
        cross = information[:, 0, 1:]
        conditional = information[:, 1:, 1:] - np.einsum("ki,kj->kij", cross, cross) / information[:, :1, :1]
        rest = np.einsum("ki,kij,kj->k", offsets, conditional, offsets)
        return float(rest.sum() / max(self._squared().sum(), 1e-9))

    def _squared(self) -> Array:
        information = np.linalg.inv(self.covariance_nm2)
        return np.asarray(np.einsum("ki,kij,kj->k", self.offsets_nm, information, self.offsets_nm))

    def defocus_spread_nm(self) -> float:
        """Standard deviation of the frames' C10 that noise and model error do not account for."""
        own = self.covariance_nm2[:, 0, 0]
        total = float(np.sum(self.offsets_nm[:, 0] ** 2)) / max(len(own) - 1, 1)
        return max(total - float(own.mean()), 0.0) ** 0.5


def of_frames(theta: Array, observations: Sequence[Observation], grid: Grid, per_nm: Array) -> Consistency:
    """Fit every frame's own state by damped Fisher scoring from a joint fit, all frames side by side.

    Args:
        theta: joint fit, (13,).
        observations: the frames.
        grid: of the spectrum model.
        per_nm: nm at the reference optics per nm of the state, (3,).
    """
    joint = theta[:3] + np.array([o.input_nm for o in observations])
    measured = np.array([o.spectrum.values for o in observations])
    states, damping = joint.copy(), np.full(len(joint), 1e-2)
    mean = _expected(states, theta, observations, grid)
    best = whittle(measured, mean)
    information, score = _curvature(states, mean, measured, theta, observations, grid)
    for _ in range(ITERATIONS):
        damped = information + damping[:, None, None] * information * np.eye(3)
        step = np.linalg.solve(damped, score[..., None])[..., 0]
        trial = states + np.clip(step, -LONGEST_NM, LONGEST_NM)
        trial_mean = _expected(trial, theta, observations, grid)
        value = whittle(measured, trial_mean)
        better = value > best
        states, best = np.where(better[:, None], trial, states), np.maximum(value, best)
        mean = np.where(better[:, None], trial_mean, mean)
        damping = np.where(better, damping / 5, damping * 10)
        information, score = _curvature(states, mean, measured, theta, observations, grid)
    misfit = spectrum_fit.tile_misfit(measured / mean, grid.pixels)
    length_nm = np.maximum(np.linalg.norm(joint * per_nm, axis=1), LEAST_NM)
    model_nm = (MODEL_NM + IN_FOCUS_NM2 / length_nm)[:, None, None] * np.diag(1.0 / per_nm)
    return Consistency(states - joint, np.linalg.inv(information) * misfit + model_nm**2, misfit)


def _expected(states_nm: Array, theta: Array, observations: Sequence[Observation], grid: Grid) -> Array:
    """Expected periodogram of each frame at a state of its own (K, 3), shape (K, P)."""
    floors = np.array([o.spectrum.floor for o in observations])
    signal = spectrum_model.expected_signal(states_nm, spectrum_fit.nuisance(theta), grid)
    return np.asarray(1.0 + signal[:, spectrum_model.band(grid.pixels)] / floors[:, None])


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
