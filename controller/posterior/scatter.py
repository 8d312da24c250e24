"""By how much a run's frames scatter, and what that makes of the regions that they tell (decision 12)."""

from collections.abc import Mapping
from functools import lru_cache

from scipy.stats import chi2
from scipy.stats import f as f_distribution

from controller.calibration import HELD
from controller.posterior.artefact import Moments

BELIEVED = 3.0
"""Degrees of freedom that stand for a scatter as usual, before a run's own count: as many as one frame's."""


def dispersion(deviance: float, usual: Mapping[str, Moments], frames: float, dimension: int) -> float:
    """By what to multiply the variance that a run's frames tell.

    First, how much they scatter against those of training days: the ratio of a deviance to the usual one (Birge, Phys.
    Rev. 40 (1932) 207), drawn to 1 by `BELIEVED`. A day whose frames are each less telling than they say shows in it,
    and one whose frames are more so; an error that they share does not. Then, that a scatter seen in few frames is not
    well known: see `student`.

    Args:
        deviance: after so many frames, see `posterior.particle_filter.deviance`.
        usual: its mean over training days, among other measures, see `posterior.misfit.usual`.
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
