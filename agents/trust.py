"""Whether a reconstruction explains the data, and how much of it is noise.

The test of the residuals `r = (y - Hx) / sqrt(Hx)`: if the model H and the reconstruction x are right, they are white
noise of mean zero and variance one, and neighbours have nothing in common.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.base import Trust

Floats = NDArray[np.float64]

LEVEL = 0.01
"""A right model is called wrong this often."""

LEAST_EXPECTED = 0.1
"""Expected counts below which a pixel says too little, and that too erratically, for a test of its own."""

LEAST_RESIDUALS = 64
"""Fewer residuals are no test."""

MEMBERS = 16
"""Noise realisations of an ensemble: its spread is then known to 1 / sqrt(2 * 16) = 18 %."""


def poisson_residual(counts: NDArray[np.number[Any]], expected: Floats, least: float = LEAST_EXPECTED) -> Floats:
    """r = (y - Hx) / sqrt(Hx); NaN where fewer than `least` electrons are expected, or nothing is known.

    Args:
        counts: y, any shape; NaN where nothing was measured.
        expected: Hx, of the same shape.
        least: smallest expected counts that are used.
    """
    expected = np.where(expected >= least, expected, np.nan)
    return np.asarray((counts - expected) / np.sqrt(expected), np.float64)


def whiteness(
    residual: Floats,
    model: str,
    *,
    expected: Floats | None = None,
    axes: tuple[int, ...] | None = None,
    fitted: float = 0.0,
    noise_uncertainty: float = 0.0,
    level: float = LEVEL,
) -> Trust | None:
    """Test of residuals against white noise of mean zero and variance one.

    With n residuals, these are standard normal for a right model, by the central limit theorem, and uncorrelated:

    - mean: sum(r) / sqrt(n);
    - variance: (sum(c) + p) / sqrt(2 (n - p)), where c = r^2 - 1 for normal residuals. For counts that expect m it is
      c = r^2 - 1 - r / sqrt(m) = ((y - m)^2 - y) / m, the second Charlier polynomial: its variance is 2 for every m and
      it is uncorrelated with r, so that low counts need no normal approximation of their own;
    - one for each axis: sum(r r') / sqrt(pairs) over neighbours along it. Its variance is 1 for every m. A fit leaves
      neighbours correlated: by no more than p in the sum, by which the sum is brought nearer to zero.

    The probability is that of the largest of them in absolute value, after Sidak: 1 - (1 - p)^tests.

    Args:
        residual: (...,), NaN where there is none; neighbours on the grid are neighbours on the camera or in the scan.
        model: what H is, in words.
        expected: Hx of the same shape, for counts; None for residuals that are normal.
        axes: along which neighbours are compared; None for all. Leave out an axis along which there is no order.
        fitted: p, parameters that were fitted to these very data: each takes the share of one residual of the variance.
        noise_uncertainty: relative standard error of the variance by which the residuals were divided.
        level: the probability below which the model is called wrong.

    Returns:
        The verdict, or None for fewer than `LEAST_RESIDUALS` residuals.
    """
    known = np.isfinite(residual)
    n = int(known.sum())
    if n - fitted < LEAST_RESIDUALS:
        return None
    r = np.where(known, residual, 0.0)
    excess = r**2 - known
    if expected is not None:
        excess = excess - r / np.sqrt(np.where(known, expected, 1.0))
    free = n - fitted
    mean, square = float(r.sum()) / n, float((r**2).sum()) / free
    uncertainty = math.sqrt(2.0 / free + noise_uncertainty**2)
    scores = [mean * math.sqrt(n), (float(excess.sum()) + fitted) / free / uncertainty]
    correlations = [0.0]
    for axis in range(r.ndim) if axes is None else axes:
        product, pairs = _neighbours(r, known, axis)
        if pairs:
            scores.append(max(0.0, abs(product) - fitted) / math.sqrt(pairs))
            correlations.append(product / pairs / square if square > 0 else 0.0)
    probability = _sidak(max(abs(score) for score in scores), len(scores))
    return Trust(
        mean=mean,
        variance=square - mean**2,
        correlation=max(correlations, key=abs),
        probability=probability,
        fits=probability >= level,
        model=model,
    )


def linear_spread(
    reconstruct: Callable[[Floats], Floats], deviation: Floats, members: int = MEMBERS, seed: int = 0
) -> Floats:
    """Standard deviation of a linear reconstruction: noise alone goes through it, `members` times.

    Args:
        reconstruct: linear; from data of `deviation`'s shape to an image.
        deviation: standard deviation of the data, zero or NaN where there are none.
        members: noise realisations.
        seed: of the noise.
    """
    rng = np.random.default_rng(seed)
    scale = np.nan_to_num(deviation)
    total: Floats | float = 0.0
    for _ in range(members):
        total = total + reconstruct(scale * rng.standard_normal(scale.shape)) ** 2
    return np.sqrt(np.asarray(total) / members)


def _neighbours(r: Floats, known: NDArray[np.bool_], axis: int) -> tuple[float, int]:
    """Sum of the products of neighbours along an axis, and how many there are; unknown residuals are zero."""
    r, known = np.moveaxis(r, axis, 0), np.moveaxis(known, axis, 0)
    return float((r[1:] * r[:-1]).sum()), int((known[1:] & known[:-1]).sum())


def _sidak(score: float, tests: int) -> float:
    """Probability that the largest of independent standard normal scores exceeds this in absolute value."""
    single = math.erfc(score / math.sqrt(2.0))
    return 1.0 if single >= 1.0 else -math.expm1(tests * math.log1p(-single))
