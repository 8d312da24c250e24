"""Variance inflation by the scatter of a run's frames about its estimate (decision 12)."""

from collections.abc import Mapping
from functools import lru_cache

from scipy.stats import chi2
from scipy.stats import f as f_distribution

from controller.calibration import HELD
from controller.posterior.artefact import Moments

PRIOR_DEGREES = 3.0
"""Degrees of freedom of the prior belief that a run scatters as training runs do: as many as one frame has."""


def dispersion(deviance: float, usual: Mapping[str, Moments], frames: float, dimension: int) -> float:
    """Factor on the posterior variance that makes up for frames that scatter more, or less, than they should.

    The Birge ratio (Phys. Rev. 40 (1932) 207), the run's deviance over the mean of training runs, shrunk towards 1 by
    `PRIOR_DEGREES`, times `student_factor` because a variance estimated from few frames is uncertain. The ratio detects
    over- and under-confident frames, but not an error common to all frames.

    Args:
        deviance: of the run, see `posterior.frames.deviance`.
        usual: moments of the measures over training runs, see `posterior.misfit.training_moments`.
        frames: sum of the frames' weights.
        dimension: of the state.
    """
    count = max(1, round(frames))
    mean = usual["deviance"][min(count, len(usual["deviance"])) - 1][0] * max(1.0, count / len(usual["deviance"]))
    degrees = dimension * (count - 1)
    ratio = (PRIOR_DEGREES + degrees * deviance / mean) / (PRIOR_DEGREES + degrees)
    return ratio * student_factor(PRIOR_DEGREES + degrees, dimension)


@lru_cache(maxsize=1024)
def student_factor(degrees: float, dimension: int) -> float:
    """Factor on a normal's variance that gives its region of probability `HELD` the size of Student's t.

    Hotelling's T^2 with a variance estimated from this number of degrees of freedom.
    """
    return float(dimension * f_distribution.ppf(HELD, dimension, degrees) / chi2.ppf(HELD, dimension))
