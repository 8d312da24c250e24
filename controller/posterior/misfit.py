"""Out-of-distribution test: four measures of a run against their distribution over runs on training days."""

from collections.abc import Mapping, Sequence

import numpy as np

from controller.posterior.artefact import Moments, tail
from controller.posterior.camera_rotation import camera_rotation_rad
from controller.posterior.frames import FramePosteriors, deviance
from controller.posterior.particle_filter import Particles, likely_nuisances
from twin.arrays import Array

MEASURES = {"deviance": True, "strangeness": True, "turn": False, "hidden": False}
"""The measures, and whether they add up over frames:

- deviance: distance of the frames' posteriors from the estimate, see `posterior.frames.deviance`;
- strangeness: residual of the posterior predictive check of the frames' features, see `posterior.check`;
- turn: squared rotation of the camera against the corrector, rad^2, see `posterior.camera_rotation`;
- hidden: squared length of the estimated nuisance parameters, which are standard normal over training days.
"""
TRIMMED = 0.1
"""Fraction of training runs winsorised: the moments describe training days, not runs that went wrong."""


def measure(frames: FramePosteriors, particles: Particles, state_nm: Array) -> dict[str, float]:
    """Each of `MEASURES` for the frames so far, about an estimate (n,) of the initial state."""
    nuisances = likely_nuisances(frames, particles)
    states = (particles.candidates.states_nm[particles.best] + frames.inputs_nm) / frames.trained.first.range_nm
    return {
        "deviance": deviance(frames, state_nm),
        "strangeness": frames.trained.check.strangeness(frames.features, states, nuisances),
        "turn": camera_rotation_rad(frames, state_nm)[0] ** 2,
        "hidden": float(nuisances @ nuisances),
    }


def p_value(measured: Mapping[str, float], usual: Mapping[str, Moments], frames: int) -> float:
    """Probability that a run on a training day stands out as much in any of the measures (Bonferroni), at most 1.

    1 for weights without moments of training runs.
    """
    tails = (tail(usual[name], frames, value, MEASURES[name]) for name, value in measured.items() if usual)
    return min(1.0, len(measured) * min(tails, default=1.0))


def training_moments(runs: Sequence[Sequence[Mapping[str, float]]]) -> dict[str, Moments]:
    """Mean and variance of each measure over training runs, after each number of frames.

    Args:
        runs: for each run the measures after one frame, two, ...
    """
    return {name: _moments(np.array([[measured[name] for measured in run] for run in runs])) for name in MEASURES}


def _moments(table: Array) -> Moments:
    """Winsorised moments over runs (R, T), after each number of frames."""
    cut = np.minimum(table, np.quantile(table, 1 - TRIMMED, axis=0))
    return tuple((float(m), float(v)) for m, v in zip(cut.mean(0), cut.var(0, ddof=1), strict=True))
