"""Whether a run's day is unlike the training days: four measures against what training days' runs show in them."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2
from scipy.stats import f as f_distribution

from controller.calibration import HELD
from controller.posterior_artefact import Moments, tail
from controller.posterior_filter import Belief, FramePosteriors, deviance, strangeness
from controller.posterior_turn import turned_rad

Array = NDArray[np.floating]

GROWS = {"deviance": True, "strangeness": True, "turn": False, "hidden": False}
"""The measures, and whether frames add to them:

- deviance: of the frames' posteriors from the estimate, see `posterior_filter.deviance`;
- strangeness: what the frames show beyond what state and day let expect, see `posterior_check`;
- turn: squared angle of the camera against the corrector, rad^2, see `posterior_turn`;
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


BELIEVED = 3.0
"""Degrees of freedom that stand for a scatter as usual, before a run's own count: as many as one frame's."""


def dispersion(deviance: float, usual: Mapping[str, Moments], frames: float, dimension: int) -> float:
    """By what to multiply the variance that a run's frames tell.

    First, how much they scatter against those of training days: the ratio of a deviance to the usual one (Birge, Phys.
    Rev. 40 (1932) 207), drawn to 1 by `BELIEVED`. A day whose frames are each less telling than they say shows in it,
    and one whose frames are more so; an error that they share does not. Then, that a scatter seen in few frames is not
    well known: see `student`.

    Args:
        deviance: after so many frames, see `measured`.
        usual: its mean over training days, among other measures.
        frames: how many; each by its weight, when earlier ones are forgotten.
        dimension: of the state.
    """
    count = max(1, round(frames))
    mean = usual["deviance"][min(count, len(usual["deviance"])) - 1][0] * max(1.0, count / len(usual["deviance"]))
    free = dimension * (count - 1)
    scatter = (BELIEVED + free * deviance / mean) / (BELIEVED + free)
    return scatter * student(BELIEVED + free, dimension)


@lru_cache(maxsize=1024)
def student(free: float, dimension: int) -> float:
    """Factor on a normal's variance whose region of probability `HELD` is that of Student's t (Hotelling's T^2)."""
    return float(dimension * f_distribution.ppf(HELD, dimension, free) / chi2.ppf(HELD, dimension))


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
