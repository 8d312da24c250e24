"""Whether a run's day is unlike the training days: four measures against what training days' runs show in them."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from controller.posterior.artefact import Moments, tail
from controller.posterior.camera_rotation import turned_rad
from controller.posterior.particle_filter import Belief, FramePosteriors, deviance, strangeness

Array = NDArray[np.floating]

GROWS = {"deviance": True, "strangeness": True, "turn": False, "hidden": False}
"""The measures, and whether frames add to them:

- deviance: of the frames' posteriors from the estimate, see `posterior.particle_filter.deviance`;
- strangeness: what the frames show beyond what state and day let expect, see `posterior.check`;
- turn: squared angle of the camera against the corrector, rad^2, see `posterior.camera_rotation`;
- hidden: squared length of the day's hidden parameters as the frames tell them, in standard deviations.
"""
WORST = 0.1
"""Share of training runs cut at the next worst: a run that went wrong is not what a training day looks like."""


def measured(frames: FramePosteriors, belief: Belief, state_nm: Array) -> dict[str, float]:
    """Each measure of the frames so far; `state_nm` (n,) is the estimate of the initial state."""
    strange, hidden = strangeness(frames, belief)
    return {
        "deviance": deviance(frames, state_nm),
        "strangeness": strange,
        "turn": turned_rad(frames, state_nm)[0] ** 2,
        "hidden": float(hidden @ hidden),
    }


def fit(found: Mapping[str, float], usual: Mapping[str, Moments], frames: int) -> float:
    """Share of training days whose runs stand out as much in any of the measures (Bonferroni), at most 1.

    1 as long as nobody knows what is usual.
    """
    shares = (tail(usual[name], frames, value, GROWS[name]) for name, value in found.items() if usual)
    return min(1.0, len(found) * min(shares, default=1.0))


def usual(runs: Sequence[Sequence[Mapping[str, float]]]) -> dict[str, Moments]:
    """Mean and variance of each measure over training runs after each number of frames.

    Args:
        runs: of each run, the measures after one frame, two, ...
    """
    return {name: _moments(np.array([[found[name] for found in run] for run in runs])) for name in GROWS}


def _moments(table: Array) -> Moments:
    """Over runs (R, T), after each number of frames; the worst `WORST` of them cut."""
    cut = np.minimum(table, np.quantile(table, 1 - WORST, axis=0))
    return tuple((float(m), float(v)) for m, v in zip(cut.mean(0), cut.var(0, ddof=1), strict=True))
