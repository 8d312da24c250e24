"""Two controllers on the same runs: difference and its confidence interval."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from twin.arrays import Array

RESAMPLES = 10_000
SEED = 20_260_317
INTERVAL = 0.95
SMALLEST_ERROR_NM = 1e-6


def error_ratio(first_nm: Sequence[float], second_nm: Sequence[float]) -> dict[str, float | list[float]]:
    """Return the median over runs of first / second error, with its bootstrap interval.

    Percentile interval (Efron 1979) of the median log ratio over `RESAMPLES` resamples of whole runs; below 1 the
    first is better. Not corrected for the number of comparisons: one in twenty excludes 1 by chance.

    Args:
        first_nm, second_nm: error norms, one per run, in the same order of runs.
    """
    ratio = np.sort(_log(first_nm) - _log(second_nm))
    # The median of a resample is where the median of its ranks is: ranks are drawn once, whatever the values.
    low, high = _median_ranks(ratio.size)
    interval = _interval(0.5 * (ratio[low] + ratio[high]))
    return {"error_ratio": math.exp(float(np.median(ratio))), "error_ratio_interval": [math.exp(v) for v in interval]}


def share_difference(first: Sequence[bool], second: Sequence[bool]) -> dict[str, float | list[float]]:
    """Return the difference of the shares of runs in spec, first minus second, with the same kind of interval."""
    difference = np.asarray(first, int) - np.asarray(second, int)
    counts = [int(np.sum(difference == value)) for value in (-1, 0, 1)]
    # Resampling runs is drawing how often each of the three outcomes occurs.
    drawn = np.random.default_rng(SEED).multinomial(difference.size, np.asarray(counts) / difference.size, RESAMPLES)
    interval = _interval((drawn[:, 2] - drawn[:, 0]) / difference.size)
    return {"in_spec_difference": float(difference.mean()), "in_spec_difference_interval": interval}


def _log(errors_nm: Sequence[float]) -> Array:
    logarithm: Array = np.log(np.maximum(np.asarray(errors_nm, float), SMALLEST_ERROR_NM))
    return logarithm


def _interval(resampled: Array) -> list[float]:
    tail = 50 * (1 - INTERVAL)
    return [float(v) for v in np.percentile(resampled, (tail, 100 - tail))]


@lru_cache(maxsize=16)
def _median_ranks(count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return ranks of the two middle values of every resample of `count` runs, (RESAMPLES,); equal for odd counts."""
    rng = np.random.default_rng(SEED)
    low, high = np.empty(RESAMPLES, np.intp), np.empty(RESAMPLES, np.intp)
    middle = ((count - 1) // 2, count // 2)
    for start in range(0, RESAMPLES, 1000):
        ranks = np.partition(rng.integers(count, size=(1000, count)), middle, axis=1)
        low[start : start + 1000], high[start : start + 1000] = ranks[:, middle[0]], ranks[:, middle[1]]
    return low, high


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % confidence interval (Wilson 1927) of a share observed in `count` independent runs."""
    z2 = 1.959964**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = math.sqrt(z2 * (share * (1 - share) / count + z2 / (4 * count**2))) / (1 + z2 / count)
    return max(0.0, centre - half), min(1.0, centre + half)
